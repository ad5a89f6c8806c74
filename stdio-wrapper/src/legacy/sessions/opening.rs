//! Opens sessions within the limits, and finds a child for each of them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::Instant;

use super::Sessions;
use crate::budget::user;
use crate::child::{EXIT_PATIENCE, FEW, Placeholders, StartError, Turn};
use crate::legacy::client::{Client, SessionLimits};
use crate::legacy::link::{Audience, Link};
use crate::legacy::session::{Backend, Session};
use crate::legacy::shared::SharedChildren;
use crate::legacy::translated_server::TranslatedServer;
use crate::places::Place;

/// Maximum number of sessions that are ended to open one: one because of its owner's limit, and one because of
/// the limit for all.
const MAX_GIVEN_UP: usize = 2;
/// One user can have 1/`SHARE` of all sessions if the limit is not configured. Some clients need several
/// sessions, for example one for each window, and do not end them.
const SHARE: usize = 2;

/// Why no session was opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The wrapper's limit is reached.
    #[error(
        "This server has no free session: it has the maximum of {0}. Try again later. Its operator can raise MAX_SESSIONS."
    )]
    Full(usize),
    /// The principal's limit is reached.
    #[error(
        "You have too many open sessions: one caller can have {0}. End one of them, or try again later. The operator can raise MAX_SESSIONS_PER_PRINCIPAL."
    )]
    OwnerFull(usize),
    /// The next free session is reserved for another user.
    #[error(
        "This server has no free session: the next one is for a user who has none. Try again later. Its operator can raise MAX_SESSIONS."
    )]
    Claimed,
    /// No child could be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The wrapper is stopping.
    #[error("This server is shutting down. Try again in a moment.")]
    Stopping,
    /// No random bytes for an id are available.
    #[error("This server cannot generate random numbers, so it cannot open sessions.")]
    Random,
}

impl OpenError {
    /// Whether too many sessions exist, so that ending one might help.
    pub fn is_ceiling(&self) -> bool {
        matches!(
            self,
            Self::Full(_) | Self::OwnerFull(_) | Self::Claimed | Self::Start(StartError::NoRoom(_))
        )
    }
}

/// The source of the child of a new session.
enum Source {
    /// Its own child, either newly started or a spare.
    Own(Arc<Turn>),
    /// A child that all sessions share.
    Shared(Arc<SharedChildren>),
}

/// Finds the server that answers the requests of a client.
type Backing<'a> = dyn Fn(&Arc<Client>, &Arc<Place>) -> Result<Backend, StartError> + 'a;

impl Sessions {
    /// Opens a session with a child. The caller then sends `initialize` on it. If there is no room, ends the
    /// session or stops the stateless child that has been unused for the longest time.
    pub async fn open(
        &self,
        owner: &str,
        caller: &Placeholders,
        is_sse: bool,
    ) -> Result<Arc<Session>, OpenError> {
        let source = match self.source(owner).await {
            Ok(source) => source,
            Err(error) => return self.noted(owner, Err(error)),
        };
        let start_timeout = match &source {
            Source::Own(turn) => turn.start_timeout(),
            Source::Shared(_) => self.settings.start_timeout,
        };
        let backing: &Backing<'_> = &|client, place| self.backend(client, place, caller, &source);
        let attempt = || self.try_open(owner, caller, is_sse, start_timeout, backing);
        let mut opened = attempt();
        let until = Instant::now() + EXIT_PATIENCE;
        // A user who has just ended a session can open another one as soon as the child of the ended session
        // has exited.
        while opened.as_ref().is_err_and(OpenError::is_ceiling) && self.one_has_ended(owner, until).await {
            opened = attempt();
        }
        if matches!(&opened, Err(OpenError::Start(StartError::NoRoom(_)))) && self.launcher.look_again() {
            opened = attempt();
        }
        let _claim = opened.as_ref().is_err_and(OpenError::is_ceiling).then(|| self.claim(owner)).flatten();
        for _ in 0..MAX_GIVEN_UP {
            let Err(error) = &opened else { break };
            if !self.make_room_for_a_child(error, owner).await {
                break;
            }
            opened = attempt();
        }
        self.noted(owner, opened)
    }

    /// If the session needs its own child, waits until one can be started for this owner.
    async fn source(&self, owner: &str) -> Result<Source, OpenError> {
        if self.is_stopping() {
            return Err(OpenError::Stopping);
        }
        Ok(match &self.shared {
            Some(shared) => {
                shared.check_pause()?;
                Source::Shared(Arc::clone(shared))
            }
            None => Source::Own(self.launcher.turn(user(owner)).await?),
        })
    }

