//! The content of a store in a file (`docs/adr/0013-dumps.md`): a line that identifies the format, a header in
//! clear text, and encrypted frames. Each frame is bound to its position in the file, and the last one contains
//! the number of records. Therefore, a file that has been truncated, altered or assembled from several dumps is
//! detected.

use std::io::{self, BufReader, BufWriter, Read, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::domain::clock::UnixTime;
use crate::keys::seal::{CryptoFailure, Purpose, Sealer, StoreKey};

use super::records::{Counts, Record};

const MAGIC: &[u8] = b"mcp-gate store dump\n";
const VERSION: u32 = 1;
/// Length in bytes at which a frame is complete.
const FULL: usize = 64 * 1024;
/// Maximum length in bytes of a frame that is read. A single record is far shorter.
const MAX_FRAME_LEN: u32 = 16 * 1024 * 1024;
const MAX_HEADER_LEN: u32 = 4096;

/// The reason why a file cannot be used as a dump.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// Reading or writing the file failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A file already exists at the path of the new dump.
    #[error("the file already exists and is not replaced: choose another name")]
    Exists,
    /// The file does not start like a dump.
    #[error("it is not a dump of a store: `auth-service store export` creates one")]
    NotADump,
    /// The file was written by a newer release, in this format version.
    #[error(
        "it has format version {0}, and this release reads up to {VERSION}: use the release that created it, or a newer one"
    )]
    Newer(u32),
    /// The file was encrypted with a different key.
    #[error(
        "it was encrypted with another key: set STORE_KEY or STORE_KEY_PREVIOUS to the key of the store that was \
         exported, or name that key with --key-file"
    )]
    WrongKey,
    /// The file is truncated or altered at the frame with this number.
    #[error("it is damaged or truncated at frame {0}: use another copy. Nothing from it was used")]
    Damaged(u64),
    /// The cryptography library failed.
    #[error(transparent)]
    Crypto(#[from] CryptoFailure),
}

/// The part of a dump that is not encrypted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Header {
    version: u32,
    /// Identifies this dump, so that frames of one dump are not accepted in another.
    id: String,
    /// The time at which the dump was created.
    pub made_at: UnixTime,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Writes a dump to an output stream.
pub struct DumpWriter<W: Write> {
    out: BufWriter<W>,
    frames: Frames,
    plain: Vec<u8>,
    counts: Counts,
}

/// Encrypts frames, and binds each to its dump and its position.
struct Frames {
    sealer: Sealer,
    header: [u8; 32],
    next: u64,
}

impl Frames {
    fn new(key: &StoreKey, header: &[u8]) -> Result<Self, CryptoFailure> {
        let header = Sha256::new().chain_update(MAGIC).chain_update(header).finalize().into();
        Ok(Self { sealer: Sealer::new(key, Purpose::Dump)?, header, next: 0 })
    }

    fn name(&self, last: bool) -> Vec<u8> {
        [&self.header[..], &self.next.to_be_bytes(), &[u8::from(last)]].concat()
    }
}

impl<W: Write> DumpWriter<W> {
    /// Starts a dump that is encrypted with `key`. `id` consists of random bytes.
    pub fn new(out: W, key: &StoreKey, id: [u8; 32], made_at: UnixTime) -> Result<Self, DumpError> {
        let id = crate::domain::opaque_token::TokenHash::of(&id).text();
        let header =
            serde_json::to_vec(&Header { version: VERSION, id, made_at }).map_err(io::Error::from)?;
        let mut out = BufWriter::new(out);
        out.write_all(MAGIC)?;
        write_with_length(&mut out, &header)?;
        let frames = Frames::new(key, &header)?;
        Ok(Self { out, frames, plain: Vec::new(), counts: Counts::default() })
    }

    /// Appends records to the dump.
    pub fn add(&mut self, records: &[Record]) -> Result<(), DumpError> {
        for record in records {
            serde_json::to_writer(&mut self.plain, record).map_err(io::Error::from)?;
            self.plain.push(b'\n');
            if self.plain.len() >= FULL {
                let plain = std::mem::take(&mut self.plain);
                self.frame(&plain, false)?;
            }
        }
        self.counts.add(records);
        Ok(())
    }

