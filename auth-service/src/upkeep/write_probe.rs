//! Tests whether the store can be written, before a client is sent to an endpoint that must write.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::domain::clock::Clock;
use crate::store::{Maintenance, StoreError};

/// How long a result is reused. This is needed because anybody with an expired token can cause a test.
const KEPT: Duration = Duration::from_secs(1);
/// Time limit for a test write.
const BUDGET: Duration = Duration::from_secs(1);

/// The result of the last test write, and the uptime of the machine at that time.
#[derive(Default)]
pub struct WriteProbe(Mutex<Option<(Duration, Result<(), StoreError>)>>);

impl WriteProbe {
    /// Writes to the store as a test. Concurrent calls share one test.
    ///
    /// # Errors
    /// Fails if the store cannot be written.
    pub async fn try_write(&self, store: &dyn Maintenance, clock: &dyn Clock) -> Result<(), StoreError> {
        let mut last = self.0.lock().await;
        if let Some((at, result)) = last.as_ref()
            && clock.up().saturating_sub(*at) < KEPT
        {
            return result.clone();
        }
        let result = match timeout(BUDGET, store.ping()).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::Unavailable(format!(
                "it could not be written within {} ms",
                BUDGET.as_millis()
            ))),
        };
        *last = Some((clock.up(), result.clone()));
        result
    }
}
