//! A stdio server built with the official Rust SDK and the tasks extension (SEP-2663), for the task scenarios
//! of the conformance suite. `stdio-wrapper/tests/conformance/run` runs it behind the wrapper.

use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, CancelTaskParams, ClientCapabilities,
    ContentBlock, CreateTaskResult, GetTaskParams, GetTaskResult, InputRequest, InputRequests,
    InputRequiredResult, ListToolsResult, PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool,
    UpdateTaskParams,
};
use rmcp::service::RequestContext;
use rmcp::task_manager::{TaskContext, TaskExit, TaskManager, TaskOptions};
use rmcp::{ErrorData, RoleServer, ServerHandler, ServiceExt as _};
use serde_json::{Value, json};

/// The tools, and the arguments of each.
const TOOLS: [(&str, &[&str]); 7] = [
    ("greet", &["name"]),
    ("slow_compute", &["seconds", "label"]),
    ("failing_job", &[]),
    ("protocol_error_job", &[]),
    ("confirm_delete", &["filename"]),
    ("multi_input", &[]),
    ("test_tool_with_task", &[]),
];

struct Tasks(TaskManager);

fn text(text: impl Into<String>) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(text.into())])
}

fn internal(error: impl std::fmt::Display) -> ErrorData {
    ErrorData::internal_error(error.to_string(), None)
}

/// A question with one text field.
fn question(message: &str, field: &str) -> Result<InputRequest, ErrorData> {
    let schema = json!({"type": "object", "properties": {field: {"type": "string"}}});
    let params = json!({"mode": "form", "message": message, "requestedSchema": schema});
    serde_json::from_value(json!({"method": "elicitation/create", "params": params})).map_err(internal)
}

async fn slow(context: &TaskContext, seconds: f64) -> Result<CallToolResult, TaskExit> {
    tokio::select! {
        () = context.cancelled() => Err(TaskExit::Cancelled),
        () = tokio::time::sleep(Duration::from_secs_f64(seconds.clamp(0.0, 600.0))) => Ok(text("computed")),
    }
}

/// Does the work of a task.
async fn work(
    tool: String,
    arguments: Value,
    given: Option<String>,
    context: TaskContext,
) -> Result<CallToolResult, TaskExit> {
    match tool.as_str() {
        "failing_job" => {
            slow(&context, 1.0).await?;
            Ok(CallToolResult::error(vec![ContentBlock::text("the job failed")]))
        }
        "protocol_error_job" => Err(TaskExit::Error(internal("the job could not be run"))),
        "confirm_delete" => {
            let answer = context.request_input("confirm", question("Delete it?", "confirm")?).await?;
            Ok(text(format!("answered {answer}")))
        }
        "multi_input" => {
            let (one, two) = (question("First?", "name")?, question("Second?", "name")?);
            let (one, two) =
                tokio::join!(context.request_input("one", one), context.request_input("two", two));
            Ok(text(format!("answered {} and {}", one?, two?)))
        }
        "test_tool_with_task" => Ok(text(format!("Hello, {}!", given.unwrap_or_default()))),
        _ => slow(&context, arguments.get("seconds").and_then(Value::as_f64).unwrap_or_default()).await,
    }
}

impl ServerHandler for Tasks {
    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let tool = |(name, fields): (&str, &[&str])| {
            let fields: serde_json::Map<String, Value> =
                fields.iter().map(|field| ((*field).to_owned(), json!({}))).collect();
            serde_json::from_value::<Tool>(
                json!({"name": name, "description": name, "inputSchema": {"type": "object", "properties": fields}}),
            )
        };
        let tools: Result<Vec<Tool>, _> = TOOLS.into_iter().map(tool).collect();
        Ok(ListToolsResult::with_all_items(tools.map_err(internal)?))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = Value::Object(request.arguments.clone().unwrap_or_default());
        let has_tasks = context.client_capabilities().is_some_and(|able| able.supports_tasks());
        let name = request.name.to_string();
        match name.as_str() {
            "greet" => {
                let name = arguments.get("name").and_then(Value::as_str).unwrap_or("World");
                return Ok(text(format!("Hello, {name}!")).into());
            }
            "slow_compute" if !has_tasks => {
                let seconds = arguments.get("seconds").and_then(Value::as_f64).unwrap_or_default();
                tokio::time::sleep(Duration::from_secs_f64(seconds.clamp(0.0, 600.0))).await;
                return Ok(text("computed").into());
            }
            known if !TOOLS.iter().any(|(name, _)| *name == known) => {
                return Err(ErrorData::invalid_params(format!("there is no tool {known}"), None));
            }
            _ if !has_tasks => {
                let needed = ClientCapabilities::builder().enable_tasks().build();
                return Err(ErrorData::missing_required_client_capability(needed));
            }
            _ => {}
        }
        let given = request.input_responses.and_then(|given| {
            given.get("user_name")?.pointer("/content/name").and_then(Value::as_str).map(str::to_owned)
        });
        if name == "test_tool_with_task" && given.is_none() {
            let asked = InputRequests::from([("user_name".to_owned(), question("Who are you?", "name")?)]);
            return Ok(InputRequiredResult::new(Some(asked), None).into());
        }
        let options = TaskOptions::new().with_poll_interval_ms(100);
        let task = self.0.spawn(options, move |context| Box::pin(work(name, arguments, given, context)));
        Ok(CreateTaskResult::new(task).into())
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        Ok(GetTaskResult::new(self.0.get_task(&request.task_id)?))
    }

    async fn update_task(
        &self,
        request: UpdateTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.0.update_task(&request.task_id, request.input_responses)
    }

    async fn cancel_task(
        &self,
        request: CancelTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.0.cancel_task(&request.task_id)
    }

    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().enable_tasks().build())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    Tasks(TaskManager::new()).serve(rmcp::transport::stdio()).await?.waiting().await?;
    Ok(())
}
