//! The overlay that is in effect now ([`Overlay`]), which the writer thread changes and all other threads read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use metrics::Gauge;

use crate::keys::seal::Sealer;

use super::overlay::Overlay;
use super::reserve::Reserve;

/// The current overlay, and the file in which it is stored. The writer thread changes it, and all other
/// threads read it.
pub(super) struct CurrentOverlay {
    overlay: RwLock<Arc<Overlay>>,
    file: Mutex<Kept>,
    waiting: Gauge,
}

/// The file, and whether it contains the overlay.
struct Kept {
    reserve: Reserve,
    is_kept: bool,
}

impl CurrentOverlay {
    pub(super) fn new((reserve, overlay): (Reserve, Overlay)) -> Self {
        let waiting = metrics::gauge!("mcp_gate_store_changes_waiting");
        let file = Mutex::new(Kept { reserve, is_kept: true });
        let current = Self { overlay: RwLock::default(), file, waiting };
        current.publish(overlay);
        current
    }

    /// The current overlay. A reader must get the overlay before it begins to read the database. It then sees
    /// either the rows of the overlay, or a database that contains them.
    pub(super) fn get(&self) -> Arc<Overlay> {
        Arc::clone(&self.overlay.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes this the current overlay, and writes it to disk.
    ///
    /// # Errors
    /// Fails if the overlay cannot be written to disk. It is still in effect until the process stops.
    pub(super) fn replace(&self, overlay: Overlay, sealer: &Sealer) -> std::io::Result<()> {
        self.publish(overlay);
        self.file().is_kept = false;
        self.keep(sealer)
    }

    /// Writes the overlay to disk, if the last attempt failed.
    pub(super) fn keep(&self, sealer: &Sealer) -> std::io::Result<()> {
        let mut file = self.file();
        if !file.is_kept {
            file.reserve.keep(&self.get(), sealer)?;
            file.is_kept = true;
        }
        Ok(())
    }

    /// Whether the overlay is on disk.
    pub(super) fn is_kept(&self) -> bool {
        self.file().is_kept
    }

    /// Removes all rows, because the database contains them.
    pub(super) fn clear(&self) {
        self.publish(Overlay::default());
        // The database contains the number of the last overlay that became part of it, so the file does not need
        // to be changed.
        self.file().is_kept = true;
    }

    /// The number that is written to the database together with the overlay ([`Reserve::next_number`]).
    pub(super) fn next_number(&self) -> u64 {
        self.file().reserve.next_number()
    }

    /// Creates the file, if the last attempt failed.
    pub(super) fn make_file(&self) -> std::io::Result<()> {
        self.file().reserve.make()
    }

    fn publish(&self, overlay: Overlay) {
        self.waiting.set(f64::from(u32::try_from(overlay.len()).unwrap_or(u32::MAX)));
        *self.overlay.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(overlay);
    }

    fn file(&self) -> MutexGuard<'_, Kept> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
