//! Changes that are in effect but not in the database, because it could not be written when they were made. Only
//! changes that take access away, such as disabling an account or revoking a grant, are kept here, because they
//! must take effect even if the disk is full. The rows of the overlay are read instead of those in the database,
//! and the next successful write adds them to the database.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::tables::Table;

/// Maximum size of the encoded rows in bytes.
const MAX_OVERLAY_SIZE: usize = 192 * 1024;
/// Number of these bytes that are reserved for accounts, clients and signing keys. The holders of tokens cannot
/// use this part up by revoking tokens and signing out, so that an operator can always disable an account.
const FOR_OPERATORS: usize = MAX_OVERLAY_SIZE / 2;

/// Encrypted rows by table and key. A removed row has no content.
#[derive(Debug, Clone, Default)]
pub(super) struct Overlay(BTreeMap<(Table, String), Option<Vec<u8>>>);

impl Overlay {
    /// The row that replaces the one in the database, or `Some(None)` if the row has been removed. Returns `None`
    /// if the row in the database is still current.
    pub(super) fn row(&self, table: Table, key: &str) -> Option<&Option<Vec<u8>>> {
        self.0.get(&(table, key.to_owned()))
    }

    /// Replaces a row, or removes it.
    pub(super) fn set(&mut self, table: Table, key: &str, row: Option<Vec<u8>>) {
        self.0.insert((table, key.to_owned()), row);
    }

    /// This overlay with the changes of a later one.
    pub(super) fn with(&self, later: &Self) -> Self {
        let mut all = self.clone();
        all.0.extend(later.0.iter().map(|(place, row)| (place.clone(), row.clone())));
        all
    }

    /// All changed rows, each with its table, its key and its encrypted content. The content of a deleted
    /// row is `None`.
    pub(super) fn rows(&self) -> impl Iterator<Item = (Table, &str, Option<&[u8]>)> {
        self.0.iter().map(|((table, key), row)| (*table, key.as_str(), row.as_deref()))
    }

    /// Whether rows are removed, but none is written.
    pub(super) fn only_removes(&self) -> bool {
        self.0.values().all(Option::is_none)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is room for these rows, with `added` as the last change.
    pub(super) fn fits(&self, added: &Self) -> bool {
        let operators = [Table::Accounts, Table::Clients, Table::Keys];
        let is_operators = added.0.keys().any(|(table, _)| operators.contains(table));
        let most = if is_operators { MAX_OVERLAY_SIZE } else { MAX_OVERLAY_SIZE - FOR_OPERATORS };
        self.encode().len() <= most
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let text = |row: Option<&[u8]>| row.map(|row| STANDARD.encode(row));
        let rows: Vec<_> = self.rows().map(|(table, key, row)| (table.name(), key, text(row))).collect();
        serde_json::to_vec(&rows).unwrap_or_default()
    }

    /// Reads what [`Overlay::encode`] wrote. Returns `None` if the bytes are something else.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let encoded: Vec<(String, String, Option<String>)> = serde_json::from_slice(bytes).ok()?;
        let mut rows = BTreeMap::new();
        for (table, key, row) in encoded {
            let table = Table::ALL.into_iter().find(|known| known.name() == table)?;
            let row = row.map(|row| STANDARD.decode(row)).transpose().ok()?;
            rows.insert((table, key), row);
        }
        Some(Self(rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_they_were_written() {
        let mut overlay = Overlay::default();
        overlay.set(Table::Grants, "grant", None);
        overlay.set(Table::Accounts, "account", Some(vec![0, 255, 7]));
        let read = Overlay::decode(&overlay.encode()).unwrap();
        assert_eq!(read.row(Table::Grants, "grant"), Some(&None));
        assert_eq!(read.row(Table::Accounts, "account"), Some(&Some(vec![0, 255, 7])));
        assert_eq!(read.row(Table::Accounts, "another"), None);
        assert!(!read.only_removes() && read.len() == 2);
        assert!(Overlay::decode(b"[[\"elsewhere\",\"key\",null]]").is_none());
    }

    #[test]
    fn a100_holders_of_tokens_leave_room_for_operators() {
        let (mut overlay, mut added) = (Overlay::default(), Overlay::default());
        let mut number = 0;
        while overlay.fits(&added) {
            number += 1;
            added = Overlay::default();
            added.set(Table::Grants, &format!("grt_{number:030}"), None);
            overlay = overlay.with(&added);
        }
        assert!(number > 1000, "{number}");
        let mut disabled = Overlay::default();
        disabled.set(Table::Accounts, "account", Some(vec![1; 1000]));
        assert!(overlay.with(&disabled).fits(&disabled));
    }
}
