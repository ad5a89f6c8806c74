//! Prints the output of a test even if the test passes: figures, and the reason why it was skipped.

use std::io::Write as _;

/// Prints a line to standard error, which the test runner shows even if the test passes.
pub fn say(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).expect("standard error can be written");
}
