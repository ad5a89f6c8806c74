//! The input and output of a child. Before a session takes the child, only a ping uses them.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::BytesMut;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use crate::child::warm_up::{self, Pinged};
use crate::child::writer::Outbox;

/// The input and output of a child.
#[derive(Debug)]
pub(super) struct Pipes {
    state: Mutex<PipeState>,
    /// The input, set when the child is first used.
    pub(super) outbox: OnceLock<Outbox>,
}

#[derive(Debug)]
pub(super) enum PipeState {
    /// The child is an unused spare.
    Idle(Idle),
    /// The child is in use.
    Open(Outbox),
    /// The child is about to exit.
    Closed,
}

#[derive(Debug)]
pub(super) struct Idle {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    /// The output that has been read so far.
    pub(super) early: BytesMut,
    /// Set until a ping is answered. Notifies the task that waits for the ping response that the child is now
    /// in use.
    pub(super) ping: Option<oneshot::Sender<()>>,
}

impl Pipes {
    /// The pipes of a child that has just been started.
    pub(super) fn new(stdin: OwnedFd, stdout: OwnedFd) -> Self {
        let idle = Idle { stdin, stdout, early: BytesMut::new(), ping: None };
        Self { state: Mutex::new(PipeState::Idle(idle)), outbox: OnceLock::new() }
    }

    /// Closes the input of the child after the queued messages have been written. Returns whether a ping was
    /// not answered.
    pub(super) fn close(&self) -> bool {
        match std::mem::replace(&mut *self.state(), PipeState::Closed) {
            PipeState::Open(outbox) => {
                outbox.close();
                false
            }
            PipeState::Idle(idle) => idle.ping.is_some(),
            PipeState::Closed => false,
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, PipeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the output of a spare until it has answered the ping or is taken.
    pub(super) async fn answer(&self, stdout: pipe::Receiver) -> Pinged {
        loop {
            if stdout.readable().await.is_err() {
                return Pinged::Ended;
            }
            let mut state = self.state();
            // Once a session has taken the child, its output belongs to the session and must not be read here.
            let idle = match &mut *state {
                PipeState::Idle(idle) => idle,
                PipeState::Open(_) => return Pinged::Taken,
                PipeState::Closed => return Pinged::Ended,
            };
            match stdout.try_read_buf(&mut idle.early) {
                Ok(1..) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Ok(0) | Err(_) => return Pinged::Ended,
            }
            let is_much = idle.early.len() > warm_up::MAX_EARLY;
            if let Some(pinged) = warm_up::take_answer(&mut idle.early).or(is_much.then_some(Pinged::Refused))
            {
                idle.ping = None;
                return pinged;
            }
        }
    }
}
