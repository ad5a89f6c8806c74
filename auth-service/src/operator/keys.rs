//! Operator commands for the signing keys.

use serde::{Deserialize, Serialize};

use crate::domain::clock::UnixTime;
use crate::keys::algorithm::SigningAlgorithm;
use crate::keys::set::{KeySet, KeyState, Unchanged, gone_at, state};
use crate::ops::audit;
use crate::rotation::{self, RotationError};

use super::{CommandError, Reply, Tools};

/// A signing key as it is shown to operators.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeyRow {
    /// The key's identifier in `/jwks` and in tokens.
    pub kid: String,
    /// The signature algorithm of the key.
    pub algorithm: SigningAlgorithm,
    /// Whether the key is next, current or retired.
    pub state: KeyState,
    /// The time at which it starts to sign.
    pub signs_from: UnixTime,
    /// The time at which it stops signing, if it has a successor.
    pub signs_until: Option<UnixTime>,
    /// The time at which it is removed, if it has a successor.
    pub gone_at: Option<UnixTime>,
}

pub(super) async fn list(tools: &Tools<'_>) -> Result<Reply, CommandError> {
    let set = rotation::known(tools.store, &tools.rotation, tools.now).await?;
    Ok(Reply::Keys(rows(&set, tools.now)))
}

pub(super) async fn rotate(tools: &Tools<'_>) -> Result<Reply, CommandError> {
    let changed = rotation::change(tools.store, &tools.rotation, tools.now, |set| {
        set.rotated(&tools.rotation, tools.now)
    });
    let answered = answer(changed.await, tools)?;
    if let Reply::Keys(rows) = &answered
        && let Some(next) = rows.iter().find(|row| row.state == KeyState::Next)
    {
        audit::Event::SigningKeyAdded { kid: &next.kid, signs_from: next.signs_from }.emit();
    }
    Ok(answered)
}

pub(super) async fn revoke(kid: &str, tools: &Tools<'_>) -> Result<Reply, CommandError> {
    let changed = rotation::change(tools.store, &tools.rotation, tools.now, |set| {
        set.without(kid, &tools.rotation, tools.now)
    });
    let answered = answer(changed.await, tools)?;
    if matches!(answered, Reply::Keys(_)) {
        audit::Event::SigningKeyRevoked { kid }.emit();
    }
    Ok(answered)
}

fn answer(
    changed: Result<Result<KeySet, Unchanged>, RotationError>,
    tools: &Tools<'_>,
) -> Result<Reply, CommandError> {
    match changed? {
        Ok(set) => Ok(Reply::Keys(rows(&set, tools.now))),
        Err(Unchanged::Crypto(error)) => Err(RotationError::from(error).into()),
        Err(unchanged) => Ok(Reply::Refused(unchanged.to_string())),
    }
}

fn rows(set: &KeySet, now: UnixTime) -> Vec<KeyRow> {
    let row = |key: &crate::keys::stored::StoredSigningKey| KeyRow {
        kid: key.kid.clone(),
        algorithm: key.algorithm,
        state: state(key, now),
        signs_from: key.signs_from.max(key.created_at),
        signs_until: key.signs_until,
        gone_at: gone_at(key),
    };
    set.keys().iter().map(row).collect()
}
