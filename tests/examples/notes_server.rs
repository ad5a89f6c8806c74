//! A stdio server built with the official Rust SDK, written like the SDK's examples. It asks its questions over
//! the session if there is one, and otherwise in its results. The compatibility tests run it behind the
//! wrapper.

#![expect(
    deprecated,
    reason = "sampling, roots and logging are deprecated (SEP-2577), but servers still use them"
)]

use std::time::Duration;

use rmcp::model::{
    ArgumentInfo, CallToolRequestParams, CallToolResponse, CallToolResult, CompleteRequestParams,
    CompleteResult, CompletionInfo, ContentBlock, CreateMessageRequestParams, ElicitRequestParams,
    GetPromptRequestParams, GetPromptResponse, GetPromptResult, InputRequest, InputRequests,
    InputRequiredResult, ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult,
    ListToolsResult, LoggingLevel, LoggingMessageNotificationParam, PaginatedRequestParams,
    ProgressNotificationParam, PromptMessage, ProtocolVersion, ReadResourceRequestParams,
    ReadResourceResponse, ReadResourceResult, Resource, ResourceContents, ResourceTemplate,
    ResourceUpdatedNotificationParam, Role, SamplingMessage, ServerCapabilities, ServerConfig,
    SetLevelRequestParams, SubscribeRequestParams, SubscriptionFilter, Tool,
};
use rmcp::service::{RequestContext, SubscriptionContext};
use rmcp::{ErrorData, RoleServer, ServerHandler, ServiceExt as _};
use serde_json::{Value, json};
use tokio::sync::broadcast;

const LIST: &str = "notes://list";
const LANGUAGES: [&str; 3] = ["go", "python", "rust"];

/// The tools, each with its arguments and their types.
const TOOLS: [(&str, &[(&str, &str)]); 11] = [
    ("read_note", &[("title", "string")]),
    ("delete_note", &[("title", "string")]),
    ("word_count", &[("text", "string")]),
    ("fail", &[]),
    ("clean", &[]),
    ("clean_at_once", &[]),
    ("summarize", &[]),
    ("folders", &[]),
    ("import_notes", &[("count", "integer")]),
    ("touch_note", &[]),
    ("wait", &[]),
];

/// Sends the URI of each resource that changes.
struct Notes(broadcast::Sender<String>);

fn text(text: impl Into<String>) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(text.into())])
}

fn internal(error: impl std::fmt::Display) -> ErrorData {
    ErrorData::internal_error(error.to_string(), None)
}

fn question(message: &str) -> Result<ElicitRequestParams, ErrorData> {
    let confirm = json!({"confirm": {"type": "boolean"}});
    let schema = json!({"type": "object", "properties": confirm, "required": ["confirm"]});
    serde_json::from_value(json!({"mode": "form", "message": message, "requestedSchema": schema}))
        .map_err(internal)
}

fn prompt(text: &str) -> CreateMessageRequestParams {
    CreateMessageRequestParams::new(vec![SamplingMessage::user_text(text)], 60)
}

fn input(method: &str, params: impl serde::Serialize) -> Result<InputRequest, ErrorData> {
    let request = json!({"method": method, "params": serde_json::to_value(params).map_err(internal)?});
    serde_json::from_value(request).map_err(internal)
}

fn asks<const N: usize>(requests: [(&str, InputRequest); N], state: Option<String>) -> CallToolResponse {
    let requests: InputRequests =
        requests.into_iter().map(|(name, asked)| (name.to_owned(), asked)).collect();
    InputRequiredResult::new(Some(requests), state).into()
}

fn said(temporary: &str, everything: &str) -> CallToolResponse {
    text(format!("temporary={temporary} ALL={everything}")).into()
}

/// A call in the stateless revision, with its answers and the state of an earlier round.
struct Round<'a>(&'a CallToolRequestParams);

