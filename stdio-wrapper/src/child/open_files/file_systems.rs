//! Recognizes the file systems whose files are stored only in memory. Their files can have any name.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, MemfdFlags, StatxFlags, memfd_create, statx};

/// Maximum number of bytes that are read from a list of mounts. A program that may mount file systems can make the list
/// very long.
const MAX_MOUNTS: u64 = 64 << 10;

/// The number of the device that the kernel reports for a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Device {
    pub(super) major: u32,
    pub(super) minor: u32,
}

/// The file systems that have been found. The kernel reuses device numbers, so this must not be kept for long.
#[derive(Debug, Default)]
pub(super) struct FileSystems {
    is_in_memory: HashMap<Device, bool>,
    /// The one that is mounted only in the kernel.
    of_kernel: Option<Device>,
    /// The processes and threads whose mounts have been read.
    read: HashSet<PathBuf>,
}

impl FileSystems {
    /// The file systems that this process sees, and the one on which the kernel itself keeps shared memory.
    pub(super) fn of_this_process() -> Self {
        let mut found = Self::default();
        found.read(Path::new("/proc/self"));
        // The kernel has no list with this file system. It contains all files from `memfd_create(2)`, shared anonymous
        // memory and System V shared memory.
        let shared = memfd_create(c"device", MemfdFlags::CLOEXEC);
        if let Ok(about) = shared.and_then(|file| statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::INO)) {
            let device = Device { major: about.stx_dev_major, minor: about.stx_dev_minor };
            found.is_in_memory.insert(device, true);
            found.of_kernel = Some(device);
        }
        found
    }

    /// Whether the files of this device are stored only in memory. `None` if the file system is not mounted anywhere.
    /// `process` is the directory in `/proc` of a process or thread that uses a file of it. Its mounts are read if they
    /// can contain the device. The file system itself is not asked, because it might not respond.
    pub(super) fn is_in_memory(&mut self, device: Device, process: &Path) -> Option<bool> {
        let is_unknown = !self.is_in_memory.contains_key(&device);
        // A device that stores files on a disk has another major number.
        if is_unknown && device.major == 0 && self.read.insert(process.to_owned()) {
            self.read(process);
        }
        self.is_in_memory.get(&device).copied()
    }

    /// Whether this is the file system on which the kernel itself keeps shared memory.
    pub(super) fn is_of_kernel(&self, device: Device) -> bool {
        self.of_kernel == Some(device)
    }

    fn read(&mut self, process: &Path) {
        let mut text = Vec::new();
        let file = File::open(process.join("mountinfo"));
        if file.and_then(|file| file.take(MAX_MOUNTS).read_to_end(&mut text)).is_ok() {
            self.is_in_memory.extend(String::from_utf8_lossy(&text).lines().filter_map(mount));
        }
    }
}

/// Reads a line of `/proc/PID/mountinfo` (`proc_pid_mountinfo(5)`): the device, and whether its files are stored only in
/// memory.
fn mount(line: &str) -> Option<(Device, bool)> {
    let (place, kind) = line.split_once(" - ")?;
    let (major, minor) = place.split(' ').nth(2)?.split_once(':')?;
    let device = Device { major: major.parse().ok()?, minor: minor.parse().ok()? };
    Some((device, kind.starts_with("tmpfs ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_shows_whether_its_files_are_in_memory() {
        let device = |major, minor| Device { major, minor };
        let lines = [
            "36 35 0:23 / /tmp\\040-\\040x rw,noatime shared:1 - tmpfs tmpfs rw,size=9k",
            "37 35 254:0 / / rw master:1 propagate_from:2 - ext4 /dev/vda rw",
            "38 35 0:25 / /a rw - overlay overlay rw",
            "39 35 odd",
        ];
        let found = lines.map(mount);
        assert_eq!(
            found,
            [Some((device(0, 23), true)), Some((device(254, 0), false)), Some((device(0, 25), false)), None]
        );
    }

    #[test]
    fn a100_mounts_that_only_another_process_sees_are_found() {
        let process = tempfile::tempdir().unwrap();
        let hidden = Device { major: 0, minor: 1 << 19 };
        std::fs::write(process.path().join("mountinfo"), "36 35 0:524288 / /x rw - tmpfs none rw\n").unwrap();
        let mut found = FileSystems::of_this_process();
        assert_eq!(found.is_in_memory(hidden, Path::new("/proc/self")), None);
        assert_eq!(found.is_in_memory(hidden, process.path()), Some(true));
    }
}
