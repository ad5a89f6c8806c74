//! The file `store.made` next to `store.redb`. It records that there is a store, in case `store.redb` is lost, and
//! the number of the last change that `store.reserve` has kept, in case `store.reserve` is lost.
//!
//! Its size does not change with the number, so that the number can be written even if the disk is full.

use std::fs::{self, File};
use std::io::{ErrorKind, Result, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use contract::files::{open_regular, read_setting};

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
    if !fs::symlink_metadata(&path).is_ok_and(|file| file.is_file()) {
        return Ok(());
    }
    let file = open_regular(&path, File::options().write(true))?;
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
    // The file is always newly created. An existing one could be a pipe, for example, and opening it would block.
    // It could also be readable for other users, and the content can be the store key.
    let _ = fs::remove_file(&beside);
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, directory.join(name))?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn a_pipe_or_a_readable_file_in_the_place_of_a_temporary_file_is_not_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let beside = directory.path().join(".store.made.new");
        mknodat(CWD, &beside, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let (done, is_done) = std::sync::mpsc::channel();
        let at = directory.path().to_owned();
        std::thread::spawn(move || done.send(begin(&at)));
        let begun = is_done.recv_timeout(std::time::Duration::from_secs(60));
        begun.expect("the start waits forever").unwrap();
        fs::write(&beside, "an interrupted start").unwrap();
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o644)).unwrap();
        finish(directory.path()).unwrap();
        assert_eq!(fs::metadata(path(directory.path())).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
