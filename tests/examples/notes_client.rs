//! A client built with the official Rust SDK. It signs in without stored tokens, requests more scopes, and uses
//! every feature of the server once. It reports each event as a line of JSON. The program that reads the lines
//! visits the URLs on behalf of a user.

#![expect(
    deprecated,
    reason = "sampling, roots and logging are deprecated (SEP-2577), but servers still use them"
)]

use std::error::Error as StdError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rmcp::model::{
    CallToolRequestParams, CallToolResult, ClientConfig, ClientRequest, CreateMessageRequestParams,
    CreateMessageResult, ElicitRequestParams, ElicitResult, ElicitationAction, Implementation,
    ListRootsResult, LoggingLevel, LoggingMessageNotificationParam, ProgressNotificationParam,
    ProtocolVersion, Request, ResourceUpdatedNotificationParam, ServerNotification, SetLevelRequestParams,
    SubscribeRequestParams, SubscriptionFilter,
};
use rmcp::service::{NotificationContext, PeerRequestOptions, RequestContext, RunningService, ServiceError};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::auth::{AuthClient, AuthorizationManager, AuthorizationRequest, OAuthState};
use rmcp::transport::streamable_http_client::{InsufficientScopeError, StreamableHttpClientTransportConfig};
use rmcp::{ClientHandler, ClientLifecycleMode, ClientServiceExt as _, ErrorData, RoleClient};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use url::Url;

const QUESTIONS: [&str; 2] = ["Delete 1 temporary file?", "Delete ALL 10000 files?"];
const ANSWERED: &str = "temporary=accept ALL=decline";
const STEP_UP: Duration = Duration::from_secs(60);

fn report(event: &Value) {
    println!("{event}");
}

/// The handler of the client, with the notifications that it has received.
#[derive(Clone, Default)]
struct User {
    asked: Arc<Mutex<Vec<String>>>,
    progress: Arc<Mutex<Vec<f64>>>,
    logged: Arc<Notify>,
    updated: Arc<Notify>,
}

impl User {
    fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientHandler for User {
    async fn create_elicitation(
        &self,
        request: ElicitRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let ElicitRequestParams::FormElicitationParams { message, requested_schema, .. } = request else {
            return Ok(ElicitResult::new(ElicitationAction::Cancel));
        };
        let fields = requested_schema.properties.keys().map(|field| (field.clone(), json!(true)));
        let ticked = Value::Object(fields.collect());
        let declined = message.contains("ALL");
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        Ok(if declined {
            ElicitResult::new(ElicitationAction::Decline)
        } else {
            ElicitResult::new(ElicitationAction::Accept).with_content(ticked)
        })
    }

    async fn create_message(
        &self,
        params: CreateMessageRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<CreateMessageResult, ErrorData> {
        let asked = params.messages.last().and_then(|message| message.content.first());
        let asked =
            asked.and_then(|block| block.as_text()).map(|text| text.text.as_str()).unwrap_or_default();
        let content = json!({"type": "text", "text": format!("summary of {asked}")});
        serde_json::from_value(json!({"role": "assistant", "model": "m", "content": content}))
            .map_err(|error| ErrorData::internal_error(error.to_string(), None))
    }

    async fn list_roots(&self, _context: RequestContext<RoleClient>) -> Result<ListRootsResult, ErrorData> {
        serde_json::from_value(json!({"roots": [{"uri": "file:///notes", "name": "notes"}]}))
            .map_err(|error| ErrorData::internal_error(error.to_string(), None))
    }

    async fn on_progress(
        &self,
        params: ProgressNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).push(params.progress);
    }

    async fn on_logging_message(
        &self,
        _params: LoggingMessageNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        self.logged.notify_one();
    }

    async fn on_resource_updated(
        &self,
        _params: ResourceUpdatedNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        self.updated.notify_one();
    }

    fn get_info(&self) -> ClientConfig {
        let able = json!({"elicitation": {}, "sampling": {}, "roots": {}});
        let able = serde_json::from_value(able).unwrap_or_default();
        ClientConfig::new(able, Implementation::new("compatibility", "1.0.0"))
    }
}

type Client = RunningService<RoleClient, User>;

/// The listener to which the browser is redirected.
struct Callback {
    listener: TcpListener,
    redirect_uri: String,
}

impl Callback {
    async fn listening() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let redirect_uri = format!("http://{}/callback", listener.local_addr()?);
        Ok(Self { listener, redirect_uri })
    }