impl Round<'_> {
    fn answer(&self, name: &str, pointer: &str) -> Option<String> {
        let answer = self.0.input_responses.as_ref()?.get(name)?;
        let value = serde_json::to_value(answer).ok()?;
        value.pointer(pointer).and_then(Value::as_str).map(str::to_owned)
    }

    fn clean(&self) -> Result<CallToolResponse, ErrorData> {
        let ask = |message| input("elicitation/create", question(message)?);
        if let Some(everything) = self.answer("everything", "/action") {
            return Ok(said(self.0.request_state.as_deref().unwrap_or_default(), &everything));
        }
        Ok(match self.answer("temporary", "/action") {
            Some(temporary) => asks([("everything", ask("Delete ALL 10000 files?")?)], Some(temporary)),
            None => asks([("temporary", ask("Delete 1 temporary file?")?)], None),
        })
    }

    fn clean_at_once(&self) -> Result<CallToolResponse, ErrorData> {
        let ask = |message| input("elicitation/create", question(message)?);
        let answers = self.answer("temporary", "/action").zip(self.answer("everything", "/action"));
        Ok(match answers {
            Some((temporary, everything)) => said(&temporary, &everything),
            None => asks(
                [
                    ("temporary", ask("Delete 1 temporary file?")?),
                    ("everything", ask("Delete ALL 10000 files?")?),
                ],
                None,
            ),
        })
    }

    fn summarize(&self) -> Result<CallToolResponse, ErrorData> {
        let sample = |text| input("sampling/createMessage", prompt(text));
        let answer =
            |name| self.answer(name, "/content/text").or_else(|| self.answer(name, "/content/0/text"));
        if let Some(second) = answer("second") {
            let first = self.0.request_state.as_deref().unwrap_or_default();
            return Ok(text(format!("{first} | {second}")).into());
        }
        Ok(match answer("first") {
            Some(first) => asks([("second", sample("Summarize note B")?)], Some(first)),
            None => asks([("first", sample("Summarize note A")?)], None),
        })
    }

    fn folders(&self) -> Result<CallToolResponse, ErrorData> {
        Ok(match self.answer("roots", "/roots/0/uri") {
            Some(uri) => text(uri).into(),
            None => asks([("roots", input("roots/list", json!({}))?)], None),
        })
    }
}

/// Handles a call in a session: the server sends its questions to the client while the call is running.
async fn call_in_session(
    name: &str,
    context: &RequestContext<RoleServer>,
) -> Result<CallToolResponse, ErrorData> {
    let peer = &context.peer;
    let ask = async |message| {
        let answer = peer.create_elicitation(question(message)?).await.map_err(internal)?;
        let action = serde_json::to_value(answer.action).map_err(internal)?;
        Ok::<_, ErrorData>(action.as_str().unwrap_or_default().to_owned())
    };
    let sample = async |asked| {
        let answer = peer.create_message(prompt(asked)).await.map_err(internal)?;
        let text =
            answer.message.content.first().and_then(|block| block.as_text()).map(|text| text.text.clone());
        Ok::<_, ErrorData>(text.unwrap_or_default())
    };
    Ok(match name {
        "clean" => {
            let temporary = ask("Delete 1 temporary file?").await?;
            said(&temporary, &ask("Delete ALL 10000 files?").await?)
        }
        "clean_at_once" => {
            let (temporary, everything) =
                tokio::try_join!(ask("Delete 1 temporary file?"), ask("Delete ALL 10000 files?"))?;
            said(&temporary, &everything)
        }
        "summarize" => {
            let first = sample("Summarize note A").await?;
            text(format!("{first} | {}", sample("Summarize note B").await?)).into()
        }
        _ => {
            let roots = peer.list_roots().await.map_err(internal)?.roots;
            text(roots.into_iter().map(|root| root.uri).collect::<Vec<_>>().join(" ")).into()
        }
    })
}

