//! The wrapper's own requests: the probe, requests for tool lists, and the subscription to changes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Link, Ticket};
use crate::budget::Reservation;
use crate::conversation::Call;
use crate::modern::pending::{Caller, Waits};
use crate::modern::{CLIENT_INFO, meta};
use crate::protocol::{Kind, Members, Outgoing, Text, client_info, parse_line};
use crate::stream::{First, Stream};

impl Link {
    /// Requests `server/discover` from the child, and returns the result as JSON text.
    pub(crate) async fn discover(self: &Arc<Self>, capabilities: &str) -> Result<String, String> {
        let answer = self.ask("server/discover", "{}", capabilities, self.settings.start_timeout).await?;
        let message = parse_line(&answer).map_err(|error| error.to_string())?;
        let refused = || "The MCP server refused server/discover.".to_owned();
        message.result.as_ref().map(|result| message.at(result).to_owned()).ok_or_else(refused)
    }

    /// Sends one of the wrapper's own requests, and waits for the response, which is returned as a whole
    /// message. The error is a complete sentence.
    pub(in crate::modern) async fn ask(
        self: &Arc<Self>,
        method: &str,
        params: &str,
        capabilities: &str,
        within: Duration,
    ) -> Result<Bytes, String> {
        let stream = Stream::for_post(1, 1, 1 << 20, Reservation::unlimited());
        let _ticket = self.open(method, params, capabilities, within, &stream).await?;
        let answered = async {
            loop {
                match stream.first() {
                    First::Answers(answers) => return answers.into_iter().next().map(Text::into_bytes),
                    First::Events => return None,
                    First::Wait => stream.changed().await,
                }
            }
        };
        let late = || format!("The MCP server did not answer {method} in time.");
        tokio::time::timeout(within, answered).await.ok().flatten().ok_or_else(late)
    }

    /// Starts one of the wrapper's own requests.
    pub(in crate::modern) async fn open(
        self: &Arc<Self>,
        method: &str,
        params: &str,
        capabilities: &str,
        within: Duration,
        stream: &Arc<Stream>,
    ) -> Result<Ticket, String> {
        let mut meta = meta("{}", capabilities);
        meta.set(CLIENT_INFO, client_info());
        let mut params = Members::parse(params).unwrap_or_default();
        params.set("_meta", meta.to_string());
        let text = Outgoing::Request { id: "0", method, params: &params.to_string() }.text();
        let message = parse_line(text.as_bytes()).map_err(|error| error.to_string())?;
        let Kind::Request { id, .. } = message.kind.clone() else {
            return Err("no request".to_owned());
        };
        let waits = Waits::of(method);
        let caller = Caller { owner: Arc::from(""), waits, wants_logs: false, keep: None };
        let call = Call { message: &message, id, token: None, stream, timeout: within };
        Ok(self.dispatch(&call, caller).await)
    }
}
