//! Tests of a store whose path leads to something else for a while. Each of them failed, or waited forever, when the
//! path was opened without looking at what it leads to.

use std::sync::mpsc;

use redb::{ReadableDatabase, TableDefinition};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

use super::*;

const TABLE: TableDefinition<'_, &str, u64> = TableDefinition::new("table");
/// Time limit for an operation that takes a few seconds at most, on a machine that is not busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// What takes the place of the store.
#[derive(Clone, Copy, Debug)]
enum Other {
    Pipe,
    Directory,
    File,
    /// An earlier copy of the store.
    Copy,
}

const OTHERS: [Other; 4] = [Other::Pipe, Other::Directory, Other::File, Other::Copy];

/// A store, and the directory that contains it.
struct Place {
    directory: TempDir,
    disk: Arc<Disk>,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        File::create_new(directory.path().join("store.redb")).unwrap();
        let disk = Arc::new(Disk::open(&directory.path().join("store.redb")).unwrap());
        let place = Self { directory, disk };
        place.write(1);
        fs::copy(place.store(), place.beside("copy")).unwrap();
        place.write(2);
        place
    }

    fn store(&self) -> PathBuf {
        self.beside("store.redb")
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, number: u64) {
        commit(&self.disk.writable().unwrap(), number);
        self.disk.succeeded();
    }

    fn read(&self) -> u64 {
        let transaction = self.disk.database().unwrap().begin_read().unwrap();
        transaction.open_table(TABLE).unwrap().get("number").unwrap().unwrap().value()
    }

    fn replace(&self, other: Other) {
        fs::rename(self.store(), self.beside("aside")).unwrap();
        match other {
            Other::Pipe => {
                mknodat(CWD, self.store(), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
            }
            Other::Directory => fs::create_dir(self.store()).unwrap(),
            Other::File => fs::write(self.store(), [b'z'; 4096]).unwrap(),
            Other::Copy => fs::copy(self.beside("copy"), self.store()).map(drop).unwrap(),
        }
    }

    fn put_back(&self) {
        if self.store().is_dir() {
            fs::remove_dir(self.store()).unwrap();
        }
        fs::rename(self.beside("aside"), self.store()).unwrap();
    }

    /// Waits until writes are accepted again.
    fn recovered(&self) -> Option<Arc<Database>> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Ok(database) = self.disk.writable() {
                return Some(database);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// Runs an operation of the writer thread.
    fn run(&self, operation: impl FnOnce(&Disk) + Send + 'static) -> Result<(), mpsc::RecvTimeoutError> {
        let (done, is_done) = mpsc::channel();
        let disk = Arc::clone(&self.disk);
        std::thread::spawn(move || {
            operation(&disk);
            let _ = done.send(());
        });
        is_done.recv_timeout(PATIENCE)
    }
}

fn commit(database: &Database, number: u64) {
    let transaction = database.begin_write().unwrap();
    transaction.open_table(TABLE).unwrap().insert("number", number).unwrap();
    transaction.commit().unwrap();
}

#[test]
fn a_store_that_is_replaced_during_a_write_that_succeeds_can_be_written_when_it_is_back() {
    for other in OTHERS {
        let place = Place::new();
        let database = place.disk.writable().unwrap();
        place.replace(other);
        commit(&database, 3);
        drop(database);
        place.run(Disk::succeeded).unwrap_or_else(|_| panic!("{other:?}: the writer waits forever"));
        assert!(place.disk.writable().is_err(), "{other:?}: a change would be lost");
        assert_eq!(place.read(), 3, "{other:?}");
        place.put_back();
        assert!(place.recovered().is_some(), "{other:?}: {:?}", place.disk.writable().err());
        assert_eq!(place.read(), 3, "{other:?}");
    }
}

#[test]
fn a_store_that_is_replaced_during_a_write_that_fails_is_still_read_and_can_be_written_when_it_is_back() {
    for other in OTHERS {
        let place = Place::new();
        place.replace(other);
        let fail = |disk: &Disk| disk.failed(&StoreError::Unavailable("a write failed".to_owned()));
        place.run(fail).unwrap_or_else(|_| panic!("{other:?}: the writer waits forever"));
        assert_eq!(place.read(), 2, "{other:?}: another file is read");
        assert!(place.disk.writable().is_err(), "{other:?}: a change would be lost");
        place.put_back();
        let database = place.recovered().unwrap_or_else(|| panic!("{other:?}: {:?}", place.disk.refusal()));
        commit(&database, 4);
        drop(database);
        place.disk.succeeded();
        assert_eq!(place.read(), 4, "{other:?}");
    }
}
