//! How messages are sent to a child, and what is known about the child.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;

use super::calls::{Call, Given};
use super::rewriting;
use crate::budget::{Budget, Memory, TOO_MANY_MESSAGES};
use crate::child::{Child, Framing, Launcher, LineLog, Outbox};
use crate::metrics::Metrics;
use crate::offload::Offload;
use crate::protocol::{Message, Patch, cancelled};

/// Maximum time for which a message waits for memory from the budget for messages to children. Children that
/// read their input free some soon.
pub(crate) const ROOM_PATIENCE: Duration = Duration::from_secs(2);

/// Maximum time for which a message waits for a child that does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum number of bytes by which the wrapper's ids can make a line longer than its message.
const REPLACED: usize = 64;
/// If a child closes its input because it has exited, its exit is known within this time.
const EXIT_KNOWN: Duration = Duration::from_millis(50);

/// The error if the line of a message could not be created.
const UNREADABLE: &str = "The message could not be passed to the MCP server.";

/// What the conversations with all children need.
#[derive(Debug, Clone)]
pub(crate) struct Conversations {
    pub(crate) framing: Arc<dyn Framing>,
    pub(crate) launcher: Arc<Launcher>,
    pub(crate) metrics: Arc<Metrics>,
    /// The memory for messages that are queued between clients and children.
    pub(crate) memory: Memory,
    /// Maximum length of a line from a child, in bytes.
    pub(crate) max_line: usize,
    /// The threads that process large lines from children.
    pub(crate) offload: Arc<Offload>,
}

/// A child, with everything that is needed to send messages to it.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) child: Child,
    outbox: Outbox,
    framing: Arc<dyn Framing>,
    pub(crate) launcher: Arc<Launcher>,
    pub(crate) metrics: Arc<Metrics>,
    /// Memory for responses that clients have not read yet.
    pub(crate) answers: Arc<Budget>,
    /// Memory for messages that the child has not read yet.
    pub(crate) messages: Arc<Budget>,
    pub(crate) log: LineLog,
    /// The threads that process large messages.
    pub(crate) offload: Arc<Offload>,
    /// Whether the child has sent a response that shows that it works.
    has_answered: AtomicBool,
    /// The reason why the child has exited, worded for callers.
    dead: OnceLock<String>,
}

impl Conversation {
    pub(super) fn new(all: &Conversations, child: Child, outbox: Outbox) -> Self {
        Self {
            log: LineLog::new(child.number),
            child,
            outbox,
            framing: Arc::clone(&all.framing),
            launcher: Arc::clone(&all.launcher),
            metrics: Arc::clone(&all.metrics),
            answers: Arc::clone(&all.memory.answers),
            messages: Arc::clone(&all.memory.messages),
            offload: Arc::clone(&all.offload),
            has_answered: AtomicBool::new(false),
            dead: OnceLock::new(),
        }
    }

