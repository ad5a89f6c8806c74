//! Simulates faults: a small file system, a disk that fails to sync, and a wrong clock.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tests::browser::Person;
use tests::setup::ACCOUNT;
use tests::{Answer, Setup, Stack};

/// Time limit for a change that takes at most ten seconds if the machine is not busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A library that is loaded into auth-service, and the files that control it.
pub(crate) struct Sky {
    directory: TempDir,
}

impl Sky {
    /// Compiles the library that simulates faults of the disk and the clock.
    pub(crate) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("mcp-gate-weather-").tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/weather/shim.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(directory.path().join("weather.so"))
            .arg(source)
            .arg("-ldl")
            .status()
            .unwrap();
        assert!(compiled.success(), "the shim does not compile");
        Self { directory }
    }

    /// Adds the settings with which auth-service loads the library.
    pub(crate) fn over(&self, setup: Setup) -> Setup {
        let at = self.directory.path();
        setup
            .auth_setting("LD_PRELOAD", at.join("weather.so").to_str().unwrap())
            .auth_setting("WEATHER", at.to_str().unwrap())
    }

    /// Makes the next `times` syncs fail.
    pub(crate) fn fail_syncs(&self, times: usize) {
        fs::write(self.directory.path().join("fail-sync"), vec![b'.'; times]).unwrap();
    }

    /// The number of syncs that will still be made to fail.
    pub(crate) fn syncs_to_fail(&self) -> u64 {
        fs::metadata(self.directory.path().join("fail-sync")).map_or(0, |file| file.len())
    }

    /// Makes an operation hang, or lets it continue. `what` is `hang-sync` or `hang-policy` (shim.c).
    pub(crate) fn hang(&self, what: &str, hangs: bool) {
        let file = self.directory.path().join(what);
        if hangs {
            fs::write(file, "").unwrap();
        } else {
            fs::remove_file(file).unwrap();
        }
    }

    /// Sets the clock of auth-service this many seconds ahead of the machine's clock.
    pub(crate) fn set_clock_ahead(&self, seconds: i64) {
        let (beside, place) = (self.directory.path().join("clock.new"), self.directory.path().join("clock"));
        fs::write(&beside, seconds.to_string()).unwrap();
        fs::rename(beside, place).unwrap();
    }
}

/// A small file system, which only root can mount.
pub(crate) struct SmallDisk {
    place: PathBuf,
}

impl SmallDisk {
    /// Mounts a file system of this size in `directory`. If that is not possible, prints that `test` is skipped,
    /// and returns `None`.
    pub(crate) fn of(kibibytes: u32, directory: &Path, test: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            let line = format!("SKIPPED {test}: only root can mount a small file system\n");
            // `eprintln!` is not sufficient, because the test runner shows its output only if the test fails.
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return None;
        }
        let place = directory.join("disk");
        fs::create_dir_all(&place).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kibibytes}k"), "tmpfs"])
            .arg(&place)
            .status()
            .unwrap();
        assert!(mounted.success(), "a file system in memory cannot be mounted");
        Some(Self { place })
    }

    /// The directory where the file system is mounted.
    pub(crate) fn place(&self) -> &Path {
        &self.place
    }

    /// Fills the remaining space.
    pub(crate) fn fill(&self) {
        let mut file = fs::File::options().create(true).append(true).open(self.place.join("filler")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    /// Keeps the file system full until the returned value is dropped.
    pub(crate) fn keep_full(&self) -> Filler {
        let goes_on = Arc::new(AtomicBool::new(true));
        let (still, place) = (Arc::clone(&goes_on), self.place.join("filler"));
        let thread = std::thread::spawn(move || {
            let mut file = fs::File::options().create(true).append(true).open(place).unwrap();
            while still.load(Ordering::Relaxed) {
                if file.write_all(&[0; 4096]).is_err() {
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
        });
        Filler { goes_on, thread: Some(thread) }
    }

    /// Frees the space that was filled.
    pub(crate) fn free(&self) {
        fs::remove_file(self.place.join("filler")).unwrap();
    }
}

/// A thread that keeps a file system full.
pub(crate) struct Filler {
    goes_on: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.goes_on.store(false, Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Processes that still use the file system can do so until they exit.
        let _ = Command::new("umount").arg("--lazy").arg(&self.place).status();
    }
}

/// Waits until `/ready` returns `status`. Returns that response.
pub(crate) async fn until_ready_is(stack: &Stack, status: u16) -> Answer {
    let mut last = None;
    let asked = tokio::time::timeout(PATIENCE, async {
        loop {
            let answer = stack.ready().await;
            if answer.status == status {
                return answer;
            }
            last = Some(answer);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    asked.unwrap_or_else(|_| panic!("/ready did not become {status}: {last:?}\n{}", stack.logs()))
}

/// The user of the account in every stack.
pub(crate) fn ana() -> Person {
    Person::new(ACCOUNT.0, ACCOUNT.1)
}
