//! The MCP server that `scripts/up` wraps on a machine that has neither Node nor Python. It has two tools and
//! communicates over stdio.

use rmcp::handler::server::wrapper::Parameters;
use rmcp::schemars::{self, JsonSchema};
use rmcp::{ServiceExt as _, tool, tool_router};
use serde::Deserialize;

struct Example;

/// Arguments of the tool `echo`.
#[derive(Deserialize, JsonSchema)]
struct Echo {
    /// The message to send back.
    message: String,
}

/// Arguments of the tool `add`.
#[derive(Deserialize, JsonSchema)]
struct Add {
    /// The first summand.
    a: f64,
    /// The second summand.
    b: f64,
}

#[tool_router(server_handler)]
impl Example {
    #[tool(description = "Sends the message back")]
    fn echo(Parameters(Echo { message }): Parameters<Echo>) -> String {
        message
    }

    #[tool(description = "Adds two numbers")]
    fn add(Parameters(Add { a, b }): Parameters<Add>) -> String {
        (a + b).to_string()
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    Example.serve(rmcp::transport::stdio()).await?.waiting().await?;
    Ok(())
}
