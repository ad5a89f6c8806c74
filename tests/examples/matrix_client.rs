//! A client built with the official Rust SDK that reports the result of each check as a line. Usage:
//! `matrix_client MODE URL`, with the modes `legacy`, `auto` and `discover`. `stdio-wrapper/tests/matrix/run`
//! runs it.

#![expect(deprecated, reason = "sampling is deprecated (SEP-2577), but servers still use it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rmcp::model::{
    CallToolRequestParams, CallToolResult, ClientConfig, ClientRequest, CreateMessageRequestParams,
    CreateMessageResult, ElicitRequestParams, ElicitResult, ElicitationAction, Implementation,
    ProgressNotificationParam, ProtocolVersion, Request, ServerNotification, SubscriptionFilter,
};
use rmcp::service::{NotificationContext, PeerRequestOptions, RequestContext, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::{ClientHandler, ClientLifecycleMode, ClientServiceExt as _, ErrorData, RoleClient};
use serde_json::json;
use tokio::sync::Notify;

/// The notifications that the client has received.
#[derive(Clone, Default)]
struct Heard {
    progress: Arc<AtomicUsize>,
    changed: Arc<Notify>,
}

impl ClientHandler for Heard {
    async fn create_message(
        &self,
        _params: CreateMessageRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<CreateMessageResult, ErrorData> {
        let answer =
            json!({"role": "assistant", "model": "m", "content": {"type": "text", "text": "sampled"}});
        serde_json::from_value(answer).map_err(|error| ErrorData::internal_error(error.to_string(), None))
    }

    async fn create_elicitation(
        &self,
        _request: ElicitRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let mut answer = ElicitResult::new(ElicitationAction::Accept);
        answer.content = Some(json!({"name": "Ana"}));
        Ok(answer)
    }

    async fn on_progress(
        &self,
        _params: ProgressNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    async fn on_tool_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.changed.notify_one();
    }

    fn get_info(&self) -> ClientConfig {
        let able = serde_json::from_value(json!({"elicitation": {}, "sampling": {}})).unwrap_or_default();
        ClientConfig::new(able, Implementation::new("matrix", "1.0.0"))
    }
}

type Client = RunningService<RoleClient, Heard>;

fn params(name: &'static str, arguments: &serde_json::Value) -> CallToolRequestParams {
    CallToolRequestParams::new(name).with_arguments(arguments.as_object().cloned().unwrap_or_default())
}

fn has(result: &CallToolResult, part: &str) -> anyhow::Result<()> {
    let text = serde_json::to_string(result)?;
    ensure!(text.contains(part), "{part} is missing in {text}");
    Ok(())
}

async fn check(client: &Client, heard: &Heard, name: &str) -> anyhow::Result<()> {
    let call = |name, arguments: serde_json::Value| client.call_tool(params(name, &arguments));
    match name {
        "list" => {
            let tools = client.list_all_tools().await?;
            ensure!(tools.iter().any(|tool| tool.name == "test_simple_text"), "the tool is missing");
        }
        "call" => has(&call("test_simple_text", json!({})).await?, "simple text")?,
        "progress" => {
            call("test_tool_with_progress", json!({})).await?;
            ensure!(heard.progress.load(Ordering::Relaxed) > 0, "no progress");
        }
        "elicitation" => has(&call("test_elicitation", json!({"message": "Who?"})).await?, "accept")?,
        "sampling" => has(&call("test_sampling", json!({"prompt": "x"})).await?, "sampled")?,
        "subscription" => {
            let is_modern = client
                .peer_info()
                .is_some_and(|server| server.protocol_version == ProtocolVersion::V_2026_07_28);
            if is_modern {
                let filter = SubscriptionFilter::builder().tools_list_changed().build();
                let mut subscription = client.listen(filter).await?;
                call("test_trigger_tool_change", json!({})).await?;
                match subscription.next().await? {
                    Some(ServerNotification::ToolListChangedNotification(_)) => {}
                    other => bail!("received {other:?}"),
                }
            } else {
                call("test_trigger_tool_change", json!({})).await?;
                heard.changed.notified().await;
            }
        }
        "cancellation" => {
            let request =
                ClientRequest::CallToolRequest(Request::new(params("test_reconnection", &json!({}))));
            let running = client.send_cancellable_request(request, PeerRequestOptions::no_options()).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
            running.cancel(Some("enough".to_owned())).await?;
            has(&call("test_simple_text", json!({})).await?, "simple text")?;
        }
        other => bail!("there is no check {other}"),
    }
    Ok(())
}

const CHECKS: [&str; 7] =
    ["list", "call", "progress", "elicitation", "sampling", "subscription", "cancellation"];

async fn run(mode: &str, url: &str) -> anyhow::Result<()> {
    let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
    let mode = match mode {
        "legacy" => ClientLifecycleMode::Initialize,
        "auto" => ClientLifecycleMode::Auto { preferred_versions, legacy_version: None },
        "discover" => ClientLifecycleMode::Discover { preferred_versions },
        other => bail!("there is no mode {other}"),
    };
    let heard = Heard::default();
    let client =
        heard.clone().serve_with_lifecycle(StreamableHttpClientTransport::from_uri(url), mode).await?;
    for name in CHECKS {
        let done = tokio::time::timeout(Duration::from_secs(8), check(&client, &heard, name)).await;
        match done.context("nothing within 8 s").and_then(|done| done) {
            Ok(()) => println!("{name} ok"),
            Err(error) => println!("{name} FAILED {}", format!("{error:#}").replace('\n', " ")),
        }
    }
    client.cancel().await?;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let done = match arguments.as_slice() {
        [_, mode, url] => run(mode, url).await,
        _ => Err(anyhow::anyhow!("matrix_client MODE URL")),
    };
    if let Err(error) = done {
        for name in CHECKS {
            println!("{name} FAILED {}", format!("{error:#}").replace('\n', " "));
        }
    }
}
