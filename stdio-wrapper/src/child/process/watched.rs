//! The task that watches one child until its last process has exited, and stops it when this is requested.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::Held;
use super::input_output::Pipes;
use crate::child::exit::{Exit, Stop};
use crate::child::orders::{Order, Report};
use crate::child::owner::{Owner, user_of};
use crate::child::reaper::Reaper;
use crate::child::supervised::Supervised;
use crate::config;
use crate::metrics::Metrics;

/// Time between SIGTERM and SIGKILL for a child that is stopped because memory is short.
const URGENT_GRACE: Duration = Duration::from_millis(200);
/// Maximum time for a supervisor to kill all its descendants. A supervisor that was stopped by a signal never
/// does so.
const KILL_PATIENCE: Duration = Duration::from_secs(3);

/// The names of the settings whose limits can prevent a child from starting.
pub(super) fn limits(child: &config::Child) -> Vec<&'static str> {
    let limits = [("CHILD_MEMORY", child.max_memory), ("CHILD_CPU", child.max_cpu)];
    limits.into_iter().filter_map(|(name, limit)| limit.map(|_| name)).collect()
}

/// The state of the task that watches a child.
pub(super) struct Watched {
    pub(super) number: u64,
    pub(super) owner: Owner,
    /// Becomes true with the first response of the child.
    pub(super) answered: watch::Receiver<bool>,
    /// The names of the settings that limit the memory and the processor time of the child, if they are set.
    pub(super) limits: Vec<&'static str>,
    pub(super) supervised: Supervised,
    pub(super) pipes: Arc<Pipes>,
    pub(super) stop: watch::Sender<Stop>,
    pub(super) grace: Duration,
    pub(super) reaper: Arc<Reaper>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) held: Held,
}

impl Watched {
    pub(super) async fn run(mut self, exit: watch::Sender<Option<Exit>>) {
        let stop = self.stop.clone();
        let (status, mut is_wanted) = tokio::select! {
            status = self.ended() => (status, false),
            () = Stop::Wanted.wait(&stop) => (self.end().await, true),
        };
        // If a child exits because of a ping, the wrapper caused it.
        is_wanted |= self.pipes.close();
        if is_wanted {
            tracing::debug!(child = self.number, status, "child exited");
        } else {
            self.metrics.children_crashed_total.add();
            let (user, advice) = (user_of(&self.owner), self.advice());
            tracing::warn!(child = self.number, user, status, "child exited without being stopped{advice}");
        }
        let exit_status = Exit { status, is_wanted };
        // Processes that the child has left behind are killed with it (attack 107). The child counts as running
        // until they have exited.
        if tokio::time::timeout(KILL_PATIENCE, self.exited()).await.is_err() {
            tracing::warn!(child = self.number, "processes of the child did not exit after they were killed");
            exit.send_replace(Some(exit_status.clone()));
            self.supervised.kill();
            self.exited().await;
        }
        if let Some(outbox) = self.pipes.outbox.get() {
            outbox.abandon();
        }
        self.reaper.child_ended(self.number);
        self.metrics.children.sub();
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clear();
        exit.send_replace(Some(exit_status));
    }

    /// What the operator can do if the child exited before its first response. A server that reaches a limit while it
    /// starts often does not say so.
    fn advice(&self) -> String {
        if self.limits.is_empty() || *self.answered.borrow() {
            return String::new();
        }
        let limits = self.limits.join(" or ");
        format!(", before its first response. {limits} might be too low for it; if so, raise the limit")
    }

    /// Waits until the child has exited. Returns its status as text.
    async fn ended(&mut self) -> String {
        loop {
            match self.supervised.report().await {
                Some(Report::Ended(status)) => return ExitStatus::from_raw(status).to_string(),
                Some(Report::NotStarted(error)) => {
                    tracing::error!(child = self.number, error, "the child could not be started");
                    return format!("not started: {error}");
                }
                Some(Report::Warning(warning)) => {
                    tracing::warn!(
                        child = self.number,
                        warning,
                        "the child runs, but without part of its configuration"
                    );
                }
                Some(Report::Gone(killed)) => self.metrics.orphans_killed_total.add_many(killed),
                None => {
                    return "its supervisor ended without a report, for example because it was killed"
                        .to_owned();
                }
            }
        }
    }

    /// Waits until the child has exited or its grace period is over. An immediate stop shortens the rest of the
    /// grace period to `urgent`. Returns the status as text if the child has exited.
    async fn ended_within_grace(&mut self, urgent: Duration) -> Option<String> {
        let (stop, grace) = (self.stop.clone(), self.grace);
        let at_once = async {
            Stop::AtOnce.wait(&stop).await;
            tokio::time::sleep(urgent).await;
        };
        let killed = self.stop.clone();
        tokio::select! {
            status = self.ended() => Some(status),
            () = tokio::time::sleep(grace) => None,
            () = at_once => None,
            () = Stop::Killed.wait(&killed) => None,
        }
    }

    /// Whether the child must be killed, because it must not run any longer.
    fn gets_no_time(&self) -> bool {
        *self.stop.borrow() == Stop::Killed
    }

    /// Waits until the last process of the child has exited.
    async fn exited(&mut self) {
        while let Some(report) = self.supervised.report().await {
            if let Report::Gone(killed) = report {
                self.metrics.orphans_killed_total.add_many(killed);
            }
        }
        if let Err(error) = self.supervised.exited().await {
            tracing::warn!(child = self.number, %error, "the supervisor of the child cannot be waited for");
        }
    }

    /// Stops the child as the stdio transport specifies (2025-11-25, lifecycle, "Shutdown"), unless it must be killed
    /// without SIGTERM.
    async fn end(&mut self) -> String {
        self.pipes.close();
        if let Some(status) = self.ended_within_grace(Duration::ZERO).await {
            return status;
        }
        if !self.gets_no_time() {
            self.supervised.order(Order::Terminate);
            if let Some(status) = self.ended_within_grace(URGENT_GRACE).await {
                return status;
            }
        }
        if self.gets_no_time() {
            // The log already says why the child is stopped, and another metric counts it.
            tracing::info!(child = self.number, "child is killed without time to exit");
        } else {
            self.metrics.children_killed_total.add();
            tracing::warn!(
                child = self.number,
                "child did not exit after the end of its input and SIGTERM, so it is killed"
            );
        }
        self.supervised.order(Order::Kill);
        if let Ok(status) = tokio::time::timeout(KILL_PATIENCE, self.ended()).await {
            return status;
        }
        self.supervised.kill();
        "killed".to_owned()
    }
}
