//! A refresh token that has been used, and how long its use can be repeated.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clock::UnixTime;
use super::clock_watch::{TOLERANCE, TimeBounds};
use super::opaque_token::TokenHash;

/// A token that was replaced this long before an outage of the store is treated like one that was replaced during
/// it. An idle replica notices an outage only after some seconds.
const JUST_BEFORE: Duration = Duration::from_secs(10);
/// The maximum time by which an outage extends the grace period.
const MAX_PAUSE: Duration = Duration::from_secs(86_400);
/// If the clocks of this machine and of the store differ by more than this, one of them has jumped. Each replica
/// can differ from the store by [`TOLERANCE`] in both directions.
const MAX_SKEW: Duration = TOLERANCE.saturating_mul(2);

/// A refresh token that has been used. It is kept in case the response with its successor was lost.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReplacedToken {
    /// Hash of the token that was used.
    pub hash: TokenHash,
    /// The time at which it was used ([`TimeBounds::latest`]).
    pub at: UnixTime,
    /// The same time on the clock of the store, if it was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_store: Option<StoreTime>,
    /// The same time, measured since the start of the machine, if it was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_uptime: Option<StoreTime>,
    /// The successor, encrypted with the replaced token. A repeated request gets this same successor, so that
    /// there is never a second valid token.
    #[serde(with = "sealed_bytes")]
    pub sealed_successor: Vec<u8>,
}

/// The result of presenting a refresh token for a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefreshUse {
    /// The token is the current one, and is replaced.
    Current,
    /// The token is the previous one, repeated within the grace period while its successor is unused. The
    /// client gets the same successor again.
    Repeated {
        /// The encrypted successor ([`ReplacedToken::sealed_successor`]).
        sealed_successor: Vec<u8>,
    },
    /// The token had already been used, so another party has it. The grant must be revoked (OAuth 2.1 §4.3.1).
    Reused,
    /// The token is the previous one, but the clock is wrong, or was wrong when the token was used. It is
    /// therefore unknown whether the grace period is over. The token is refused, and the grant stays valid.
    Undatable,
    /// The token names this grant but was not issued for it.
    Foreign,
}

/// A time on a clock that all processes with the same store share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreTime {
    /// Identifies the clock. Times on different clocks cannot be compared.
    pub clock: u64,
    /// The time, in seconds.
    pub at: UnixTime,
}

impl StoreTime {
    /// The time since `earlier`. Returns `None` if it was recorded by another clock, or is in the future because
    /// the clock was set back.
    fn since(self, earlier: Self) -> Option<Duration> {
        let is_comparable = self.clock == earlier.clock && earlier.at.since(self.at) <= TOLERANCE;
        is_comparable.then(|| self.at.since(earlier.at))
    }
}

/// The time of a use of a refresh token, on each clock that is known.
#[derive(Debug, Clone, Copy)]
pub struct UseTime {
    /// The time of day.
    pub bounds: TimeBounds,
    /// The time on the clock of the store.
    pub by_store: Option<StoreTime>,
    /// The time since the start of the machine. Unlike the other clocks, it cannot be set. The identifier of the clock
    /// is that of this start.
    pub by_uptime: Option<StoreTime>,
}

/// A past period in which the store did not respond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// How long ago it began.
    pub began: Duration,
    /// How long ago it ended.
    pub ended: Duration,
}

/// How long the use of a refresh token can be repeated (`REFRESH_GRACE`). The part of an outage that followed the
/// use does not count, because the client might have received an error and could not repeat its request earlier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grace {
    /// The period without an outage.
    pub period: Duration,
    /// The most recent outages of the store, oldest first. They do not overlap.
    pub outages: Vec<Outage>,
}

impl Grace {
    /// Whether the period is over for a token that was used `age` ago.
    fn is_over(&self, age: Duration) -> bool {
        // How long ago the last outage ended that kept the client from retrying. Before the first outage, the age of
        // the use.
        let mut since = age;
        let mut pause = Duration::ZERO;
        for outage in self.outages.iter().skip_while(|outage| outage.ended >= age) {
            if since > outage.began.saturating_add(JUST_BEFORE) {
                break;
            }
            pause = pause.saturating_add(since.min(outage.began).saturating_sub(outage.ended));
            since = outage.ended;
        }
        age > self.period.saturating_add(pause.min(MAX_PAUSE))
    }

    fn with_skew(&self) -> Self {
        Self { period: self.period.saturating_add(MAX_SKEW), outages: self.outages.clone() }
    }
}

