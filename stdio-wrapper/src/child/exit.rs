//! How a child is told to stop, and how it has exited.

use tokio::sync::watch;

/// How a child exited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The status as text, such as "exit status: 1" or "signal: 9 (SIGKILL)".
    pub status: String,
    /// Whether the wrapper stopped the child.
    pub is_wanted: bool,
}

impl Exit {
    /// Returns the reason why a request was not answered, for its caller.
    pub fn reason(exit: Option<&Self>) -> String {
        match exit {
            Some(exit) if exit.is_wanted => "The MCP server was stopped.".to_owned(),
            Some(exit) => format!("The MCP server exited before it answered ({}).", exit.status),
            None => "The MCP server closed its output before it answered.".to_owned(),
        }
    }
}

/// Waits until the last process of a child has exited.
pub(super) async fn exited(mut exit: watch::Receiver<Option<Exit>>) -> Exit {
    let gone = Exit { status: "unknown".to_owned(), is_wanted: true };
    match exit.wait_for(Option::is_some).await {
        Ok(exit) => exit.clone().unwrap_or(gone),
        Err(_) => gone,
    }
}

/// Whether a child must be stopped, and how quickly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stop {
    NotWanted,
    /// The child gets its grace periods.
    Wanted,
    /// The child gets no grace period.
    AtOnce,
    /// The child gets SIGKILL, because it must not run any longer.
    Killed,
}

impl Stop {
    /// Requests this stop, unless a quicker one has already been requested.
    pub(super) fn ask(self, stop: &watch::Sender<Self>) {
        stop.send_if_modified(|stop| {
            let is_sooner = *stop < self;
            *stop = self.max(*stop);
            is_sooner
        });
    }

    /// Waits until at least this stop is requested.
    pub(super) async fn wait(self, stop: &watch::Sender<Self>) {
        // The result cannot be an error, because this function borrows the sender.
        let _ = stop.subscribe().wait_for(|stop| *stop >= self).await;
    }
}

/// A child that was dropped and has not exited yet.
#[derive(Debug, Clone)]
pub(super) struct Remains {
    stop: watch::Sender<Stop>,
    exit: watch::Receiver<Option<Exit>>,
}

impl Remains {
    pub(super) fn new(stop: watch::Sender<Stop>, exit: watch::Receiver<Option<Exit>>) -> Self {
        Self { stop, exit }
    }

    /// Stops the child, and gives it its grace periods.
    pub(super) fn stop(&self) {
        Stop::Wanted.ask(&self.stop);
    }

    /// Stops the child immediately: sends SIGTERM, and SIGKILL shortly after.
    pub(super) fn stop_at_once(&self) {
        Stop::AtOnce.ask(&self.stop);
    }

    /// Kills the child immediately, without SIGTERM.
    pub(super) fn kill(&self) {
        Stop::Killed.ask(&self.stop);
    }

    /// Whether a stop of the child has been requested.
    pub(super) fn is_ending(&self) -> bool {
        *self.stop.borrow() != Stop::NotWanted
    }

    /// Whether the child has exited.
    pub(super) fn has_exited(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// Waits until the last process of the child has exited.
    pub(super) fn exited(&self) -> impl Future<Output = Exit> + Send + use<> {
        exited(self.exit.clone())
    }
}
