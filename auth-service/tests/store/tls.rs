//! Tests of TLS connections to Redis with the real program, which trusts only the certificates in `SSL_CERT_FILE`.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::time::sleep;

use super::worlds::key;
use crate::redis_server::{RedisServer, free_port};

/// Writes three files into `directory`: the certificate of a CA, a certificate for `localhost` with its key, and
/// the certificate of another CA.
fn certificates(directory: &Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    for (name, text) in [("ca.pem", ca.pem()), ("own.pem", own.pem()), ("key.pem", key.serialize_pem())] {
        fs::write(directory.join(name), text).unwrap();
    }
    let stranger = CertifiedIssuer::self_signed(
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap(),
        KeyPair::generate().unwrap(),
    );
    fs::write(directory.join("stranger.pem"), stranger.unwrap().pem()).unwrap();
}

/// Starts the program with this Redis URL and these trusted certificates. Its log is written to `log`.
fn run(url: &str, trusted: &Path, ops: u16, log: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_auth-service"));
    command.env_clear().envs([("ISSUER", "https://auth.example"), ("PROTECTED_HOSTS", "mcp.example")]);
    command.envs([("PUBLIC_LISTEN", "127.0.0.1:0"), ("EDGE_LISTEN", "127.0.0.1:0"), ("WORKERS", "1")]);
    command.env("OPS_LISTEN", format!("127.0.0.1:{ops}"));
    command.env("REDIS_URL", url).env("STORE_KEY", key().encode().as_str()).env("SSL_CERT_FILE", trusted);
    let log = fs::File::create(log).unwrap();
    command.stdout(log.try_clone().unwrap()).stderr(Stdio::from(log));
    command.spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_spoken_to_over_tls_with_who_is_trusted_and_with_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    certificates(directory.path());
    let tls = free_port().to_string();
    let text = |name: &str| path(name).display().to_string();
    let (ca, own, private) = (text("ca.pem"), text("own.pem"), text("key.pem"));
    let options = ["--appendonly", "no", "--tls-port", &tls, "--tls-auth-clients", "no"];
    let files = ["--tls-cert-file", &own, "--tls-key-file", &private, "--tls-ca-cert-file", &ca];
    let Some(server) = RedisServer::start(&[&options[..], &files].concat()) else { return };

    let (ops, log) = (free_port(), path("log"));
    let mut program = run(&format!("rediss://localhost:{tls}"), &path("ca.pem"), ops, &log);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let ready = loop {
        if let Ok(answer) = http.get(format!("http://127.0.0.1:{ops}/ready")).send().await {
            break answer;
        }
        let log = fs::read_to_string(&log).unwrap();
        assert!(program.try_wait().unwrap().is_none() && Instant::now() < deadline, "{log}");
        sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(ready.status(), 200);
    // Changes in the store are also reported over TLS.
    let ready = async || http.get(format!("http://127.0.0.1:{ops}/ready")).send().await?.text().await;
    while !ready().await.unwrap().contains("\"cached\"") {
        assert!(Instant::now() < deadline, "{}", fs::read_to_string(&log).unwrap());
        sleep(Duration::from_millis(50)).await;
    }
    program.kill().unwrap();
    program.wait().unwrap();

    // The program refuses a certificate from a different CA, a certificate for a different name, and TLS on only
    // one side.
    let at = |scheme: &str, host: &str, port: &str| format!("{scheme}://{host}:{port}");
    let plain = server.port.to_string();
    let refused = [
        (at("rediss", "localhost", &tls), "stranger.pem", "SSL_CERT_FILE"),
        (at("rediss", "127.0.0.1", &tls), "ca.pem", "SSL_CERT_FILE"),
        (at("rediss", "localhost", &plain), "ca.pem", "rediss if Redis expects TLS"),
        (at("redis", "localhost", &tls), "ca.pem", "rediss if Redis expects TLS"),
    ]
    .map(|(url, trusted, why)| {
        let log = tempfile::NamedTempFile::new().unwrap();
        let program = run(&url, &path(trusted), free_port(), log.path());
        (url, why, program, log)
    });
    for (url, why, mut program, log) in refused {
        let deadline = Instant::now() + Duration::from_secs(20);
        let said = loop {
            let said = fs::read_to_string(log.path()).unwrap();
            if said.contains("cannot connect to Redis at") || Instant::now() > deadline {
                break said;
            }
            sleep(Duration::from_millis(50)).await;
        };
        program.kill().unwrap();
        program.wait().unwrap();
        assert!(said.contains(why) && !said.contains("listening"), "{url}: {said}");
    }
}
