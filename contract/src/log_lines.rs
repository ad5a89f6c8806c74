//! Writes log lines so that each event begins on a new line.

use std::io::{self, ErrorKind, Write};
use std::thread;
use std::time::Duration;

/// Pause before a write is retried on a non-blocking output.
const PAUSE: Duration = Duration::from_millis(50);

/// An output that receives one whole line with each call to [`Write::write_all`]. If a full disk has cut off a
/// line, the next event still begins on a new line, so that programs can parse the log.
#[derive(Debug)]
pub struct LogLines<W> {
    out: W,
    /// Whether only a part of the last line was written.
    is_torn: bool,
}

impl<W: Write> LogLines<W> {
    /// Writes to `out`, which is at the beginning of a line.
    pub fn new(out: W) -> Self {
        Self { out, is_torn: false }
    }

    fn put(&mut self, mut line: &[u8]) -> io::Result<()> {
        while !line.is_empty() {
            match self.out.write(line) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    line = line.get(written..).unwrap_or_default();
                    self.is_torn = !line.is_empty();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Another process that shares standard error might have made it non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<W: Write> Write for LogLines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_all(line)?;
        Ok(line.len())
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.put(b"\n")?;
        }
        self.put(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with free space for this number of bytes.
    struct Disk {
        room: usize,
        text: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let fits = bytes.len().min(self.room);
            if fits == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            self.room -= fits;
            self.text.extend(&bytes[..fits]);
            Ok(fits)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_line_after_a_torn_one_begins_on_a_line_of_its_own() {
        let mut log = LogLines::new(Disk { room: 10, text: Vec::new() });
        log.write_all(b"first\n").unwrap();
        assert_eq!(log.write_all(b"second\n").unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(log.write_all(b"third\n").unwrap_err().kind(), ErrorKind::StorageFull);
        log.out.room = 1;
        assert_eq!(log.write_all(b"fourth\n").unwrap_err().kind(), ErrorKind::StorageFull);
        log.out.room = 100;
        log.write_all(b"fifth\n").unwrap();
        log.write_all(b"sixth\n").unwrap();
        assert_eq!(String::from_utf8(log.out.text).unwrap(), "first\nseco\nfifth\nsixth\n");
    }
}
