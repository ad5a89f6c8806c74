//! Calls waiting for their clients.

use std::collections::HashMap;

use tokio::time::Instant;

use super::super::call::Running;
use super::super::call_questions::CallQuestions;
use crate::budget::user;

/// Maximum number of calls that clients must repeat after the user has visited a page: per user, and in total.
const MAX_REPEATS: (usize, usize) = (64, 4096);

/// A call waiting for its client.
pub(super) struct Waiting {
    pub(super) call: Suspended,
    pub(super) expires: Instant,
}

/// The state from which a call continues when the client retries it.
pub(super) enum Suspended {
    /// The child is processing the call, and waits for an answer.
    Running(Running),
    /// The child has ended the call, and receives it again after the user has visited the required pages.
    Repeated { asked: CallQuestions, owner: String },
}

impl Waiting {
    /// Whether this call can also wait. The number of running calls is limited by their sessions. A call that
    /// must be repeated has no session, so the number of these calls is limited here.
    pub(super) fn has_room(&self, others: &HashMap<u64, Self>) -> bool {
        let Suspended::Repeated { owner, .. } = &self.call else { return true };
        let owners = others.values().filter_map(|other| match &other.call {
            Suspended::Repeated { owner, .. } => Some(owner),
            Suspended::Running(_) => None,
        });
        let (mut own, mut all) = (0, 0);
        for other in owners {
            all += 1;
            // All clients of a user are counted together.
            own += usize::from(user(other) == user(owner));
        }
        own < MAX_REPEATS.0 && all < MAX_REPEATS.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repeated(owner: &str) -> Waiting {
        let call = Suspended::Repeated { asked: CallQuestions::default(), owner: owner.to_owned() };
        Waiting { call, expires: Instant::now() }
    }

    #[test]
    fn a100_a_user_with_many_clients_takes_no_more_places_than_one_with_one() {
        let mut all = HashMap::new();
        let mut add = |owner: String| {
            let call = repeated(&owner);
            let has_room = call.has_room(&all);
            if has_room {
                all.insert(all.len() as u64, call);
            }
            has_room
        };
        let taken = (0..200).filter(|client| add(format!("mallory\n{client}"))).count();
        assert_eq!(taken, MAX_REPEATS.0);
        assert!(add("ana\nclient".to_owned()));
        let all_users = (0..MAX_REPEATS.1).filter(|user| add(format!("user-{user}\nclient"))).count();
        assert_eq!(all_users, MAX_REPEATS.1 - MAX_REPEATS.0 - 1);
    }
}
