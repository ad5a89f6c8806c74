//! The command about the clock.

use crate::domain::clock_watch::{ClockMark, TOLERANCE};
use crate::ops::audit;

use super::{CommandError, Reply, Tools, audited};

/// Sets the latest time that was ever trusted back to the present time. Replicas adopt it when they next record
/// the time.
pub(super) async fn accept(tools: &Tools<'_>) -> Result<Reply, CommandError> {
    let (store, now) = (tools.store, tools.now);
    let Some(mark) = store.clock_mark().await?.filter(|mark| mark.latest.since(now) > TOLERANCE) else {
        return Ok(Reply::Refused(format!(
            "no time after the present one (Unix time {now}) was ever believed, so there is nothing to forget"
        )));
    };
    let accepted = ClockMark { latest: now, corrections: mark.corrections + 1, ..mark };
    if !store.set_clock_mark(Some(mark), accepted).await? {
        return Ok(Reply::Refused("the service recorded the time at the same moment; try again".to_owned()));
    }
    Ok(audited(&audit::Event::ClockAccepted { forgotten: mark.latest }))
}
