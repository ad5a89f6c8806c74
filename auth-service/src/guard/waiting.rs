//! Limits the number of senders that the server waits for at the same time, for example because their requests are
//! incomplete. Each address has a share of the slots. If no slot is free, a new sender takes the slot of an old
//! one.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::queues::{Key, Position, Queues};

/// The slots for senders. A new sender is never refused, but displaces an old one. An honest sender finishes
/// within a moment, so the sender that has occupied its slot for the longest time is the least likely to be
/// honest.
pub struct Waiting {
    share: usize,
    all: usize,
    queues: Senders,
}

type Senders = Arc<Mutex<Queues<oneshot::Sender<Full>>>>;

/// A sender that the server waits for. Dropping it frees the slot.
pub struct Wait {
    position: Position,
    given_up: oneshot::Receiver<Full>,
    queues: Senders,
}

/// Which slots were all occupied when a sender was displaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The share of the sender's address.
    Share,
    /// The slots of all addresses together.
    All,
}

impl Waiting {
    /// Creates the limits: at most `share` senders at one address, and `all` senders in total.
    pub fn new(share: usize, all: usize) -> Self {
        Self { share, all, queues: Arc::default() }
    }

    /// Adds a sender. If its address has no free slot, the oldest sender at that address is displaced. If all
    /// slots are occupied, the oldest sender at the address with the most senders is displaced.
    pub fn enter(&self, address: Option<IpAddr>) -> Wait {
        let (notice, given_up) = oneshot::channel();
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let position = queues.add(address, notice);
        if queues.count_of(position.key) > self.share {
            give_up_oldest(&mut queues, position.key, Full::Share);
        } else if queues.count() > self.all
            && let Some(most) = queues.fullest()
        {
            give_up_oldest(&mut queues, most, Full::All);
        }
        Wait { position, given_up, queues: Arc::clone(&self.queues) }
    }

    /// The number of senders that the server waits for.
    pub fn count(&self) -> usize {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).count()
    }
}

fn give_up_oldest(queues: &mut Queues<oneshot::Sender<Full>>, key: Key, full: Full) {
    if let Some((number, notice)) = queues.take_oldest(key) {
        tracing::debug!(number, "a sender lost its slot to another one");
        // The receiver has already been dropped if its sender has just finished.
        let _ = notice.send(full);
    }
}

impl Wait {
    /// Completes when another sender has displaced this one.
    pub async fn given_up(&mut self) -> Full {
        // The notice is dropped without a message only together with the queues, of which this value has a reference.
        (&mut self.given_up).await.unwrap_or(Full::All)
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).remove(self.position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([198, 51, 100, n])
    }

    fn is_given_up(wait: &mut Wait) -> bool {
        wait.given_up.try_recv().is_ok()
    }

    fn how_many_are_given_up(waits: &mut [Wait]) -> usize {
        waits.iter_mut().map(is_given_up).filter(|given_up| *given_up).count()
    }

    #[test]
    fn a100_an_address_that_has_its_share_gives_up_its_own_oldest() {
        let waiting = Waiting::new(3, 100);
        let mut other = waiting.enter(Some(address(2)));
        let mut waits: Vec<_> = (0..4).map(|_| waiting.enter(Some(address(1)))).collect();
        assert_eq!(waits[0].given_up.try_recv(), Ok(Full::Share));
        assert!(!is_given_up(&mut other));
        assert_eq!(how_many_are_given_up(&mut waits[1..]), 0);
        assert_eq!(waiting.count(), 4);
    }

    #[test]
    fn a100_without_a_place_the_address_that_has_most_gives_up_its_oldest() {
        let waiting = Waiting::new(3, 5);
        let mut few: Vec<_> = (0..2).map(|_| waiting.enter(Some(address(2)))).collect();
        let mut most: Vec<_> = (0..3).map(|_| waiting.enter(Some(address(1)))).collect();
        let mut newcomer = waiting.enter(Some(address(3)));
        assert_eq!(most[0].given_up.try_recv(), Ok(Full::All));
        assert_eq!(how_many_are_given_up(&mut most[1..]) + how_many_are_given_up(&mut few), 0);
        // Two addresses have two senders each, so the oldest of these four senders is displaced.
        let mut another = waiting.enter(Some(address(4)));
        assert!(is_given_up(&mut few[0]));
        assert!(!is_given_up(&mut newcomer) && !is_given_up(&mut another));
        assert_eq!(waiting.count(), 5);
    }

    #[test]
    fn a100_who_was_waited_for_leaves_nothing_behind() {
        let waiting = Waiting::new(2, 3);
        let waits: Vec<_> = (0..20).map(|n| waiting.enter(Some(address(n / 4)))).collect();
        assert_eq!(waiting.count(), 3);
        drop(waits);
        assert_eq!(waiting.count(), 0);
    }
}
