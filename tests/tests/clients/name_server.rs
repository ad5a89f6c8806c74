//! A name server with a single name, whose address changes with each query (DNS rebinding).

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::UdpSocket as AsyncSocket;

/// The only name that this server resolves.
pub(crate) const NAME: &str = "rebinding.example";

const HEADER: usize = 12;
const A: [u8; 4] = [0, 1, 0, 1];

/// Starts to answer queries. The returned number counts the queries for the name's address. Even-numbered queries
/// get the first of `addresses`, and odd-numbered ones get the second.
pub(crate) fn serve(socket: UdpSocket, addresses: [Ipv4Addr; 2]) -> Arc<AtomicUsize> {
    socket.set_nonblocking(true).unwrap();
    let socket = AsyncSocket::from_std(socket).unwrap();
    let asked = Arc::<AtomicUsize>::default();
    let counter = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((length, sender)) = socket.recv_from(&mut query).await {
            socket.send_to(&answer(&query[..length], addresses, &counter), sender).await.ok();
        }
    });
    asked
}

/// The response to a query with a single question (RFC 1035 §4.1).
fn answer(query: &[u8], addresses: [Ipv4Addr; 2], asked: &AtomicUsize) -> Vec<u8> {
    let mut end = HEADER;
    let mut labels = Vec::new();
    while query[end] != 0 {
        let next = end + 1 + usize::from(query[end]);
        labels.push(String::from_utf8_lossy(&query[end + 1..next]).into_owned());
        end = next;
    }
    let (known, kind) = (labels.join(".").eq_ignore_ascii_case(NAME), &query[end + 1..end + 5]);
    let address = (known && kind == A).then(|| addresses[asked.fetch_add(1, Ordering::SeqCst) % 2]);
    let (no_such_name, answers) = (u8::from(!known) * 3, u8::from(address.is_some()));
    let mut response = query[..2].to_vec();
    response.extend([0x81, 0x80 | no_such_name, 0, 1, 0, answers, 0, 0, 0, 0]);
    response.extend(&query[HEADER..end + 5]);
    if let Some(address) = address {
        // A pointer to the name in the question, type A, class IN, a lifetime of 0, and a length of four
        // bytes.
        response.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        response.extend(address.octets());
    }
    response
}
