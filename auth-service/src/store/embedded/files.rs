//! The files of the store: the database and its key, which only their owner can read.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::domain::clock::{Random, RandomUnavailable};
use crate::keys::seal::{CryptoFailure, InvalidStoreKey, StoreKey};
use contract::files::{open_regular, read_setting};

use super::made::{self, Made};
use super::reserve::Reserve;

pub(super) const DATABASE: &str = "store.redb";
const KEY: &str = "store.key";

/// The reason why the embedded store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file or directory cannot be used.
    #[error("cannot use {path}: {source}. DATA_DIR must be a directory that this user can write to")]
    Io {
        /// The path that was used.
        path: PathBuf,
        /// The error from the operating system.
        source: std::io::Error,
    },
    /// This user is not allowed to look into the directory.
    #[error(
        "cannot use {0}: permission denied. Run this as the user who owns the directory, which is the user that the \
         service runs as"
    )]
    Denied(PathBuf),
    /// Another process has the store open.
    #[error(
        "{0} is in use by another process. The embedded store serves one process: stop the running auth-service first"
    )]
    InUse(PathBuf),
    /// redb cannot read the file.
    #[error(
        "{0} cannot be opened as a store: {1}. If its disk is full, free some space; if it is damaged, restore it from a \
         backup"
    )]
    Damaged(PathBuf, String),
    /// There was a store, but its file is missing or empty.
    #[error(
        "{0} is missing or empty, although there was a store: restore it from a backup (scripts/restore DUMP). To start \
         over, without accounts, clients and tokens, remove store.made and store.key beside it"
    )]
    Lost(PathBuf),
    /// Changes that were saved next to the store, because it could not be written, are lost.
    #[error(
        "{0} is missing or damaged, although it has kept changes that the store does not contain: what was disabled, deleted or \
         revoked while the store could not be written. Put it back. If it is lost, remove store.made beside it, and make these \
         changes again before you start the service (the audit log has them): auth-service user disable, client disable, \
         client delete, keys revoke"
    )]
    ReserveLost(PathBuf),
    /// The store was written by a newer release.
    #[error(
        "{path} was written by a newer release: its schema is version {found}, and this one reads up to {}. Start that \
         release, or restore a backup from before it",
        super::schema::SCHEMA_VERSION
    )]
    Newer {
        /// The path of the database.
        path: PathBuf,
        /// The schema version of the database.
        found: u32,
    },
    /// The store was written with a different key.
    #[error(
        "{0} was written with another store key. Put back the store.key that belongs to it into its directory, or set \
         STORE_KEY to that key"
    )]
    WrongKey(PathBuf),
    /// There is a database but no key file.
    #[error(
        "{0} is missing although there is a store beside it. Put it back from a backup, or set STORE_KEY to its content"
    )]
    KeyMissing(PathBuf),
    /// The key file cannot be read.
    #[error(
        "{0} cannot be read: {1}. It must be a regular file that this user can read and that contains the store key"
    )]
    KeyUnusable(PathBuf, std::io::Error),
    /// The key file does not contain a store key.
    #[error(
        "{0} does not contain a store key, so it was damaged or replaced: {1}. Put it back from a backup, or set STORE_KEY to \
         the right key. If there is no store beside it yet, remove the file; a new key is then created"
    )]
    KeyInvalid(PathBuf, InvalidStoreKey),
    /// The operating system provided no random bytes.
    #[error(transparent)]
    Random(#[from] RandomUnavailable),
    /// The cryptography library failed.
    #[error(transparent)]
    Crypto(#[from] CryptoFailure),
}

fn io_error(path: &Path) -> impl FnOnce(std::io::Error) -> OpenError + '_ {
    move |source| OpenError::Io { path: path.to_owned(), source }
}

/// Whether there is a database in `directory`.
///
/// # Errors
/// Fails if this cannot be determined, for example because this user is not allowed to look into the directory.
pub fn exists(directory: &Path) -> Result<bool, OpenError> {
    is_there(directory.join(DATABASE))
}

/// Whether there is a key file in `directory`.
///
/// # Errors
/// Fails in the same cases as [`exists`].
pub fn has_key_file(directory: &Path) -> Result<bool, OpenError> {
    is_there(directory.join(KEY))
}

fn is_there(path: PathBuf) -> Result<bool, OpenError> {
    path.try_exists().map_err(|source| match source.kind() {
        ErrorKind::PermissionDenied => OpenError::Denied(path),
        _ => OpenError::Io { path, source },
    })
}

/// The path of the key file in `directory`, if its mode lets users other than its owner read it.
pub fn readable_key_file(directory: &Path) -> Option<PathBuf> {
    let path = directory.join(KEY);
    let mode = fs::metadata(&path).ok()?.permissions().mode();
    (mode & 0o077 != 0).then_some(path)
}

