//! Begins the conversation with a child that was just started.

use std::sync::Arc;

use super::reading::{self, Link};
use super::sending::{Conversation, Conversations};
use crate::child::{Child, Outbox, Output};

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
