//! Reads a file that the operator names. The path can lead to anything, and the start must not wait for it
//! forever. The authorization service has similar code in its own `files.rs`, because the two programs share
//! no crate.

use std::fs::OpenOptions;
use std::io::{Error, ErrorKind, Read as _, Result};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Maximum length of a file that is read as a setting, in bytes.
const MAX_SETTING: usize = 1 << 20;

/// Reads a regular file of at most [`MAX_SETTING`] bytes of UTF-8 text. Anything else is an error: opening a
/// pipe that nobody writes to would wait forever (`fifo(7)`), and a device might never end.
pub(super) fn read_setting(path: &Path) -> Result<String> {
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut text = String::new();
    // One byte more than the maximum is enough to notice that the file is too long.
    file.take(MAX_SETTING as u64 + 1).read_to_string(&mut text)?;
    if text.len() > MAX_SETTING {
        return Err(Error::new(ErrorKind::FileTooLarge, format!("it is longer than {MAX_SETTING} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn only_a_regular_file_is_read_and_only_up_to_its_limit() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for path in [pipe.as_path(), Path::new("/dev/zero"), directory.path()] {
            let error = read_setting(path).unwrap_err();
            assert_eq!(error.to_string(), "it is no regular file", "{}", path.display());
        }
        let file = directory.path().join("file");
        std::fs::write(&file, " ".repeat(MAX_SETTING)).unwrap();
        assert_eq!(read_setting(&file).unwrap().len(), MAX_SETTING);
        std::fs::write(&file, " ".repeat(MAX_SETTING + 1)).unwrap();
        assert_eq!(read_setting(&file).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }
}