async fn import(count: i64, context: &RequestContext<RoleServer>) -> Result<CallToolResult, ErrorData> {
    let message =
        LoggingMessageNotificationParam::new(LoggingLevel::Info, json!(format!("importing {count} notes")));
    context.peer.notify_logging_message(message).await.map_err(internal)?;
    if let Some(token) = context.meta.get_progress_token() {
        for done in 1..=count {
            let done = i32::try_from(done).map(f64::from).map_err(internal)?;
            let progress = ProgressNotificationParam::new(token.clone(), done);
            context.peer.notify_progress(progress).await.map_err(internal)?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(text(format!("imported {count}")))
}

impl ServerHandler for Notes {
    fn get_info(&self) -> ServerConfig {
        let able = ServerCapabilities::builder()
            .enable_tools()
            .enable_prompts()
            .enable_resources()
            .enable_resources_subscribe()
            .enable_completions()
            .enable_logging();
        ServerConfig::new(able.build())
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let tool = |(name, fields): (&str, &[(&str, &str)])| {
            let fields: serde_json::Map<String, Value> =
                fields.iter().map(|(field, kind)| ((*field).to_owned(), json!({"type": kind}))).collect();
            let schema = json!({"type": "object", "properties": fields});
            serde_json::from_value::<Tool>(json!({"name": name, "description": name, "inputSchema": schema}))
        };
        let tools: Result<Vec<Tool>, _> = TOOLS.into_iter().map(tool).collect();
        Ok(ListToolsResult::with_all_items(tools.map_err(internal)?))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let argument = |name: &str| request.arguments.as_ref().and_then(|arguments| arguments.get(name));
        let word = |name: &str| argument(name).and_then(Value::as_str).unwrap_or_default();
        let has_session =
            context.protocol_version().is_none_or(|version| version < ProtocolVersion::V_2026_07_28);
        Ok(match request.name.as_ref() {
            "read_note" => text(format!("text of {}", word("title"))).into(),
            "delete_note" => text(format!("deleted {}", word("title"))).into(),
            "word_count" => {
                CallToolResult::structured(json!({"words": word("text").split(' ').count()})).into()
            }
            "fail" => CallToolResult::error(vec![ContentBlock::text("the disk is full")]).into(),
            asking @ ("clean" | "clean_at_once" | "summarize" | "folders") if has_session => {
                call_in_session(asking, &context).await?
            }
            "clean" => Round(&request).clean()?,
            "clean_at_once" => Round(&request).clean_at_once()?,
            "summarize" => Round(&request).summarize()?,
            "folders" => Round(&request).folders()?,
            "import_notes" => {
                import(argument("count").and_then(Value::as_i64).unwrap_or_default(), &context).await?.into()
            }
            "touch_note" => {
                if has_session {
                    let update = ResourceUpdatedNotificationParam::new(LIST);
                    context.peer.notify_resource_updated(update).await.map_err(internal)?;
                }
                self.0.send(LIST.to_owned()).ok();
                text("touched").into()
            }
            "wait" => tokio::select! {
                () = context.ct.cancelled() => return Err(internal("cancelled")),
                () = tokio::time::sleep(Duration::from_secs(60)) => text("done").into(),
            },
            other => return Err(ErrorData::invalid_params(format!("there is no tool {other}"), None)),
        })
    }

    async fn list_resources(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(ListResourcesResult::with_all_items(vec![Resource::new(LIST, "list")]))
    }

    async fn list_resource_templates(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let template = ResourceTemplate::new("notes://note/{title}", "note");
        Ok(ListResourceTemplatesResult::with_all_items(vec![template]))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let content = match request.uri.strip_prefix("notes://note/") {
            Some(title) => format!("text of {title}"),
            None if request.uri == LIST => "A, B".to_owned(),
            None => return Err(ErrorData::resource_not_found(request.uri, None)),
        };
        Ok(ReadResourceResult::new(vec![ResourceContents::text(content, request.uri)]).into())
    }

    async fn subscribe(
        &self,
        _request: SubscribeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.supported_by(&self.get_info().capabilities))
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let mut changes = self.0.subscribe();
        loop {
            tokio::select! {
                () = context.cancelled() => return Ok(()),
                uri = changes.recv() => {
                    context.sink().notify_resource_updated(uri.map_err(internal)?).await.map_err(internal)?;
                }
            }
        }
    }

    async fn list_prompts(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        let prompt = json!({"name": "review", "arguments": [{"name": "language", "required": true}]});
        Ok(ListPromptsResult::with_all_items(vec![serde_json::from_value(prompt).map_err(internal)?]))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        let language = request.arguments.as_ref().and_then(|arguments| arguments.get("language"));
        let language = serde_json::to_value(language).map_err(internal)?;
        let review = format!("Review this {} code.", language.as_str().unwrap_or_default());
        Ok(GetPromptResult::new(vec![PromptMessage::new_text(Role::User, review)]).into())
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let ArgumentInfo { value, .. } = request.argument;
        let found = LANGUAGES.iter().filter(|language| language.starts_with(&value));
        let found = found.map(|language| (*language).to_owned()).collect();
        Ok(CompleteResult::new(CompletionInfo::new(found).map_err(internal)?))
    }

    async fn set_level(
        &self,
        _request: SetLevelRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let (changes, _) = broadcast::channel(16);
    Notes(changes).serve(rmcp::transport::stdio()).await?.waiting().await?;
    Ok(())
}
