//! Tests of the container's health check, with the real program.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Output};

fn healthcheck(listener: &str, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_auth-service"));
    // No other setting is present, because the health check of an image must not need secrets.
    command.env_clear().env("OPS_LISTEN", listener).arg("healthcheck").args(more).output().unwrap()
}

/// Answers one request with `status`. The thread returns the request line.
fn answering(listener: TcpListener, status: &'static str) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = [0; 1024];
        let length = stream.read(&mut asked).unwrap();
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 4\r\nConnection: close\r\n\r\nwhy.").unwrap();
        String::from_utf8_lossy(&asked[..length]).lines().next().unwrap().to_owned()
    })
}

#[test]
fn a_service_is_healthy_when_it_says_so_and_unhealthy_when_it_does_not_or_is_not_there() {
    for (more, path, status, healthy) in [
        (&[][..], "/ready", "200 OK", true),
        (&[][..], "/ready", "503 Service Unavailable", false),
        (&["--alive"][..], "/health", "200 OK", true),
        (&[][..], "/ready", "2000 No", false),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let service = answering(listener, status);
        let output = healthcheck(&address, more);
        assert_eq!(output.status.success(), healthy, "{status}: {output:?}");
        assert_eq!(service.join().unwrap(), format!("GET {path} HTTP/1.1"));
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(healthy || message.contains("why."), "{message}");
        // Nothing listens at this address now.
        let output = healthcheck(&address, more);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains(&address), "{message}");
    }
    let message = String::from_utf8_lossy(&healthcheck("nowhere", &[]).stderr).into_owned();
    assert!(message.contains("OPS_LISTEN"), "{message}");
}
