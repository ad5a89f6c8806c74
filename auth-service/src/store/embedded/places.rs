//! The slots of pushed requests, in memory. They are read from the stored rows when the first request arrives.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::clock::UnixTime;
use crate::domain::opaque_token::TokenHash;
use crate::domain::pushed_request::{PushedPool, PushedRequest};
use crate::store::StoreError;
use crate::store::places::{Place, giving_way};

/// The slots of all pools. The value is `None` before they are read.
#[derive(Default)]
pub(super) struct Places(Mutex<Option<Taken>>);

type Taken = [VecDeque<(UnixTime, Place)>; PushedPool::ALL.len()];

impl Places {
    fn taken(&self) -> MutexGuard<'_, Option<Taken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a slot for a request. Returns the names of the requests that lose their slots, whose rows the caller
    /// must delete. Returns `None` if the pool is full and no slot can be freed. `known` reads all rows, and is
    /// called if the slots are not in memory.
    pub(super) fn take(
        &self,
        handle: &TokenHash,
        request: &PushedRequest,
        earliest: UnixTime,
        known: impl FnOnce() -> Result<Vec<(String, PushedRequest)>, StoreError>,
    ) -> Result<Option<Vec<String>>, StoreError> {
        let mut taken = self.taken();
        let pools = match &mut *taken {
            Some(pools) => pools,
            none => none.insert(read(known()?)),
        };
        let Some(pool) = pools.get_mut(of(request.pool)) else { return Ok(None) };
        pool.retain(|(until, _)| *until > earliest);
        let mut leaving = Vec::new();
        if pool.len() >= request.pool.places() {
            let places: Vec<Place> = pool.iter().map(|(_, place)| place.clone()).collect();
            leaving = giving_way(&places);
            if leaving.is_empty() {
                return Ok(None);
            }
            pool.retain(|(_, place)| !leaving.contains(place));
        }
        pool.push_back((request.expires_at, place(handle.text(), request)));
        Ok(Some(leaving.into_iter().map(|place| place.name).collect()))
    }

    /// Frees the slot of a request.
    pub(super) fn leave(&self, name: &str) {
        for pool in self.taken().iter_mut().flatten() {
            pool.retain(|(_, place)| place.name != name);
        }
    }

    /// Forgets the slots, so that they are read again for the next request.
    pub(super) fn forget_all(&self) {
        *self.taken() = None;
    }
}

const fn of(pool: PushedPool) -> usize {
    pool as usize
}

fn place(name: String, request: &PushedRequest) -> Place {
    Place { client: request.client_id.to_string(), counts_for: request.counts_for.clone(), name }
}

fn read(mut known: Vec<(String, PushedRequest)>) -> Taken {
    known.sort_by_key(|(_, request)| request.expires_at);
    let mut taken = Taken::default();
    for (name, request) in known {
        if let Some(pool) = taken.get_mut(of(request.pool)) {
            pool.push_back((request.expires_at, place(name, &request)));
        }
    }
    taken
}
