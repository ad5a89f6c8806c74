//! Numbers that replace the ids of requests that are sent to a child.
//!
//! Servers print text from users and from other servers. A line in this text such as
//! `{"jsonrpc":"2.0","id":7,"result":{}}` looks like a response from the server. Therefore each number is
//! random: it cannot be guessed, and the number of one request reveals nothing about another.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Maximum number of abandoned requests whose numbers are still known.
const MAX_LATE: usize = 1024;

/// Fills a buffer with random bytes. Returns false if it failed.
pub type Random = Arc<dyn Fn(&mut [u8]) -> bool + Send + Sync>;

/// The size of the numbers of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// 31 bits, for a child with one caller. Servers that use an rmcp version from before September 2025 cannot
    /// read larger numbers.
    Short,
    /// 53 bits, for a child with several callers, because one of them can make the child print millions of
    /// guesses. JavaScript cannot represent larger integers exactly.
    Long,
}

/// The numbers of the requests to one child.
pub struct Numbers {
    random: Random,
    width: Width,
    /// The number of requests so far.
    count: u64,
    /// The position of each number in the sequence of requests.
    places: HashMap<u64, u64>,
    /// The numbers of abandoned requests, oldest first.
    late: VecDeque<u64>,
}

impl std::fmt::Debug for Numbers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Numbers").field("count", &self.count).finish_non_exhaustive()
    }
}

impl Numbers {
    /// Makes the numbers of a child that has not received a request yet.
    pub fn new(random: Random, width: Width) -> Self {
        Self { random, width, count: 0, places: HashMap::new(), late: VecDeque::new() }
    }

    /// Returns the position of the next request in the sequence of requests, starting with 0, and its number.
    /// Returns `None` if no random bytes are available.
    pub fn give(&mut self) -> Option<(u64, u64)> {
        let bits = match self.width {
            Width::Short => 31,
            Width::Long => 53,
        };
        let number = loop {
            let mut bytes = [0; 8];
            if !(self.random)(&mut bytes) {
                return None;
            }
            let number = u64::from_ne_bytes(bytes) >> (64 - bits);
            // Small numbers are not used, because counters of other programs start at 0.
            if number > u64::from(u16::MAX) && !self.places.contains_key(&number) {
                break number;
            }
        };
        let place = self.count;
        self.count += 1;
        self.places.insert(number, place);
        Some((place, number))
    }

    /// The position of the next request.
    pub fn next_place(&self) -> u64 {
        self.count
    }

    /// The position of the request that was sent with this number, if the number is still known.
    pub fn place(&self, number: u64) -> Option<u64> {
        self.places.get(&number).copied()
    }

    /// Records that the request was abandoned. The number is forgotten after `MAX_LATE` further ones.
    pub fn release(&mut self, number: u64) {
        self.late.push_back(number);
        if self.late.len() > MAX_LATE
            && let Some(oldest) = self.late.pop_front()
        {
            self.places.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output of `SplitMix64`.
    fn random() -> Random {
        let state = std::sync::atomic::AtomicU64::new(7);
        Arc::new(move |buffer| {
            let step = 0x9e37_79b9_7f4a_7c15;
            let mut value = state.fetch_add(step, std::sync::atomic::Ordering::Relaxed).wrapping_add(step);
            value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            buffer.copy_from_slice(&(value ^ (value >> 31)).to_ne_bytes());
            true
        })
    }

    #[test]
    fn numbers_are_random_by_themselves_and_fit_into_their_width() {
        for (width, bits) in [(Width::Short, 31), (Width::Long, 53)] {
            let mut numbers = Numbers::new(random(), width);
            let given: Vec<(u64, u64)> = (0..1000).map(|_| numbers.give().unwrap()).collect();
            assert!(given.iter().all(|(_, number)| *number > 65_535 && *number < 1 << bits));
            assert!(given.iter().any(|(_, number)| *number > 1 << (bits - 1)));
            assert!(
                given
                    .iter()
                    .zip(0..)
                    .all(|((place, number), at)| { *place == at && numbers.place(*number) == Some(at) })
            );
            let near = given.windows(2).filter(|pair| pair[0].1.abs_diff(pair[1].1) < 1 << 16);
            assert!(near.count() < 3, "one number must not reveal the next");
        }
    }

    #[test]
    fn numbers_are_forgotten_some_time_after_their_answer_only() {
        let mut numbers = Numbers::new(random(), Width::Short);
        let (_, open) = numbers.give().unwrap();
        let (_, done) = numbers.give().unwrap();
        numbers.release(done);
        assert_eq!(numbers.place(done), Some(1));
        for _ in 0..MAX_LATE {
            let (_, number) = numbers.give().unwrap();
            numbers.release(number);
        }
        assert_eq!((numbers.place(open), numbers.place(done)), (Some(0), None));
        assert_eq!(numbers.places.len(), MAX_LATE + 1);
    }

    #[test]
    fn without_random_bytes_there_is_no_number() {
        let mut numbers = Numbers::new(Arc::new(|_| false), Width::Short);
        assert_eq!(numbers.give(), None);
    }
}
