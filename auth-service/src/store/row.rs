//! The format of a stored row, which is the same in all stores: a format version, the expiry in seconds, and the
//! encrypted JSON of a domain value. The row's place (its table and key) and its expiry are authenticated.
//! Therefore, a party that can write to the store but does not have `STORE_KEY` cannot swap rows or extend their
//! lifetime.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::clock::UnixTime;
use crate::keys::seal::Sealer;

use super::StoreError;

const VERSION: u8 = 1;
const NEVER: u64 = u64::MAX;
const HEADER: usize = 9;

/// Encrypts `value` into the row for `place`.
pub(super) fn seal<T: Serialize>(
    sealer: &Sealer,
    place: &[u8],
    value: &T,
    expires_at: Option<UnixTime>,
) -> Result<Vec<u8>, StoreError> {
    let plain = serde_json::to_vec(value).map_err(|error| StoreError::Unavailable(error.to_string()))?;
    seal_json(sealer, place, &plain, expires_at)
}

/// Like [`seal`], for a value that is already JSON.
pub(super) fn seal_json(
    sealer: &Sealer,
    place: &[u8],
    plain: &[u8],
    expires_at: Option<UnixTime>,
) -> Result<Vec<u8>, StoreError> {
    let mut row = vec![VERSION];
    row.extend_from_slice(&expires_at.map_or(NEVER, |at| at.0).to_be_bytes());
    let body =
        sealer.seal(&name(place, &row), plain).map_err(|error| StoreError::Unavailable(error.to_string()))?;
    row.extend_from_slice(&body);
    Ok(row)
}

/// Decrypts the value in the row at `place`.
pub(super) fn open<T: DeserializeOwned>(sealer: &Sealer, place: &[u8], row: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(&open_json(sealer, place, row)?).map_err(|_| StoreError::Unreadable)
}

/// Like [`open`], but returns JSON.
pub(super) fn open_json(sealer: &Sealer, place: &[u8], row: &[u8]) -> Result<Vec<u8>, StoreError> {
    let (header, body) = row.split_at_checked(HEADER).ok_or(StoreError::Unreadable)?;
    sealer.open(&name(place, header), body).map_err(|_| StoreError::Unreadable)
}

/// Encrypts the row with the current key. Returns `None` if the row is already encrypted with it.
pub(super) fn resealed(sealer: &Sealer, place: &[u8], row: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    let (header, body) = row.split_at_checked(HEADER).ok_or(StoreError::Unreadable)?;
    if sealer.is_current(&name(place, header), body) {
        return Ok(None);
    }
    seal_json(sealer, place, &open_json(sealer, place, row)?, expiry(row)).map(Some)
}

/// The time at which the row expires. Returns `None` if the row does not expire.
pub(super) fn expiry(row: &[u8]) -> Option<UnixTime> {
    let bytes = row.get(1..HEADER).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u64::from_be_bytes).filter(|at| *at != NEVER).map(UnixTime)
}

/// Whether the row has expired.
pub(super) fn is_over(row: &[u8], now: UnixTime) -> bool {
    expiry(row).is_some_and(|at| at <= now)
}

fn name(place: &[u8], header: &[u8]) -> Vec<u8> {
    [place, b"\0", header].concat()
}