    /// Reports the URL, which the user then visits. Returns the URL to which the browser was redirected.
    async fn visit(&self, url: &str) -> Result<Url> {
        let scope = Url::parse(url)?;
        let scope =
            scope.query_pairs().find(|(name, _)| name == "scope").map(|(_, scope)| scope.into_owned());
        report(&json!({"visit": url, "redirect_uri": self.redirect_uri, "scope": scope}));
        loop {
            let (mut stream, _) = self.listener.accept().await?;
            let mut lines = BufReader::new(&mut stream).lines();
            let line = lines.next_line().await?.context("no request")?;
            while lines.next_line().await?.is_some_and(|header| !header.is_empty()) {}
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await?;
            let target = line.split(' ').nth(1).context("no request line")?;
            if target.starts_with("/callback") {
                return Ok(Url::parse(&self.redirect_uri)?.join(target)?);
            }
        }
    }
}

fn mode() -> ClientLifecycleMode {
    let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
    ClientLifecycleMode::Auto { preferred_versions, legacy_version: None }
}

/// Sends a request without a token, and signs in as its 401 response describes.
async fn sign_in(url: &str, callback: &Callback) -> Result<AuthorizationManager> {
    let plain =
        User::default().serve_with_lifecycle(StreamableHttpClientTransport::from_uri(url), mode()).await;
    let Err(refused) = plain else { bail!("the first connection needed no login") };
    let challenge =
        refused.auth_challenge().with_context(|| format!("no challenge in {refused}"))?.to_owned();
    let mut state = OAuthState::new(url, None).await?;
    let request = AuthorizationRequest::new(&callback.redirect_uri)
        .with_client_name("Compatibility")
        .with_challenge(challenge);
    state.start_authorization(request).await?;
    let back = callback.visit(&state.get_authorization_url().await?).await?;
    state.handle_callback_url(back.as_str()).await?;
    report(&json!({"signed_in": true}));
    state.into_authorization_manager().context("the SDK is not authorized")
}

/// The scope that a refused call needs, according to the SDK's error.
fn required_scope(error: &ServiceError) -> Option<String> {
    let ServiceError::TransportSend(refused) = error else { return None };
    let mut source: Option<&(dyn StdError + 'static)> = Some(refused.error.as_ref());
    while let Some(current) = source {
        if let Some(found) = current.downcast_ref::<InsufficientScopeError>() {
            return found.get_required_scope().map(str::to_owned);
        }
        source = current.source();
    }
    None
}

async fn step_up(
    client: &Client,
    auth: &AuthClient<reqwest::Client>,
    callback: &Callback,
) -> Result<CallToolResult> {
    let call = || client.call_tool(params("delete_note", json!({"title": "A"})));
    let error = match call().await {
        Ok(result) => return Ok(result),
        Err(error) => error,
    };
    let scope = required_scope(&error).with_context(|| format!("no scope in {error:?}"))?;
    let url = auth.auth_manager.lock().await.request_scope_upgrade(&scope).await?;
    let back = callback.visit(&url).await?;
    let field =
        |name: &str| back.query_pairs().find(|(found, _)| found == name).map(|(_, value)| value.into_owned());
    let (code, state) = (field("code").context("no code")?, field("state").context("no state")?);
    let manager = auth.auth_manager.lock().await;
    manager.exchange_code_for_token_with_issuer(&code, &state, field("iss").as_deref()).await?;
    drop(manager);
    Ok(call().await?)
}

fn params(name: &'static str, arguments: Value) -> CallToolRequestParams {
    let arguments = if let Value::Object(arguments) = arguments { arguments } else { serde_json::Map::new() };
    CallToolRequestParams::new(name).with_arguments(arguments)
}

fn is<T: PartialEq<U> + std::fmt::Debug, U: std::fmt::Debug>(found: &T, expected: &U) -> Result<()> {
    ensure!(found == expected, "{found:?} instead of {expected:?}");
    Ok(())
}

fn text_of(result: &CallToolResult) -> Result<String> {
    let block = result.content.first().and_then(|block| block.as_text());
    Ok(block.with_context(|| format!("no text in {result:?}"))?.text.clone())
}

fn sorted(mut questions: Vec<String>) -> Vec<String> {
    questions.sort_unstable();
    questions
}

const FEATURES: [&str; 17] = [
    "call",
    "structured",
    "error",
    "questions",
    "questions again",
    "questions in parallel",
    "questions at once",
    "sampling",
    "roots",
    "progress",
    "logging",
    "resources",
    "templates",
    "subscription",
    "prompts",
    "completion",
    "cancellation",
];

/// A client that uses the features of its server.
struct Using<'a> {
    client: &'a Client,
    user: &'a User,
    is_modern: bool,
}

