//! Decides whether a URL from a stranger is allowed to point to an address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether `address` is a host on the public internet. It must not be in a special-use range of RFC 6890 and
/// its successors, in any of the forms in which an IPv6 address contains an IPv4 address.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = matches!(
        (a, b, c),
        (0 | 10 | 127 | 224.., _, _)          // this network, private, loopback, multicast and reserved
            | (100, 64..=127, _)              // carrier-grade NAT (RFC 6598)
            | (169, 254, _)                   // link-local, with cloud metadata services
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)                 // protocol assignments, documentation
            | (192, 31, 196)                  // AS112
            | (192, 52, 193)                  // AMT
            | (192, 88, 99)                   // 6to4 relays
            | (192, 168, _)
            | (192, 175, 48)                  // AS112
            | (198, 18..=19, _)               // benchmarking
            | (198, 51, 100)
            | (203, 0, 113)
    );
    !special
}

/// Accepts only global unicast (`2000::/3`), without the ranges that contain no hosts or that embed an IPv4
/// address.
#[expect(clippy::unnested_or_patterns, reason = "one range per line, each with its purpose")]
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    let special = matches!(
        (first, second),
        (..=0x1fff | 0x4000.., _)             // mapped, compatible, NAT64, unique local, link-local, multicast…
            | (0x2001, 0x0000..=0x01ff)       // protocol assignments: Teredo, ORCHID, benchmarking
            | (0x2001, 0x0db8)                // documentation
            | (0x2002, _)                     // 6to4 embeds any IPv4 address
            | (0x2620, 0x004f)                // AS112 (2620:4f:8000::/48)
            | (0x3fff, 0x0000..=0x0fff)       // documentation (RFC 9637)
    );
    !special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a050_special_use_addresses_in_every_disguise_are_not_public() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.8.9.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:8.8.8.8",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:0:7f00:1::",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "4000::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn hosts_of_the_internet_are_public() {
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "192.167.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "2a00:1450::1",
            "2400:cb00::1",
        ] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }
}