    fn frame(&mut self, plain: &[u8], last: bool) -> Result<(), DumpError> {
        let sealed = self.frames.sealer.seal(&self.frames.name(last), plain)?;
        self.frames.next += 1;
        Ok(write_with_length(&mut self.out, &sealed)?)
    }

    /// Writes the last frame. Returns the number of records and the output.
    pub fn finish(mut self) -> Result<(Counts, W), DumpError> {
        let plain = std::mem::take(&mut self.plain);
        if !plain.is_empty() {
            self.frame(&plain, false)?;
        }
        let counts = serde_json::to_vec(&self.counts).map_err(io::Error::from)?;
        self.frame(&counts, true)?;
        Ok((self.counts, self.out.into_inner().map_err(io::IntoInnerError::into_error)?))
    }
}

fn write_with_length(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    out.write_all(&length.to_be_bytes())?;
    out.write_all(bytes)
}

/// Reads a dump from an input stream.
pub struct DumpReader<R: Read> {
    input: BufReader<R>,
    frames: Frames,
    header: Header,
    counts: Counts,
    ended: bool,
}

impl<R: Read> DumpReader<R> {
    /// Starts reading a dump that was encrypted with `key`.
    pub fn new(input: R, key: &StoreKey) -> Result<Self, DumpError> {
        let mut input = BufReader::new(input);
        let mut magic = [0_u8; MAGIC.len()];
        match input.read_exact(&mut magic) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error.into()),
            Ok(()) if magic == MAGIC => {}
            _ => return Err(DumpError::NotADump),
        }
        let bytes = read_with_length(&mut input, MAX_HEADER_LEN)?.ok_or(DumpError::NotADump)?;
        // The version is checked first, because a newer header could have different fields.
        let Version { version } = serde_json::from_slice(&bytes).map_err(|_| DumpError::NotADump)?;
        if version > VERSION {
            return Err(DumpError::Newer(version));
        }
        let header: Header = serde_json::from_slice(&bytes).map_err(|_| DumpError::NotADump)?;
        let frames = Frames::new(key, &bytes)?;
        Ok(Self { input, frames, header, counts: Counts::default(), ended: false })
    }

    /// The header. It is authenticated only once the first frame has been decrypted.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The records of the next frame. Returns `None` once the whole dump has been read and its record count is
    /// correct.
    pub fn next_records(&mut self) -> Result<Option<Vec<Record>>, DumpError> {
        if self.ended {
            return Ok(None);
        }
        let at = self.frames.next;
        let damaged = || DumpError::Damaged(at);
        let sealed = read_with_length(&mut self.input, MAX_FRAME_LEN)?.ok_or_else(damaged)?;
        let open = |last| self.frames.sealer.open(&self.frames.name(last), &sealed);
        if let Ok(plain) = open(false) {
            self.frames.next += 1;
            let lines = plain.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            let records: Vec<Record> = lines
                .map(|line| serde_json::from_slice(line).map_err(|_| damaged()))
                .collect::<Result<_, _>>()?;
            self.counts.add(&records);
            return Ok(Some(records));
        }
        let last = open(true).map_err(|_| if at == 0 { DumpError::WrongKey } else { damaged() })?;
        let counts: Counts = serde_json::from_slice(&last).map_err(|_| damaged())?;
        let more = self.input.read(&mut [0])? > 0;
        if more || counts != self.counts {
            return Err(damaged());
        }
        self.ended = true;
        Ok(None)
    }
}

