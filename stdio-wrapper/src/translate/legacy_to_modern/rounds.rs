//! Handles results of a stateless server that require input: sends the questions to the client, and continues
//! the call.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use bytestring::ByteString;
use serde_json::Value;
use tokio::sync::oneshot;

use super::super::results::result_for_legacy;
use super::peer::{Peer, Round, Unanswered, fail};
use crate::budget::{TOO_MANY_ANSWERS, TOO_MANY_MESSAGES};
use crate::legacy::{Client, TOO_MANY_QUESTIONS};
use crate::protocol::{Members, Outgoing, members, parse_line, string};
use crate::stream::Stream;

/// A response from the server.
enum Settled {
    /// The call ends with this response to the client.
    Ends(Bytes),
    /// The server needs the answers to these questions. Both members are JSON text.
    Asks { requests: ByteString, state: Option<ByteString> },
}

impl Settled {
    /// Reads a response, in which the client's id is `id`. Returns `None` if it is not a message.
    fn read(answer: &ByteString, id: &str) -> Option<Self> {
        let message = parse_line(answer.as_bytes()).ok()?;
        let Some(result) = message.result.as_ref().map(|result| message.at(result)) else {
            return Some(Self::Ends(answer.clone().into_bytes()));
        };
        let [kind, requests, state] =
            members(result, ["resultType", "inputRequests", "requestState"]).ok().unwrap_or_default();
        if kind.and_then(string).as_deref() == Some("input_required") {
            let requests = answer.slice_ref(requests.unwrap_or_default());
            return Some(Self::Asks { requests, state: state.map(|state| answer.slice_ref(state)) });
        }
        let result = result_for_legacy(result);
        Some(Self::Ends(Outgoing::Result { id, result: &result }.bytes()))
    }
}

impl Peer {
    /// Passes a response on. If it requires input, sends the questions to the client instead, and returns the
    /// client's answers and the state for the next round.
    pub(super) async fn settle(
        &self,
        client: &Client,
        answer: ByteString,
        id: &str,
        out: &Arc<Stream>,
    ) -> Option<Round> {
        let (length, caller) = (answer.len(), id.to_owned());
        let read = move || Settled::read(&answer, &caller);
        let settled = self.servers.offload().run_if_large(&client.owner, length, read).await;
        let (requests, state) = match settled.flatten() {
            Some(Settled::Asks { requests, state }) => (requests, state),
            Some(Settled::Ends(text)) => {
                self.answer(client, text, id, out);
                return None;
            }
            None => {
                fail(out, id, "The MCP server's response cannot be used.");
                return None;
            }
        };
        // The questions are kept until the client has answered them.
        let mut reservation = self.servers.answers().reservation(&client.owner);
        if !reservation.grow(length) {
            fail(out, id, TOO_MANY_ANSWERS);
            return None;
        }
        let messages = self.servers.messages().reservation(&client.owner);
        let next = async {
            let responses = self.ask_all(client, &requests, out).await?;
            let no_room = || TOO_MANY_MESSAGES.to_owned();
            let state = state.map(|state| messages.keep(&*state).ok_or_else(no_room)).transpose()?;
            Ok((messages.keep(responses).ok_or_else(no_room)?, state))
        };
        next.await.map_err(|why: String| fail(out, id, &why)).ok()
    }

    fn answer(&self, client: &Client, text: Bytes, id: &str, out: &Stream) {
        match self.servers.answers().count(&client.owner, text.into()) {
            Some(text) => out.push(text, true),
            None => fail(out, id, TOO_MANY_ANSWERS),
        }
    }

    /// Sends all questions to the client together. Returns the answers by name, as JSON text.
    async fn ask_all(&self, client: &Client, requests: &str, out: &Arc<Stream>) -> Result<String, String> {
        let declared: Value = serde_json::from_str(&self.capabilities).unwrap_or_default();
        let mut asking = Asking { peer: self, client, ids: Vec::new() };
        let mut waiting = Vec::new();
        let requests = Members::parse(requests).unwrap_or_default();
        for (key, request) in requests.iter() {
            let [method, params] =
                members(request, ["method", "params"]).map_err(|error| error.to_string())?;
            let method = method.and_then(string).unwrap_or_default().into_owned();
            let capability = match method.as_str() {
                "elicitation/create" => "elicitation",
                "sampling/createMessage" => "sampling",
                "roots/list" => "roots",
                _ => return Err(format!("The server requires {method}, which no client can answer.")),
            };
            if declared.get(capability).is_none() {
                return Err(format!("The server needs {capability}, which the client did not declare."));
            }
            let id = format!(r#""mcp-gate-{}""#, self.next.fetch_add(1, Ordering::Relaxed));
            let (sender, receiver) = oneshot::channel();
            self.state().asked.insert(id.clone(), sender);
            asking.ids.push(id.clone());
            let params = params.unwrap_or("{}");
            let text = Outgoing::Request { id: &id, method: &method, params }.bytes();
            if !client.put(&id, &method, text, out) {
                return Err(TOO_MANY_QUESTIONS.to_owned());
            }
            // The name is a part of the response, which is already counted.
            waiting.push((key, method, receiver));
        }
        let mut answers = Vec::new();
        for (key, method, receiver) in waiting {
            match tokio::time::timeout(client.input_timeout(), receiver).await {
                Ok(Ok(Ok(answer))) => answers.push((key, Some(answer))),
                Ok(Ok(Err(Unanswered::NoMemory))) => return Err(TOO_MANY_MESSAGES.to_owned()),
                // If the client cannot show an elicitation to its user, this counts as an elicitation that the
                // user did not answer.
                _ if method == "elicitation/create" => answers.push((key, None)),
                _ => return Err(format!("The client did not answer {method}.")),
            }
        }
        let mut responses = Members::default();
        for (key, answer) in &answers {
            responses.set(key, answer.as_deref().unwrap_or(r#"{"action":"cancel"}"#));
        }
        Ok(responses.to_string())
    }
}

/// The questions whose answers a call waits for. However the call ends, late answers are then ignored, and the
/// questions no longer count against the client's limit.
struct Asking<'a> {
    peer: &'a Peer,
    client: &'a Client,
    ids: Vec<String>,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut state = self.peer.state();
        for id in &self.ids {
            state.asked.remove(id);
            self.client.take_back(id);
        }
    }
}
