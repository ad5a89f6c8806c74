//! A connection that the HTTP server reads in small pieces, and only while it can also write.
//!
//! The HTTP server reads up to 128 KiB before it parses the data, and then decodes all requests in it together.
//! 128 KiB can contain thousands of tiny requests, and each decoded request takes 2.5 kB. The server also reads
//! and handles further requests while it cannot send the responses to earlier ones. Therefore a client that only
//! sends could make each of its connections use megabytes (attack 100).

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf, Take};

/// Number of bytes that the server reads before it must parse them.
const PIECE: u64 = 1 << 10;
/// Number of bytes that the server reads beyond a request in progress. Reading a byte lets the server notice a
/// disconnect. If it read more, it would have to allocate another buffer, because the earlier requests still use the
/// previous ones.
const AHEAD: u64 = 1;
/// Number of body bytes that the server reads before it must process them.
const PIECE_OF_BODY: u64 = 64 << 10;

/// The state of a connection. The HTTP service updates it, and the reader depends on it.
#[derive(Clone, Default)]
pub(super) struct Activity(Rc<Doing>);

#[derive(Default)]
struct Doing {
    /// The number of requests whose responses are not complete yet.
    under_way: Cell<usize>,
    /// The number of body bytes of the last request that have not arrived yet.
    expected: Cell<u64>,
    /// Whether the length of that body is unknown.
    is_chunked: Cell<bool>,
    /// Whether the last request of the connection has been received.
    has_ended: Cell<bool>,
    /// Wakes the server if it tried to read while it was not allowed to.
    reader: Cell<Option<Waker>>,
}

/// A request in progress. Dropping it marks its response as complete.
pub(super) struct UnderWay(Rc<Doing>);

impl Activity {
    /// Records that a request has been received. `length` is the length of its body, or `None` for a chunked body.
    pub(super) fn begin(&self, length: Option<u64>) -> UnderWay {
        self.0.under_way.set(self.0.under_way.get() + 1);
        self.0.expected.set(length.unwrap_or(0));
        self.0.is_chunked.set(length.is_none());
        self.wake();
        UnderWay(Rc::clone(&self.0))
    }

    /// Records that no request after the one in progress is processed.
    pub(super) fn end(&self) {
        self.0.has_ended.set(true);
    }

    /// Whether the last request of the connection has been received.
    pub(super) fn has_ended(&self) -> bool {
        self.0.has_ended.get()
    }

    fn wake(&self) {
        if let Some(reader) = self.0.reader.take() {
            reader.wake();
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get().saturating_sub(1));
        Activity(Rc::clone(&self.0)).wake();
    }
}

/// A connection that is read in small pieces.
pub(super) struct Paced<T> {
    stream: Take<T>,
    activity: Activity,
    /// The number of bytes read beyond the requests in progress.
    ahead: u64,
    /// Whether the server must parse the last piece before it receives another one.
    is_resting: bool,
    /// Whether the peer currently accepts no data.
    is_blocked: bool,
    /// Whether the server tried to read while the peer accepted no data.
    wants_to_read: bool,
}

impl<T: AsyncRead> Paced<T> {
    pub(super) fn new(stream: T) -> Self {
        Self {
            stream: stream.take(0),
            activity: Activity::default(),
            ahead: 0,
            is_resting: false,
            is_blocked: false,
            wants_to_read: false,
        }
    }
}

impl<T: AsyncRead> Paced<T> {
    pub(super) fn stream(&self) -> &T {
        self.stream.get_ref()
    }

    pub(super) fn activity(&self) -> Activity {
        self.activity.clone()
    }

    /// The maximum number of bytes that can be read now. 0 if the server must finish a request first.
    ///
    /// Without the limit while a request is in progress, the server would continue to read, and later decode
    /// everything.
    fn piece(&mut self) -> u64 {
        let doing = &self.activity.0;
        if doing.under_way.get() == 0 {
            self.ahead = 0;
            return PIECE;
        }
        match doing.expected.get() {
            // A piece is not larger than the rest of the body, because otherwise it would contain the next requests.
            // If the body had already arrived together with the head, this does read from the next requests, but at
            // most as many bytes as the body has.
            expected @ 1.. => expected.min(PIECE_OF_BODY),
            // A request with a chunked body is the last one on its connection.
            0 if doing.is_chunked.get() => PIECE,
            0 => AHEAD.saturating_sub(self.ahead),
        }
    }

    fn note_read(&mut self, read: u64) {
        let doing = &self.activity.0;
        let expected = doing.expected.get();
        doing.expected.set(expected.saturating_sub(read));
        if doing.under_way.get() > 0 && expected == 0 && !doing.is_chunked.get() {
            self.ahead = self.ahead.saturating_add(read);
        }
    }

