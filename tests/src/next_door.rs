//! Separates the effect of busy processors from the effect of waiting inside the measured program.
//!
//! On a machine with few processors, a flood slows down everything, whichever program it is sent to. Therefore the
//! same flood is first sent to a neighbour, which is a second program of the same kind on the same machine. The
//! additional waiting time of an honest user during this flood is caused by the processors. During the flood of
//! the measured program, any further increase is caused by the program's queues, locks and threads.

use std::fmt::{self, Display};
use std::time::Duration;

use tokio::time::sleep;

use crate::flood::{Flood, Times};

/// The time between two floods, in which the remaining work of the first flood is completed.
const BETWEEN: Duration = Duration::from_secs(1);

/// The pause of an honest user between two calls.
pub const PAUSE: Duration = Duration::from_millis(5);

/// Whether the figures are meant for a table in the documents. They are if `PROGRAMS` names a release build. Only a
/// table needs a neighbour, because no test depends on times.
pub fn is_for_a_table() -> bool {
    std::env::var_os("PROGRAMS").is_some()
}

/// The time after which the memory that a program still uses is a figure for a table.
pub const MINUTE: Duration = Duration::from_secs(60);

/// The number of requests to measure. A table needs more requests than a test, so that its figures depend less on
/// chance.
pub fn measured(usual: usize) -> usize {
    if is_for_a_table() { 3 * usual } else { usual }
}

/// Raises the priority of this thread until this value is dropped, because a real user has a separate machine.
/// On few processors, the test would otherwise mostly measure how long the client waits for a processor. This
/// needs root.
#[derive(Debug)]
pub struct Priority(());

const FIRST: i32 = 15;

impl Priority {
    /// Raises the priority of the calling thread by 15 nice levels. Without root, the priority stays unchanged.
    #[must_use]
    pub fn take() -> Self {
        let _ = rustix::process::nice(-FIRST);
        Self(())
    }
}

impl Drop for Priority {
    fn drop(&mut self) {
        let _ = rustix::process::nice(FIRST);
    }
}

/// The response times of an honest user's requests.
#[derive(Debug)]
pub struct Seen {
    /// The times of each kind of request.
    pub times: Vec<(&'static str, Times)>,
    /// The number of requests that were refused temporarily and sent again.
    pub refused: usize,
}

impl Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, times) in &self.times {
            write!(f, "{kind} {times}, ")?;
        }
        write!(f, "{} refused temporarily", self.refused)
    }
}

/// The target of the flood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The neighbour of the program that serves the user.
    NextDoor,
    /// The program that serves the user.
    Here,
}

/// The user's response times while the neighbour is flooded, and while the program is flooded.
#[derive(Debug)]
pub struct Comparison {
    /// `None` if there is no neighbour.
    next_door: Option<Seen>,
    here: Seen,
    /// How many connections the floods of the program opened, and the statuses of the responses.
    answers: String,
}

impl Comparison {
    /// Floods the neighbour, if there is one, and then the program. The user is served only after each flood has run
    /// for `warm_up`.
    pub async fn of(
        warm_up: Duration,
        next_door: Option<impl FnOnce() -> Vec<Flood>>,
        here: impl FnOnce() -> Vec<Flood>,
        mut is_served: impl AsyncFnMut(Side) -> Seen,
    ) -> Self {
        let next_door = if let Some(next_door) = next_door {
            let floods = next_door();
            sleep(warm_up).await;
            let seen = is_served(Side::NextDoor).await;
            drop(floods);
            sleep(BETWEEN).await;
            Some(seen)
        } else {
            None
        };
        let floods = here();
        sleep(warm_up).await;
        let here = is_served(Side::Here).await;
        let answers: Vec<_> = floods.iter().map(|flood| (flood.opened(), flood.answers())).collect();
        drop(floods);
        sleep(BETWEEN).await;
        Self { next_door, here, answers: format!("{answers:?}") }
    }
}

impl Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { next_door, here, answers } = self;
        write!(f, "{answers}: here: {here}")?;
        let Some(next_door) = next_door else { return Ok(()) };
        write!(f, "; next door: {next_door}; here / next door at p50, p99:")?;
        for ((kind, here), (_, next_door)) in here.times.iter().zip(&next_door.times) {
            let ratio = |of_hundred| {
                here.quantile(of_hundred).as_secs_f64() / next_door.quantile(of_hundred).as_secs_f64()
            };
            write!(f, " {kind} {:.1}, {:.1};", ratio(50), ratio(99))?;
        }
        Ok(())
    }
}
