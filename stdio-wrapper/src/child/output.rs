//! The output of a child.

use bytes::BytesMut;
use tokio::net::unix::pipe;

/// The number of bytes that are still in a pipe after the last process of the child has exited. Only these are
/// read, because a process of another child might have received the pipe from this child and write to it
/// endlessly.
pub(super) fn rest_of(pipe: &pipe::Receiver) -> usize {
    rustix::io::ioctl_fionread(pipe).map_or(0, |count| usize::try_from(count).unwrap_or(usize::MAX))
}

/// The output of a child.
#[derive(Debug)]
pub struct Output {
    pub(super) pipe: pipe::Receiver,
    /// The output that was read while the child was a spare.
    pub(super) early: BytesMut,
}
