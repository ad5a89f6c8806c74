//! Makes room for another session: decides which session is closed, and for whom the freed capacity is
//! reserved.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::{OpenError, Sessions};
use crate::budget::user;
use crate::child::{EXIT_PATIENCE, EndReason, Gone, Held, Keeper, Newcomer, Scarce, StartError};
use crate::legacy::giving_up::{self, Use};
use crate::legacy::session::Session;

/// The error for the calls of a session that is ended while it is in use.
const TOO_MANY: &str = "This session was ended, because the server is full, and another user had no session while you have many. Open another one, and end those that you do not need.";

/// The error for the calls of a session that is ended because of a scarce resource.
const fn short_of(scarce: Scarce) -> &'static str {
    match scarce {
        Scarce::Memory => SHORT_OF_MEMORY,
        Scarce::Tasks => SHORT_OF_PROCESSES,
        Scarce::Watches => SHORT_OF_WATCHES,
    }
}

const SHORT_OF_MEMORY: &str = "This session was ended, because the memory of the server is nearly used up and your sessions take most of it. Open another one, make smaller calls, and end the sessions that you do not need.";

const SHORT_OF_PROCESSES: &str = "This session was ended, because the processes and threads of the server are nearly used up and your sessions take most of them. Open another one, make fewer calls at the same time, and end the sessions that you do not need.";

const SHORT_OF_WATCHES: &str = "This session was ended, because the server cannot accept any more connections and your sessions take most of what the system needs for them. Open another one, and do not let it open so many files and connections.";

