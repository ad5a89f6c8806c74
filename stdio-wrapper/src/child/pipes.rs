//! Passes the pipe ends that become a child's standard input, output and error from the wrapper to the
//! supervisor, and from there to the child. They are sent over a socket, which is the standard input of the
//! receiver (`SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Sends the pipes without blocking. They stay in the socket until they are received.
pub(super) fn send(to: &UnixStream, pipes: [&OwnedFd; 3]) -> io::Result<()> {
    let pipes = pipes.map(|pipe| pipe.as_fd());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&pipes)) {
        return Err(io::Error::other("there is no room for the pipes of the child"));
    }
    sendmsg(to, &[IoSlice::new(b"P")], &mut control, SendFlags::empty())?;
    Ok(())
}

/// A copy of the socket that is the standard input of this process. The copy is closed when this process
/// becomes another program.
pub(super) fn socket() -> io::Result<UnixStream> {
    Ok(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// Receives the child's three standard streams from the wrapper.
pub(super) fn receive(from: &UnixStream) -> io::Result<[OwnedFd; 3]> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let pipes: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(pipes) => Some(pipes),
            _ => None,
        })
        .flatten()
        .collect();
    pipes.try_into().map_err(|_| io::Error::other("the pipes of the child are missing"))
}
