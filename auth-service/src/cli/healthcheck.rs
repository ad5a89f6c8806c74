//! `auth-service healthcheck`. An image without a shell has no other program that could send a request.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use auth_service::config::Config;

/// Options of the health check.
#[derive(Args)]
pub(crate) struct Healthcheck {
    /// Ask only whether the process is alive (`/health`), not whether its store answers (`/ready`).
    #[arg(long)]
    alive: bool,
    /// Maximum time for the answer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3)]
    patience: u64,
}

/// Asks the service that runs with the same settings.
pub(crate) fn healthcheck(asked: &Healthcheck) -> anyhow::Result<()> {
    let address = from_inside(Config::ops_listen_from_variables(std::env::vars())?);
    let path = if asked.alive { "/health" } else { "/ready" };
    let patience = Duration::from_secs(asked.patience.max(1));
    let answer = get(address, path, patience)
        .with_context(|| format!("no service answers at OPS_LISTEN ({address}); is it running?"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if !head.starts_with("HTTP/1.1 200 ") && !head.starts_with("HTTP/1.0 200 ") {
        bail!("{path} answered {:?}: {body}", head.lines().next().unwrap_or_default());
    }
    Ok(())
}

/// The address at which a listener can be reached from the same machine, even if it listens on all addresses.
fn from_inside(listener: SocketAddr) -> SocketAddr {
    let address = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(address, listener.port())
}

/// Sends a GET request. The response has a few hundred bytes, so an HTTP client and a runtime would be more
/// work than the request itself.
fn get(address: SocketAddr, path: &str, patience: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    // The request is written in one piece. If the service answered and closed the connection after a first
    // part, writing the rest would fail.
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
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
        assert_eq!(asked("0.0.0.0:9002"), "127.0.0.1:9002");
        assert_eq!(asked("[::]:9002"), "[::1]:9002");
        assert_eq!(asked("10.0.0.1:9002"), "10.0.0.1:9002");
    }
}
