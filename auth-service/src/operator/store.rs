//! Operator commands for the whole store.

use std::path::{Path, PathBuf};

use crate::keys::seal::{InvalidStoreKey, StoreKey};
use crate::ops::audit;
use crate::store::records::Portable;
use crate::store::transfer;
use contract::files::read_setting;

use super::{CommandError, Reply, Tools};

/// Why the key file of a dump cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read.
    #[error(
        "{path} cannot be read: {source}. It must be a regular file that the process that uses the key can read and that contains a \
         store key"
    )]
    Io {
        /// The path of the file.
        path: PathBuf,
        /// The error from the operating system.
        source: std::io::Error,
    },
    /// The file does not contain a store key.
    #[error("{0} does not contain a key: {1}")]
    Invalid(PathBuf, InvalidStoreKey),
}

/// Reads a store key from a file, in base64.
pub fn read_key(path: &Path) -> Result<StoreKey, KeyFileError> {
    let text = read_setting(path).map_err(|source| KeyFileError::Io { path: path.to_owned(), source })?;
    StoreKey::parse(&text).map_err(|error| KeyFileError::Invalid(path.to_owned(), error))
}

/// Writes all records to a file, encrypted with the store's key or the key in `key_file`.
pub(super) async fn export(
    file: &Path,
    key_file: Option<&Path>,
    tools: &Tools<'_>,
) -> Result<Reply, CommandError> {
    let key = match key_file.map(read_key).transpose() {
        Ok(key) => key.unwrap_or_else(|| tools.store.key().clone()),
        Err(error) => return Ok(Reply::Refused(error.to_string())),
    };
    let store: &dyn Portable = tools.store;
    match transfer::export(store, file, &key, (tools.now, tools.random), tools.progress).await {
        Ok(counts) => {
            audit::Event::StoreExported { records: counts.total() }.emit();
            Ok(Reply::Exported(counts))
        }
        Err(error) => Ok(Reply::Refused(error.to_string())),
    }
}

/// Encrypts all rows with the current key.
pub(super) async fn reseal(tools: &Tools<'_>) -> Result<Reply, CommandError> {
    let resealed = tools.store.reseal().await?;
    audit::Event::StoreResealed { rows: resealed.rows, changed: resealed.changed }.emit();
    Ok(Reply::Resealed(resealed))
}
