//! Limits the attempts to change a row that other calls change at the same time.

use std::time::Duration;

use crate::store::StoreError;

/// How many times a change is tried if other calls keep changing the same row.
const TRIES: u32 = 16;

/// Counts attempts, and pauses for a random time between them.
#[derive(Default)]
pub(super) struct Tries(u32);

impl Tries {
    /// Waits before an attempt. Fails after the last one.
    pub(super) async fn next(&mut self) -> Result<(), StoreError> {
        if self.0 == TRIES {
            let reason = format!(
                "a value in Redis could not be changed in {TRIES} attempts, because it kept changing"
            );
            return Err(StoreError::Unavailable(reason));
        }
        if self.0 > 0 {
            let mut random = [0_u8; 1];
            aws_lc_rs::rand::fill(&mut random).map_err(|error| StoreError::Unavailable(error.to_string()))?;
            let [random] = random;
            // The pause is at most 4 ms at first, and at most 61 ms before the last attempt.
            tokio::time::sleep(Duration::from_micros(u64::from(random) * 16 * u64::from(self.0))).await;
        }
        self.0 += 1;
        Ok(())
    }
}
