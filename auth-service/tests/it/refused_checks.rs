//! Tests of the log lines about refused checks. An operator must see from one line which setting of the edge is
//! wrong.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use reqwest::{RequestBuilder, StatusCode};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const SECRET: &str = "0123456789abcdef";

/// A running auth-service with its log.
struct Service {
    process: Child,
    log: PathBuf,
    edge: String,
    _directory: tempfile::TempDir,
}

impl Service {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let (edge, ops) = (free(), free());
        let process = Command::new("timeout")
            .args(["60", env!("CARGO_BIN_EXE_auth-service")])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("DATA_DIR", directory.path().join("data"))
            .envs([("ISSUER", "https://mcp.example"), ("PROTECTED_HOSTS", "mcp.example")])
            .envs([("PUBLIC_LISTEN", "127.0.0.1:0"), ("EDGE_LISTEN", &edge), ("OPS_LISTEN", &ops)])
            .envs([("LOG_FORMAT", "json"), ("EDGE_SECRET", SECRET)])
            .envs(settings.iter().copied())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let service = Self { process, log, edge, _directory: directory };
        for _ in 0..1000 {
            if tokio::net::TcpStream::connect(&service.edge).await.is_ok() {
                return service;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("it does not listen: {}", fs::read_to_string(&service.log).unwrap());
    }

    /// A check as Traefik sends it, without the secret.
    fn check(&self, host: &str) -> RequestBuilder {
        let headers = [
            ("X-Forwarded-Method", "POST"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", host),
            ("X-Forwarded-Uri", "/mcp"),
        ];
        let request = reqwest::Client::new().get(format!("http://{}/verify/traefik", self.edge));
        headers.into_iter().fold(request, |request, (name, value)| request.header(name, value))
    }

    /// The fields of the only line about a refused check.
    async fn refused(&self, request: RequestBuilder, status: StatusCode) -> Value {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status);
        let body = response.text().await.unwrap();
        assert!(!body.contains("X-Edge-Secret is"), "only the log has the details: {body}");
        for _ in 0..400 {
            let log = fs::read_to_string(&self.log).unwrap();
            let mut lines = log.lines().filter(|line| line.contains("a check was refused"));
            if let Some(line) = lines.next().filter(|_| log.ends_with('\n')) {
                assert!(lines.next().is_none() && !log.contains(SECRET), "{log}");
                let line: Value = serde_json::from_str(line).unwrap();
                assert_eq!(line["level"], "WARN");
                return line.get("fields").unwrap_or(&line).clone();
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("nothing was logged: {}", fs::read_to_string(&self.log).unwrap());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // `timeout` passes the signal on.
        let pid = self.process.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        self.process.wait().unwrap();
    }
}

#[tokio::test]
async fn a_check_that_is_not_from_the_edge_is_logged_with_host_peer_and_what_is_wrong() {
    for (settings, secrets, reason) in [
        (&[][..], &[][..], "X-Edge-Secret is missing"),
        (&[], &["another secret of the edge"], "X-Edge-Secret is wrong"),
        (&[], &[SECRET, SECRET], "X-Edge-Secret is repeated"),
        (&[("TRUSTED_PROXIES", "192.0.2.0/24")], &[SECRET], "its address is unknown"),
    ] {
        let service = Service::start(settings).await;
        let check = service.check("mcp.example");
        let check = secrets.iter().fold(check, |check, secret| check.header("X-Edge-Secret", *secret));
        let fields = service.refused(check, StatusCode::FORBIDDEN).await;
        assert_eq!(
            (&fields["host"], &fields["peer"]),
            (&"mcp.example".into(), &"127.0.0.1".into()),
            "{fields}"
        );
        let told = fields["reason"].as_str().unwrap();
        assert!(told.contains(reason) && told.contains("EDGE_SECRET"), "{told}");
    }
}

#[tokio::test]
async fn a_check_for_another_host_is_logged_with_this_host() {
    let service = Service::start(&[]).await;
    let check = service.check("other.example").header("X-Edge-Secret", SECRET);
    let fields = service.refused(check, StatusCode::FORBIDDEN).await;
    assert_eq!(fields["host"], "other.example", "{fields}");
    assert!(fields["reason"].as_str().unwrap().contains("see PROTECTED_HOSTS"), "{fields}");
}

/// Attack 100: whoever is not the edge gets one refusal on each connection, so checks of the edge need not wait for
/// thousands of them.
#[tokio::test]
async fn a100_a_connection_with_an_untrusted_check_is_closed_and_one_of_the_edge_stays_open() {
    let service = Service::start(&[]).await;
    let check = |secret: &str| {
        format!(
            "GET /verify/caddy HTTP/1.1\r\nHost: a\r\nX-Edge-Secret: {secret}\r\nX-Forwarded-Method: POST\r\n\
             X-Forwarded-Proto: https\r\nX-Forwarded-Host: mcp.example\r\nX-Forwarded-Uri: /mcp\r\n\r\n"
        )
    };
    for (secret, status, responses) in [("wrong", "HTTP/1.1 403", 1), (SECRET, "HTTP/1.1 401", 3)] {
        let mut stream = tokio::net::TcpStream::connect(&service.edge).await.unwrap();
        stream.write_all(check(secret).repeat(3).as_bytes()).await.unwrap();
        let (mut received, mut buffer) = (Vec::new(), [0; 4096]);
        let is_closed = loop {
            match tokio::time::timeout(Duration::from_secs(2), stream.read(&mut buffer)).await {
                // The edge's connection stays open.
                Err(_) => break false,
                Ok(Ok(0) | Err(_)) => break true,
                Ok(Ok(count)) => received.extend_from_slice(&buffer[..count]),
            }
        };
        let received = String::from_utf8(received).unwrap();
        assert_eq!(received.matches(status).count(), responses, "{received}");
        assert_eq!(is_closed, responses == 1, "{received}");
    }
}
