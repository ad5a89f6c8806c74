//! The input of a child. Messages are queued, and one task writes them, several with one system call. The size
//! of the queue is limited. While the thread of that task is not busy, a caller writes its message itself, so
//! that an idle child receives it sooner. When the thread is busy, it is better to save system calls.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use bytes::{Buf as _, Bytes};
use tokio::net::unix::pipe;
use tokio::sync::{Notify, Semaphore};

use super::pressure::Pressure;
use crate::turns::{COPIED, Copies};

/// Size of one unit of the queue's budget, in bytes.
const UNIT: usize = 256;
/// Maximum number of queued messages for a child, regardless of their size.
const MAX_QUEUED: usize = 1024;
/// Maximum number of messages that are written with one system call.
const MAX_JOINED: usize = 64;

/// The input of the child is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the input of the child is closed")]
pub struct Closed;

/// The queue of messages for the standard input of a child. Sending waits while the queue is full.
#[derive(Debug, Clone)]
pub struct Outbox(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    backlog: Mutex<Backlog>,
    /// Notified when the writing task has something to do.
    wake: Notify,
    /// Notified when the messages are no longer read.
    gone: Notify,
    /// The free space of the queue, in units.
    budget: Semaphore,
    capacity: usize,
    /// The thread of the writing task.
    home: ThreadId,
}

#[derive(Debug)]
struct Backlog {
    /// `None` if the input is closed.
    stdin: Option<Arc<pipe::Sender>>,
    frames: VecDeque<Bytes>,
    /// Whether the task is writing. A caller must not write in the middle of a message.
    is_writing: bool,
    /// Whether the input is closed as soon as the queue is empty.
    is_closing: bool,
    /// How busy the thread of the writing task is.
    pressure: Pressure,
}

impl Outbox {
    /// Starts the writing task. The queue contains at most about `max_bytes`, or one larger message. Large messages
    /// are written in turns, for which `copies` counts the bytes.
    pub(super) fn start(stdin: pipe::Sender, max_bytes: usize, copies: Copies) -> Self {
        let capacity = (max_bytes / UNIT).clamp(1, Semaphore::MAX_PERMITS / 2).min(u32::MAX as usize);
        let backlog = Backlog {
            stdin: Some(Arc::new(stdin)),
            frames: VecDeque::new(),
            is_writing: false,
            is_closing: false,
            pressure: Pressure::of_this_thread(),
        };
        let shared = Arc::new(Shared {
            backlog: Mutex::new(backlog),
            wake: Notify::new(),
            gone: Notify::new(),
            budget: Semaphore::new(capacity),
            capacity,
            home: std::thread::current().id(),
        });
        tokio::spawn(write_all(Arc::clone(&shared), copies));
        Self(shared)
    }

    /// Sends one framed message. Waits while the queue is full.
    pub async fn send(&self, frame: Bytes) -> Result<(), Closed> {
        let cost = self.0.cost(frame.len());
        self.0.budget.acquire_many(cost).await.map_err(|_| Closed)?.forget();
        self.0.take(frame, false)
    }

    /// Sends one framed message if there is space in the queue, and returns it otherwise. `is_alone` means that
    /// the child has no other request, so joining messages would not help.
    pub fn try_send(&self, frame: Bytes, is_alone: bool) -> Result<(), Bytes> {
        let Ok(permit) = self.0.budget.try_acquire_many(self.0.cost(frame.len())) else {
            return Err(frame);
        };
        permit.forget();
        self.0.take(frame.clone(), is_alone).map_err(|Closed| frame)
    }

    /// Closes the input of the child after the queued messages have been written.
    pub fn close(&self) {
        self.0.backlog().is_closing = true;
        self.0.wake.notify_one();
    }

    /// Closes the input immediately, because the child has exited. Another process might hold the pipe without
    /// reading it, and the queue would wait for that process.
    pub(super) fn abandon(&self) {
        self.0.gone.notify_one();
        {
            let mut backlog = self.0.backlog();
            backlog.is_closing = true;
            backlog.frames.clear();
        }
        self.0.wake.notify_one();
    }
}