impl ReplacedToken {
    /// Decides whether the response with the successor can be repeated. The token counts as stolen only if no clock
    /// contradicts this.
    ///
    /// If Redis runs on the same machine, both clocks are the same one, and jump together. Then only the uptime
    /// shows that the grace period has not passed. The uptime is used only if, by the clocks, the grace period ended
    /// at most [`MAX_SKEW`] ago, because the uptime is also too low after a virtual machine has been paused.
    pub(super) fn judge(&self, time: UseTime, grace: &Grace) -> RefreshUse {
        let age =
            |now: Option<StoreTime>, at: Option<StoreTime>| now.zip(at).and_then(|(now, at)| now.since(at));
        let by_store = age(time.by_store, self.by_store);
        let judged = self.judge_by_store(time.bounds, by_store, grace);
        let with_skew = grace.with_skew();
        let is_in_time = |age| {
            !grace.is_over(age)
                && by_store.is_none_or(|age| !with_skew.is_over(age))
                && self.judge_by_machine(time.bounds, &with_skew) != RefreshUse::Reused
        };
        if age(time.by_uptime, self.by_uptime).is_some_and(is_in_time) { self.repeated() } else { judged }
    }

    /// Decides by the clock of the store if it is known, because the clocks of replicas differ.
    fn judge_by_store(&self, time: TimeBounds, age: Option<Duration>, grace: &Grace) -> RefreshUse {
        let Some(age) = age else {
            return self.judge_by_machine(time, grace);
        };
        if grace.is_over(age) {
            match self.judge_by_machine(time, grace) {
                RefreshUse::Reused => RefreshUse::Reused,
                _ => RefreshUse::Undatable,
            }
        } else if self.judge_by_machine(time, &grace.with_skew()) == RefreshUse::Reused {
            RefreshUse::Undatable
        } else {
            self.repeated()
        }
    }

    /// Decides by the clock of this machine. The token counts as stolen only if the grace period has certainly
    /// ended, and as repeated only if it has certainly not ended.
    ///
    /// The time of the first use is recorded as [`TimeBounds::latest`], which can be far ahead of the correct
    /// time. Even so, the difference between the recorded and the current value of `latest` is correct while the
    /// clock is steady.
    fn judge_by_machine(&self, time: TimeBounds, grace: &Grace) -> RefreshUse {
        let is_over = |now: UnixTime| grace.is_over(now.since(self.at));
        if is_over(time.earliest) || time.is_steady && is_over(time.latest) {
            RefreshUse::Reused
        } else if !is_over(time.latest) && !time.is_before(self.at) {
            self.repeated()
        } else {
            RefreshUse::Undatable
        }
    }

    fn repeated(&self) -> RefreshUse {
        RefreshUse::Repeated { sealed_successor: self.sealed_successor.clone() }
    }
}

