//! Reads the output of one child until the child has exited.

use std::time::Duration;

use bytes::{Buf, BufMut as _, Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use super::exit::Exit;
use super::framing::{Decoder, Frame};
use super::output::{Output, rest_of};
use super::process::Child;
use crate::budget::Reservation;
use crate::protocol::{Outline, OutlineReader};
use crate::turns::{PER_LINE, Share};

/// Buffer space for a read at the beginning of a line. Later reads of a long line are as large as the part that
/// has already arrived.
const READ: usize = 16 << 10;
/// From this length on (in bytes), a line has a buffer in which the longest line fits, and is not moved again. The kernel
/// provides only the pages that are written, so the buffer uses no more memory than the line. If it grew by doubling, each
/// move would leave a buffer that the allocator keeps for ten seconds, and together these are as large as the line.
const LONG: usize = 256 << 10;
/// Minimum size of that buffer. The allocator returns buffers of this size to the system at once.
const RETURNED: usize = (8 << 20) + 1;
/// Maximum size of one read.
const LARGE_READ: usize = 1 << 20;
/// Bytes of a child's output that are not counted. Most lines are shorter.
const FREE: usize = 64 << 10;
/// 1/`PART_OF_READ` of the bytes of a read count as work, because they are only copied. Other work is counted
/// per line.
const PART_OF_READ: usize = 16;
/// A blank line of this length counts as one useless line.
const BLANK: usize = 64;
/// Maximum time for which output is still read after the process has exited.
const AFTERLIFE: Duration = Duration::from_millis(100);

/// The memory account for the output of a child.
#[derive(Debug)]
pub struct Account {
    /// The memory reservation of the principal who uses the child.
    pub reservation: Reservation,
    /// Maximum time for which a line waits for memory. No output from the child is read during this time.
    pub patience: Duration,
}

/// Handles the output of a child.
pub trait Frames: Send {
    /// Handles the next frame. No further frame is read until this is done. A large frame comes with its memory
    /// reservation.
    fn frame(&mut self, frame: Frame, reservation: Option<Reservation>) -> impl Future<Output = ()> + Send;

    /// The number of lines and messages so far that could not be used.
    fn useless(&self) -> u64;

    /// Called with the length of a line for which there was no memory. Its text was discarded.
    fn dropped(&mut self, outline: Outline, length: usize);
}

/// Passes on every frame. Returns how the child exited, if it has exited.
pub async fn read_frames(
    child: &Child,
    output: Output,
    decoder: Box<dyn Decoder>,
    account: Account,
    frames: &mut impl Frames,
) -> Option<Exit> {
    let exited = child.exited();
    tokio::pin!(exited);
    let (mut exit, mut rest) = (None, usize::MAX);
    let Output { pipe: mut stdout, early: buffer } = output;
    let mut reader = Reader::new(decoder, buffer, account, child.number);
    loop {
        reader.hand_over(frames).await;
        if let Some(until) = reader.is_paused_until(frames, Instant::now()).filter(|_| exit.is_none()) {
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                end = &mut exited => (exit, rest) = (Some(end), rest_of(&stdout)),
            }
        }
        let space = reader.make_space().await.min(rest);
        let mut target = (&mut reader.buffer).limit(space);
        let count = if exit.is_some() {
            tokio::time::timeout(AFTERLIFE, stdout.read_buf(&mut target)).await.unwrap_or(Ok(0))
        } else {
            tokio::select! {
                count = stdout.read_buf(&mut target) => count,
                end = &mut exited => {
                    (exit, rest) = (Some(end), rest_of(&stdout));
                    if rest == 0 {
                        break;
                    }
                    continue;
                }
            }
        };
        let Ok(count @ 1..) = count else { break };
        rest = if exit.is_some() { rest.saturating_sub(count) } else { rest };
        reader.share.spend(count / PART_OF_READ).await;
        if rest == 0 {
            break;
        }
    }
    reader.finish(frames).await;
    // The output can end shortly before the process exits. The exit status gives a better error message.
    if exit.is_none() {
        exit = tokio::time::timeout(Duration::from_millis(250), exited).await.ok();
    }
    exit
}

/// The state of reading the output of one child.
struct Reader {
    decoder: Box<dyn Decoder>,
    buffer: BytesMut,
    /// The size of the memory that the buffer shares with the frames that were taken out of it, in bytes.
    allocated: usize,
    /// Reserves memory for the buffer, except for the first [`FREE`] bytes.
    account: Account,
    /// The outline of a line that is being discarded, because there was no memory for it.
    dropping: Option<OutlineReader>,
    share: Share,
    /// The number of bytes in blank lines that have not been counted yet.
    blank: usize,
    /// The number of useless lines that have already been counted.
    useless: u64,
}

