//! Chooses the session for a request, and opens sessions.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::group::{Group, GroupKey, Lease, PooledSession, pump};
use super::super::results::Greeting;
use super::{ModernToLegacy, Refused, Suspended, Waiting};
use crate::child::Placeholders;
use crate::legacy::{OpenError, Session, Sessions};
use crate::policy::Own;
use crate::protocol::{Kind, Outgoing, Version, error_words, initialize, parse_line};
use crate::stream::{Consumer, First};

/// A waiting call keeps its session for 1/`UNDISTURBED` of the input timeout: 30 s of 10 minutes. After that, a
/// call without a session can take the session, because the user might have left.
const UNDISTURBED: u32 = 20;
/// Time after which a waiting call checks again which users have answered.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl ModernToLegacy {
    /// Finds a session for a request: the first one of the group or, for a call that might ask questions, one
    /// that no other call of this kind uses.
    pub(super) async fn lease(
        &self,
        group: &Arc<Group>,
        key: &GroupKey,
        caller: &Placeholders,
        is_exclusive: bool,
    ) -> Result<Lease, Refused> {
        let end = Instant::now() + self.settings.request_timeout;
        let mut may_give_up = Instant::now();
        let mut may_be_doubtful = Instant::now();
        loop {
            let free = if is_exclusive {
                group.take_free(false)
            } else {
                group.home().and_then(|pooled| Lease::take(&pooled, false))
            };
            if let Some(lease) = free {
                return Ok(lease.of(group));
            }
            {
                let turn = group.opening.turn().await;
                let count = group.pooled_sessions().len();
                if count > 0 && (!is_exclusive || group.take_free(false).is_some()) {
                    continue;
                }
                if let Some(why) = turn.failure() {
                    return Err(Refused::Child(why));
                }
                // The first session of a group serves all requests that need no session of their own, so it
                // must always exist.
                if count == 0 || self.has_room(key, count) {
                    match self.open(group, key, caller).await {
                        Ok(()) => continue,
                        Err(Refused::Open(error)) if count > 0 && error.is_ceiling() => {}
                        Err(error) => {
                            // If a child failed, waiting callers get the same error and do not start a child
                            // themselves. If a limit was reached, each of them checks the limit again.
                            if let Refused::Child(why) = &error {
                                turn.failed(why.clone());
                            }
                            return Err(error);
                        }
                    }
                }
            }
            let now = Instant::now();
            if is_exclusive
                && now >= may_be_doubtful
                && let Some(lease) = group.take_free(true)
            {
                return Ok(lease.of(group));
            }
            if now >= end {
                return Err(Refused::Busy);
            }
            let mut until = end.min(now + LOOK_AGAIN);
            if is_exclusive && now >= may_give_up {
                match self.give_up_oldest(&key.owner, now) {
                    // Only one call is dropped at a time. If this frees no session, dropping more calls might
                    // not help either.
                    Ok(()) => {
                        may_give_up = now + self.settings.input_timeout / UNDISTURBED;
                        // Most children end a cancelled call immediately. After that, it is certain which call
                        // a question belongs to.
                        may_be_doubtful = now + LOOK_AGAIN;
                    }
                    Err(Some(patience)) if self.settings.max_seats > 1 && self.all_wait(&key.owner) => {
                        return Err(Refused::AllWait(patience));
                    }
                    Err(patience) => until = until.min(now + patience.unwrap_or(LOOK_AGAIN)),
                }
            }
            // The next round checks whether a session was freed.
            let _ = tokio::time::timeout_at(until, group.freed.notified()).await;
        }
    }

    /// Drops the principal's call that has waited for its client for the longest time, if that is long enough.
    /// Its user might have left, and other calls must not wait for that user. The client gets an error when it
    /// retries the call. The error of this function is the time after which the oldest call can be dropped, if
    /// there is such a call.
    fn give_up_oldest(&self, owner: &str, now: Instant) -> Result<(), Option<Duration>> {
        let mut all = self.waiting();
        let own = all.iter().filter_map(|(number, waiting)| match &waiting.call {
            Suspended::Running(running) if running.owner() == owner => Some((waiting.expires, *number)),
            _ => None,
        });
        let (expires, number) = own.min().ok_or(None)?;
        let disturbed = self.settings.input_timeout / UNDISTURBED * (UNDISTURBED - 1);
        let patience = expires.saturating_duration_since(now + disturbed);
        if !patience.is_zero() {
            return Err(Some(patience));
        }
        let oldest = all.remove(&number);
        // Dropping the call frees its session.
        drop(all);
        drop(oldest);
        Ok(())
    }

    /// Whether all of a principal's calls with a reserved session are waiting for their clients.
    fn all_wait(&self, owner: &str) -> bool {
        let is_own = |key: &GroupKey| key.owner == owner;
        let taken: usize = {
            let groups = self.groups();
            groups.iter().filter(|(key, _)| is_own(key)).map(|(_, group)| group.taken()).sum()
        };
        let is_waiting = |waiting: &&Waiting| matches!(&waiting.call, Suspended::Running(running) if running.owner() == owner);
        self.waiting().values().filter(is_waiting).count() >= taken
    }

    /// Whether a principal can have another session for this group, which has `count` sessions. To allow this,
    /// unused sessions of the principal's other groups are ended, except for the first one of each group.
    fn has_room(&self, own: &GroupKey, count: usize) -> bool {
        let max = self.settings.max_seats;
        let others: Vec<Arc<Group>> = {
            let groups = self.groups();
            let others = groups.iter().filter(|(key, _)| key.owner == own.owner && *key != own);
            others.map(|(_, group)| Arc::clone(group)).collect()
        };
        let is_full =
            || count + others.iter().map(|group| group.pooled_sessions().len()).sum::<usize>() >= max;
        if count < max && is_full() {
            for pooled in others.iter().flat_map(|group| group.take_unused()) {
                self.sessions.end(&pooled.session, "another one of this principal is opened");
            }
        }
        !is_full()
    }

    /// Opens a session, and initializes the child with the capabilities of this client.
    async fn open(&self, group: &Arc<Group>, key: &GroupKey, caller: &Placeholders) -> Result<(), Refused> {
        let mut opened = self.sessions.open(&key.owner, caller, false).await;
        if opened.as_ref().is_err_and(OpenError::is_ceiling) {
            let evicted = self.evict(&key.owner);
            for session in &evicted {
                self.sessions.make_sure_it_is_gone(session).await;
            }
            if !evicted.is_empty() {
                opened = self.sessions.open(&key.owner, caller, false).await;
            }
        }
        let session = opened?;
        let unfinished = Unfinished { sessions: &self.sessions, session: Some(&session) };
        session.number_questions();
        session.set_common();
        let text = initialize(Version::LATEST, &key.capabilities);
        let message = parse_line(text.as_bytes()).map_err(|error| Refused::Child(error.to_string()))?;
        let Kind::Request { id, .. } = message.kind.clone() else {
            return Err(Refused::Child("no request".to_owned()));
        };
        let stream = session.post_stream(1);
        let consumer: Consumer = stream.connect();
        session.initialize(&message, id, &stream).await;
        let answer = loop {
            match stream.first() {
                First::Answers(answers) => break answers.into_iter().next(),
                First::Events | First::Wait if session.is_ended() => break None,
                First::Events => tokio::time::sleep(Duration::from_millis(10)).await,
                First::Wait => stream.changed().await,
            }
        };
        drop(consumer);
        let answer = answer.map(crate::protocol::Text::into_bytes).unwrap_or_default();
        let greeting = match greeting(&answer) {
            Ok(greeting) => greeting,
            Err(why) => return Err(Refused::Child(why)),
        };
        unfinished.keep();
        let pooled = Arc::new(PooledSession::new(session, greeting));
        let initialized = Outgoing::Notification { method: "notifications/initialized", params: None };
        pooled.notify(Own::Initialized, &initialized.text()).await;
        group.pooled_sessions().push(Arc::clone(&pooled));
        tokio::spawn(pump(Arc::clone(group), pooled));
        Ok(())
    }

    /// Ends the sessions of an unused group of this principal, if there is one.
    fn evict(&self, owner: &str) -> Vec<Arc<Session>> {
        let now = Instant::now();
        let groups = self.groups();
        let idle = groups.iter().find(|(key, group)| {
            key.owner == owner && !group.pooled_sessions().is_empty() && group.is_idle(now, Duration::ZERO)
        });
        idle.map(|(_, group)| self.end_group(group, "another one is opened")).unwrap_or_default()
    }

    /// Ends all sessions of a group, and returns them.
    pub(super) fn end_group(&self, group: &Group, why: &str) -> Vec<Arc<Session>> {
        let pooled_sessions: Vec<Arc<PooledSession>> = group.pooled_sessions().drain(..).collect();
        for pooled in &pooled_sessions {
            self.sessions.end(&pooled.session, why);
        }
        pooled_sessions.iter().map(|pooled| Arc::clone(&pooled.session)).collect()
    }
}

/// A session that is being opened. If its client disconnects before the session is added to the group, the
/// session could no longer be found, so dropping this ends it.
struct Unfinished<'a> {
    sessions: &'a Sessions,
    session: Option<&'a Session>,
}

impl Unfinished<'_> {
    fn keep(mut self) {
        self.session = None;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.session {
            self.sessions.end(session, "it could not be opened");
        }
    }
}

/// Parses the child's response to `initialize`. The error describes why it cannot be used.
fn greeting(answer: &[u8]) -> Result<Greeting, String> {
    let message = parse_line(answer).map_err(|_| "The MCP server exited before it answered initialize.")?;
    if let Some(words) = error_words(&message) {
        return Err(format!("initialize failed: {words}"));
    }
    Greeting::parse(message.result.as_ref().map_or("{}", |result| message.at(result)))
}
