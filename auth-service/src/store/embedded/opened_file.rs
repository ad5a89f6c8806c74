//! The file of the store. It is opened once. Later, its path can lead to another file, because an operator or a program
//! has moved the store or put something else in its place. That file is never read or written, and opening a pipe
//! does not block.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use contract::files::open_regular;

/// Length of redb's header in bytes: a magic number, the geometry and two commit slots. It changes with every commit.
pub(super) const HEADER: usize = 320;

/// The file that was opened.
pub(super) struct OpenedFile {
    path: PathBuf,
    /// It stays open, so that no other file gets its inode number, and so that it can be found when its path leads to
    /// another file.
    file: File,
    /// Its device and inode number.
    number: (u64, u64),
}

/// The header and the length of the file at one time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FileState {
    pub(super) beginning: Vec<u8>,
    pub(super) length: u64,
}

impl OpenedFile {
    /// # Errors
    /// Fails if the file cannot be opened for reading and writing, or if it is not a regular file.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = open_regular(path, &read_write())?;
        Ok(Self { path: path.to_owned(), number: number(&file)?, file })
    }

    /// Opens the file again if it is still at its path.
    ///
    /// # Errors
    /// Fails if it is not, or if it cannot be opened.
    pub(super) fn at_path(&self, options: &OpenOptions) -> Result<File> {
        let file = open_regular(&self.path, options)?;
        if number(&file)? != self.number {
            return Err(Error::new(ErrorKind::NotFound, "another file is in its place"));
        }
        Ok(file)
    }

    /// Opens the file again, even if it is no longer at its path. The path is tried first, because the file system
    /// could have been mounted again.
    ///
    /// # Errors
    /// Fails if it cannot be opened.
    pub(super) fn again(&self, options: &OpenOptions) -> Result<File> {
        // A duplicate of the descriptor would share its locks, so that closing the database would not release them.
        let descriptor = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        self.at_path(options)
            .or_else(|error| open_regular(Path::new(&descriptor), options).map_err(|_| error))
    }

    /// The header and the length of the file now, wherever it is.
    ///
    /// # Errors
    /// Fails if it cannot be read.
    pub(super) fn state(&self) -> Result<FileState> {
        state_of(&self.file)
    }
}

/// The options with which redb opens a file.
pub(super) fn read_write() -> OpenOptions {
    let mut options = File::options();
    options.read(true).write(true);
    options
}

/// Reads the header and the length of a file.
pub(super) fn state_of(file: &File) -> Result<FileState> {
    let length = file.metadata()?.len();
    let mut beginning = vec![0; HEADER.min(usize::try_from(length).unwrap_or(HEADER))];
    file.read_exact_at(&mut beginning, 0)?;
    Ok(FileState { beginning, length })
}

fn number(file: &File) -> Result<(u64, u64)> {
    let found = file.metadata()?;
    Ok((found.dev(), found.ino()))
}
