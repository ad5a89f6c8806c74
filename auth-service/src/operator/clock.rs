//! The command that accepts the current time of the clock.

use time::format_description::well_known::Iso8601;
use time::{Date, Duration, OffsetDateTime};

use crate::domain::clock_watch::{ClockMark, TOLERANCE};
use crate::ops::audit;
use crate::store::Replacement;

use super::{CommandError, Reply, Tools, audited};

/// Sets the latest trusted time back to the current time. Other replicas adopt the change when they next record
/// the time. If the clock were behind, the expiry of existing rows would be shortened too much. Therefore the
/// operator must state today's date, and the clock must agree with it and with the clock of the store.
pub(super) async fn accept(today: &str, tools: &Tools<'_>) -> Result<Reply, CommandError> {
    let (store, now) = (tools.store, tools.now);
    let Ok(asked) = Date::parse(today, &Iso8601::DATE) else {
        return Ok(Reply::Refused(format!("{today:?} is not a date; write it like 2027-01-31")));
    };
    let shown = i64::try_from(now.0).ok().and_then(|now| OffsetDateTime::from_unix_timestamp(now).ok());
    if shown.is_none_or(|shown| (asked - shown.date()).abs() > Duration::DAY) {
        return Ok(Reply::Refused(format!(
            "the clock of this machine shows another day ({}). Correct it first",
            now.readable()
        )));
    }
    if let Some(own) = store.own_time().await?
        && own.distance(now) > TOLERANCE
    {
        return Ok(Reply::Refused(format!(
            "the clock of Redis shows {}, and the clock of this machine shows {}. Correct both first",
            own.readable(),
            now.readable()
        )));
    }
    let Some(mark) = store.clock_mark().await?.filter(|mark| mark.latest.since(now) > TOLERANCE) else {
        return Ok(Reply::Refused(format!(
            "the service has never trusted a time later than the current one ({}), so there is nothing to correct",
            now.readable()
        )));
    };
    let accepted = ClockMark { latest: now, corrections: mark.corrections + 1, ..mark };
    Ok(match store.set_clock_mark(Some(mark), accepted).await? {
        Replacement::Replaced => audited(&audit::Event::ClockAccepted { forgotten: mark.latest }),
        Replacement::Outdated => {
            Reply::Refused("the service recorded the time at the same moment; try again".to_owned())
        }
    })
}
