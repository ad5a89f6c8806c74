//! Room for another session: who has to wait for it, and which session is given up for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{OpenError, SMALLEST_SHARE, Sessions};
use crate::budget::user;
use crate::child::StartError;
use crate::legacy::session::Session;

/// A session that was used more recently than this is not given up for another one.
const EVICTABLE_AFTER: Duration = Duration::from_secs(30);
/// A session of a user who has many is not given up if a message came this recently.
const QUIET: Duration = Duration::from_secs(5);

/// Maximum time for which opening a session waits until the child of the session that was given up for it has
/// ended.
pub(super) const EXIT_PATIENCE: Duration = Duration::from_secs(8);

impl Sessions {
    /// Waits until a session has ended, if one of this user is about to. Returns `false` if none is, or if it
    /// takes too long.
    pub(super) async fn one_has_ended(&self, owner: &str, until: Instant) -> bool {
        let mut freed = std::pin::pin!(self.places.freed());
        freed.as_mut().enable();
        let open = self.all().iter().filter(|session| user(&session.owner) == user(owner)).count();
        let counted = self.places.taken(owner);
        counted > open && tokio::time::timeout_at(until, freed).await.is_ok()
    }

    /// Waits until the child of a session that was given up has ended, because it keeps its memory and its
    /// place until then. There is a limit to this, because a child can be slow to end.
    pub async fn make_sure_it_is_gone(&self, session: &Session) {
        if let Some(link) = session.own_link() {
            let _ = tokio::time::timeout(EXIT_PATIENCE, link.child.exited()).await;
            self.launcher.look();
        }
    }

    pub(super) fn has_room(&self) -> bool {
        let has_place = self.count() < self.settings.max_sessions;
        let has_child = self.shared.is_some() || self.launcher.has_room();
        let can_have = |is_meant: &dyn Fn(&Session) -> bool| {
            self.forgotten(is_meant).or_else(|| self.surplus(None, is_meant)).is_some()
        };
        // Sessions to give up are looked for last, because that asks all of them.
        (has_place || can_have(&|_| true)) && (has_child || can_have(&|session| session.own_link().is_some()))
    }

    /// Ends the session that has been unused for the longest time, of those whose end would make room for
    /// another one.
    pub(super) fn make_room(&self, error: &OpenError, owner: &str) -> Option<Arc<Session>> {
        let oldest = match error {
            OpenError::OwnerFull(_) => self.forgotten(&|session| user(&session.owner) == user(owner)),
            OpenError::Full(_) => self.forgotten(&|_| true).or_else(|| self.surplus(Some(owner), &|_| true)),
            OpenError::Start(StartError::NoRoom(_)) => {
                let has_child = |session: &Session| session.own_link().is_some();
                self.forgotten(&has_child).or_else(|| self.surplus(Some(owner), &has_child))
            }
            OpenError::Start(_) | OpenError::Stopping | OpenError::Random => None,
        }?;
        self.metrics.sessions_reaped_total.add();
        self.end(&oldest, "another one was opened");
        Some(oldest)
    }

    /// The session that has been unused for the longest time, if that is at least [`EVICTABLE_AFTER`].
    fn forgotten(&self, is_meant: &dyn Fn(&Session) -> bool) -> Option<Arc<Session>> {
        let now = Instant::now();
        let unused = |session: Arc<Session>| Some((session.unused_for(now)?, session));
        self.all()
            .into_iter()
            .filter(|session| is_meant(session) && !session.is_ended())
            .filter_map(unused)
            .max_by_key(|(unused, _)| *unused)
            .filter(|(unused, _)| *unused >= EVICTABLE_AFTER)
            .map(|(_, session)| session)
    }

    /// The session that has been quiet for the longest time, of the user with most sessions, if that user has
    /// more than [`SMALLEST_SHARE`] and would still have as many as `owner`; `None` stands for somebody without
    /// any. It can have an open GET stream: otherwise a few users could keep everybody else out with sessions
    /// that do nothing.
    fn surplus(&self, owner: Option<&str>, is_meant: &dyn Fn(&Session) -> bool) -> Option<Arc<Session>> {
        let now = Instant::now();
        let own = owner.map_or(0, |owner| self.places.taken(owner));
        let (most, count) = self.places.most()?;
        if count <= SMALLEST_SHARE.max(own + 1) {
            return None;
        }
        let all = self.all().into_iter().filter(|session| user(&session.owner) == &*most);
        all.filter(|session| is_meant(session) && !session.is_ended())
            .filter_map(|session| Some((session.quiet_for(now)?, session)))
            .max_by_key(|(quiet, _)| *quiet)
            .filter(|(quiet, _)| *quiet >= QUIET)
            .map(|(_, session)| session)
    }
}
