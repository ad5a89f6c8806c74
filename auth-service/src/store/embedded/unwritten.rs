//! A storage backend for a database file that can be read but not written. redb repairs a database that was not closed
//! properly before it reads from it. Here, the changes of the repair stay in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

/// Size in bytes of the blocks that are kept in memory.
const BLOCK: usize = 4096;
/// Maximum number of changed blocks, 16 MiB in total. A repair changes a few.
const MAX_BLOCKS: usize = 4096;

/// The file, and the changes to it.
#[derive(Debug)]
pub(super) struct Unwritten {
    file: File,
    /// Locks the file, so that no other process opens the database. A lock needs a file that is open for writing. It is
    /// `None` on a file system that has become read-only, where no other process can write either.
    lock: Option<FileBackend>,
    changes: Mutex<Changes>,
}

#[derive(Debug)]
struct Changes {
    length: u64,
    /// The number of bytes at the beginning that are still those of the file, except for the changed blocks.
    from_file: u64,
    /// The changed blocks, by their number.
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl Unwritten {
    /// `for_lock` is the same file, open for writing.
    ///
    /// # Errors
    /// Fails if the length of the file cannot be read.
    pub(super) fn new(file: File, for_lock: Option<File>) -> std::result::Result<Self, DatabaseError> {
        let length = file.metadata().map_err(|error| DatabaseError::Storage(error.into()))?.len();
        let lock = for_lock.map(FileBackend::new).transpose()?;
        let changes = Mutex::new(Changes { length, from_file: length, blocks: BTreeMap::new() });
        Ok(Self { file, lock, changes })
    }

    fn lock(&self) -> Locked<&FileBackend> {
        self.lock.as_ref().ok_or(BackendError::Unsupported)
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads from the file, where it has not been shortened, and then from the changed blocks.
    fn read_through(&self, changes: &Changes, offset: u64, out: &mut [u8]) -> Result<()> {
        let of_file = usize::try_from(changes.from_file.saturating_sub(offset)).unwrap_or(usize::MAX);
        let (old, new) = out.split_at_mut(of_file.min(out.len()));
        self.file.read_exact_at(old, offset)?;
        new.fill(0);
        for part in parts(offset, out.len()) {
            let kept = changes.blocks.get(&part.block).and_then(|block| block.get(part.inside));
            if let (Some(kept), Some(out)) = (kept, out.get_mut(part.outside)) {
                out.copy_from_slice(kept);
            }
        }
        Ok(())
    }
}

/// A part of a range of bytes that lies in one block.
struct Part {
    block: u64,
    /// Its place in the block.
    inside: std::ops::Range<usize>,
    /// Its place in the range.
    outside: std::ops::Range<usize>,
}

/// The number of the block of a byte, and its place in the block.
fn place(offset: u64) -> (u64, usize) {
    let block = offset / BLOCK as u64;
    // The remainder fits, because it is less than `BLOCK`.
    (block, usize::try_from(offset % BLOCK as u64).unwrap_or_default())
}

fn parts(offset: u64, length: usize) -> impl Iterator<Item = Part> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let (block, from) = place(offset + done as u64);
        let count = (BLOCK - from).min(length - done);
        let part = Part { block, inside: from..from + count, outside: done..done + count };
        done += count;
        (count > 0).then_some(part)
    })
}

/// The result of an operation on a lock.
type Locked<T> = std::result::Result<T, BackendError>;

impl StorageBackend for Unwritten {
    fn len(&self) -> Result<u64> {
        Ok(self.changes().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let changes = self.changes();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > changes.length) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.read_through(&changes, offset, out)
    }

    fn set_len(&self, length: u64) -> Result<()> {
        let mut changes = self.changes();
        changes.length = length;
        changes.from_file = changes.from_file.min(length);
        changes.blocks.split_off(&length.div_ceil(BLOCK as u64));
        let (last, kept) = place(length);
        if let Some(block) = changes.blocks.get_mut(&last) {
            block.iter_mut().skip(kept).for_each(|byte| *byte = 0);
        }
        Ok(())
    }

    fn sync_data(&self) -> Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut changes = self.changes();
        for part in parts(offset, data.len()) {
            if !changes.blocks.contains_key(&part.block) {
                if changes.blocks.len() == MAX_BLOCKS {
                    return Err(Error::other(
                        "its repair changes more than 16 MiB, which is not done in memory",
                    ));
                }
                let mut block = vec![0; BLOCK];
                self.read_through(&changes, part.block * BLOCK as u64, &mut block)?;
                changes.blocks.insert(part.block, block);
            }
            let kept = changes.blocks.get_mut(&part.block).and_then(|block| block.get_mut(part.inside));
            if let (Some(kept), Some(data)) = (kept, data.get(part.outside)) {
                kept.copy_from_slice(data);
            }
        }
        changes.length = changes.length.max(offset + data.len() as u64);
        Ok(())
    }

    fn close(&self) -> Result<()> {
        self.lock.as_ref().map_or(Ok(()), FileBackend::close)
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked<bool> {
        self.lock()?.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked<bool> {
        self.lock()?.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked<()> {
        self.lock()?.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked<()> {
        self.lock()?.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked<()> {
        self.lock()?.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked<bool> {
        self.lock()?.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_seen_and_do_not_reach_the_file() {
        let beside = tempfile::NamedTempFile::new().unwrap();
        let original: Vec<u8> = (0..10_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        std::fs::write(beside.path(), &original).unwrap();
        let storage = Unwritten::new(beside.reopen().unwrap(), beside.reopen().ok()).unwrap();
        let mut expected = original.clone();
        let seen = |length: usize| {
            let mut all = vec![1; length];
            storage.read(0, &mut all).unwrap();
            all
        };
        storage.write(4090, &[255; 20]).unwrap();
        expected[4090..4110].fill(255);
        assert_eq!(seen(10_000), expected);
        storage.write(9_990, &[254; 30]).unwrap();
        expected.resize(10_020, 0);
        expected[9_990..].fill(254);
        assert_eq!((storage.len().unwrap(), seen(10_020)), (10_020, expected.clone()));
        // What has been cut off is zero when the file grows again.
        for length in [10_015, 8_000] {
            storage.set_len(length).unwrap();
            storage.set_len(12_000).unwrap();
            expected.truncate(usize::try_from(length).unwrap());
            expected.resize(12_000, 0);
            assert_eq!(seen(12_000), expected, "{length}");
        }
        let mut one = [0];
        assert!(storage.read(12_000, &mut one).is_err() && storage.read(u64::MAX, &mut one).is_err());
        assert_eq!(std::fs::read(beside.path()).unwrap(), original);
        let more = vec![9; 17 << 20];
        assert!(storage.write(0, &more).unwrap_err().to_string().contains("16 MiB"));
    }
}
