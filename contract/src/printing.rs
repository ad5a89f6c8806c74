//! Prints the output of commands. `println!` and `eprintln!` panic if their output is no longer read (`| head`), or if
//! the disk is full.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// Whether standard output is still read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// It is read, or written to a file.
    Present,
    /// It is a pipe that its reader has closed. Further output would have no effect.
    Gone,
}

/// Prints a line to standard output. A closed pipe is not an error, because its reader has read all that it needs.
///
/// # Errors
/// Fails if the line cannot be written for any other reason, such as a full disk.
pub fn print_line(line: impl Display) -> io::Result<Reader> {
    write_line(&mut io::stdout().lock(), &line)
        .map_err(|error| io::Error::new(error.kind(), format!("standard output cannot be written: {error}")))
}

/// Prints a line to standard error. A failure is ignored, because it cannot be reported anywhere else.
pub fn print_error(line: impl Display) {
    let _ = write_line(&mut io::stderr().lock(), &line);
}

fn write_line(to: &mut impl Write, line: &dyn Display) -> io::Result<Reader> {
    let text = format!("{line}\n");
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Ok(()) => Ok(Reader::Present),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn a_closed_pipe_ends_the_output_and_a_full_disk_is_an_error() {
        let (reader, mut writer) = io::pipe().unwrap();
        assert_eq!(write_line(&mut writer, &"a").unwrap(), Reader::Present);
        drop(reader);
        assert_eq!(write_line(&mut writer, &"b").unwrap(), Reader::Gone);
        let mut full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert_eq!(write_line(&mut full, &"c").unwrap_err().kind(), ErrorKind::StorageFull);
    }
}
