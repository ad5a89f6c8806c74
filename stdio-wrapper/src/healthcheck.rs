//! `--healthcheck`: asks a running wrapper. An image without a shell has no other program that could do so.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// Time for the answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks the wrapper with this `OPS_LISTEN` for `/health`. Anything but 200 is an error, which is one sentence
/// about what happened instead.
pub(crate) fn ask(ops_listen: &str) -> Result<(), String> {
    let listener: SocketAddr = ops_listen.trim().parse().map_err(|_| {
        format!(
            "OPS_LISTEN is `{ops_listen}`, which is not an address with a port. Write it like 127.0.0.1:8081."
        )
    })?;
    let address = from_inside(listener);
    let answer = get(address).map_err(|error| {
        format!("nothing answers at OPS_LISTEN ({address}): {error}. Does the wrapper run?")
    })?;
    if answer.starts_with("HTTP/1.1 200 ") {
        Ok(())
    } else {
        Err(format!("/health answered `{}`.", answer.lines().next().unwrap_or_default()))
    }
}

/// The address at which a listener on all addresses is reached from the same machine.
fn from_inside(listener: SocketAddr) -> SocketAddr {
    let address = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(address, listener.port())
}

fn get(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // The request is sent in one piece: if it were several, a service could answer the first one and
    // disconnect before the second.
    let request = format!("GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(16 * 1024).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_asked_at_loopback() {
        let asked = |text: &str| from_inside(text.parse().unwrap()).to_string();
        assert_eq!(asked("0.0.0.0:8081"), "127.0.0.1:8081");
        assert_eq!(asked("[::]:8081"), "[::1]:8081");
    }

    #[test]
    fn what_is_no_address_is_said() {
        assert!(ask("here").unwrap_err().contains("OPS_LISTEN"));
    }
}