impl Reader {
    fn new(decoder: Box<dyn Decoder>, buffer: BytesMut, account: Account, child: u64) -> Self {
        let share = Share::of(account.reservation.owner(), child);
        let allocated = buffer.capacity();
        Self { decoder, buffer, allocated, account, dropping: None, share, blank: 0, useless: 0 }
    }

    /// The time until which the child's output must not be read, because it contained too many useless lines.
    fn is_paused_until(&mut self, frames: &impl Frames, now: Instant) -> Option<Instant> {
        let blank = std::mem::take(&mut self.blank).div_ceil(BLANK);
        let useless = frames.useless();
        let lines = useless.saturating_sub(std::mem::replace(&mut self.useless, useless));
        self.share.useless(lines.saturating_add(u64::try_from(blank).unwrap_or(u64::MAX)), now)
    }

    /// Passes on every complete frame.
    async fn hand_over(&mut self, frames: &mut impl Frames) {
        loop {
            if self.dropping.is_some() && !self.drop_rest(frames) {
                return;
            }
            let before = self.buffer.len();
            let Some(frame) = self.decoder.decode(&mut self.buffer) else {
                if self.decoder.is_discarding() {
                    self.share.spend(before.min(LARGE_READ)).await;
                } else if self.buffer.is_empty() {
                    self.blank += before;
                }
                break;
            };
            let work = before.saturating_sub(self.buffer.len()).min(LARGE_READ) + PER_LINE;
            let (frame, held) = self.own(frame, before);
            // The memory of a line is passed on with it.
            let reservation = &mut self.account.reservation;
            let reservation = (held > 0 && reservation.taken() > 0).then(|| reservation.split(held));
            self.settle();
            frames.frame(frame, reservation).await;
            self.share.spend(work).await;
        }
        if self.buffer.is_empty() {
            // An incomplete line would otherwise keep the whole large buffer in memory.
            self.buffer = BytesMut::new();
            self.allocated = 0;
        }
        self.settle();
    }

    /// Returns the frame in memory that it does not share with later frames, and the size of this memory. `before` is the
    /// number of bytes that the buffer contained. Otherwise, a short frame that is kept could keep a large buffer in
    /// memory.
    fn own(&mut self, frame: Frame, before: usize) -> (Frame, usize) {
        let length = match &frame {
            Frame::Message(text) | Frame::Cut(text) => text.len(),
            Frame::Oversized { .. } => return (frame, 0),
        };
        if self.allocated >= RETURNED {
            // The frame is long, and the rest is the beginning of the next ones.
            self.buffer = BytesMut::from(self.buffer.as_ref());
            self.allocated = self.buffer.capacity();
            return (frame, before);
        }
        let is_small_part = self.allocated > FREE && length < self.allocated / 2;
        match frame {
            Frame::Message(text) if is_small_part => (Frame::Message(Bytes::copy_from_slice(&text)), length),
            frame => (frame, length),
        }
    }

    /// Discards the rest of a line. Returns whether the end of the line has arrived.
    fn drop_rest(&mut self, frames: &mut impl Frames) -> bool {
        let Some(mut seen) = self.dropping.take() else { return true };
        let end = memchr::memchr(b'\n', &self.buffer);
        seen.feed(self.buffer.get(..end.unwrap_or(self.buffer.len())).unwrap_or_default());
        let Some(end) = end else {
            self.buffer.clear();
            self.dropping = Some(seen);
            return false;
        };
        self.buffer.advance(end + 1);
        frames.dropped(seen.outline(), seen.length());
        true
    }