impl Shared {
    fn cost(&self, length: usize) -> u32 {
        let least = self.capacity / MAX_QUEUED;
        u32::try_from((length / UNIT + 1).max(least).min(self.capacity)).unwrap_or(u32::MAX)
    }

    /// Writes a message for which the queue has space, or adds it to the queue.
    fn take(&self, mut frame: Bytes, is_alone: bool) -> Result<(), Closed> {
        let cost = self.cost(frame.len());
        let mut backlog = self.backlog();
        let stdin = backlog.stdin.clone().filter(|_| !backlog.is_closing).ok_or(Closed)?;
        if backlog.frames.is_empty() && !backlog.is_writing && self.is_for_caller(&mut backlog, is_alone) {
            match stdin.try_write(frame.get(..COPIED).unwrap_or(&frame)) {
                Ok(count) if count == frame.len() => {
                    self.budget.add_permits(cost as usize);
                    return Ok(());
                }
                // The task will return the cost of the rest to the budget, so only the difference is returned
                // here.
                Ok(count) => {
                    frame = frame.slice(count..);
                    self.budget.add_permits((cost - self.cost(frame.len())) as usize);
                }
                // The pipe is full or broken. The task will handle this.
                Err(_) => {}
            }
        }
        backlog.frames.push_back(frame);
        drop(backlog);
        self.wake.notify_one();
        Ok(())
    }

    /// Whether a caller writes its message itself while the queue is empty.
    fn is_for_caller(&self, backlog: &mut Backlog, is_alone: bool) -> bool {
        // While the task's thread is busy, messages are queued, so that the task can join them. A lone message
        // from another thread is still written directly: there is nothing to join it with, and queueing it
        // would only add a wake-up of the busy thread.
        !backlog.pressure.is_high() || (is_alone && std::thread::current().id() != self.home)
    }

