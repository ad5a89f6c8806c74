//! The store's files: the database and its key, readable by their owner only.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::domain::clock::{Random, RandomUnavailable};
use crate::keys::seal::{CryptoFailure, InvalidStoreKey, StoreKey};

pub(super) const DATABASE: &str = "store.redb";
const KEY: &str = "store.key";

/// Why the embedded store cannot be opened, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// File system trouble.
    #[error("cannot use {path}: {source}. DATA_DIR must be a directory that this user may write to")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error(
        "{0} is in use by another process. The embedded store serves one process: stop the running auth-service first"
    )]
    InUse(PathBuf),
    /// redb cannot read it.
    #[error("{0} cannot be opened as a store: {1}. Restore it from a backup")]
    Damaged(PathBuf, String),
    /// A newer release made it.
    #[error(
        "{path} was written by a newer release: its schema is version {found}, and this one reads up to {}. Start that \
         release, or restore a backup from before it",
        super::rows::SCHEMA_VERSION
    )]
    Newer {
        /// What was opened.
        path: PathBuf,
        /// Its schema.
        found: u32,
    },
    /// The key does not fit the data.
    #[error(
        "{0} was written with another store key. Put back the store.key (or STORE_KEY) that belongs to it"
    )]
    WrongKey(PathBuf),
    /// There is data, but no key.
    #[error(
        "{0} is missing although there is a store beside it. Put it back from a backup, or set STORE_KEY to its content"
    )]
    KeyMissing(PathBuf),
    /// The key file holds something else.
    #[error("{0} does not hold a store key: {1}")]
    KeyInvalid(PathBuf, InvalidStoreKey),
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] RandomUnavailable),
    /// The cryptography library failed.
    #[error(transparent)]
    Crypto(#[from] CryptoFailure),
}

fn io_error(path: &Path) -> impl FnOnce(std::io::Error) -> OpenError + '_ {
    move |source| OpenError::Io { path: path.to_owned(), source }
}

/// Whether there is a store in `directory`.
pub fn exists(directory: &Path) -> bool {
    directory.join(DATABASE).exists()
}

/// Whether there is a key in `directory`.
pub fn has_key_file(directory: &Path) -> bool {
    directory.join(KEY).exists()
}

/// The store key kept in `directory`; made there on the first start.
///
/// # Errors
/// When it cannot be read, and when it is missing beside a store. With a `previous` one that opens what is there, the
/// key is being replaced, and a new one is made.
pub fn store_key(
    directory: &Path,
    previous: Option<&StoreKey>,
    random: &dyn Random,
) -> Result<StoreKey, OpenError> {
    create_directory(directory)?;
    let path = directory.join(KEY);
    match fs::read_to_string(&path) {
        Ok(text) => StoreKey::parse(&text)
            .map(|key| key.with_previous(previous))
            .map_err(|error| OpenError::KeyInvalid(path, error)),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if directory.join(DATABASE).exists() && previous.is_none() {
                return Err(OpenError::KeyMissing(path));
            }
            let key = StoreKey::new(random.bytes()?);
            write_key(directory, &path, &key).map_err(io_error(&path))?;
            Ok(key.with_previous(previous))
        }
        Err(error) => Err(io_error(&path)(error)),
    }
}

/// Writes beside, then renames: a crash leaves the whole key or none.
fn write_key(directory: &Path, path: &Path, key: &StoreKey) -> std::io::Result<()> {
    let beside = directory.join(".store.key.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(key.encode().as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(directory)?.sync_all()
}

/// The path of the database, whose file exists afterwards with mode 0600.
pub(super) fn store_file(directory: &Path) -> Result<PathBuf, OpenError> {
    let path = directory.join(DATABASE);
    make_file(directory, &path)?;
    Ok(path)
}

/// Makes sure that there is a file at `path` in `directory`, and that it is ours alone.
pub(super) fn make_file(directory: &Path, path: &Path) -> Result<(), OpenError> {
    create_directory(directory)?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(io_error(path))?;
    file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(io_error(path))?;
    // Reading a byte tells a directory, or a file of someone else, from a store before redb does.
    file.read(&mut [0]).map_err(io_error(path))?;
    Ok(())
}

fn create_directory(directory: &Path) -> Result<(), OpenError> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io_error(directory))
}
