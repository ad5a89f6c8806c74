//! Tests of clients without a user, through Envoy. They use the SDKs' own providers for client credentials,
//! `private_key_jwt` and enterprise-managed authorization.

use std::net::Ipv4Addr;
use std::process::Command;

use serde_json::{Value, json};
use tests::places::tool;
use tests::setup::ACCOUNT;
use tests::{Setup, Stack};

use crate::document_host::DocumentHost;
use crate::sdk::{events_of, lines};

/// The client programs, and the SDK version for the program that supports two versions.
const DRIVERS: [(&str, &str); 3] = [("machine.mjs", "1"), ("machine.mjs", "2"), ("machine.py", "")];

/// Generates a key pair. Returns the private key as PEM and the public key as a JWK set.
fn key_pair(algorithm: &str) -> (String, Value) {
    let script = r#"
        const { generateKeyPairSync } = require("node:crypto");
        const [kind, options] = { RS256: ["rsa", { modulusLength: 2048 }], ES256: ["ec", { namedCurve: "P-256" }],
            EdDSA: ["ed25519", {}] }[process.argv[1]];
        const { privateKey, publicKey } = generateKeyPairSync(kind, options);
        const key = { ...publicKey.export({ format: "jwk" }), kid: "k", alg: process.argv[1], use: "sig" };
        console.log(JSON.stringify([privateKey.export({ format: "pem", type: "pkcs8" }), { keys: [key] }]));
    "#;
    let output = Command::new(tool("node/bin/node")).args(["-e", script, algorithm]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Adds a client. Returns its identifier and, if it has one, its secret.
fn enter(stack: &Stack, arguments: &[&str]) -> (String, String) {
    let printed = stack.operator(&[&["client", "add", "bot"], arguments].concat());
    let value = |name: &str| {
        let line = printed.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_default().to_owned()
    };
    (value("client_id"), value("client_secret"))
}

async fn assert_connects(stack: &Stack, settings: &[(&str, &str)], grant_type: &str) {
    for (script, sdk) in DRIVERS {
        let way = settings.iter().find(|(name, _)| *name == "WAY").map(|(_, way)| *way);
        if sdk == "1" && way == Some("enterprise") {
            continue; // This SDK has no provider for enterprise-managed authorization.
        }
        let settings: Vec<_> =
            settings.iter().copied().chain([("SDK", sdk), ("ISSUER", stack.issuer.as_str())]).collect();
        let events = events_of(stack, script, &settings).await;
        let story = format!("{script} {sdk}\n{}", lines(&events));
        assert!(
            events.iter().any(|event| event["grant_type"] == grant_type
                && event["status"] == 200
                && event["resource"] == stack.mcp_url.as_str()),
            "no matching token request: {story}"
        );
        assert!(!events.iter().any(|event| event["path"] == "/register"), "it registered: {story}");
        assert!(events.iter().any(|event| event["called"][0]["text"] == "Echo: hello"), "no call: {story}");
    }
}

#[tokio::test]
async fn a_machine_with_a_secret_connects() {
    let stack = Stack::start().await;
    let (id, secret) = enter(&stack, &["--grant", "client-credentials", "--resource", &stack.mcp_url]);
    let settings = [("WAY", "secret"), ("CLIENT_ID", id.as_str()), ("CLIENT_SECRET", &secret)];
    assert_connects(&stack, &settings, "client_credentials").await;
}

#[tokio::test]
async fn a_machine_with_a_key_connects() {
    for algorithm in ["ES256", "RS256"] {
        let stack = Stack::start().await;
        let (private, public) = key_pair(algorithm);
        let file = stack.dir().join("keys.json");
        std::fs::write(&file, public.to_string()).unwrap();
        let grant = ["--grant", "client-credentials", "--resource", &stack.mcp_url];
        let (id, secret) = enter(&stack, &[&grant[..], &["--jwks", file.to_str().unwrap()]].concat());
        assert_eq!(secret, "", "a client with keys has no secret");
        let settings = [
            ("WAY", "assertion"),
            ("CLIENT_ID", id.as_str()),
            ("PRIVATE_KEY", &private),
            ("ALGORITHM", algorithm),
        ];
        assert_connects(&stack, &settings, "client_credentials").await;
    }
}

#[tokio::test]
async fn an_employee_connects_on_the_word_of_the_enterprise() {
    let directory = tempfile::tempdir().unwrap();
    let host = DocumentHost::named(&["localhost"], directory.path());
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let provider = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    host.listen(listener);
    let (private, public) = key_pair("RS256");
    host.put_json("/keys", &public);
    host.put_json(
        "/.well-known/openid-configuration",
        &json!({ "issuer": provider, "jwks_uri": format!("{provider}/keys") }),
    );
    let stack = Setup::as_shipped()
        .auth_setting("EXTRA_CA_FILE", host.ca.to_str().unwrap())
        .auth_setting("TRUSTED_ISSUERS", &format!("[[issuer]]\nissuer = \"{provider}\"\n"))
        .start()
        .await;
    stack.operator(&["user", "link", ACCOUNT.0, &provider, "emp-7"]);
    let (id, secret) = enter(&stack, &["--grant", "jwt-bearer"]);
    let settings = [
        ("WAY", "enterprise"),
        ("CLIENT_ID", id.as_str()),
        ("CLIENT_SECRET", &secret),
        ("PRIVATE_KEY", &private),
        ("ALGORITHM", "RS256"),
        ("PROVIDER", &provider),
    ];
    assert_connects(&stack, &settings, "urn:ietf:params:oauth:grant-type:jwt-bearer").await;
}
