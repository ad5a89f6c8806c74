//! Requests the health of a running program. An image without a shell contains no other program that could do
//! this.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// Maximum length of a response in bytes.
const MAX_RESPONSE: u64 = 16 * 1024;

/// The address at which a listener can be reached from the same machine, even if it listens on all addresses.
pub fn from_inside(listener: SocketAddr) -> SocketAddr {
    let address = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(address, listener.port())
}

/// Sends a GET request for `path`. Returns the body if the status is 200, and otherwise the status line and the
/// body. The response is only a few hundred bytes long, so an HTTP client and a runtime would cost more than the
/// request.
///
/// # Errors
/// Fails if there is no response within `patience`.
pub fn ask(address: SocketAddr, path: &str, patience: Duration) -> io::Result<Result<String, String>> {
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    // The request is written in one piece. If it were sent in parts and the service responded and closed the
    // connection after the first one, writing the rest would fail.
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut response = Vec::new();
    stream.take(MAX_RESPONSE).read_to_end(&mut response)?;
    let response = String::from_utf8_lossy(&response);
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
    let status = head.lines().next().unwrap_or_default();
    if ["HTTP/1.1 200 ", "HTTP/1.0 200 "].iter().any(|ok| status.starts_with(ok)) {
        Ok(Ok(body.to_owned()))
    } else {
        Ok(Err(format!("{status:?}: {body}")))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_on_every_address_is_asked_at_loopback() {
        let asked = |text: &str| from_inside(text.parse().unwrap()).to_string();
        assert_eq!(asked("0.0.0.0:9002"), "127.0.0.1:9002");
        assert_eq!(asked("[::]:9002"), "[::1]:9002");
        assert_eq!(asked("10.0.0.1:9002"), "10.0.0.1:9002");
    }

    #[test]
    fn only_200_is_health() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let patience = Duration::from_secs(5);
        for (answer, is_well) in [
            ("HTTP/1.1 200 OK\r\n\r\nyes", true),
            ("HTTP/1.1 2000 OK\r\n\r\nyes", false),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\nno", false),
            ("", false),
        ] {
            let asked = std::thread::spawn(move || ask(address, "/ready", patience));
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).unwrap();
            assert!(request[..length].starts_with(b"GET /ready HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).unwrap();
            drop(stream);
            assert_eq!(asked.join().unwrap().unwrap().is_ok(), is_well, "{answer}");
        }
        drop(listener);
        assert!(ask(address, "/ready", patience).is_err());
    }
}
