//! Prints lists, as tables for people or as JSON for programs.

use clap::Args;
use serde::Serialize;

use contract::printing::{Reader, print_line};

/// How a list is printed.
#[derive(Clone, Copy, Args)]
pub(crate) struct ListFormat {
    /// Print the list as a JSON array instead of one line for each entry. Times are in seconds since 1970.
    #[arg(long)]
    pub(super) json: bool,
}

/// Prints a list in this format. `row` returns the line for an entry.
pub(super) fn print_list<T: Serialize>(
    list: &[T],
    format: ListFormat,
    row: impl Fn(&T) -> String,
) -> anyhow::Result<()> {
    if format.json {
        print_line(serde_json::to_string_pretty(list)?)?;
    } else {
        print_rows(list.iter().map(row))?;
    }
    Ok(())
}

/// Prints one line for each row. Stops when the output is no longer read.
pub(super) fn print_rows(rows: impl Iterator<Item = String>) -> std::io::Result<Reader> {
    for row in rows {
        if print_line(row)? == Reader::Gone {
            return Ok(Reader::Gone);
        }
    }
    Ok(Reader::Present)
}