    /// Waits for the next messages to write. Returns `None` if the task must stop.
    async fn next(&self) -> Option<(Arc<pipe::Sender>, VecDeque<Bytes>)> {
        loop {
            {
                let mut backlog = self.backlog();
                backlog.is_writing = false;
                let stdin = Arc::clone(backlog.stdin.as_ref()?);
                let count = backlog.frames.len().min(MAX_JOINED);
                if count > 0 {
                    backlog.is_writing = true;
                    return Some((stdin, backlog.frames.drain(..count).collect()));
                }
                if backlog.is_closing {
                    return None;
                }
            }
            self.wake.notified().await;
        }
    }

    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn write_all(shared: Arc<Shared>, mut copies: Copies) {
    while let Some((stdin, frames)) = shared.next().await {
        let paid: usize = frames.iter().map(|frame| shared.cost(frame.len()) as usize).sum();
        // A child that has closed its input is about to exit or is broken. Its output shows which is the case.
        let written = tokio::select! {
            written = write_frames(&stdin, frames, &mut copies) => written,
            () = shared.gone.notified() => break,
        };
        if written.is_err() {
            break;
        }
        shared.budget.add_permits(paid);
    }
    let mut backlog = shared.backlog();
    backlog.stdin = None;
    backlog.frames.clear();
    shared.budget.close();
}

/// Writes messages with as few system calls as possible and without copying them. Each message is dropped as
/// soon as it is written, which frees its memory. A child that reads quickly would otherwise keep the thread busy
/// until the last byte is written, so large messages are written in turns with other work.
async fn write_frames(
    stdin: &pipe::Sender,
    mut frames: VecDeque<Bytes>,
    copies: &mut Copies,
) -> io::Result<()> {
    while !frames.is_empty() {
        let written = { stdin.try_write_vectored(&start_of(&frames)) };
        match written {
            Ok(count) => {
                drop_written(&mut frames, count);
                copies.spend(count).await;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stdin.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The beginning of these messages, up to the number of bytes that are written in one turn.
fn start_of(frames: &VecDeque<Bytes>) -> Vec<IoSlice<'_>> {
    let mut room = COPIED;
    let slices = frames.iter().map_while(|frame| {
        let slice = frame.get(..frame.len().min(room)).filter(|slice| !slice.is_empty())?;
        room -= slice.len();
        Some(IoSlice::new(slice))
    });
    slices.collect()
}

fn drop_written(frames: &mut VecDeque<Bytes>, mut count: usize) {
    while let Some(frame) = frames.front_mut() {
        if count < frame.len() {
            return frame.advance(count);
        }
        count -= frame.len();
        frames.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// A buffer whose copies in memory are counted.
    struct Counted(Vec<u8>, #[expect(dead_code, reason = "it is only counted")] Arc<()>);

    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    #[tokio::test]
    async fn a100_what_waits_for_a_child_that_is_gone_is_dropped_although_somebody_holds_the_pipe() {
        let (output, input) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK | rustix::pipe::PipeFlags::CLOEXEC)
                .unwrap();
        let outbox =
            Outbox::start(pipe::Sender::from_owned_fd(input).unwrap(), 1 << 20, Copies::of_child("", 1));
        let count = Arc::new(());
        for number in 0..40_u8 {
            let frame = Counted(vec![number; 20_000], Arc::clone(&count));
            outbox.try_send(Bytes::from_owner(frame), false).unwrap();
            tokio::task::yield_now().await;
        }
        outbox.close();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(Arc::strong_count(&count) > 20, "nobody reads");
        outbox.abandon();
        while Arc::strong_count(&count) > 1 {
            tokio::task::yield_now().await;
        }
        // The other end is also closed.
        let mut output = pipe::Receiver::from_owned_fd(output).unwrap();
        assert!(output.read_to_end(&mut Vec::new()).await.unwrap() <= 1 << 16);
    }

    #[tokio::test]
    async fn a100_a_large_message_is_written_a_piece_at_a_time_between_the_work_of_others() {
        const PIECES: usize = 16;
        let (output, input) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK | rustix::pipe::PipeFlags::CLOEXEC)
                .unwrap();
        // The whole message fits into the pipe, as if the child read as quickly as the wrapper writes.
        rustix::pipe::fcntl_setpipe_size(&input, PIECES * COPIED).unwrap();
        let copies = Copies::of_child("mallory of large messages", 1);
        let outbox = Outbox::start(pipe::Sender::from_owned_fd(input).unwrap(), 1 << 30, copies);
        // Messages are queued while the task is writing.
        outbox.0.backlog().is_writing = true;
        outbox.try_send(Bytes::from(vec![b'x'; PIECES * COPIED]), false).unwrap();
        outbox.0.backlog().is_writing = false;
        let written = || rustix::io::ioctl_fionread(&output).unwrap();
        let mut turns = 0;
        let mut before = 0;
        while before < (PIECES * COPIED) as u64 {
            tokio::task::yield_now().await;
            let now = written();
            assert!(now - before <= COPIED as u64, "{} bytes were written at once", now - before);
            turns += usize::from(now > before);
            before = now;
        }
        assert_eq!(turns, PIECES);
    }

    #[tokio::test]
    async fn a100_a_message_is_counted_until_it_was_written_and_written_from_where_it_is() {
        let (output, input) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK | rustix::pipe::PipeFlags::CLOEXEC)
                .unwrap();
        rustix::pipe::fcntl_setpipe_size(&input, 4096).unwrap();
        let outbox =
            Outbox::start(pipe::Sender::from_owned_fd(input).unwrap(), 1 << 20, Copies::of_child("", 1));
        let count = Arc::new(());
        let mut sent = Vec::new();
        for number in 0..40_u8 {
            let text = vec![number; 20_000];
            sent.extend_from_slice(&text);
            outbox.try_send(Bytes::from_owner(Counted(text, Arc::clone(&count))), false).unwrap();
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(Arc::strong_count(&count), 41, "the child has read nothing");
        let mut output = pipe::Receiver::from_owned_fd(output).unwrap();
        let mut read = vec![0; sent.len() / 2];
        output.read_exact(&mut read).await.unwrap();
        assert!((15..=21).contains(&Arc::strong_count(&count)), "{}", Arc::strong_count(&count));
        let mut rest = vec![0; sent.len() - read.len()];
        output.read_exact(&mut rest).await.unwrap();
        read.append(&mut rest);
        assert!(read == sent);
        while Arc::strong_count(&count) > 1 {
            tokio::task::yield_now().await;
        }
    }
}
