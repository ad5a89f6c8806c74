//! Determines the address of the client that sent a request, even behind an edge proxy.

use std::net::{IpAddr, SocketAddr};

use actix_web::HttpRequest;
use actix_web::http::header::HeaderMap;

/// Returns the address that sent the request to the edge. If the peer is a trusted proxy, this is the rightmost
/// address in `X-Forwarded-For` that is not a trusted proxy. Everything to the left of it is ignored, because an
/// attacker might have written it.
pub fn of(request: &HttpRequest, is_trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    Some(behind(request.peer_addr()?.ip(), request.headers(), is_trusted))
}

/// Like [`of`], for a request from `peer` with these headers.
pub fn behind(peer: IpAddr, headers: &HeaderMap, is_trusted: impl Fn(IpAddr) -> bool) -> IpAddr {
    let mut address = peer.to_canonical();
    let header = headers.get_all("x-forwarded-for").filter_map(|value| value.to_str().ok());
    let hops: Vec<&str> = header.flat_map(|value| value.split(',')).collect();
    for hop in hops.iter().rev() {
        if !is_trusted(address) {
            break;
        }
        let Some(next) = address_in(hop.trim()) else { break };
        address = next.to_canonical();
    }
    address
}

/// The address in one entry of the header. Some proxies add the port of the client, or brackets.
fn address_in(hop: &str) -> Option<IpAddr> {
    let bare = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    hop.parse().ok().or_else(|| hop.parse().ok().map(|with_port: SocketAddr| with_port.ip())).or_else(bare)
}

/// The part of an address that identifies one subscriber: a whole IPv4 address, or the /64 network of an IPv6
/// address.
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
    }
}

/// Whether two addresses are in the network of one subscriber. All loopback addresses count as one network, because a
/// browser that resolves `localhost` can use `::1` where another program on this machine uses `127.0.0.1`.
pub fn are_in_one_network(one: IpAddr, other: IpAddr) -> bool {
    network(one) == network(other) || (one.is_loopback() && other.is_loopback())
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn seen(peer: &str, forwarded: &[&str]) -> String {
        let trusted: ipnet::IpNet = "10.0.0.0/8".parse().unwrap();
        let request = TestRequest::default().peer_addr(format!("{peer}:1").parse().unwrap());
        let request = forwarded
            .iter()
            .fold(request, |request, value| request.append_header(("x-forwarded-for", *value)));
        of(&request.to_http_request(), |address| trusted.contains(&address)).unwrap().to_string()
    }

    #[test]
    fn only_trusted_hops_are_believed() {
        assert_eq!(seen("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(seen("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(seen("10.0.0.1", &["1.1.1.1, 198.51.100.7"]), "198.51.100.7");
        assert_eq!(seen("10.0.0.1", &["198.51.100.7", "10.0.0.2"]), "198.51.100.7");
        assert_eq!(seen("10.0.0.1", &["junk"]), "10.0.0.1");
        for unfit in ["198.51.100.7:", "198.51.100.7:x", "[198.51.100.7", "[]", ":555"] {
            assert_eq!(seen("10.0.0.1", &[unfit]), "10.0.0.1", "{unfit}");
        }
        assert_eq!(seen("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn addresses_of_one_subscriber_or_of_this_machine_are_in_one_network() {
        let of = |one: &str, other: &str| are_in_one_network(one.parse().unwrap(), other.parse().unwrap());
        assert!(of("127.0.0.1", "::1") && of("2001:db8::1", "2001:db8::2") && of("192.0.2.1", "192.0.2.1"));
        assert!(!of("127.0.0.1", "192.0.2.1") && !of("::1", "2001:db8::1") && !of("192.0.2.1", "192.0.2.2"));
    }

    #[test]
    fn a100_an_address_with_a_port_or_in_brackets_is_the_same_address() {
        assert_eq!(seen("10.0.0.1", &["1.1.1.1:1, 198.51.100.7:555, 10.0.0.2:80"]), "198.51.100.7");
        for forwarded in ["2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:5"] {
            assert_eq!(seen("10.0.0.1", &[forwarded]), "2001:db8::1", "{forwarded}");
        }
    }
}