    /// Makes space in the buffer for the next read, from memory of the principal. If there is none, the line is
    /// discarded. Returns the size of the read.
    async fn make_space(&mut self) -> usize {
        let space = self.buffer.len().clamp(READ, LARGE_READ);
        let missing = counted(self.buffer.len() + space).saturating_sub(self.account.reservation.taken());
        if missing > 0 && !self.account.reservation.grow_within(missing, self.account.patience).await {
            let mut seen = OutlineReader::default();
            seen.feed(&self.buffer);
            self.buffer = BytesMut::new();
            self.allocated = 0;
            // The decoder starts a new line.
            self.decoder.finish(&mut self.buffer);
            self.dropping = Some(seen);
            self.settle();
        }
        let space = self.buffer.len().clamp(READ, LARGE_READ);
        if self.buffer.capacity() - self.buffer.len() < READ {
            if self.buffer.len() < LONG {
                self.buffer.reserve(space);
                self.allocated = self.allocated.max(self.buffer.capacity());
            } else {
                let mut long = BytesMut::with_capacity((self.decoder.limit() + LARGE_READ).max(RETURNED));
                long.extend_from_slice(&self.buffer);
                self.buffer = long;
                self.allocated = self.buffer.capacity();
                self.share.spend(self.buffer.len() / PART_OF_READ).await;
            }
        }
        space.min(self.buffer.capacity() - self.buffer.len())
    }

    /// Returns memory that the buffer no longer needs.
    fn settle(&mut self) {
        let unused = self.account.reservation.taken().saturating_sub(counted(self.buffer.len()));
        self.account.reservation.shrink(unused);
    }

    /// Passes on the rest of the output.
    async fn finish(&mut self, frames: &mut impl Frames) {
        if let Some(mut seen) = self.dropping.take() {
            seen.feed(&self.buffer);
            frames.dropped(seen.outline(), seen.length());
        } else if let Some(frame) = self.decoder.finish(&mut self.buffer) {
            let reservation = self.account.reservation.split(usize::MAX);
            frames.frame(frame, Some(reservation)).await;
        }
    }
}

/// The number of bytes that are counted for a buffer of this length.
fn counted(length: usize) -> usize {
    length.saturating_sub(FREE)
}

#[cfg(test)]
mod tests {
    use super::super::framing::{Framing as _, LineFraming};
    use super::*;
    use crate::budget::Budget;

    #[derive(Default)]
    struct Seen {
        /// The length of each frame, and the memory that was reserved for it.
        frames: Vec<(usize, usize)>,
        dropped: Vec<usize>,
        /// The frames, if they are kept.
        kept: Option<Vec<Bytes>>,
    }

    impl Frames for Seen {
        async fn frame(&mut self, frame: Frame, reservation: Option<Reservation>) {
            let Frame::Message(text) = frame else { panic!("{frame:?}") };
            self.frames.push((text.len(), reservation.map_or(0, |reservation| reservation.taken())));
            self.kept.iter_mut().for_each(|kept| kept.push(text.clone()));
        }

        fn useless(&self) -> u64 {
            self.frames.iter().filter(|(length, _)| *length < 3).count() as u64
        }

        fn dropped(&mut self, _: Outline, length: usize) {
            self.dropped.push(length);
        }
    }

    async fn feed(reader: &mut Reader, mut text: &[u8], seen: &mut Seen) {
        while !text.is_empty() {
            reader.hand_over(seen).await;
            let (piece, rest) = text.split_at(reader.make_space().await.min(text.len()));
            reader.buffer.extend_from_slice(piece);
            text = rest;
        }
        reader.hand_over(seen).await;
    }

    #[tokio::test]
    async fn a_line_is_read_in_memory_of_its_principal_and_dropped_if_there_is_none() {
        let budget = Budget::new(4 << 20, 1);
        let account = Account { reservation: budget.reservation("ana"), patience: Duration::ZERO };
        let decoder = LineFraming.decoder(16 << 20);
        let mut reader = Reader::new(decoder, BytesMut::new(), account, 1);
        let mut seen = Seen::default();
        let line = |length: usize| [vec![b'x'; length], vec![b'\n']].concat();
        feed(&mut reader, &line(40_000), &mut seen).await;
        feed(&mut reader, &line(400_000), &mut seen).await;
        // A long line has the whole buffer, with its line break.
        assert_eq!(seen.frames, [(40_000, 0), (400_000, 400_001)]);
        // This is more than the quota of one principal, which is a quarter.
        feed(&mut reader, &[line(3_000_000), line(7)].concat(), &mut seen).await;
        assert_eq!((&seen.frames[2..], seen.dropped), (&[(7, 0)][..], vec![3_000_000]));
        assert_eq!(reader.account.reservation.taken(), 0, "all memory was released");
    }