/// Serializes bytes as base64, because a list of numbers would be three times as long.
mod sealed_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        URL_SAFE_NO_PAD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: UnixTime = UnixTime(1_000_000);
    const GRACE: Grace = Grace { period: Duration::from_secs(120), outages: Vec::new() };

    fn used(by_store: Option<StoreTime>) -> ReplacedToken {
        let hash = TokenHash::of(b"used");
        ReplacedToken { hash, at: AT, by_store, by_uptime: None, sealed_successor: vec![1] }
    }

    fn on(clock: u64, at: u64) -> StoreTime {
        StoreTime { clock, at: UnixTime(at) }
    }

    fn time(bounds: TimeBounds, by_store: Option<StoreTime>) -> UseTime {
        UseTime { bounds, by_store, by_uptime: None }
    }

    fn repeated() -> RefreshUse {
        RefreshUse::Repeated { sealed_successor: vec![1] }
    }

    fn after(seconds: i64) -> UnixTime {
        UnixTime(AT.0.saturating_add_signed(seconds))
    }

    #[test]
    fn a_used_token_is_repeated_or_stolen_only_if_the_time_is_certain() {
        let judged = |earliest, latest, is_steady| {
            let (earliest, latest) = (after(earliest), after(latest));
            let bounds = TimeBounds { earliest, latest, is_steady, ..TimeBounds::exactly(AT) };
            used(None).judge(time(bounds, None), &GRACE)
        };
        let judge = |earliest, latest| judged(earliest, latest, false);
        assert_eq!(judge(0, 0), repeated());
        assert_eq!(judge(120, 120), repeated());
        assert_eq!(judge(121, 121), RefreshUse::Reused);
        assert_eq!(judge(1, 86_400), RefreshUse::Undatable, "the clock is ahead");
        assert_eq!(judge(-86_400, 1), repeated(), "the clock is behind");
        assert_eq!(judge(-86_400, 121), RefreshUse::Undatable, "the clock is behind");
        let tolerance = i64::try_from(TOLERANCE.as_secs()).unwrap();
        assert_eq!(judge(-tolerance, -tolerance), repeated(), "the clocks of replicas differ");
        assert_eq!(judge(-86_400, -86_400), RefreshUse::Undatable, "the clock was ahead");
        assert_eq!(judged(-86_400, 120, true), repeated(), "the latest time is a day ahead");
        assert_eq!(judged(-86_400, 121, true), RefreshUse::Reused, "the latest time is a day ahead");
    }

    #[test]
    fn a031_the_clock_of_the_store_decides_and_no_clock_alone_makes_a_token_a_stolen_one() {
        let judge = |here, store| {
            used(Some(on(0, 5000))).judge(time(TimeBounds::exactly(after(here)), Some(on(0, store))), &GRACE)
        };
        assert_eq!(judge(1, 5001), repeated());
        assert_eq!(judge(301, 5001), repeated(), "this replica is ahead");
        assert_eq!(judge(121, 5121), RefreshUse::Reused);
        assert_eq!(judge(421, 5121), RefreshUse::Reused, "this replica is ahead");
        assert_eq!(
            judge(-179, 5121),
            RefreshUse::Undatable,
            "this replica is behind, or the store has jumped"
        );
        assert_eq!(judge(3600, 5001), RefreshUse::Undatable, "the clock of the store was set back");
        assert_eq!(judge(3600, 1000), RefreshUse::Reused, "the use is in the future of the store");
        let by_another = time(TimeBounds::exactly(after(121)), Some(on(1, 5001)));
        assert_eq!(used(Some(on(0, 5000))).judge(by_another, &GRACE), RefreshUse::Reused);
    }

    #[test]
    fn a032_a_machine_whose_clock_jumps_together_with_its_redis_ends_no_grant_before_the_grace_period_is_over()
     {
        let at = ReplacedToken { by_uptime: Some(on(7, 900)), ..used(Some(on(0, 5000))) };
        let judge = |jump: i64, (boot, up): (u64, i64)| {
            let (bounds, passed) = (TimeBounds::exactly(after(jump + up)), jump + up);
            let by_store = Some(on(0, 5000_u64.saturating_add_signed(passed)));
            let by_uptime = Some(on(boot, 900_u64.saturating_add_signed(up)));
            at.judge(UseTime { bounds, by_store, by_uptime }, &GRACE)
        };
        assert_eq!(judge(200, (7, 1)), repeated());
        assert_eq!(judge(599, (7, 120)), repeated());
        assert_eq!(judge(200, (7, 121)), RefreshUse::Reused);
        assert_eq!(judge(0, (7, 121)), RefreshUse::Reused);
        assert_eq!(judge(721, (7, 1)), RefreshUse::Reused, "the machine was stopped in the meantime");
        assert_eq!(judge(200, (8, 1)), RefreshUse::Reused, "another machine");
        assert_eq!(judge(-100, (7, 121)), repeated(), "the clock was set back");
    }

    #[test]
    fn a032_an_outage_after_the_use_does_not_count_and_changes_nothing_for_an_older_token() {
        let second = Duration::from_secs(1);
        let is_over = |age: u32, began: u32, ended: u32| {
            let outages = vec![Outage { began: second * began, ended: second * ended }];
            Grace { outages, ..GRACE }.is_over(second * age)
        };
        assert!(!is_over(1000, 1000, 119), "it was used when the outage began");
        assert!(is_over(1000, 1000, 121), "the outage ended too long ago");
        assert!(!is_over(1005, 1000, 110), "it was used just before");
        assert!(is_over(1011, 1000, 1), "it was used before the outage");
        assert!(!is_over(500, 1000, 119) && is_over(500, 1000, 121), "it was used during the outage");
        assert!(is_over(121, 1000, 500), "it was used after the outage");
        assert!(is_over(90_000, 90_000, 1), "the outage was longer than a day");
    }

    #[test]
    fn a031_the_time_between_short_outages_counts() {
        let second = Duration::from_secs(1);
        // Each outage lasts two seconds, and begins eight seconds after the beginning of the previous one.
        let outages: Vec<_> = (0..5_u32)
            .rev()
            .map(|number| Outage { began: second * (number * 8 + 3), ended: second * (number * 8 + 1) })
            .collect();
        let grace = Grace { period: second * 5, outages };
        assert!(!grace.is_over(second * 7) && grace.is_over(second * 8), "one outage of two seconds");
        assert!(grace.is_over(second * 10) && grace.is_over(second * 36));
        let grace = Grace { period: second * 25, ..grace };
        assert!(!grace.is_over(second * 35), "five outages of two seconds");
        assert!(grace.is_over(second * 36));
    }

    #[test]
    fn a_sealed_successor_is_stored_as_base64() {
        let written = serde_json::to_value(ReplacedToken { sealed_successor: vec![0, 1, 250], ..used(None) });
        let written = written.unwrap();
        assert_eq!(written["sealed_successor"], "AAH6");
        assert!(written.get("by_store").is_none());
        let read: ReplacedToken = serde_json::from_value(written).unwrap();
        assert_eq!(read.sealed_successor, [0, 1, 250]);
    }
}
