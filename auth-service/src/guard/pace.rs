//! Slows down an address that sends more requests per second than allowed.
//!
//! Some edge proxies cannot do this. Caddy has no such limit. Traefik immediately refuses requests beyond its
//! limit, so that a client that repeats them without delay keeps the proxy busy.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::Quota;
use tokio::time::sleep;

use super::client_address::network;
use super::keyed_rate::KeyedRate;
use super::waiting::Waiting;

/// The size of a burst, as a multiple of the number of requests allowed per second.
const IN_A_ROW: u32 = 3;

/// Average delay before a request beyond the limit is refused. A client that waits for each response can therefore
/// send only about one request beyond the limit per second on each connection.
const PAUSE: Duration = Duration::from_secs(1);

/// 2³² divided by the golden ratio. Its multiples, modulo 2³², are spread evenly, however many of
/// them are used.
const GOLDEN: u32 = 0x9E37_79B9;

/// The rates of all addresses at one listener.
pub struct Pace {
    rate: KeyedRate<IpAddr>,
    /// The refusals that are being delayed.
    late: Waiting,
    /// The number of refusals that have been delayed.
    delayed: AtomicU32,
}

/// The address has sent too many requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests from this network; send fewer, and try again in a second")]
pub struct TooManyRequests;

impl Pace {
    /// Allows each address this number of requests per second. At most `late` refusals are delayed at the same time,
    /// because each of them occupies a connection of the listener. A further one ends the longest delay of the
    /// address that has the most delayed refusals. Therefore, one address can use all slots while no other address
    /// needs them, but cannot keep the refusals of other addresses from being delayed.
    pub fn new(in_a_second: NonZeroU32, late: usize) -> Self {
        let burst = in_a_second.saturating_mul(NonZeroU32::MIN.saturating_add(IN_A_ROW - 1));
        Self::of(Quota::per_second(in_a_second).allow_burst(burst), late)
    }

    fn of(quota: Quota, late: usize) -> Self {
        Self { rate: KeyedRate::new(quota), late: Waiting::new(late, late), delayed: AtomicU32::new(0) }
    }

    /// The delay of the next refusal, which is between 0.5 and 1.5 times [`PAUSE`]. If all delays were equal, the
    /// requests of a flood would all return at the same moment, and other users would have to wait for all of them.
    fn next_pause(&self) -> Duration {
        let number = self.delayed.fetch_add(1, Ordering::Relaxed);
        PAUSE / 2 + PAUSE.mul_f64(f64::from(number.wrapping_mul(GOLDEN)) / f64::from(u32::MAX))
    }

    /// Counts a request from this address. Requests without a known address are not counted, because they could
    /// come from any client.
    ///
    /// # Errors
    /// Fails if the address has sent too many requests. The error is usually delayed by about a second.
    pub async fn admit(&self, address: Option<IpAddr>) -> Result<(), TooManyRequests> {
        let Some(address) = address else { return Ok(()) };
        if self.rate.check(&network(address)).is_ok() {
            return Ok(());
        }
        let mut wait = self.late.enter(Some(address));
        tokio::select! {
            () = sleep(self.next_pause()) => {}
            _ = wait.given_up() => {}
        }
        Err(TooManyRequests)
    }

    /// Removes addresses that are back within the limit. Called periodically.
    pub fn forget_idle(&self) {
        self.rate.forget_idle();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::Poll;

    use futures_util::{FutureExt as _, poll};

    use super::*;

    #[tokio::test]
    async fn a100_an_address_beyond_its_rate_waits_for_its_refusal_and_others_do_not() {
        let pace = Pace::of(Quota::per_hour(NonZeroU32::new(3).unwrap()), 1);
        let [one, neighbour, other] =
            ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(|text| text.parse().ok());
        for _ in 0..3 {
            assert_eq!(poll!(pin!(pace.admit(one))), Poll::Ready(Ok(())));
        }
        // The whole /64 network counts as one address.
        let mut late = pin!(pace.admit(neighbour));
        assert_eq!(poll!(late.as_mut()), Poll::Pending);
        assert_eq!(poll!(pin!(pace.admit(other))), Poll::Ready(Ok(())));
        for _ in 0..10 {
            assert_eq!(poll!(pin!(pace.admit(None))), Poll::Ready(Ok(())));
        }
        assert_eq!(poll!(late.as_mut()), Poll::Pending);
        // There is only one slot for a delayed refusal.
        let mut later = pin!(pace.admit(one));
        assert_eq!(poll!(later.as_mut()), Poll::Pending);
        assert_eq!(poll!(late.as_mut()), Poll::Ready(Err(TooManyRequests)));
        assert_eq!(later.await, Err(TooManyRequests));
        assert_eq!(pace.late.count(), 0);
    }

    /// Whether a refusal is still being delayed. It is polled outside of the task's budget (`unconstrained`), because
    /// tokio reports futures that are ready as pending once a task has used up its budget.
    fn is_late(refusal: &mut Pin<Box<impl Future<Output = Result<(), TooManyRequests>>>>) -> bool {
        let outcome = tokio::task::unconstrained(refusal).now_or_never();
        assert_ne!(outcome, Some(Ok(())), "the request was not refused");
        outcome.is_none()
    }

    #[tokio::test]
    async fn a100_a_flood_from_one_address_does_not_hasten_the_refusals_of_others() {
        let pace = Pace::of(Quota::per_hour(NonZeroU32::MIN), 64);
        let address = |n: u8| Some(IpAddr::from([198, 51, 100, n]));
        for n in 0..=32 {
            assert_eq!(pace.admit(address(n)).await, Ok(()));
        }
        let mut flood = Vec::new();
        for _ in 0..500 {
            let mut refusal = Box::pin(pace.admit(address(0)));
            assert!(is_late(&mut refusal));
            flood.push(refusal);
        }
        assert_eq!(pace.late.count(), 64, "the flood uses the slots that no other address needs");
        let mut others: Vec<_> = (1..=32).map(|n| Box::pin(pace.admit(address(n)))).collect();
        // The flood does not get these slots back.
        for other in &mut others {
            assert!(is_late(other));
            let mut refusal = Box::pin(pace.admit(address(0)));
            assert!(is_late(&mut refusal));
            flood.push(refusal);
        }
        assert!(others.iter_mut().all(is_late));
        assert_eq!(flood.iter_mut().map(is_late).filter(|is_late| *is_late).count(), 32);
        assert_eq!(pace.late.count(), 64);
    }

    #[test]
    fn a100_refusals_of_requests_that_arrive_together_are_not_sent_together() {
        let pace = Pace::of(Quota::per_second(NonZeroU32::MIN), 1);
        let mut pauses: Vec<_> = (0..200).map(|_| pace.next_pause()).collect();
        pauses.sort();
        assert!(pauses[0] >= Duration::from_millis(500) && pauses[199] <= Duration::from_millis(1500));
        for tenth in pauses.chunks(20) {
            let length = tenth[19].saturating_sub(tenth[0]);
            assert!((70..130).contains(&length.as_millis()), "{length:?}");
        }
    }
}
