//! Runs the conformance suite's checks of authorization servers, for a registered client and for a client with a
//! metadata document. The suite prints a URL for the browser and waits for the redirect. The test browser opens
//! that URL.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::browser::{Person, authorize};
use tests::places::{free_port, tool};
use tests::process::{self, Process};
use tests::setup::ACCOUNT;
use tests::{Setup, Stack};
use url::Url;

use crate::document_host::DocumentHost;

/// The time limit for the suite to print its URL, and again for it to exit after the redirect.
const MAX_DURATION: Duration = Duration::from_secs(60);

/// Runs all scenarios as `client_id`, whose redirect URI has the port `port`.
async fn assert_passes(stack: &Stack, client_id: &str, port: u16) {
    let results = tempfile::tempdir_in(stack.dir()).unwrap();
    let mut command = process::command(tool("node/bin/node"));
    command
        .arg(tool("npm/node_modules/@modelcontextprotocol/conformance/dist/index.js"))
        .args(["authorization", "--url", &stack.issuer, "--client-id", client_id])
        .args(["--resource", &stack.mcp_url, "-p", &port.to_string(), "-o"])
        .arg(results.path());
    let mut suite = Process::start("conformance", &mut command, results.path());

    let url = authorization_url(&mut suite, stack).await;
    let redirect_uri = format!("http://127.0.0.1:{port}/callback");
    let callback = authorize(url, &redirect_uri, &Person::new(ACCOUNT.0, ACCOUNT.1)).await.unwrap();
    stack.get(callback.as_str()).await.unwrap();

    let (suite, ended) = tokio::task::spawn_blocking(move || {
        let ended = suite.wait_for(MAX_DURATION);
        (suite, ended)
    })
    .await
    .unwrap();
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}\n{}", suite.output());
    let checks = checks_below(results.path());
    for scenario in ["authorization-server-metadata-endpoint", "authorization-code-grant"] {
        let of_scenario: Vec<_> = checks.iter().filter(|(name, _)| name.contains(scenario)).collect();
        assert!(!of_scenario.is_empty(), "{scenario} did not run\n{}", suite.output());
        for (_, check) in of_scenario {
            let status = check["status"].as_str().unwrap();
            assert!(matches!(status, "SUCCESS" | "INFO"), "{scenario}: {check}\n{}", suite.output());
        }
    }
}

/// Waits for the URL that the suite prints for the browser.
async fn authorization_url(suite: &mut Process, stack: &Stack) -> Url {
    let start = stack.endpoint("authorize?");
    let deadline = Instant::now() + MAX_DURATION;
    loop {
        let output = suite.output();
        let word = output.split_whitespace().find(|word| word.starts_with(&start)).map(str::to_owned);
        // A last line without a line feed can be incomplete.
        if let Some(url) = word.filter(|_| output.ends_with('\n')) {
            return Url::parse(&url).unwrap();
        }
        assert!(suite.ended().is_none() && Instant::now() < deadline, "no URL for the browser in {output}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// All recorded checks, each with the name of its directory, which is the name of its scenario.
fn checks_below(directory: &Path) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let Ok(text) = std::fs::read_to_string(path.join("checks.json")) else { continue };
        let checks: Vec<Value> = serde_json::from_str(&text).unwrap();
        let scenario = path.file_name().unwrap().to_string_lossy().into_owned();
        found.extend(checks.into_iter().map(|check| (scenario.clone(), check)));
    }
    found
}

#[tokio::test]
async fn the_authorization_server_passes_with_a_registered_client() {
    let stack = Stack::start().await;
    let port = free_port();
    let metadata = json!({
        "client_name": "conformance",
        "redirect_uris": [format!("http://127.0.0.1:{port}/callback")],
        "token_endpoint_auth_method": "none",
    });
    let registered = stack.http.post(stack.endpoint("register")).json(&metadata).send().await.unwrap();
    let registered: Value = registered.json().await.unwrap();
    assert_passes(&stack, registered["client_id"].as_str().unwrap(), port).await;
}

#[tokio::test]
async fn the_authorization_server_passes_with_a_metadata_document() {
    let directory = tempfile::tempdir().unwrap();
    let host = DocumentHost::named(&["localhost"], directory.path());
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let id = format!("https://localhost:{}/client.json", listener.local_addr().unwrap().port());
    host.listen(listener);
    let port = free_port();
    host.put_public_client(&id, "/client.json", "conformance", &format!("http://127.0.0.1:{port}/callback"));
    let stack = Setup::as_shipped().auth_setting("EXTRA_CA_FILE", host.ca.to_str().unwrap()).start().await;
    assert_passes(&stack, &id, port).await;
}
