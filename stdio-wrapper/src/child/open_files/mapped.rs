//! Reads which files in memory a process maps. Such a file stays in memory while it is mapped, even if the process has
//! closed it and the kernel counts none of its pages as memory of the process (`MADV_DONTNEED`).

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use super::file_systems::{Device, FileSystems};
use super::turns::Turn;
use super::{FileId, Seen, is_secret};

/// The memory, in bytes, that files can have at most. The kernel does not tell how much they really have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::child) struct Possible {
    /// Files that are stored only in memory.
    pub(in crate::child) in_files: u64,
    /// Shared memory without a file (`MAP_SHARED | MAP_ANONYMOUS`). Unlike a file, it cannot be written without being
    /// mapped, so each of its pages has caused a page fault.
    pub(in crate::child) without_file: u64,
    /// Files that even the kernel does not read (`memfd_secret(2)`).
    pub(in crate::child) secret: u64,
}

/// The name that the kernel shows for shared memory without a file. A file from `memfd_create(2)` has another one.
const WITHOUT_FILE: &[u8] = b"/dev/zero (deleted)";

/// A line of `/proc/PID/maps` (`proc_pid_maps(5)`).
#[derive(Debug, PartialEq, Eq)]
struct Mapping<'a> {
    file: FileId,
    bytes: u64,
    name: &'a [u8],
}

/// Adds the sizes of the mappings of files in memory that have not been examined yet to what has been found. Several
/// mappings of a file count once, with the largest of them. `process` is a directory in `/proc`.
pub(super) fn examine(
    process: &Path,
    turn: &mut Turn,
    file_systems: &mut FileSystems,
    seen: &mut Seen,
    found: &mut Possible,
) -> std::io::Result<()> {
    let (mut maps, mut line) = (BufReader::new(File::open(process.join("maps"))?), Vec::new());
    while maps.read_until(b'\n', &mut line)? > 0 && !turn.is_over() {
        let mapping = parse(line.trim_ascii_end());
        if let Some(Mapping { file, bytes, name }) = mapping.filter(|mapping| mapping.file.inode > 0) {
            match file_systems.is_in_memory(file.device, process) {
                Some(true) => {
                    let of_kind = if file_systems.is_of_kernel(file.device) && name == WITHOUT_FILE {
                        &mut found.without_file
                    } else {
                        &mut found.in_files
                    };
                    *of_kind = of_kind.saturating_add(seen.adds(file, bytes));
                }
                None if is_secret(name) => found.secret = found.secret.saturating_add(seen.adds(file, bytes)),
                Some(false) | None => {}
            }
        }
        line.clear();
    }
    Ok(())
}

/// A name can contain any bytes.
fn parse(line: &[u8]) -> Option<Mapping<'_>> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let mut next = || std::str::from_utf8(fields.next()?).ok();
    let hexadecimal = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = next()?.split_once('-')?;
    let bytes = hexadecimal(end)?.checked_sub(hexadecimal(start)?)?;
    let (major, minor) = { (next()?, next()?, next()?).2.split_once(':')? };
    let number = |text: &str| u32::from_str_radix(text, 16).ok();
    let device = Device { major: number(major)?, minor: number(minor)? };
    let inode = next()?.parse().ok()?;
    let name = fields.next().unwrap_or_default().trim_ascii_start();
    Some(Mapping { file: FileId { device, inode }, bytes, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_the_file_and_the_size_of_a_mapping_whatever_the_name_is() {
        let line = b"7fd01d2a9000-7fd01d5a9000 rw-s 00000000 fe:10 27744                      /memfd:a \xff b (deleted)";
        let file = FileId { device: Device { major: 254, minor: 16 }, inode: 27_744 };
        assert_eq!(parse(line), Some(Mapping { file, bytes: 3 << 20, name: b"/memfd:a \xff b (deleted)" }));
        let anonymous = parse(b"7fd01d2a9000-7fd01d2aa000 rw-p 00000000 00:00 0 ").unwrap();
        assert_eq!((anonymous.file.inode, anonymous.bytes, anonymous.name), (0, 4096, &b""[..]));
        assert_eq!(parse(b"odd"), None);
    }
}
