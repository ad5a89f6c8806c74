//! A storage backend for a database file that already contains a store.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::ops::Bound;

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

use super::opened_file::HEADER;

/// A file that cannot be used if it is shorter than redb's header. redb would turn an emptied file into a new
/// database, without the accounts and the rules of the store.
#[derive(Debug)]
pub(super) struct NotEmpty(FileBackend);

impl NotEmpty {
    pub(super) fn new(file: File) -> std::result::Result<Self, DatabaseError> {
        Ok(Self(FileBackend::new(file)?))
    }
}

/// The result of an operation on a lock.
type Locked<T> = std::result::Result<T, BackendError>;

impl StorageBackend for NotEmpty {
    fn len(&self) -> Result<u64> {
        match self.0.len()? {
            short if short < HEADER as u64 => Err(Error::new(ErrorKind::InvalidData, "it is empty")),
            length => Ok(length),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, length: u64) -> Result<()> {
        self.0.set_len(length)
    }

    fn sync_data(&self) -> Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> Result<()> {
        self.0.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked<bool> {
        self.0.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked<bool> {
        self.0.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked<()> {
        self.0.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked<()> {
        self.0.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked<()> {
        self.0.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked<bool> {
        self.0.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use redb::Builder;

    use super::*;

    #[test]
    fn an_emptied_file_does_not_become_a_new_store() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let emptied = NotEmpty::new(file.reopen().unwrap()).unwrap();
        assert!(Builder::new().create_with_backend(emptied).is_err());
        assert_eq!(file.as_file().metadata().unwrap().len(), 0, "a new store was made");
        drop(Builder::new().create_file(file.reopen().unwrap()).unwrap());
        Builder::new().create_with_backend(NotEmpty::new(file.reopen().unwrap()).unwrap()).unwrap();
    }
}
