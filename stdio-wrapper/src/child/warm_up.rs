//! A `ping` to a spare. The protocol allows a ping before `initialize` (2025-11-25, lifecycle,
//! "Initialization"). After an interpreter has read and answered one message, it handles the next one several
//! times as fast.

use bytes::BytesMut;

use crate::protocol::{Kind, Members, parse_line};

/// The line with the ping. The request ids of sessions are numbers, so a late response to the ping matches no
/// request of a session, and is dropped.
pub(super) const PING: &[u8] = b"{\"jsonrpc\":\"2.0\",\"id\":\"mcp-gate-spare\",\"method\":\"ping\"}\n";
const ID: &str = r#""mcp-gate-spare""#;

/// Maximum number of bytes that a child can write before it answers the ping. If a child writes more, the ping
/// counts as refused.
pub(super) const MAX_EARLY: usize = 64 << 10;

/// The outcome of a ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pinged {
    /// The child has responded with an empty result.
    Answered,
    /// The child has responded with something else.
    Refused,
    /// The child has exited.
    Ended,
    /// A session has taken the child.
    Taken,
}

/// Removes the ping response from the output that the child has written so far. All other output is kept for
/// the session that will use the child.
pub(super) fn take_answer(early: &mut BytesMut) -> Option<Pinged> {
    let mut start = 0;
    while let Some(length) = memchr::memchr(b'\n', early.get(start..)?) {
        let end = start + length + 1;
        if let Some(pinged) = early.get(start..end).and_then(read) {
            let after = early.split_off(end);
            early.truncate(start);
            early.unsplit(after);
            return Some(pinged);
        }
        start = end;
    }
    None
}

/// The outcome of the ping according to a line. Returns `None` if the line is unrelated to the ping.
fn read(line: &[u8]) -> Option<Pinged> {
    let message = parse_line(line.trim_ascii()).ok()?;
    match &message.kind {
        Kind::Response { id: Some(id), is_error: false } if message.at(id) == ID => {
            let result = message.result.as_ref().map(|result| message.at(result));
            let members = result.and_then(Members::parse);
            // A server that treats any first message as `initialize` has treated the ping as such, and would
            // not accept the real `initialize` later.
            let is_empty = members.is_some_and(|members| members.iter().all(|(name, _)| name == "_meta"));
            Some(if is_empty { Pinged::Answered } else { Pinged::Refused })
        }
        Kind::Response { id: Some(id), .. } => (message.at(id) == ID).then_some(Pinged::Refused),
        // Only the ping was sent, so an error without an id belongs to the ping.
        Kind::Response { id: None, .. } => Some(Pinged::Refused),
        Kind::Request { .. } | Kind::Notification { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str) -> (Option<Pinged>, String) {
        let mut early = BytesMut::from(text);
        let pinged = take_answer(&mut early);
        (pinged, String::from_utf8(early.to_vec()).unwrap())
    }

    #[test]
    fn only_an_empty_result_is_an_answer_and_only_the_answer_is_taken_out() {
        let good = r#"{"result":{},"jsonrpc":"2.0","id":"mcp-gate-spare"}"#;
        assert_eq!(taken(&format!("{good}\n")), (Some(Pinged::Answered), String::new()));
        assert_eq!(
            taken(&format!("junk\n{good}\r\n{{\"half")),
            (Some(Pinged::Answered), "junk\n{\"half".to_owned())
        );
        for waits in ["", "junk\n", good, r#"{"jsonrpc":"2.0","method":"notifications/message"}"#] {
            assert_eq!(taken(waits), (None, waits.to_owned()));
        }
        for bad in [
            r#"{"jsonrpc":"2.0","id":"mcp-gate-spare","result":{"protocolVersion":"2025-11-25"}}"#,
            r#"{"jsonrpc":"2.0","id":"mcp-gate-spare","error":{"code":-32601,"message":""}}"#,
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":""}}"#,
        ] {
            assert_eq!(taken(&format!("{bad}\n")).0, Some(Pinged::Refused), "{bad}");
        }
        let other = "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n";
        assert_eq!(taken(other), (None, other.to_owned()));
    }

    #[test]
    fn the_ping_is_one_message_with_the_id_that_is_looked_for() {
        let message = parse_line(PING.trim_ascii()).unwrap();
        assert!(
            matches!(&message.kind, Kind::Request { method, id } if method == "ping" && message.at(id) == ID)
        );
        assert_eq!(memchr::memchr(b'\n', PING), Some(PING.len() - 1));
    }
}
