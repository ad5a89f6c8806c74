//! Stops all children when the wrapper stops.

use std::time::Duration;

use super::Launcher;

/// Interval at which the launcher checks whether children are left.
const ROUND: Duration = Duration::from_millis(20);

impl Launcher {
    /// Stops all children, and waits until the last process of each has exited. This includes children that no
    /// session uses, for example because their session was deleted a moment ago, or because a client that opened a
    /// session has disconnected. They have their grace periods too.
    pub async fn stop_all(&self, within: Duration) {
        let ended = async {
            while self.reaper.has_children() {
                // This is repeated, because a start that had its slot can still add a child.
                self.stop_spares();
                self.roster.stop_all();
                tokio::time::sleep(ROUND).await;
            }
        };
        if tokio::time::timeout(within, ended).await.is_err() {
            tracing::warn!(
                children = self.metrics.children.get(),
                "some children did not exit within SHUTDOWN_TIMEOUT and are killed with the wrapper. If they need more \
                 time to exit, raise SHUTDOWN_TIMEOUT"
            );
        }
    }

    /// Tells all spares to stop. No session needs them from now on, so they can exit while sessions still complete
    /// their requests.
    pub fn stop_spares(&self) {
        for spare in self.state().spares.take_all() {
            spare.stop();
        }
    }
}