/// The claim of a user without a session to the next session that becomes available. Dropping it ends the
/// claim.
pub(super) struct Claim<'a>(&'a AtomicUsize);

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Sessions {
    /// Reserves the next available session for this user, who has none. Dropping the result ends the
    /// reservation.
    pub(super) fn claim(&self, owner: &str) -> Option<Claim<'_>> {
        let is_known = !user(owner).trim().is_empty();
        (is_known && self.newcomer(owner).has == 0).then(|| {
            self.claims.fetch_add(1, Ordering::AcqRel);
            Claim(&self.claims)
        })
    }

    /// If a session of this user is ending, waits until it has ended. Returns `false` if none is ending, or if
    /// it takes too long.
    pub(super) async fn one_has_ended(&self, owner: &str, until: Instant) -> bool {
        let mut freed = std::pin::pin!(self.places.freed());
        freed.as_mut().enable();
        let open = self.all().iter().filter(|session| user(&session.owner) == user(owner)).count();
        let counted = self.places.taken(owner);
        counted > open && tokio::time::timeout_at(until, freed).await.is_ok()
    }

    /// Waits until the child of an ended session has exited, because it keeps its memory and its slot until
    /// then. Waits only for a limited time, because a child can exit slowly.
    pub async fn make_sure_it_is_gone(&self, session: &Session) {
        if let Some(link) = session.own_link() {
            let _ = tokio::time::timeout(EXIT_PATIENCE, link.child.exited()).await;
            self.launcher.look();
        }
    }

    pub(super) async fn has_room(&self) -> bool {
        let has_place = self.count() < self.settings.max_sessions;
        let has_child = self.shared.is_some() || self.launcher.has_room();
        // This search comes last, because it examines every session.
        (has_place || self.to_give_up(Newcomer::ANYBODY, &|_| true).is_some())
            && (has_child || self.launcher.can_make_room(Newcomer::ANYBODY).await)
    }

    /// Ends a session or stops a stateless child, so that another child can be started. Returns whether this
    /// freed anything.
    pub(super) async fn make_room_for_a_child(&self, error: &OpenError, owner: &str) -> bool {
        if matches!(error, OpenError::Start(StartError::NoRoom(_))) {
            return self.launcher.make_room(self.newcomer(owner)).await;
        }
        let Some(given_up) = self.make_place(error, owner) else { return false };
        self.make_sure_it_is_gone(&given_up).await;
        true
    }

    /// Ends a session because the maximum number is reached.
    pub(super) fn make_place(&self, error: &OpenError, owner: &str) -> Option<Arc<Session>> {
        let newcomer = self.newcomer(owner);
        let (session, reason) = match error {
            OpenError::OwnerFull(_) => {
                let is_own = |session: &Session| user(&session.owner) == user(owner);
                (self.candidate(newcomer, EndReason::Unused, &is_own)?.1, EndReason::Unused)
            }
            OpenError::Full(_) => self.to_give_up(newcomer, &|_| true)?,
            OpenError::Start(_) | OpenError::Claimed | OpenError::Stopping | OpenError::Random => {
                return None;
            }
        };
        self.give_session_up(&session, reason);
        Some(session)
    }

    fn to_give_up(
        &self,
        newcomer: Newcomer<'_>,
        makes_room: &dyn Fn(&Session) -> bool,
    ) -> Option<(Arc<Session>, EndReason)> {
        [EndReason::Unused, EndReason::TooMany].into_iter().find_map(|reason| {
            self.candidate(newcomer, reason, makes_room).map(|(_, session)| (session, reason))
        })
    }

    /// The session that can be ended for this reason, and how long it has been unused.
    fn candidate(
        &self,
        newcomer: Newcomer<'_>,
        reason: EndReason,
        makes_room: &dyn Fn(&Session) -> bool,
    ) -> Option<(Duration, Arc<Session>)> {
        let now = Instant::now();
        let mut all = self.all();
        all.retain(|session| !session.is_ended());
        let uses: Vec<Use> = all.iter().map(|session| session.usage(now, makes_room(session))).collect();
        let index = giving_up::choose(&uses, newcomer, reason)?;
        Some((uses.get(index)?.last, all.swap_remove(index)))
    }

    fn give_session_up(&self, session: &Session, reason: EndReason) {
        self.metrics.sessions_reaped_total.add();
        if reason == EndReason::TooMany {
            if Self::may_log(&self.endings) {
                tracing::warn!(
                    user = user(&session.owner),
                    "a session was ended for another user, because there was no room and its user has the most sessions"
                );
            }
            session.end_with("another user needed the room", TOO_MANY);
        } else {
            session.end("another one was opened");
        }
        self.remove(session);
    }

    fn newcomer<'a>(&self, owner: &'a str) -> Newcomer<'a> {
        Newcomer { user: user(owner), has: self.places.taken(owner) }
    }
}

impl Keeper for Sessions {
    fn candidate(&self, newcomer: Newcomer<'_>, reason: EndReason) -> Option<Duration> {
        self.candidate(newcomer, reason, &|session| session.own_link().is_some()).map(|(unused, _)| unused)
    }

    fn give_up(&self, newcomer: Newcomer<'_>, reason: EndReason) -> Option<Gone> {
        let has_child = |session: &Session| session.own_link().is_some();
        let (_, session) = self.candidate(newcomer, reason, &has_child)?;
        self.give_session_up(&session, reason);
        let exited = session.own_link()?.child.exited();
        Some(Box::pin(async move {
            exited.await;
        }))
    }

    fn held(&self) -> Vec<Held> {
        let held = |session: &Arc<Session>| {
            let child = session.own_link()?.child.number;
            Some(Held { child, user: user(&session.owner).to_owned(), can_end: true })
        };
        self.all().iter().filter(|session| !session.is_ended()).filter_map(held).collect()
    }

    fn end_large(&self, child: u64, scarce: Scarce) -> Option<Gone> {
        let of_child =
            |session: &Arc<Session>| session.own_link().is_some_and(|link| link.child.number == child);
        let session = self.all().into_iter().find(of_child)?;
        let link = session.own_link()?;
        link.child.stop_at_once();
        session.end_with("its child used most of the container", short_of(scarce));
        self.remove(&session);
        let exited = link.child.exited();
        Some(Box::pin(async move {
            exited.await;
        }))
    }
}
