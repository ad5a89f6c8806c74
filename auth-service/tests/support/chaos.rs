//! A TCP proxy to Redis on a free loopback port, with faults that the test controls.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the proxy does with the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    /// The proxy forwards the data.
    Fair,
    /// The proxy forwards the data after this delay.
    Delay(Duration),
    /// The data is dropped, and the connections stay open. A connection that has lost data forwards nothing
    /// afterwards, so that no bytes are missing in the middle of a stream.
    HalfOpen,
    /// Responses are replaced with meaningless bytes.
    Garbage,
    /// The proxy forwards a few bytes at a time.
    Slow,
    /// Responses on the connection with this number wait until the test sets another fault.
    Hold(usize),
    /// All connections are cut, including new ones.
    Cut,
}

pub(crate) struct Chaos {
    pub(crate) address: SocketAddr,
    weather: watch::Sender<Weather>,
    turns: Arc<Turns>,
    task: tokio::task::JoinHandle<()>,
}

/// Counts the round trips of the first connection: how often the client sends data after it has received data.
#[derive(Default)]
struct Turns {
    heard: AtomicBool,
    count: AtomicUsize,
}

impl Turns {
    fn carried(&self, is_answer: bool) {
        if is_answer {
            self.heard.store(true, Ordering::SeqCst);
        } else if self.heard.swap(false, Ordering::SeqCst) {
            self.count.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Chaos {
    /// Starts a proxy to this port on loopback.
    pub(crate) async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (weather, seen) = watch::channel(Weather::Fair);
        let turns = Arc::new(Turns::default());
        let counted = Arc::clone(&turns);
        let task = tokio::spawn(async move {
            for number in 0.. {
                let Ok((near, _)) = listener.accept().await else { return };
                let seen = seen.clone();
                let counted = if number == 0 { Arc::clone(&counted) } else { Arc::default() };
                tokio::spawn(async move {
                    if *seen.borrow() == Weather::Cut {
                        return;
                    }
                    let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    let (_, _) = (near.set_nodelay(true), far.set_nodelay(true));
                    let (near_read, near_write) = near.into_split();
                    let (far_read, far_write) = far.into_split();
                    let there = carry(near_read, far_write, seen.clone(), None, &counted);
                    let back = carry(far_read, near_write, seen, Some(number), &counted);
                    tokio::select! { () = there => {}, () = back => {} }
                });
            }
        });
        Self { address, weather, turns, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// The number of round trips over the first connection so far. Commands that are sent together count as one.
    pub(crate) fn round_trips(&self) -> usize {
        self.turns.count.load(Ordering::SeqCst)
    }

    pub(crate) fn turn(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

/// Forwards data in one direction. For responses, `answers_of` is the number of the connection.
async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut seen: watch::Receiver<Weather>,
    answers_of: Option<usize>,
    turns: &Turns,
) {
    let mut buffer = vec![0_u8; 16 * 1024];
    let mut lost = false;
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            changed = seen.changed() => {
                if changed.is_err() || *seen.borrow() == Weather::Cut { return }
                continue;
            }
        };
        let Ok(read @ 1..) = read else { return };
        if answers_of.is_none() {
            turns.carried(false);
        }
        let mut bytes = buffer[..read].to_vec();
        loop {
            let weather = *seen.borrow_and_update();
            match weather {
                Weather::Cut => return,
                Weather::Delay(time) => {
                    tokio::time::sleep(time).await;
                    // Data that arrived in the meantime is not delayed again, as on a long-distance link that
                    // carries many messages at the same time.
                    while let Ok(more @ 1..) = from.try_read(&mut buffer) {
                        bytes.extend_from_slice(&buffer[..more]);
                    }
                }
                Weather::HalfOpen => lost = true,
                Weather::Garbage if answers_of.is_some() => bytes.iter_mut().for_each(|byte| *byte = b'?'),
                Weather::Hold(number) if answers_of == Some(number) => {
                    if seen.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
                _ => {}
            }
            break;
        }
        if lost {
            continue;
        }
        if answers_of.is_some() {
            turns.carried(true);
        }
        let pieces = if *seen.borrow() == Weather::Slow { 7 } else { bytes.len().max(1) };
        for piece in bytes.chunks(pieces) {
            if to.write_all(piece).await.is_err() {
                return;
            }
            if pieces == 7 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}
