//! Which session a request goes to, and how one is opened.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::group::{Group, GroupKey, Lease, Seat, initialize, pump};
use super::super::results::Greeting;
use super::{Facade, Refused, Suspended};
use crate::child::Placeholders;
use crate::legacy::OpenError;
use crate::protocol::{Kind, parse_line};
use crate::stream::{Consumer, First};

/// The part of a client's time to answer after which a call that waits for a session takes that of another call, whose
/// client has not answered: 30 s of 10 minutes.
const UNDISTURBED: u32 = 20;

impl Facade {
    /// A session for a request: the group's first one, or for a call that may ask back one that no such call has.
    pub(super) async fn lease(
        &self,
        group: &Arc<Group>,
        key: &GroupKey,
        caller: &Placeholders,
        is_exclusive: bool,
    ) -> Result<Lease, Refused> {
        let end = Instant::now() + self.settings.request_timeout;
        let undisturbed = self.settings.input_timeout / UNDISTURBED;
        let mut patience = Instant::now() + undisturbed;
        loop {
            let free = if is_exclusive {
                group.take_free(false)
            } else {
                group.home().and_then(|seat| Lease::take(&seat, false))
            };
            if let Some(lease) = free {
                return Ok(lease.of(group));
            }
            {
                let _one_at_a_time = group.opening.lock().await;
                let count = group.seats().len();
                if count > 0 && (!is_exclusive || group.take_free(false).is_some()) {
                    continue;
                }
                // A group's first session serves everything that needs none of its own, so there always is one.
                if count == 0 || self.has_room(key, count) {
                    match self.open(group, key, caller).await {
                        Ok(()) => continue,
                        Err(Refused::Open(OpenError::OwnerFull | OpenError::Full)) if count > 0 => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            if is_exclusive && let Some(lease) = group.take_free(true) {
                return Ok(lease.of(group));
            }
            let until = end.min(patience);
            if tokio::time::timeout_at(until, group.freed.notified()).await.is_err() {
                if until == end {
                    return Err(Refused::Busy);
                }
                if is_exclusive {
                    self.give_up_oldest(&key.owner);
                }
                patience = Instant::now() + undisturbed;
            }
        }
    }

    /// Gives up the call of a principal that has waited for its client for the longest time, if there is one: its user may
    /// have gone, and no other call must wait for that. The client is told when it comes back.
    fn give_up_oldest(&self, owner: &str) {
        let mut all = self.waiting();
        let own = all.iter().filter_map(|(number, waiting)| match &waiting.call {
            Suspended::Running(running) if running.owner() == owner => Some((waiting.expires, *number)),
            _ => None,
        });
        let oldest = own.min().and_then(|(_, number)| all.remove(&number));
        // Dropping it frees its session.
        drop(all);
        drop(oldest);
    }

    /// Whether a principal may have one more session for this group, which has so many. Those of the principal's other groups
    /// make room if nobody uses them, except for the first of each.
    fn has_room(&self, own: &GroupKey, count: usize) -> bool {
        let max = self.settings.max_seats;
        let others: Vec<Arc<Group>> = {
            let groups = self.groups();
            let others = groups.iter().filter(|(key, _)| key.owner == own.owner && *key != own);
            others.map(|(_, group)| Arc::clone(group)).collect()
        };
        let is_full = || count + others.iter().map(|group| group.seats().len()).sum::<usize>() >= max;
        if count < max && is_full() {
            for seat in others.iter().flat_map(|group| group.take_unused()) {
                self.sessions.end(&seat.session, "another one of this principal is opened");
            }
        }
        !is_full()
    }

    /// Opens a session and greets the child as this client would.
    async fn open(&self, group: &Arc<Group>, key: &GroupKey, caller: &Placeholders) -> Result<(), Refused> {
        let opened = self.sessions.open(&key.owner, caller, false);
        let session = match opened {
            Err(OpenError::OwnerFull | OpenError::Full) if self.evict(&key.owner) => {
                self.sessions.open(&key.owner, caller, false)?
            }
            opened => opened?,
        };
        session.number_questions();
        session.set_common();
        let text = initialize(&key.capabilities);
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
        let greeting = parse_line(&answer).ok().and_then(|message| {
            let result = message.result.as_ref()?;
            Greeting::parse(message.at(result))
        });
        let Some(greeting) = greeting else {
            self.sessions.end(&session, "initialize failed");
            let why = "The MCP server refused initialize, or ended before it answered.";
            return Err(Refused::Child(why.to_owned()));
        };
        let seat = Arc::new(Seat::new(session, greeting));
        seat.notify(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        group.seats().push(Arc::clone(&seat));
        tokio::spawn(pump(Arc::clone(group), seat));
        Ok(())
    }

    /// Gives up the sessions of a group of this principal that nobody uses. False: there is none.
    fn evict(&self, owner: &str) -> bool {
        let now = Instant::now();
        let groups = self.groups();
        let idle = groups.iter().find(|(key, group)| {
            key.owner == owner && !group.seats().is_empty() && group.is_idle(now, Duration::ZERO)
        });
        idle.is_some_and(|(_, group)| self.end_group(group, "another one is opened"))
    }

    pub(super) fn end_group(&self, group: &Group, why: &str) -> bool {
        let seats: Vec<Arc<Seat>> = group.seats().drain(..).collect();
        for seat in &seats {
            self.sessions.end(&seat.session, why);
        }
        !seats.is_empty()
    }
}