    /// Sends a request, with its number instead of its id and its progress token. The error says why the
    /// child did not get it, in a form for callers.
    /// `is_wanted` returns whether the caller is still waiting for the response.
    pub(crate) async fn request(
        &self,
        owner: &str,
        call: &Call<'_>,
        given: Given,
        is_wanted: impl Fn() -> bool,
    ) -> Result<(), Cow<'static, str>> {
        let digits = given.number.to_string();
        let line = self.line(owner, call.message, &mut call.patches(&digits)).await?;
        if !is_wanted() {
            // The child might already have received the cancellation, so it must not get the request.
            return Err("The request was cancelled.".into());
        }
        let sent = match self.outbox.try_send(line, given.is_alone) {
            Ok(()) => Ok(Ok(())),
            // There is no space, so this waits for the child to read. The request itself also stays in memory.
            Err(line) => tokio::time::timeout(call.timeout.min(SEND_TIMEOUT), self.outbox.send(line)).await,
        };
        // The reader fails all pending requests when the child ends. This is for requests that came after
        // that.
        match sent {
            Ok(Ok(())) if self.dead.get().is_none() => Ok(()),
            Ok(Ok(())) => Err(self.death().into()),
            Ok(Err(_)) => {
                // The child has closed its input. If it has ended, that gives a better error message, and is
                // known in a moment.
                tokio::time::sleep(EXIT_KNOWN).await;
                Err(self.death().into())
            }
            Err(_) => Err("The MCP server does not read its input, so the request timed out.".into()),
        }
    }

    /// Passes on a message of a session that needs no response. The error contains the reason why the child did
    /// not receive it.
    pub(crate) async fn pass(
        &self,
        owner: &str,
        message: &Message<'_>,
        patches: &mut [Patch<'_>],
        patience: Duration,
    ) -> Result<(), &'static str> {
        let line = self.line(owner, message, patches).await?;
        match tokio::time::timeout(patience.min(SEND_TIMEOUT), self.outbox.send(line)).await {
            // A child that has exited does not need messages.
            Ok(_) => Ok(()),
            Err(_) => Err("The MCP server does not read its input, so it did not receive the message."),
        }
    }

    /// Creates the line of a message, with some values replaced. Its memory is reserved before it is created.
    async fn line(
        &self,
        owner: &str,
        message: &Message<'_>,
        patches: &mut [Patch<'_>],
    ) -> Result<Bytes, &'static str> {
        let length = message.text.len() + REPLACED;
        let reservation =
            self.messages.reserve(owner, length, ROOM_PATIENCE).await.ok_or(TOO_MANY_MESSAGES)?;
        let tools = (&self.framing, &*self.offload);
        rewriting::line(tools, owner, message, patches, reservation).await.ok_or(UNREADABLE)
    }

    /// Copies a message from the child, with some values replaced. Returns `None` if this fails.
    pub(crate) async fn rewritten(
        &self,
        owner: &str,
        message: &Message<'_>,
        patches: &mut [Patch<'_>],
    ) -> Option<Bytes> {
        rewriting::rewritten(&self.offload, owner, message, patches).await
    }

    /// Sends one of the wrapper's own messages if there is space in the queue.
    pub(crate) fn say(&self, text: &str) {
        let _ = self.outbox.try_send(self.framing.encode(text, &mut []), false);
    }

    /// Tells the child that no caller is waiting for a request any longer, if there is space for it.
    pub(crate) fn cancel(&self, number: u64, reason: &str) {
        self.say(&cancelled(number, reason));
    }

    /// Records that the child has sent a response that shows that it works.
    pub(crate) fn set_answered(&self) {
        if !self.has_answered.swap(true, Ordering::Relaxed) {
            self.child.set_answered();
            self.launcher.child_worked(&self.child);
        }
    }

    /// Whether the child has sent a response that shows that it works.
    pub(crate) fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }

    /// Records that the child has ended. Returns the reason for callers. Only the first one is kept, because
    /// it is the most accurate one.
    pub(crate) fn die(&self, reason: String) -> String {
        let _ = self.dead.set(reason);
        self.death()
    }

    /// Whether the child has exited.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.get().is_some()
    }

    fn death(&self) -> String {
        self.dead.get().cloned().unwrap_or_else(|| "The MCP server closed its input.".to_owned())
    }

    /// Records that a message from the child is dropped. Dropped messages do not count as useless, because a correct
    /// server also sends messages that no client receives: log messages while no client is connected, progress of a
    /// call that the client has given up, or its late response. If they counted, a user whose calls log a lot could
    /// block a server that is shared with others. The turns of users limit the work for these messages.
    pub(crate) fn drop_message(&self, what: &str) {
        self.metrics.child_messages_dropped_total.add();
        tracing::debug!(child = self.child.number, what, "a message from the child was dropped");
    }

    /// Records that a message is dropped that is too long to be kept, or that no correct server sends.
    pub(crate) fn drop_useless(&self, what: &str) {
        self.drop_message(what);
        self.log.count_useless();
    }

    /// Records that a line from the child is not a message.
    pub(super) fn junk(&self, text: &[u8], why: &str) {
        self.metrics.child_junk_lines_total.add();
        self.log.count_useless();
        self.log.line(
            text,
            why,
            "a line on the child's standard output is not an MCP message and was skipped",
        );
    }
}
