//! Tests the issuer suite. Our own issuer passes it on both stores, and an issuer with many faults passes only
//! three of its checks.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tests::browser::Person;
use tests::places::free_port;
use tests::process::{self, Process};
use tests::setup::ACCOUNT;
use tests::suite::{Options, Outcome, Report, run};
use tests::{Setup, Stack};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

async fn report_on(stack: &Stack) -> Report {
    let options = Options {
        person: Some(Person::new(ACCOUNT.0, ACCOUNT.1)),
        resource: Some(stack.mcp_url.clone()),
        ..Options::default()
    };
    run(&stack.issuer, options).await.unwrap()
}

#[track_caller]
fn assert_good(report: &Report) {
    println!("{report}");
    assert!(report.failed().is_empty(), "{report}");
    let skipped: Vec<_> =
        report.checks.iter().filter(|check| matches!(check.outcome, Outcome::Skip(_))).collect();
    assert!(skipped.iter().all(|check| check.source == "attack 65"), "{skipped:?}");
    assert!(report.checks.len() > 60, "{}", report.checks.len());
}

#[tokio::test]
async fn ours_passes_on_the_embedded_store() {
    let stack = Stack::start().await;
    assert_good(&report_on(&stack).await);
    // The audit log records the attacks by the suite.
    let log = stack.log_of("auth-service");
    for event in ["code_replayed", "refresh_token_reused", "grant_revoked"] {
        assert!(log.contains(event), "no {event}");
    }
}

#[tokio::test]
async fn ours_passes_below_a_path_and_with_another_algorithm() {
    let setup = Setup::as_shipped().issuer_path("/tenant1").auth_setting("SIGNING_ALGORITHM", "ES256");
    assert_good(&report_on(&setup.start().await).await);
}

#[tokio::test]
async fn ours_passes_on_redis() {
    let there = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
    if there.is_err() {
        eprintln!("there is no redis-server on this machine");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut command = process::command("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    let _redis = Process::start("redis", command.current_dir(dir.path()), dir.path());
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        assert!(Instant::now() < deadline, "Redis did not start");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let setup = Setup::as_shipped()
        .auth_setting("REDIS_URL", &format!("redis://127.0.0.1:{port}"))
        .auth_setting("STORE_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    assert_good(&report_on(&setup.start().await).await);
}

#[tokio::test]
async fn without_a_login_the_rest_is_checked_and_the_gaps_are_told() {
    let stack = Stack::start().await;
    let report = run(&stack.issuer, Options::default()).await.unwrap();
    assert!(report.failed().is_empty(), "{report}");
    let [passed, _, skipped] = report.counts();
    assert!(passed > 30 && skipped > 20, "{report}");
    assert!(report.to_string().contains("--user and --password are not given"), "{report}");
    assert!(run(&format!("{}/nothing", stack.issuer), Options::default()).await.is_err());
}

/// Checks that even the faulty issuer passes, each with the reason.
const HELD_BY_THE_FLAWED: [&str; 3] = [
    // The faulty issuer is on loopback.
    "endpoints use TLS or are on loopback",
    // It accepts all tokens, so it also accepts a valid one.
    "a token of this issuer is accepted",
    // It has no working revocation.
    "another client cannot revoke a token",
];

#[tokio::test]
async fn an_issuer_full_of_holes_fails_check_by_check() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let served = base.clone();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(socket, served.clone()));
        }
    });
    let options = Options {
        person: Some(Person::new("ana", "password")),
        resource: Some(format!("{base}/mcp")),
        ..Options::default()
    };
    let report = run(&base, options).await.unwrap();
    println!("{report}");
    let held: Vec<_> = report
        .checks
        .iter()
        .filter(|check| check.outcome == Outcome::Pass && !HELD_BY_THE_FLAWED.contains(&check.rule))
        .collect();
    assert!(held.is_empty(), "checks that cannot fail: {held:#?}");
    let [_, failed, skipped] = report.counts();
    assert!(failed > 50 && skipped == 0, "{failed} failed, {skipped} skipped");
}

static COUNT: AtomicU64 = AtomicU64::new(0);