/// Reads a length, and then that many bytes. Returns `None` if the input ends early, or if the length exceeds
/// `longest`.
fn read_with_length(input: &mut impl Read, longest: u32) -> Result<Option<Vec<u8>>, DumpError> {
    let mut length = [0_u8; 4];
    let mut read = |buffer: &mut [u8]| match input.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    };
    if !read(&mut length)? {
        return Ok(None);
    }
    let length = u32::from_be_bytes(length);
    if length > longest {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    Ok(read(&mut bytes)?.then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::super::records::Kind;
    use super::*;

    fn key(n: u8) -> StoreKey {
        StoreKey::new([n; 32])
    }

    fn record(n: usize) -> Record {
        let value = format!("{{\"n\":{n},\"pad\":\"{}\"}}", "josephine".repeat(20));
        Record::new(Kind::Grant, format!("grt_{n}"), Some(UnixTime(7)), value.into_bytes()).unwrap()
    }

    fn dump(records: usize, id: u8) -> Vec<u8> {
        let mut writer = DumpWriter::new(Vec::new(), &key(1), [id; 32], UnixTime(5)).unwrap();
        let records: Vec<_> = (0..records).map(record).collect();
        writer.add(&records).unwrap();
        writer.finish().unwrap().1
    }

    fn read(bytes: &[u8], key: &StoreKey) -> Result<usize, DumpError> {
        let mut reader = DumpReader::new(bytes, key)?;
        let mut read = 0;
        while let Some(records) = reader.next_records()? {
            read += records.len();
        }
        Ok(read)
    }

    #[test]
    fn a_dump_reads_back_with_its_key_only() {
        for records in [0, 1, 1000] {
            let bytes = dump(records, 1);
            assert_eq!(read(&bytes, &key(1)).unwrap(), records);
            assert_eq!(read(&bytes, &key(2).with_previous(Some(&key(1)))).unwrap(), records);
            assert!(matches!(read(&bytes, &key(2)), Err(DumpError::WrongKey)));
        }
        let one = dump(1, 1);
        let mut reader = DumpReader::new(one.as_slice(), &key(1)).unwrap();
        assert_eq!(reader.header().made_at, UnixTime(5));
        let first = &reader.next_records().unwrap().unwrap()[0];
        assert_eq!((first.value.get(), first.until), (record(0).value.get(), Some(UnixTime(7))));
    }

    #[test]
    fn a094_a_dump_tells_nothing_of_what_is_in_it() {
        let bytes = dump(1000, 1);
        for text in ["josephine", "grt_", "grant"] {
            assert!(!bytes.windows(text.len()).any(|window| window == text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn a_dump_that_was_cut_altered_or_mixed_is_refused() {
        let whole = dump(1000, 1);
        for length in (0..whole.len()).step_by(997).chain([whole.len() - 1]) {
            assert!(read(&whole[..length], &key(1)).is_err(), "{length}");
        }
        for at in (0..whole.len()).step_by(613) {
            let mut altered = whole.clone();
            altered[at] ^= 1;
            assert!(read(&altered, &key(1)).is_err(), "{at}");
        }
        assert!(read(&[&whole[..], b"x"].concat(), &key(1)).is_err());
        assert!(read(&[&whole[..], &whole[..]].concat(), &key(1)).is_err());
        // Frames of another dump of the same store are not accepted in this one.
        let other = dump(1000, 2);
        let half = whole.len() / 2;
        assert_eq!(whole.len(), other.len());
        assert!(read(&[&whole[..half], &other[half..]].concat(), &key(1)).is_err());
    }

    #[test]
    fn frames_that_change_places_are_found_out() {
        let bytes = dump(2000, 1);
        let header = MAGIC.len() + 4 + length_at(&bytes, MAGIC.len());
        let first = header + 4 + length_at(&bytes, header);
        let second = first + 4 + length_at(&bytes, first);
        let swapped =
            [&bytes[..header], &bytes[first..second], &bytes[header..first], &bytes[second..]].concat();
        assert!(read(&swapped, &key(1)).is_err());
        let without = [&bytes[..header], &bytes[first..]].concat();
        assert!(read(&without, &key(1)).is_err());
    }

    fn length_at(bytes: &[u8], at: usize) -> usize {
        usize::try_from(u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())).unwrap()
    }

    #[test]
    fn what_is_no_dump_or_a_newer_one_says_so() {
        assert!(matches!(read(b"", &key(1)), Err(DumpError::NotADump)));
        assert!(matches!(read(b"REDIS0011 and more than twenty bytes", &key(1)), Err(DumpError::NotADump)));
        let header = br#"{"version":2,"unheard":"of"}"#;
        let mut newer = MAGIC.to_vec();
        write_with_length(&mut newer, header).unwrap();
        assert!(matches!(read(&newer, &key(1)), Err(DumpError::Newer(2))));
    }
}