    fn note<R>(&mut self, written: Poll<R>, context: &Context<'_>) -> Poll<R> {
        self.is_blocked = written.is_pending();
        if !self.is_blocked && std::mem::take(&mut self.wants_to_read) {
            // The stream has not been polled for more data, so it will not wake the server.
            context.waker().wake_by_ref();
        }
        written
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Paced<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.is_blocked {
            this.wants_to_read = true;
            return Poll::Pending;
        }
        if std::mem::take(&mut this.is_resting) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let (before, piece) = (buffer.filled().len(), this.piece());
        if piece == 0 {
            this.activity.0.reader.set(Some(context.waker().clone()));
            return Poll::Pending;
        }
        this.stream.set_limit(piece);
        let result = ready!(Pin::new(&mut this.stream).poll_read(context, buffer));
        let read = (buffer.filled().len() - before) as u64;
        this.note_read(read);
        // If less than a piece was read, the stream is empty for now, and will wake the server when more data
        // arrives.
        this.is_resting = read == piece;
        Poll::Ready(result)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Paced<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(self.stream.get_mut()).poll_write(context, data);
        self.note(written, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream.get_mut()).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream.get_mut()).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(self.stream.get_mut()).poll_write_vectored(context, data);
        self.note(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.get_ref().is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// Counts the calls to the waker.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reads like the server, until no more data is available without waiting. Returns the number of bytes.
    fn all_at_once(stream: &mut (impl AsyncRead + Unpin), waker: &Waker) -> usize {
        let (mut bytes, mut count) = (vec![0; 128 << 10], 0);
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *stream).poll_read(&mut Context::from_waker(waker), &mut buffer) {
                Poll::Ready(result) => result.unwrap(),
                Poll::Pending => return count,
            }
            count += buffer.filled().len();
        }
    }

    #[tokio::test]
    async fn a100_the_server_gets_one_piece_and_is_woken_for_the_next() {
        let (mut client, server) = duplex(64 << 10);
        client.write_all(&[b'x'; 3073]).await.unwrap();
        let (mut server, woken) = (Paced::new(server), Arc::new(Woken::default()));
        let waker = Waker::from(Arc::clone(&woken));
        for n in 1..=3 {
            assert_eq!(all_at_once(&mut server, &waker) as u64, PIECE);
            assert_eq!(woken.0.load(Ordering::Relaxed), n);
        }
        assert_eq!(all_at_once(&mut server, &waker), 1);
        assert_eq!(woken.0.load(Ordering::Relaxed), 3, "the task was woken although nothing is left");
        client.write_all(b"y").await.unwrap();
        assert_eq!(woken.0.load(Ordering::Relaxed), 4, "the task was not woken when more data arrived");
    }

    #[tokio::test]
    async fn a_body_comes_in_large_pieces_and_what_follows_in_small_ones() {
        let (mut client, server) = duplex(256 << 10);
        client.write_all(&vec![b'x'; 100 << 10]).await.unwrap();
        let (mut server, waker) = (Paced::new(server), Waker::noop());
        let request = server.activity().begin(Some(90 << 10));
        assert_eq!(all_at_once(&mut server, waker) as u64, PIECE_OF_BODY);
        assert_eq!(all_at_once(&mut server, waker) as u64, (90 << 10) - PIECE_OF_BODY);
        assert_eq!(all_at_once(&mut server, waker) as u64, AHEAD, "the data after the body");
        drop(request);
        assert_eq!(all_at_once(&mut server, waker) as u64, PIECE, "the next request");
    }

    #[tokio::test]
    async fn a100_little_is_read_beyond_a_request_that_is_under_way() {
        let (mut client, server) = duplex(64 << 10);
        client.write_all(&[b'x'; 16 << 10]).await.unwrap();
        let (mut server, woken) = (Paced::new(server), Arc::new(Woken::default()));
        let waker = Waker::from(Arc::clone(&woken));
        let first = server.activity().begin(Some(0));
        assert_eq!(all_at_once(&mut server, &waker) as u64, AHEAD);
        let _ = all_at_once(&mut server, &waker);
        let before = woken.0.load(Ordering::Relaxed);
        for _ in 0..3 {
            assert_eq!(all_at_once(&mut server, &waker), 0);
        }
        assert_eq!(woken.0.load(Ordering::Relaxed), before, "the task is woken repeatedly");
        // The next request starts when this one is complete. The bytes of both have already been read.
        let next = server.activity().begin(Some(0));
        drop(first);
        assert_eq!(woken.0.load(Ordering::Relaxed), before + 1);
        assert_eq!(all_at_once(&mut server, &waker), 0, "more data is read with each request");
        drop(next);
        assert_eq!(woken.0.load(Ordering::Relaxed), before + 2);
        assert_eq!(all_at_once(&mut server, &waker) as u64, PIECE);
    }

    /// The server gets a small body together with the head, so its bytes are not read after the request has begun.
    #[tokio::test]
    async fn a100_no_more_is_read_ahead_with_each_request_than_its_body() {
        let (mut client, server) = duplex(64 << 10);
        client.write_all(&vec![b'x'; 64 << 10]).await.unwrap();
        let (mut server, waker) = (Paced::new(server), Waker::noop());
        let (mut read, mut request) = (0, server.activity().begin(Some(50)));
        for _ in 0..100 {
            while let count @ 1.. = all_at_once(&mut server, waker) {
                read += count;
            }
            let next = server.activity().begin(Some(50));
            drop(request);
            request = next;
        }
        drop(request);
        assert!(read <= 101 * 50 + 1, "{read}");
    }

    #[tokio::test]
    async fn a100_nothing_is_read_while_the_peer_takes_no_response() {
        let (mut client, server) = duplex(8);
        client.write_all(b"request").await.unwrap();
        let (mut server, woken) = (Paced::new(server), Arc::new(Woken::default()));
        let waker = Waker::from(Arc::clone(&woken));
        let write = |server: &mut Paced<_>| {
            Pin::new(server).poll_write(&mut Context::from_waker(&waker), b"response")
        };
        assert!(write(&mut server).is_ready());
        assert!(write(&mut server).is_pending());
        assert_eq!(all_at_once(&mut server, &waker), 0);
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 8);
        let before = woken.0.load(Ordering::Relaxed);
        assert!(write(&mut server).is_ready());
        assert_eq!(
            woken.0.load(Ordering::Relaxed),
            before + 1,
            "the task was not told that it can read again"
        );
        assert_eq!(all_at_once(&mut server, &waker), 7);
    }
}
