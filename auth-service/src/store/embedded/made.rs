//! The file `store.made` next to `store.redb`. It records that there is a store, in case `store.redb` is lost, and
//! the number of the last change that `store.reserve` has kept, in case `store.reserve` is lost.
//!
//! Its size does not change with the number, so that the number can be written even if the disk is full.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Result, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use contract::files::read_setting;

const NAME: &str = "store.made";
/// The extension of the file's name, which replaces the database's extension.
const EXTENSION: &str = "made";
const BEGUN: &str = "begun: the first start has not ended yet\n";
const MADE: &str = "made: auth-service does not start here without store.redb (docs/state.md)\n";
const KEPT: &str = "the last change that store.reserve has kept has the number ";

/// The state that the file records.
pub(super) enum Made {
    /// There is no file.
    Absent,
    /// A first start has begun but not finished.
    Begun,
    /// A store exists, or did exist.
    Store,
}

/// Reads the file in a directory.
pub(super) fn read(directory: &Path) -> Result<Made> {
    match read_setting(&path(directory)) {
        Ok(text) if text == BEGUN => Ok(Made::Begun),
        Ok(_) => Ok(Made::Store),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Made::Absent),
        Err(error) => Err(error),
    }
}

/// The path of the file in a directory.
pub(super) fn path(directory: &Path) -> PathBuf {
    directory.join(NAME)
}

/// Records that the first start has begun.
pub(super) fn begin(directory: &Path) -> Result<()> {
    write_whole(directory, NAME, BEGUN.as_bytes())
}

/// Records that there is a store. A number that is already recorded stays.
pub(super) fn finish(directory: &Path) -> Result<()> {
    match read_setting(&path(directory)) {
        Ok(text) if number_in(&text).is_some() => Ok(()),
        _ => write_whole(directory, NAME, with_number(0).as_bytes()),
    }
}

/// Records that there is a store that replaces another one. The number becomes 0, because the changes that were
/// saved next to the previous store do not apply to the new one.
pub(super) fn replace(directory: &Path) -> Result<()> {
    write_whole(directory, NAME, with_number(0).as_bytes())
}

/// The number of the last change that was saved next to this database. Returns 0 if none is recorded.
pub(super) fn kept(database: &Path) -> u64 {
    read_setting(&database.with_extension(EXTENSION)).ok().and_then(|text| number_in(&text)).unwrap_or(0)
}

/// Records the number of the last change that was saved next to this database. Nothing is recorded for a store
/// that has not been moved to its place yet.
pub(super) fn note_kept(database: &Path, number: u64) -> Result<()> {
    let path = database.with_extension(EXTENSION);
    // Opening a pipe at this path would block.
    if !fs::symlink_metadata(&path).is_ok_and(|file| file.is_file()) {
        return Ok(());
    }
    let file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(with_number(number).as_bytes(), 0)?;
    file.sync_data()
}

fn with_number(number: u64) -> String {
    format!("{MADE}{KEPT}{number:020}\n")
}

fn number_in(text: &str) -> Option<u64> {
    text.strip_prefix(MADE)?.strip_prefix(KEPT)?.trim_end().parse().ok()
}

/// Writes to a temporary file and renames it, so that a crash leaves the whole file or none.
pub(super) fn write_whole(directory: &Path, name: &str, content: &[u8]) -> Result<()> {
    let beside = directory.join(format!(".{name}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, directory.join(name))?;
    File::open(directory)?.sync_all()
}
