//! A wrapper that Ana floods while Bob uses it as usual. If the figures are for a table, Ana first floods a second
//! wrapper on the same machine.

use std::time::Duration;

use tests::browser::Person;
use tests::container::Container;
use tests::flood::Flood;
use tests::next_door::{Comparison, Priority, Seen, Side, is_for_a_table};
use tests::setup::ACCOUNT;
use tests::{Setup, Stack, Tier, say};

use crate::Memory;
use crate::caller::Caller;

const BOB: &str = "another battery that is a staple";

/// How long a flood runs before Bob's calls are measured.
const WARM_UP: Duration = Duration::from_secs(2);

/// A stack whose wrapper runs with the limits of its container, and Ana's sessions at that wrapper.
pub(crate) struct Place {
    pub(crate) stack: Stack,
    pub(crate) ana: Caller,
    pub(crate) sessions: Vec<String>,
}

impl Place {
    async fn of(server: Vec<String>) -> Self {
        let container = Container::of_service();
        let setup = Setup::as_shipped()
            .wrapping(server)
            .wrapper_setting("MAX_CONNECTIONS", &container.setting("MAX_CONNECTIONS"));
        let stack = setup.within(Tier::Wrapper, container.bounds()).start().await;
        let tokens = stack.log_in_as(&Person::new(ACCOUNT.0, ACCOUNT.1), &stack.mcp_url).await.unwrap().1;
        let ana = Caller::new(&stack, tokens.access_token).await;
        Self { stack, ana, sessions: Vec::new() }
    }

    async fn open_sessions(&mut self, count: usize, version: &str) {
        self.ana.renew(&self.stack).await;
        for _ in 0..count {
            self.sessions.push(self.ana.open(version).await.unwrap().unwrap());
        }
    }

    async fn close_sessions(&mut self) {
        self.ana.renew(&self.stack).await;
        for session in self.sessions.drain(..) {
            self.ana.close(&session).await;
        }
    }
}

/// Stacks of the same kind. Ana floods, and Bob uses the wrapper of the first one.
pub(crate) struct Scene {
    here: Place,
    next_door: Option<Place>,
    bob: Caller,
    /// The identifier of Bob's session.
    session: String,
    quiet: Seen,
    memory: Memory,
    _priority: Priority,
}

impl Scene {
    pub(crate) async fn of(server: Vec<String>) -> Self {
        let here = Place::of(server.clone()).await;
        here.stack.add_account("bob", Some(BOB));
        let bob = here.stack.log_in_as(&Person::new("bob", BOB), &here.stack.mcp_url).await.unwrap().1;
        let bob = Caller::new(&here.stack, bob.access_token).await;
        let session = bob.open("2025-06-18").await.unwrap().unwrap();
        let next_door = if is_for_a_table() { Some(Place::of(server).await) } else { None };
        let priority = Priority::take();
        let quiet = bob.is_served(&here.stack, &session).await;
        let memory = Memory::before(&here.stack, Tier::Wrapper);
        Self { here, next_door, bob, session, quiet, memory, _priority: priority }
    }

    pub(crate) fn places(&mut self) -> impl Iterator<Item = &mut Place> {
        std::iter::once(&mut self.here).chain(&mut self.next_door)
    }

    /// Opens sessions for Ana at each wrapper.
    pub(crate) async fn open_sessions(&mut self, count: usize, version: &str) {
        for place in self.places() {
            place.open_sessions(count, version).await;
        }
    }

    /// Calls this tool in all of Ana's sessions.
    pub(crate) async fn call_in_sessions(&mut self, tool: &str) {
        for place in self.places() {
            place.ana.renew(&place.stack).await;
            for session in &place.sessions {
                assert_eq!(place.ana.call(session, tool).await.unwrap(), 200);
            }
        }
    }

    /// Ends Ana's sessions at each wrapper.
    pub(crate) async fn close_sessions(&mut self) {
        for place in self.places() {
            place.close_sessions().await;
        }
    }

    /// Prints Bob's response times during these floods. The wrapper must keep running.
    pub(crate) async fn bob_is_served(&mut self, name: &str, floods: impl Fn(&Place) -> Vec<Flood>) {
        self.bob_is_served_after(WARM_UP, name, floods).await;
    }

    /// Like [`bob_is_served`](Self::bob_is_served), for floods that need longer to reach their full size.
    pub(crate) async fn bob_is_served_after(
        &mut self,
        warm_up: Duration,
        name: &str,
        floods: impl Fn(&Place) -> Vec<Flood>,
    ) {
        for place in self.places() {
            place.ana.renew(&place.stack).await;
        }
        let Self { here, next_door, bob, session, quiet, memory, .. } = self;
        let comparison = Comparison::of(
            warm_up,
            next_door.as_ref().map(|next_door| || floods(next_door)),
            || floods(here),
            async |side| {
                bob.renew(&here.stack).await;
                if side == Side::Here {
                    memory.look(&here.stack);
                }
                let seen = bob.is_served(&here.stack, session).await;
                if side == Side::Here {
                    memory.look(&here.stack);
                    let health = format!("http://127.0.0.1:{}/health", here.stack.wrapper_ops_port);
                    assert_eq!(here.stack.get(&health).await.unwrap().status, 200, "{name}");
                }
                seen
            },
        )
        .await;
        say(&format!("FIGURE wrapper, {name}, {} MiB: quiet: {quiet}; {comparison}", memory.most >> 20));
        let stack = &mut here.stack;
        assert!(stack.runs(Tier::Wrapper), "{name}\n{}", stack.logs());
        assert_eq!(stack.group(Tier::Wrapper).killed().unwrap(), 0, "{name}\n{}", stack.logs());
    }

    /// Waits until the memory is released.
    pub(crate) fn memory_is_back(mut self, name: &str) {
        self.memory.is_back(&mut self.here.stack, name);
    }
}
