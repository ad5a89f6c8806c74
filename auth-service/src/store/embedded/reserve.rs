//! The file `store.reserve` next to `store.redb`, which keeps the [`Overlay`] on disk. It is created with its full
//! size when the store is opened. Later writes only replace its content, which needs no free space, even if other
//! programs fill the disk. (Copy-on-write file systems, such as btrfs and ZFS, need free space even for that.)
//!
//! It has two slots, which are written in turn, so that an interrupted write leaves the other one intact. A slot
//! contains a number, which grows with every write, and the encrypted overlay. The database contains the number of
//! the last overlay that became part of it ([`APPLIED`]), so that an old overlay is not applied again.

use std::fs::{self, File};
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use contract::files::open_regular;

use crate::keys::seal::Sealer;

use super::made;
use super::overlay::Overlay;

/// The extension of the file's name, which replaces the database's extension.
const EXTENSION: &str = "reserve";
/// The row with the number of the last overlay that became part of the database.
pub(super) const APPLIED: &str = "overlay";
/// Size of a slot in bytes.
const SLOT: u64 = 256 * 1024;
const SLOTS: u64 = 2;
/// Bytes of a slot before the encrypted overlay: its number and its length.
const HEADER: usize = 16;

/// The file, the number of the last overlay, and the slot that it is in.
pub(super) struct Reserve {
    path: PathBuf,
    database: PathBuf,
    number: u64,
    slot: u64,
}

impl Reserve {
    /// Opens the file next to the database. Returns the overlay that is not yet part of the database. If the file
    /// has lost a change that it had kept, the error is its path.
    pub(super) fn open(
        database: &Path,
        sealer: &Sealer,
        applied: u64,
    ) -> std::result::Result<(Self, Overlay), PathBuf> {
        let path = database.with_extension(EXTENSION);
        let mut reserve = Self { path, database: database.to_owned(), number: applied, slot: 0 };
        let mut overlay = Overlay::default();
        for slot in 0..SLOTS {
            let Some((number, content)) = reserve.slot(slot).filter(|(number, _)| *number > reserve.number)
            else {
                continue;
            };
            // A slot that cannot be read belongs to an interrupted write, which was not acknowledged.
            let read = sealer.open(&name(number), &content).ok().and_then(|bytes| Overlay::decode(&bytes));
            if let Some(read) = read {
                (overlay, reserve.number, reserve.slot) = (read, number, slot);
            } else {
                tracing::warn!(path = %reserve.path.display(), "a part of the file cannot be read");
            }
        }
        if made::kept(database) > reserve.number {
            return Err(reserve.path);
        }
        if let Err(error) = reserve.make() {
            tracing::warn!(%error, "{}", Self::missing());
        }
        Ok((reserve, overlay))
    }

    /// Removes the file of an earlier database at this path.
    ///
    /// # Errors
    /// Fails if the file cannot be removed. Its changes would then be applied to the next database at this path.
    pub(super) fn remove(database: &Path) -> Result<()> {
        match fs::remove_file(database.with_extension(EXTENSION)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Renames the file that belongs to the database `from`, which has been moved aside. `to` is its new
    /// extension.
    pub(super) fn rename(from: &Path, to: &str) -> Result<()> {
        let place = from.with_extension(to);
        match fs::rename(from.with_extension(EXTENSION), &place) {
            // This database has no file. An existing file at `place` belongs to a database that was moved aside
            // earlier, and is removed.
            Err(error) if error.kind() == ErrorKind::NotFound => match fs::remove_file(place) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                removed => removed,
            },
            renamed => renamed,
        }
    }

    /// The warning that the file could not be created.
    pub(super) const fn missing() -> &'static str {
        "store.reserve beside the store could not be created. If the disk is full, changes that disable or revoke something are in effect \
         only until the next restart. Free space on the disk of DATA_DIR"
    }

    /// Creates the file, unless it exists with its full size. Its content stays the same.
    pub(super) fn make(&self) -> Result<()> {
        let whole = SLOT * SLOTS;
        let is_there = fs::symlink_metadata(&self.path)
            .is_ok_and(|file| file.is_file() && file.len() == whole && file.blocks() * 512 >= whole);
        if is_there {
            return Ok(());
        }
        let mut content = Vec::new();
        if fs::symlink_metadata(&self.path).is_ok_and(|file| file.is_file()) {
            open_regular(&self.path, File::options().read(true))?.take(whole).read_to_end(&mut content)?;
        }
        content.resize(usize::try_from(whole).map_err(Error::other)?, 0);
        let beside = self.path.with_extension("reserve.new");
        let _ = fs::remove_file(&beside);
        let file = File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
        let written = file
            .write_all_at(&content, 0)
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&beside, &self.path))
            .and_then(|()| self.path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all()));
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        written
    }

    /// Replaces the overlay in the file. The new one is on disk when this returns.
    pub(super) fn keep(&mut self, overlay: &Overlay, sealer: &Sealer) -> Result<()> {
        self.make()?;
        let number = self.number + 1;
        let body = sealer.seal(&name(number), &overlay.encode()).map_err(Error::other)?;
        let length = u64::try_from(body.len()).map_err(Error::other)?;
        if length + HEADER as u64 > SLOT {
            return Err(Error::other("there are too many changes for the file"));
        }
        let content = [&number.to_be_bytes()[..], &length.to_be_bytes(), &body].concat();
        let file = open_regular(&self.path, File::options().write(true))?;
        let slot = (self.slot + 1) % SLOTS;
        file.write_all_at(&content, slot * SLOT)?;
        file.sync_data()?;
        (self.number, self.slot) = (number, slot);
        // The change is kept, so a failure to record its number is no reason to refuse it.
        if let Err(error) = made::note_kept(&self.database, number) {
            tracing::warn!(%error, "store.made cannot be written: a start would not notice that store.reserve was lost");
        }
        Ok(())
    }

    /// A number for the database that contains the current overlay. Overlays up to this number are not applied
    /// again. This number also covers an overlay whose write failed, because it might still be on disk.
    pub(super) const fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// The number and the encrypted content of a slot. Returns `None` if the slot cannot be read.
    fn slot(&self, slot: u64) -> Option<(u64, Vec<u8>)> {
        let file = fs::symlink_metadata(&self.path).ok().filter(fs::Metadata::is_file);
        let file = file.and_then(|_| open_regular(&self.path, File::options().read(true)).ok())?;
        let mut bytes = vec![0; usize::try_from(SLOT).ok()?];
        file.read_exact_at(&mut bytes, slot * SLOT).ok()?;
        let (number, rest) = bytes.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let sealed = rest.get(..usize::try_from(u64::from_be_bytes(*length)).ok()?)?;
        Some((u64::from_be_bytes(*number), sealed.to_vec()))
    }
}

/// The name under which the overlay of this number is encrypted.
fn name(number: u64) -> Vec<u8> {
    [&b"overlay\0"[..], &number.to_be_bytes()].concat()
}