    /// Opens a session for the translation, which responds to `initialize` itself.
    pub fn open_translated(
        &self,
        owner: &str,
        caller: &Placeholders,
        server: &Arc<dyn TranslatedServer>,
    ) -> Result<Arc<Session>, OpenError> {
        let backing: &Backing<'_> = &|_, _| Ok(Backend::Translated(Arc::clone(server)));
        let attempt = || self.try_open(owner, caller, false, self.settings.start_timeout, backing);
        let mut opened = attempt();
        for _ in 0..MAX_GIVEN_UP {
            if opened.as_ref().err().and_then(|error| self.make_place(error, owner)).is_none() {
                break;
            }
            opened = attempt();
        }
        self.noted(owner, opened)
    }

    fn noted(&self, owner: &str, opened: Result<Arc<Session>, OpenError>) -> Result<Arc<Session>, OpenError> {
        match &opened {
            Ok(_) => self.metrics.sessions_opened_total.add(),
            Err(error) => {
                self.metrics.sessions_refused_total.add();
                if Self::may_log(&self.refusals) {
                    tracing::warn!(user = user(owner), %error, "no session was opened");
                }
            }
        }
        opened
    }

    fn try_open(
        &self,
        owner: &str,
        caller: &Placeholders,
        is_sse: bool,
        start_timeout: Duration,
        backing: &Backing<'_>,
    ) -> Result<Arc<Session>, OpenError> {
        if self.is_stopping() {
            return Err(OpenError::Stopping);
        }
        let id = self.new_id()?;
        let place = Arc::new(self.reserve(owner)?);
        let limits = SessionLimits {
            max_in_flight: self.settings.max_in_flight,
            event_log: self.settings.event_log,
            request_timeout: self.settings.request_timeout,
            start_timeout,
            input_timeout: self.settings.input_timeout,
        };
        let client = Arc::new(Client::new(
            id.clone(),
            owner.to_owned(),
            is_sse,
            limits,
            self.answers(),
            Arc::clone(&self.metrics),
        ));
        let backend = backing(&client, &place).inspect_err(|_| self.metrics.sessions.sub())?;
        let session = Arc::new(Session::new(client, backend, self.launcher.used(caller)));
        if let Some(shard) = self.shard(&id) {
            let entry = (Arc::clone(&session), place);
            shard.write().unwrap_or_else(PoisonError::into_inner).insert(id, entry);
        }
        Ok(session)
    }

    fn backend(
        &self,
        client: &Arc<Client>,
        place: &Arc<Place>,
        caller: &Placeholders,
        source: &Source,
    ) -> Result<Backend, StartError> {
        let taken = match source {
            Source::Own(turn) => self.launcher.take(caller, turn)?,
            Source::Shared(shared) => return Ok(Backend::Shared(Arc::clone(shared))),
        };
        taken.0.hold(Arc::clone(place));
        let audience = Audience::Client(Arc::downgrade(client));
        let link = self.conversations.open(taken, |conversation| Link::new(conversation, audience));
        Ok(Backend::Own(link))
    }

    /// Takes a slot for another session of this owner, within the limits.
    fn reserve(&self, owner: &str) -> Result<Place, OpenError> {
        self.places.take_if(owner, |own| {
            let (max, all) = (self.settings.max_sessions, self.count());
            if all >= max {
                return Err(OpenError::Full(max));
            }
            let max = self.settings.max_per_owner.unwrap_or_else(|| {
                let more = self.launcher.capacity().more();
                let fit = more.map_or(max, |more| max.min(all.saturating_add(more)));
                (fit / SHARE).max(FEW)
            });
            if own >= max {
                return Err(OpenError::OwnerFull(max));
            }
            if own > 0 && self.claims.load(Ordering::Acquire) > 0 {
                return Err(OpenError::Claimed);
            }
            self.metrics.sessions.add();
            Ok(())
        })
    }

    /// Creates an id of 256 random bits, in characters that a header can contain (2025-11-25, "Session
    /// Management").
    fn new_id(&self) -> Result<String, OpenError> {
        let mut bytes = [0; 32];
        if (self.random)(&mut bytes) { Ok(URL_SAFE_NO_PAD.encode(bytes)) } else { Err(OpenError::Random) }
    }
}
