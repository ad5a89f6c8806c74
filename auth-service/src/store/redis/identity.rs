//! The identity of a store in Redis. It contains the time at which the store was created, so that two identities
//! can be ordered.
//!
//! A store gets a new identity when it is created in an empty Redis, restored, or adopted (`auth-service store
//! adopt`). Each of these declares the current data valid, and the new identity is later than the one that it
//! replaces. If a replica finds a store with an *earlier* identity than the one it has used, old data has
//! returned, such as the data from before an adoption.

use crate::domain::opaque_token::TokenHash;
use crate::store::StoreError;

use super::connection::Connection;
use super::keys::Keys;
use super::server_clock;

/// The identity of a store that was created at this time.
fn identity_at(begun: u64) -> Result<String, StoreError> {
    let mut random = [0_u8; 32];
    aws_lc_rs::rand::fill(&mut random).map_err(|error| StoreError::Unavailable(error.to_string()))?;
    Ok(format!("{begun:016x}.{}", TokenHash::of(&random).text()))
}

/// A random identity, later than `begun`. A clock that has been set back must not make it earlier than the
/// identity that it replaces.
pub(super) async fn new(
    connection: &Connection,
    keys: &Keys,
    begun: Option<u64>,
) -> Result<String, StoreError> {
    // Even without the permission to read the time, the identity of an adopted store is later than before.
    let now = server_clock::microseconds(connection, &keys.key_check()).await?.unwrap_or_default();
    identity_at(begun.map_or(now, |begun| now.max(begun.saturating_add(1))))
}

#[cfg(test)]
mod tests {
    use super::super::store_name::StoreName;
    use super::*;

    #[test]
    fn an_identity_has_the_time_at_which_its_store_was_begun_and_one_without_it_is_the_earliest() {
        let (first, second) = (identity_at(7).unwrap(), identity_at(8).unwrap());
        let (first, second) = (StoreName::of(&first), StoreName::of(&second));
        assert_eq!((first.begun, second.begun), (7, 8));
        assert!(second.is_later_than(first) && !first.is_later_than(second));
        let other = StoreName::of(&identity_at(7).unwrap());
        assert!(other != first && !other.is_later_than(first), "neither replaces the other");
        for odd in ["", ".", "x.y", "a-text-without-a-time", "ffffffffffffffffff.y"] {
            assert_eq!(StoreName::of(odd).begun, 0, "{odd}");
        }
    }
}
