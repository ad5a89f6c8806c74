//! Reads files that an operator has configured. Such a file could be of any kind, and reading it must not block
//! forever.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Maximum length of a file with a setting, in bytes.
pub const MAX_SETTING_LEN: usize = 1024 * 1024;

/// Opens a regular file. Pipes are opened without blocking, because opening a pipe without a writer would block
/// forever (`fifo(7)`). The flag has no effect on a regular file.
///
/// # Errors
/// Fails if the operating system reports an error, or if the file is a pipe, a device or a directory.
pub fn open_regular(path: &Path, options: &OpenOptions) -> Result<File> {
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = options.clone().custom_flags(nonblocking).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(file)
}

/// Reads a regular file of at most `most` bytes.
///
/// # Errors
/// Fails in the cases of [`open_regular`], and if the file is too long.
pub fn read_regular(path: &Path, most: usize) -> Result<Vec<u8>> {
    let file = open_regular(path, OpenOptions::new().read(true))?;
    let mut bytes = Vec::new();
    // Reading one more byte than allowed shows whether the file is too long.
    file.take(u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() > most {
        return Err(Error::new(ErrorKind::FileTooLarge, format!("it is longer than {most} bytes")));
    }
    Ok(bytes)
}

/// Like [`read_regular`], but returns text of at most [`MAX_SETTING_LEN`] bytes.
///
/// # Errors
/// Fails in the cases of [`read_regular`], and if the content is not UTF-8.
pub fn read_setting(path: &Path) -> Result<String> {
    String::from_utf8(read_regular(path, MAX_SETTING_LEN)?)
        .map_err(|_| Error::new(ErrorKind::InvalidData, "it is not UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn a_pipe_a_device_and_a_directory_are_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for path in [pipe.as_path(), Path::new("/dev/zero"), directory.path()] {
            let error = read_regular(path, 10).unwrap_err();
            assert_eq!(error.to_string(), "it is not a regular file", "{}", path.display());
        }
    }

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "0123456789").unwrap();
        assert_eq!(read_regular(&path, 10).unwrap(), b"0123456789");
        assert_eq!(read_regular(&path, 9).unwrap_err().kind(), ErrorKind::FileTooLarge);
        assert_eq!(read_setting(&path).unwrap(), "0123456789");
        fs::write(&path, [0xff]).unwrap();
        assert_eq!(read_setting(&path).unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