impl Using<'_> {
    async fn gives(&self, tool: &'static str, arguments: Value, expected: &str) -> Result<()> {
        is(&text_of(&self.client.call_tool(params(tool, arguments)).await?)?, &expected)
    }

    async fn clean(&self) -> Result<()> {
        self.gives("clean", json!({}), ANSWERED).await
    }

    fn has(&self, feature: &str) -> bool {
        let Some(able) = self.client.peer_info().map(|server| server.capabilities.clone()) else {
            return true;
        };
        match feature {
            "logging" => able.logging.is_some(),
            "completion" => able.completions.is_some(),
            "subscription" => able.resources.is_some_and(|resources| resources.subscribe == Some(true)),
            _ => true,
        }
    }

    async fn feature(&self, feature: &str) -> Result<()> {
        let client = self.client;
        self.user.take_asked();
        match feature {
            "call" => self.gives("read_note", json!({"title": "A"}), "text of A").await,
            "structured" => {
                let result = client.call_tool(params("word_count", json!({"text": "one two"}))).await?;
                is(&result.structured_content, &Some(json!({"words": 2})))
            }
            "error" => {
                let result = client.call_tool(params("fail", json!({}))).await?;
                let failed = result.is_error == Some(true) && text_of(&result)?.contains("the disk is full");
                ensure!(failed, "{result:?}");
                Ok(())
            }
            "questions" => {
                self.clean().await?;
                is(&self.user.take_asked(), &QUESTIONS.to_vec())
            }
            "questions again" => {
                self.clean().await?;
                self.clean().await?;
                is(&self.user.take_asked(), &[QUESTIONS, QUESTIONS].concat())
            }
            "questions in parallel" => {
                tokio::try_join!(self.clean(), self.clean())?;
                let [first, second] = QUESTIONS;
                is(&sorted(self.user.take_asked()), &vec![first, first, second, second])
            }
            "questions at once" => {
                self.gives("clean_at_once", json!({}), ANSWERED).await?;
                is(&sorted(self.user.take_asked()), &QUESTIONS.to_vec())
            }
            "sampling" => {
                let both = "summary of Summarize note A | summary of Summarize note B";
                self.gives("summarize", json!({}), both).await
            }
            "roots" => self.gives("folders", json!({}), "file:///notes").await,
            "progress" => self.progress().await,
            "logging" => self.logging().await,
            "resources" => self.reads("notes://list", "A, B").await,
            "templates" => {
                let templates = client.list_all_resource_templates().await?;
                let template = templates.first().context("no template")?;
                is(&template.uri_template, &"notes://note/{title}")?;
                self.reads("notes://note/B", "text of B").await
            }
            "subscription" => self.subscription().await,
            "prompts" => {
                let asked = json!({"name": "review", "arguments": {"language": "go"}});
                let prompt = client.get_prompt(serde_json::from_value(asked)?).await?;
                let review = serde_json::to_value(&prompt.messages)?;
                is(&review.pointer("/0/content/text"), &Some(&json!("Review this go code.")))
            }
            "completion" => {
                let asked = json!({
                    "ref": {"type": "ref/prompt", "name": "review"},
                    "argument": {"name": "language", "value": "py"},
                });
                let found = client.complete(serde_json::from_value(asked)?).await?;
                is(&found.completion.values, &vec!["python"])
            }
            _ => self.cancellation().await,
        }
    }

    async fn reads(&self, uri: &str, expected: &str) -> Result<()> {
        let read = self.client.read_resource(serde_json::from_value(json!({"uri": uri}))?).await?;
        let read = serde_json::to_value(read)?;
        is(&read.pointer("/contents/0/text"), &Some(&json!(expected)))
    }

    async fn progress(&self) -> Result<()> {
        let seen = || self.user.progress.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.client.call_tool(params("import_notes", json!({"count": 3}))).await?;
        // Messages that arrived before the response are delivered by other tasks of the SDK.
        while seen().len() < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        is(&seen(), &vec![1.0, 2.0, 3.0])
    }

    async fn logging(&self) -> Result<()> {
        let mut call = params("import_notes", json!({"count": 1}));
        if self.is_modern {
            let mut meta = rmcp::model::RequestMetaObject::default();
            meta.set_log_level(LoggingLevel::Info);
            call.meta = Some(meta);
        } else {
            // Some servers send log messages even if no level was set, and do not support `logging/setLevel`.
            self.client.set_level(SetLevelRequestParams::new(LoggingLevel::Info)).await.ok();
        }
        self.client.call_tool(call).await?;
        self.user.logged.notified().await;
        Ok(())
    }

    async fn subscription(&self) -> Result<()> {
        if !self.is_modern {
            self.client.subscribe(SubscribeRequestParams::new("notes://list")).await?;
            self.client.call_tool(params("touch_note", json!({}))).await?;
            self.user.updated.notified().await;
            return Ok(());
        }
        let filter = SubscriptionFilter::builder().resource_subscription("notes://list").build();
        let mut subscription = self.client.listen(filter).await?;
        self.client.call_tool(params("touch_note", json!({}))).await?;
        match subscription.next().await? {
            Some(ServerNotification::ResourceUpdatedNotification(_)) => Ok(()),
            other => bail!("received {other:?}"),
        }
    }

    async fn cancellation(&self) -> Result<()> {
        let request = ClientRequest::CallToolRequest(Request::new(params("wait", json!({}))));
        let running = self.client.send_cancellable_request(request, PeerRequestOptions::no_options()).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
        running.cancel(Some("enough".to_owned())).await?;
        self.gives("read_note", json!({"title": "A"}), "text of A").await
    }
}

