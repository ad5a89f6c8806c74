//! Prints tables.

use contract::printing::{Reader, print_line};

/// Prints one line for each row. Stops when the output is no longer read.
pub(super) fn print_rows(rows: impl Iterator<Item = String>) -> std::io::Result<Reader> {
    for row in rows {
        if print_line(row)? == Reader::Gone {
            return Ok(Reader::Gone);
        }
    }
    Ok(Reader::Present)
}
