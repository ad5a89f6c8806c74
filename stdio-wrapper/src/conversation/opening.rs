//! Begins the conversation with a child that was just started.

use std::sync::Arc;

use super::reading::{self, Link};
use super::sending::Conversation;
use crate::budget::Memory;
use crate::child::{Child, Framing, Launcher, Outbox, Output};
use crate::metrics::Metrics;
use crate::offload::Offload;

/// What the conversations with all children need.
#[derive(Debug, Clone)]
pub(crate) struct Conversations {
    pub(crate) framing: Arc<dyn Framing>,
    pub(crate) launcher: Arc<Launcher>,
    pub(crate) metrics: Arc<Metrics>,
    /// The memory for messages that are queued between clients and children.
    pub(crate) memory: Memory,
    /// Maximum length of a line of a child, in bytes.
    pub(crate) max_line: usize,
    /// The threads that process large lines of children.
    pub(crate) offload: Arc<Offload>,
}

impl Conversations {
    /// Begins the conversation with a child that was just started, and reads its output until it ends. `link`
    /// adds what the era needs.
    pub(crate) fn open<L: Link>(
        &self,
        (child, outbox, output): (Child, Outbox, Output),
        link: impl FnOnce(Conversation) -> L,
    ) -> Arc<L> {
        let conversation = Conversation::new(self, child, outbox);
        let link = Arc::new(link(conversation));
        let decoder = self.framing.decoder(self.max_line);
        let offload = Arc::clone(&self.offload);
        tokio::spawn(reading::read(Arc::clone(&link), output, decoder, self.max_line, offload));
        link
    }
}