async fn use_all(client: &Client, user: &User) {
    let revision = client.peer_info().map(|server| server.protocol_version.clone());
    report(&json!({"revision": revision}));
    let is_modern = revision == Some(ProtocolVersion::V_2026_07_28);
    let using = Using { client, user, is_modern };
    let seconds = std::env::var("CHECK_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let most = Duration::from_secs(seconds.unwrap_or(40));
    for feature in FEATURES {
        if !using.has(feature) {
            report(&json!({"check": feature, "verdict": "none"}));
            continue;
        }
        let done = tokio::time::timeout(most, using.feature(feature)).await;
        match done.context("timed out").and_then(|done| done) {
            Ok(()) => report(&json!({"check": feature, "verdict": "ok"})),
            Err(error) => {
                report(&json!({"check": feature, "verdict": "failed", "detail": format!("{error:#}")}));
            }
        }
    }
}

async fn run() -> Result<()> {
    let url = std::env::var("MCP_URL")?;
    let user = User::default();
    if std::env::var_os("SIGN_IN").is_none() {
        let transport = StreamableHttpClientTransport::from_uri(url.as_str());
        let client = user.clone().serve_with_lifecycle(transport, mode()).await?;
        use_all(&client, &user).await;
        client.cancel().await?;
        report(&json!({"done": true}));
        return Ok(());
    }
    let callback = Callback::listening().await?;
    let auth = AuthClient::new(reqwest::Client::new(), sign_in(&url, &callback).await?);
    let config = StreamableHttpClientTransportConfig::with_uri(url.as_str());
    let transport = StreamableHttpClientTransport::with_client(auth.clone(), config);
    let client = user.clone().serve_with_lifecycle(transport, mode()).await?;
    use_all(&client, &user).await;
    let stepped_up = tokio::time::timeout(STEP_UP, step_up(&client, &auth, &callback)).await;
    let stepped_up = stepped_up.context("the browser was not redirected").and_then(|stepped_up| stepped_up);
    match stepped_up.and_then(|result| text_of(&result)) {
        Ok(text) => report(&json!({"stepped_up": text == "deleted A"})),
        Err(error) => report(&json!({"stepped_up": false, "detail": format!("{error:#}")})),
    }
    client.cancel().await?;
    report(&json!({"done": true}));
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if let Err(error) = run().await {
        report(&json!({"ended": format!("{error:#}")}));
        std::process::exit(1);
    }
}
