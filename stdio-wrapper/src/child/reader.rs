//! Reads one child's output until the child is gone.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::framing::{Decoder, Frame};
use super::process::{Child, Exit};

/// Room for one read; a larger message gets larger reads.
const READ: usize = 16 << 10;
const LARGE_READ: usize = 1 << 20;
/// How long output may still come after the process has ended (a process it left behind may hold the pipe open).
const AFTERLIFE: Duration = Duration::from_millis(100);

/// The way out of a child.
#[derive(Debug)]
pub struct Output {
    pub(super) pipe: pipe::Receiver,
    /// What was read while the child was a spare.
    pub(super) early: BytesMut,
}

/// Takes what a child writes.
pub trait Frames: Send {
    /// The next frame. No other is read before this is done.
    fn frame(&mut self, frame: Frame) -> impl Future<Output = ()> + Send;
}

/// Hands over every frame; tells how the child ended, if it has.
pub async fn read_frames(
    child: &Child,
    output: Output,
    mut decoder: Box<dyn Decoder>,
    frames: &mut impl Frames,
) -> Option<Exit> {
    let exited = child.exited();
    tokio::pin!(exited);
    let mut exit = None;
    let Output { pipe: mut stdout, early: mut buffer } = output;
    loop {
        while let Some(frame) = decoder.decode(&mut buffer) {
            frames.frame(frame).await;
        }
        if buffer.is_empty() {
            // What is left of a large buffer would keep all of it.
            buffer = BytesMut::new();
        }
        if buffer.capacity() - buffer.len() < READ {
            buffer.reserve(if buffer.len() < READ { READ } else { LARGE_READ });
        }
        let count = if exit.is_some() {
            tokio::time::timeout(AFTERLIFE, stdout.read_buf(&mut buffer)).await.unwrap_or(Ok(0))
        } else {
            tokio::select! {
                count = stdout.read_buf(&mut buffer) => count,
                end = &mut exited => { exit = Some(end); continue; }
            }
        };
        if !matches!(count, Ok(1..)) {
            break;
        }
    }
    if let Some(frame) = decoder.finish(&mut buffer) {
        frames.frame(frame).await;
    }
    // The output ends a moment before the process; its status makes the better message.
    if exit.is_none() {
        exit = tokio::time::timeout(Duration::from_millis(250), exited).await.ok();
    }
    exit
}
