//! Handles changes while the database cannot be written. Changes that take access away go into the overlay, and all
//! others are refused.

use std::sync::Arc;

use redb::ReadableDatabase;

use crate::store::StoreError;
use crate::store::changes::About;

use super::super::disk::reason_of;
use super::super::overlay::Overlay;
use super::super::rows::{Reader, unavailable};
use super::super::writable::Writable;
use super::Parts;
use super::queued::QueuedWrite;

/// Whether the writes were in a transaction that failed. They might then be visible, although they might not be on
/// disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tried {
    Yes,
    No,
}

impl Parts {
    /// Puts the writes that take access away into the overlay, and refuses all others, because the database cannot
    /// be written.
    pub(super) fn write_beside(&self, batch: Vec<Box<dyn QueuedWrite>>, error: &StoreError, tried: Tried) {
        let reason = &*reason_of(error);
        let mut accepted = Vec::with_capacity(batch.len());
        let mut overlay = self.overlay.get();
        for mut write in batch {
            match self.changes_of(&mut write, &overlay, tried) {
                Ok((changed, touched)) => {
                    let is_change = !changed.is_empty();
                    if is_change {
                        overlay = Arc::new(overlay.with(&changed));
                    }
                    accepted.push((write, is_change, touched));
                }
                Err(StoreError::Unreadable) => write.finish(Err(StoreError::Unreadable)),
                Err(StoreError::Unavailable(_) | StoreError::NeedsOperator(_)) => {
                    write.finish(Err(refusal(reason, overlay.len(), self.overlay.is_kept())));
                }
            }
        }
        let kept = if accepted.iter().any(|(_, is_change, _)| *is_change) {
            self.overlay.replace(Overlay::clone(&overlay), &self.sealer)
        } else {
            self.overlay.keep(&self.sealer)
        };
        if let Err(error) = &kept {
            tracing::error!(%error, "{}", not_kept(reason));
        }
        for (write, is_change, touched) in accepted {
            self.note(touched);
            let is_lost_by_restart = is_change && kept.is_err();
            write.finish(if is_lost_by_restart { Err(unavailable(not_kept(reason))) } else { Ok(()) });
        }
    }

    /// Runs a write on top of `overlay`. Returns its changes, and the cached rows among them.
    ///
    /// # Errors
    /// Fails if the write does more than take access away, if there is no room for it, or if the database cannot
    /// even be read. Also fails if there is nothing left to change after a transaction that failed: the caller must not
    /// be told that a change was made that might not be on disk.
    fn changes_of(
        &self,
        write: &mut Box<dyn QueuedWrite>,
        overlay: &Overlay,
        tried: Tried,
    ) -> Result<Beside, StoreError> {
        let database = self.disk.database()?;
        let transaction = database.begin_read().map_err(unavailable)?;
        let before = Reader::new(&transaction, &self.sealer, overlay);
        let rows = Writable::beside(&before, &self.sealer);
        write.run(&rows)?;
        let changed = rows.changed();
        let is_unsure = tried == Tried::Yes && changed.is_empty();
        let is_allowed = (write.takes_away() || changed.only_removes()) && !is_unsure;
        let fits = || changed.is_empty() || overlay.with(&changed).fits(&changed);
        if is_allowed && fits() {
            Ok((changed, rows.touched()))
        } else {
            Err(unavailable("the database cannot be written"))
        }
    }
}

/// The changes that a write makes in the overlay, and the kind and id of each changed row whose value can be
/// cached.
type Beside = (Overlay, Vec<(About, String)>);

/// The error for a write that is refused because it does more than take access away. `waiting` is the number of
/// rows in the overlay, and `is_kept` is whether they are on disk.
fn refusal(reason: &str, waiting: usize, is_kept: bool) -> StoreError {
    let rows = if waiting == 1 { "1 row".to_owned() } else { format!("{waiting} rows") };
    let kept = match (waiting, is_kept) {
        (0, _) => String::new(),
        (_, true) => format!(
            ". What has since been disabled, deleted or revoked is refused, and is kept in store.reserve ({rows})"
        ),
        (_, false) => format!(
            ". What has since been disabled, deleted or revoked is refused ({rows}), but store.reserve cannot be \
             written either: a restart undoes it"
        ),
    };
    StoreError::Unavailable(format!("{reason}{kept}"))
}

/// The error for a change that takes access away but could not be written to disk.
fn not_kept(reason: &str) -> String {
    format!(
        "{reason}. store.reserve cannot be written either: what was disabled, deleted or revoked is refused now, but a \
         restart before the disk accepts writes again undoes it. Do not restart the service; repeat the change when \
         /ready returns 200"
    )
}