    /// Each move would leave a buffer that the allocator keeps for a while.
    #[tokio::test]
    async fn a100_a_long_line_is_not_moved_while_it_grows() {
        let mut reader = reader_for("mallory of one long line");
        let mut seen = Seen::default();
        let mut places = Vec::new();
        for _ in 0..15 {
            feed(&mut reader, &vec![b'x'; 64 << 10], &mut seen).await;
            places.push((reader.buffer.len(), reader.buffer.as_ptr()));
        }
        let long: Vec<_> =
            places.iter().filter(|(length, _)| *length > LONG).map(|(_, place)| place).collect();
        assert!(long.len() > 10 && long.iter().all(|place| *place == long[0]), "{places:?}");
        assert!(reader.allocated > reader.decoder.limit(), "the longest line fits");
        feed(&mut reader, b"\nx", &mut seen).await;
        assert!(reader.buffer.capacity() < LONG, "the next line has a buffer of its own");
    }

    /// A frame that waits for its client must not keep memory that is not counted for it.
    #[tokio::test]
    async fn a100_a_short_line_does_not_share_the_memory_of_a_long_one() {
        for long in [200_000, 800_000] {
            let mut reader = reader_for("mallory of long and short lines");
            let mut seen = Seen { kept: Some(Vec::new()), ..Seen::default() };
            let text = [vec![b'x'; long], b"\nshort\nalso short\n".to_vec()].concat();
            while reader.buffer.len() < long {
                reader.make_space().await;
                let more =
                    text[reader.buffer.len()..].iter().take(reader.buffer.capacity() - reader.buffer.len());
                let more: Vec<u8> = more.copied().collect();
                reader.buffer.extend_from_slice(&more);
            }
            reader.hand_over(&mut seen).await;
            let kept = seen.kept.unwrap();
            let lengths: Vec<usize> = kept.iter().map(Bytes::len).collect();
            assert_eq!(lengths[..2], [long, 5]);
            assert_ne!(kept[1].as_ptr() as usize, kept[0].as_ptr() as usize + long + 1, "{long}");
        }
    }

    /// The rest of a line that exceeds the limit is not a series of blank lines.
    #[tokio::test]
    async fn an_oversized_line_is_read_to_its_end_without_a_pause() {
        let mut reader = reader_for("ana of a long line");
        reader.decoder = LineFraming.decoder(64 << 10);
        let now = Instant::now() + Duration::from_secs(1);
        let mut seen = Seen::default();
        for _ in 0..3000 {
            feed(&mut reader, &[b'x'; 1000], &mut seen).await;
            assert_eq!(reader.is_paused_until(&seen, now), None);
        }
        assert!(reader.decoder.is_discarding());
    }

    fn reader_for(owner: &str) -> Reader {
        let account =
            Account { reservation: Budget::new(16 << 20, 1).reservation(owner), patience: Duration::ZERO };
        Reader::new(LineFraming.decoder(1 << 20), BytesMut::new(), account, 1)
    }

    #[tokio::test]
    async fn a100_short_lines_are_handled_a_few_at_a_time_between_the_work_of_others() {
        let mut reader = reader_for("mallory of short lines");
        reader.buffer.extend_from_slice(&b"xx\n".repeat(100_000));
        let mut seen = Seen::default();
        let mut work = Box::pin(reader.hand_over(&mut seen));
        let mut turns = 0;
        while futures_util::poll!(&mut work).is_pending() {
            turns += 1;
            tokio::task::yield_now().await;
        }
        drop(work);
        assert_eq!(seen.frames.len(), 100_000);
        assert!(turns >= 100_000 * (2 + PER_LINE) / crate::turns::PIECE, "{turns} turns of other tasks");
    }

    #[tokio::test]
    async fn a100_a_child_whose_lines_nobody_can_use_is_not_read_for_a_while() {
        let mut reader = reader_for("mallory of useless lines");
        let now = Instant::now() + Duration::from_secs(1);
        let mut seen = Seen::default();
        feed(&mut reader, &b"useful\n".repeat(5000), &mut seen).await;
        assert_eq!(reader.is_paused_until(&seen, now), None);
        feed(&mut reader, &b"xx\n".repeat(900), &mut seen).await;
        assert_eq!(reader.is_paused_until(&seen, now), None);
        feed(&mut reader, &b"xx\n".repeat(200), &mut seen).await;
        let end = reader.is_paused_until(&seen, now).unwrap();
        assert_eq!(reader.is_paused_until(&seen, end), None, "the pause ends after one second");
        feed(&mut reader, &b"\n".repeat(70_000), &mut seen).await;
        assert!(reader.is_paused_until(&seen, end).is_some(), "blank lines");
    }
}