/// Responds to a request with as many faults as possible in a few lines.
async fn answer(mut socket: TcpStream, base: String) {
    let mut head = Vec::new();
    let mut buffer = vec![0; 65_536];
    let (text, body) = loop {
        let Ok(read) = socket.read(&mut buffer).await else { return };
        head.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&head).into_owned();
        if read == 0 {
            return;
        }
        let Some((text, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = text
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            break (text.to_owned(), body.to_owned());
        }
    };
    let target = text.split(' ').nth(1).unwrap_or("/").to_owned();
    let header = |name: &str| {
        text.lines().find_map(|line| {
            Some(line.split_once(": ")?)
                .filter(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.to_owned())
        })
    };
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let pairs: Vec<(String, String)> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let parameter =
        |name: &str| pairs.iter().rfind(|(key, _)| key == name).map(|(_, v)| v.clone()).unwrap_or_default();
    let forwarded = ["x-forwarded-host", "x-host", "forwarded"].iter().find_map(|name| header(name));
    let (status, headers, content) = match path {
        "/.well-known/oauth-authorization-server" => {
            let document = json!({
                "issuer": format!("{base}/"), "host": forwarded,
                "authorization_endpoint": format!("{base}/authorize"), "token_endpoint": format!("{base}/token"),
                "registration_endpoint": format!("{base}/register"), "jwks_uri": format!("{base}/jwks"),
                "revocation_endpoint": format!("{base}/revoke"), "introspection_endpoint": format!("{base}/introspect"),
                "response_types_supported": ["token"], "code_challenge_methods_supported": ["plain"],
                "token_endpoint_auth_methods_supported": ["client_secret_post"],
                "token_endpoint_auth_signing_alg_values_supported": ["none", "HS256"],
            });
            (200, "content-type: text/plain\r\naccess-control-allow-origin: https://inspector.example\r\naccess-control-allow-credentials: true".to_owned(), document.to_string())
        }
        "/.well-known/openid-configuration" => {
            (200, String::new(), json!({ "issuer": "https://other.example" }).to_string())
        }
        "/.well-known/oauth-protected-resource/mcp" => (
            200,
            String::new(),
            json!({ "resource": base, "authorization_servers": ["https://other.example"] }).to_string(),
        ),
        "/jwks" => {
            (200, String::new(), json!({ "keys": [{ "kty": "OKP", "kid": "k", "d": "secret" }] }).to_string())
        }
        "/register" if text.starts_with("POST") => {
            let mut sent: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
            if !sent.is_object() {
                sent = json!({});
            }
            sent["client_id"] = json!("the-client");
            sent["token_endpoint_auth_method"] = json!("client_secret_post");
            sent["registration_client_uri"] = json!(format!("{base}/register/the-client"));
            if sent.get("software_statement").is_some() {
                sent["client_name"] = json!("Trusted");
            }
            (201, String::new(), sent.to_string())
        }
        "/authorize" => {
            let shown: String = pairs.iter().map(|(_, value)| value.as_str()).collect();
            let to: String =
                url::form_urlencoded::byte_serialize(parameter("redirect_uri").as_bytes()).collect();
            let form =
                format!("<form action=\"/login?to={to}\"><input name=username><input name=password></form>");
            (200, "content-type: text/html".to_owned(), format!("{shown}{form}"))
        }
        "/login" => (302, format!("location: {}?code=the-code", parameter("to")), String::new()),
        "/token" if header("authorization").is_some() => {
            (500, String::new(), "panicked at token.rs:1".to_owned())
        }
        "/token" => {
            let tokens = json!({ "access_token": "e30.e30.x", "token_type": "mac", "refresh_token": format!("refresh-{}", COUNT.fetch_add(1, Ordering::Relaxed)), "error": "\"" });
            (200, String::new(), tokens.to_string())
        }
        "/revoke" => (200, String::new(), String::new()),
        "/introspect" => (200, String::new(), json!({ "active": true }).to_string()),
        _ => (200, String::new(), "{}".to_owned()),
    };
    let separator = if headers.is_empty() { "" } else { "\r\n" };
    let reply = format!(
        "HTTP/1.1 {status} X\r\n{headers}{separator}content-length: {}\r\nconnection: close\r\n\r\n{content}",
        content.len()
    );
    let _ = socket.write_all(reply.as_bytes()).await;
}