/// Reads the store key in `directory`. The key is created when the service starts for the first time.
///
/// # Errors
/// Fails if the key cannot be read, or if it is missing although there is a store. If there is a `previous` key,
/// the key is being replaced, so a missing key file is created.
pub fn store_key(
    directory: &Path,
    previous: Option<&StoreKey>,
    random: &dyn Random,
) -> Result<StoreKey, OpenError> {
    create_directory(directory)?;
    let path = directory.join(KEY);
    match read_setting(&path) {
        Ok(text) => {
            protect_key(directory);
            StoreKey::parse(&text)
                .map(|key| key.with_previous(previous))
                .map_err(|error| OpenError::KeyInvalid(path, error))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if exists(directory)? && previous.is_none() {
                return Err(OpenError::KeyMissing(path));
            }
            // If the store is also lost, a restored copy of it could not be opened with a new key.
            let database = directory.join(DATABASE);
            if matches!(past(directory)?, Past::Store) && is_empty(&database) {
                return Err(OpenError::Lost(database));
            }
            begin(directory)?;
            let key = StoreKey::new(random.bytes()?);
            made::write_whole(directory, KEY, key.encode().as_bytes()).map_err(io_error(&path))?;
            Ok(key.with_previous(previous))
        }
        Err(error) => Err(OpenError::KeyUnusable(path, error)),
    }
}

/// Makes sure that only its owner can read the key file. If the file is a read-only mount or belongs to another user,
/// its mode cannot be changed, and only a warning is logged.
fn protect_key(directory: &Path) {
    let Some(path) = readable_key_file(directory) else { return };
    let shown = path.display();
    match fs::set_permissions(&path, fs::Permissions::from_mode(0o600)) {
        Ok(()) => tracing::warn!(
            "{shown} could be read by users other than its owner, so its mode has been set to 0600. If anyone might \
             have read it, replace the key (`auth-service store rekey`)"
        ),
        Err(error) => tracing::warn!(
            "{shown} can be read by users other than its owner, and its mode cannot be changed: {error}. Set it to \
             0600, or make sure that only trusted users can read the file"
        ),
    }
}

/// What is known about an earlier store in a directory.
enum Past {
    /// There was no earlier store. Either this is the first start, or an earlier first start was interrupted.
    None,
    /// There is a store, or there was one.
    Store,
}

fn past(directory: &Path) -> Result<Past, OpenError> {
    match made::read(directory).map_err(io_error(&made::path(directory)))? {
        Made::Begun => Ok(Past::None),
        Made::Store => Ok(Past::Store),
        // A copy of the directory might lack the file. The database and the key file show that there is a store.
        Made::Absent => {
            let is_there = !is_empty(&directory.join(DATABASE)) || has_key_file(directory)?;
            Ok(if is_there { Past::Store } else { Past::None })
        }
    }
}

/// Records that the first start has begun, if the directory has no store yet. The record is written before all
/// other files, so that an interrupted first start is not mistaken for a lost store.
fn begin(directory: &Path) -> Result<(), OpenError> {
    match past(directory)? {
        Past::Store => Ok(()),
        Past::None => made::begin(directory).map_err(io_error(directory)),
    }
}

/// Records that there is a store in `directory`.
pub(super) fn mark_made(directory: &Path) -> Result<(), OpenError> {
    made::finish(directory).map_err(io_error(&made::path(directory)))
}

/// Records that there is a store in `directory` that replaces an earlier one.
pub(super) fn mark_replaced(directory: &Path) -> Result<(), OpenError> {
    made::replace(directory).map_err(io_error(&made::path(directory)))
}

/// Returns the path of the database, and makes sure that the file exists with mode 0600. If it is empty, this
/// is the first start.
///
/// # Errors
/// Fails if there was a store but its file is missing or empty, which can happen after a file system crash or a
/// failed copy. Treating this as a first start would create an installation without its accounts and rules.
pub(super) fn store_file(directory: &Path) -> Result<PathBuf, OpenError> {
    create_directory(directory)?;
    let path = directory.join(DATABASE);
    match past(directory)? {
        Past::Store if is_empty(&path) => return Err(OpenError::Lost(path)),
        Past::Store => {}
        Past::None => {
            begin(directory)?;
            Reserve::remove(&path).map_err(io_error(&path))?;
        }
    }
    make_file(directory, &path)?;
    Ok(path)
}

fn is_empty(path: &Path) -> bool {
    fs::metadata(path).map_or_else(|error| error.kind() == ErrorKind::NotFound, |file| file.len() == 0)
}

/// Makes sure that there is a file at `path` in `directory` and that only its owner can use it.
pub(super) fn make_file(directory: &Path, path: &Path) -> Result<(), OpenError> {
    create_directory(directory)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = open_regular(path, &options).map_err(io_error(path))?;
    file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(io_error(path))?;
    // If the path is a directory or another user's file, reading fails with a clearer error than redb's.
    file.read(&mut [0]).map_err(io_error(path))?;
    Ok(())
}

fn create_directory(directory: &Path) -> Result<(), OpenError> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io_error(directory))
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn a_pipe_in_the_place_of_the_store_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(DATABASE);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let (done, is_done) = std::sync::mpsc::channel();
        let at = directory.path().to_owned();
        std::thread::spawn(move || done.send(make_file(&at, &path)));
        let refused = is_done.recv_timeout(std::time::Duration::from_secs(60));
        let refused = refused.expect("the start waits forever").unwrap_err().to_string();
        assert!(refused.contains("it is not a regular file"), "{refused}");
    }
}
