//! Limits how fast one account can add rows to the store: authorization codes, tokens that are issued without a
//! user's decision, and DPoP proofs.
//!
//! Browsers and programs of honest users need only a few of these per hour. The limits are much higher, but low
//! enough that the rows of one account are always a small part of the store (docs/limits.md).

use std::time::Duration;

use crate::domain::account::Subject;
use crate::domain::client::ClientId;

use super::keyed_rate::{KeyedRate, TooFast, quota};

/// Limit on authorization codes: the size of a burst, and the time after which one more is allowed. The other
/// limits have the same form.
const CODES: (u32, Duration) = (60, Duration::from_secs(1));
/// Limit on tokens that clients get for an account without its user: for themselves (RFC 6749 §4.4), by an
/// exchange (RFC 8693), or for an assertion (RFC 7523).
const TOKENS: (u32, Duration) = (300, Duration::from_millis(500));
/// Limit on the DPoP proofs from one client of an account. A client sends one with every request.
const PROOFS: (u32, Duration) = (1000, Duration::from_millis(20));
/// Limit on the DPoP proofs from all clients of an account. One client can use two fifths of it.
const PROOFS_OF_ALL: (u32, Duration) = (2500, Duration::from_millis(8));

/// The limits on accounts that the module documentation describes.
pub struct AccountRate {
    codes: KeyedRate<Subject>,
    tokens: KeyedRate<Subject>,
    proofs: KeyedRate<(Subject, ClientId)>,
    proofs_of_all: KeyedRate<Subject>,
}

impl Default for AccountRate {
    fn default() -> Self {
        Self {
            codes: KeyedRate::new(quota(CODES)),
            tokens: KeyedRate::new(quota(TOKENS)),
            proofs: KeyedRate::new(quota(PROOFS)),
            proofs_of_all: KeyedRate::new(quota(PROOFS_OF_ALL)),
        }
    }
}

impl AccountRate {
    /// Counts an authorization code that is about to be issued for `subject`. Fails if there are too many.
    pub fn admit_code(&self, subject: &Subject) -> Result<(), TooFast> {
        self.codes.check(subject)
    }

    /// Counts a token that is about to be issued to a client for `subject` without the user. Fails if there are
    /// too many.
    pub fn admit_token(&self, subject: &Subject) -> Result<(), TooFast> {
        self.tokens.check(subject)
    }

    /// Counts a DPoP proof of `client` for `subject`. Fails if there are too many.
    pub fn admit_proof(&self, subject: &Subject, client: &ClientId) -> Result<(), TooFast> {
        // A proof that is refused because of the limit of its client does not count against the other clients
        // of the account.
        self.proofs.check(&(subject.clone(), client.clone()))?;
        self.proofs_of_all.check(subject)
    }

    /// Removes entries that are no longer needed. Called periodically to limit memory use.
    pub fn forget_idle(&self) {
        self.codes.forget_idle();
        self.tokens.forget_idle();
        self.proofs.forget_idle();
        self.proofs_of_all.forget_idle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a100_one_account_has_its_rate_and_takes_nothing_from_another() {
        let rate = AccountRate::default();
        let [eve, ana] = [Subject::new([1; 32]), Subject::new([2; 32])];
        let admitted = |admit: &dyn Fn(&Subject) -> Result<(), TooFast>| {
            (0..3000).filter(|_| admit(&eve).is_ok()).count()
        };
        // On a slow machine, this takes so long that a few more are admitted.
        assert!((60..100).contains(&admitted(&|who| rate.admit_code(who))));
        assert!((300..400).contains(&admitted(&|who| rate.admit_token(who))));
        let client = |n: usize| ClientId::try_from(format!("client{n}")).unwrap();
        assert!((1000..2000).contains(&admitted(&|who| rate.admit_proof(who, &client(0)))));
        assert!(rate.admit_code(&ana).is_ok() && rate.admit_token(&ana).is_ok());
        assert!(rate.admit_proof(&ana, &client(0)).is_ok());
    }

    #[test]
    fn a100_a_client_that_sends_too_many_proofs_leaves_the_others_of_its_account_theirs() {
        let rate = AccountRate::default();
        let eve = Subject::new([1; 32]);
        let client = |n: usize| ClientId::try_from(format!("client{n}")).unwrap();
        let flood = |n: usize| (0..20_000).filter(|_| rate.admit_proof(&eve, &client(n)).is_ok()).count();
        assert!(flood(0) >= 1000);
        assert!(rate.admit_proof(&eve, &client(1)).is_ok());
        // On a slow machine, this takes so long that a few more are admitted.
        let others: usize = (2..12).map(flood).sum();
        assert!(others < 5000, "{others}");
    }
}
