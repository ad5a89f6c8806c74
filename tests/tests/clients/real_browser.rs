//! Signing in with real Chromium, until the user has arrived beyond the client's callback; and what users do with second
//! clicks, the back button and tabs. What was wrong with the pages here no HTTP client would have noticed: Chromium applies
//! `form-action` to every redirect that follows a form.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::{Value, json};
use tests::places::{repository, tool};
use tests::process;
use tests::setup::ACCOUNT;
use tests::web_page::chromium;
use tests::{Setup, Stack};

use crate::document_host::DocumentHost;

/// Browsers at a time: each takes a quarter of a gigabyte, and the machine may have two cores.
static BROWSERS: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(1);

/// The client's site; the site that its callback may send the user on to; an application on the user's machine.
const CALLBACK: &str = "https://app.example/cb";
const CALLBACK_TO_OTHER_HOST: &str = "https://app.example/cb-other-host";
const CALLBACK_TO_APPLICATION: &str = "https://app.example/cb-application";
const APPLICATION: &str = "cursor://anysphere.cursor-mcp/oauth/callback";
const BEYOND: &str = "https://other.example/landed";
const SESSION: &str = "mcp_gate_session";
const NEW_PASSWORD: &str = "a password of my own";

/// auth-service behind its edge, the sites, and a browser that finds them all.
struct Scene {
    stack: Stack,
    switches: Value,
    _directory: tempfile::TempDir,
}

impl Scene {
    /// None where there is no browser.
    async fn start() -> Option<Self> {
        if let Err(why) = chromium() {
            let said = format!("SKIPPED clients::real_browser: {why}\n");
            std::io::stderr().write_all(said.as_bytes()).unwrap();
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let sites = DocumentHost::named(&["app.example", "other.example"], directory.path());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        sites.listen(listener);
        sites.put_page("/cb", "ARRIVED at the client");
        sites.put_page("/landed", "ARRIVED beyond the callback");
        sites.put_redirect("/cb-other-host", BEYOND);
        sites.put_redirect("/cb-application", "claude://oauth/done");
        let map = format!("MAP app.example:443 127.0.0.1:{port}, MAP other.example:443 127.0.0.1:{port}");
        let switches = json!([format!("--host-resolver-rules={map}"), "--ignore-certificate-errors"]);
        let stack = Setup::as_shipped().auth_setting("ADDITIONAL_GRANTS", "device_code").start().await;
        Some(Self { stack, switches, _directory: directory })
    }

    /// The link to ask with for a client of this redirect URI.
    async fn link(&self, redirect_uri: &str) -> String {
        let metadata = json!({
            "client_name": "A client", "redirect_uris": [redirect_uri], "token_endpoint_auth_method": "none",
        });
        let registered: Value = self.post_json("register", &metadata).await;
        let query = [
            ("response_type", "code"),
            ("client_id", registered["client_id"].as_str().unwrap()),
            ("redirect_uri", redirect_uri),
            ("state", "s"),
            ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
            ("code_challenge_method", "S256"),
            ("resource", self.stack.mcp_url.as_str()),
        ];
        reqwest::Url::parse_with_params(&self.stack.endpoint("authorize"), query).unwrap().into()
    }

    async fn post_json(&self, endpoint: &str, body: &Value) -> Value {
        let response = self.stack.http.post(self.stack.endpoint(endpoint)).json(body).send().await.unwrap();
        response.json().await.unwrap()
    }

    /// What a browser of its own sees after each of these steps (`tests/clients/walk.mjs`). Nothing may be blocked.
    async fn walk(&self, steps: &[Value]) -> Vec<Value> {
        let _turn = BROWSERS.acquire().await.unwrap();
        let profile = tempfile::tempdir().unwrap();
        let mut command = tokio::process::Command::from(process::clean_command(tool("node/bin/node")));
        command
            .arg(repository().join("tests/clients/walk.mjs"))
            .args([chromium().unwrap().as_path(), profile.path()])
            .arg(self.switches.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let script = serde_json::to_vec(steps).unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stdin, &script).await.unwrap();
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        let (seen, errors) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "{errors}\n{seen}\n{}", self.stack.logs());
        assert!(!seen.contains("Content Security Policy"), "{seen}");
        seen.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn sign_in() -> Value {
    json!({ "username": ACCOUNT.0, "password": ACCOUNT.1 })
}

/// Opens the link, signs in, and sees the question.
fn up_to_consent(link: &str) -> Vec<Value> {
    vec![
        json!({ "open": link, "until": "User name" }),
        json!({ "fill": sign_in(), "press": "Sign in", "until": "Allow an application" }),
    ]
}

/// What the step that ends at the client's site waits for.
fn arrives(redirect_uri: &str) -> (&'static str, &'static str) {
    match redirect_uri {
        CALLBACK => ("until", "ARRIVED at the client"),
        CALLBACK_TO_OTHER_HOST => ("until", "ARRIVED beyond the callback"),
        CALLBACK_TO_APPLICATION => ("asks", "claude://oauth/done"),
        _ => ("asks", APPLICATION),
    }
}

#[tokio::test]
async fn the_first_consent_and_a_no_end_beyond_the_callback() {
    let Some(scene) = Scene::start().await else { return };
    for redirect_uri in [CALLBACK, CALLBACK_TO_OTHER_HOST, CALLBACK_TO_APPLICATION, APPLICATION] {
        let (how, what) = arrives(redirect_uri);
        let link = scene.link(redirect_uri).await;
        for button in ["Deny", "Allow"] {
            let mut steps = up_to_consent(&link);
            steps.push(json!({ "press": button, how: what }));
            let seen = scene.walk(&steps).await;
            let asked = seen[2]["asked"].to_string();
            let answer = if button == "Allow" { "?code=" } else { "?error=access_denied" };
            assert!(asked.contains(&format!("{redirect_uri}{answer}")), "{button}: {asked}");
        }
    }
}

#[tokio::test]
async fn a_login_that_is_answered_at_once_ends_beyond_the_callback() {
    let Some(mut scene) = Scene::start().await else { return };
    for redirect_uri in [CALLBACK, CALLBACK_TO_OTHER_HOST, CALLBACK_TO_APPLICATION] {
        let (how, what) = arrives(redirect_uri);
        let link = scene.link(redirect_uri).await;
        // Allowed before; now the session is over, and the login is the only page.
        let mut steps = up_to_consent(&link);
        steps.push(json!({ "press": "Allow", how: what }));
        steps.push(json!({ "forget": [SESSION], "open": link, "until": "User name" }));
        steps.push(json!({ "fill": sign_in(), "press": "Sign in", how: what }));
        let seen = scene.walk(&steps).await;
        assert!(seen[4]["asked"].to_string().contains(&format!("{redirect_uri}?code=")), "{}", seen[4]);
    }
    // The same with a new password on the way: a second account on a service that does not run meanwhile.
    scene.stack.kill_auth_service();
    let one_time = scene.stack.add_account("eve", None);
    scene.stack.start_auth_service().await;
    let link = scene.link(CALLBACK_TO_OTHER_HOST).await;
    let steps = [
        json!({ "open": link, "until": "User name" }),
        json!({ "fill": { "username": "eve", "password": one_time }, "press": "Sign in", "until": "Choose your own" }),
        json!({
            "fill": { "new_password": NEW_PASSWORD, "new_password_repeat": NEW_PASSWORD },
            "press": "Save and continue", "times": 2, "until": "Allow an application",
        }),
        json!({ "press": "Allow", "until": "ARRIVED beyond the callback" }),
    ];
    scene.walk(&steps).await;
}

#[tokio::test]
async fn a_device_is_connected_and_stays_so_when_the_page_is_loaded_again() {
    let Some(scene) = Scene::start().await else { return };
    let metadata = json!({
        "client_name": "Television", "token_endpoint_auth_method": "none",
        "grant_types": ["urn:ietf:params:oauth:grant-type:device_code"],
    });
    let registered: Value = scene.post_json("register", &metadata).await;
    let form = [
        ("client_id", registered["client_id"].as_str().unwrap()),
        ("resource", scene.stack.mcp_url.as_str()),
    ];
    let request = scene.stack.http.post(scene.stack.endpoint("device_authorization")).form(&form);
    let codes: Value = request.send().await.unwrap().json().await.unwrap();
    let steps = [
        json!({ "open": codes["verification_uri_complete"], "until": "User name" }),
        json!({ "fill": sign_in(), "press": "Sign in", "until": "Type the code" }),
        json!({ "press": "Continue", "until": "Let a device act" }),
        json!({ "press": "Allow", "times": 2, "until": "The device is connected" }),
        json!({ "reload": true, "until": "The device is connected" }),
        // Kept by the browser or asked for again, but no question about sending a form once more.
        json!({ "back": true, "until": "Let a device act|The device is connected" }),
    ];
    scene.walk(&steps).await;
}

#[tokio::test]
async fn second_clicks_the_back_button_and_tabs_end_in_a_sentence_and_a_way_on() {
    let Some(scene) = Scene::start().await else { return };
    let link = scene.link(APPLICATION).await;
    // An application takes over and the page stays: people click once more.
    let mut steps = vec![
        json!({ "open": link, "until": "User name" }),
        json!({ "fill": sign_in(), "press": "Sign in", "times": 2, "until": "Allow an application" }),
    ];
    steps.push(json!({ "press": "Allow", "asks": APPLICATION }));
    steps.push(json!({ "press": "Allow", "until": "You have answered already" }));
    steps.push(json!({ "press": "It is not connected: ask again", "until": "You allowed it before" }));
    steps.push(json!({ "press": "Allow", "asks": APPLICATION }));
    // Back at the login form, which says who is signed in and leads on.
    let query = link.split_once('?').unwrap().1;
    let login = format!("{}?{query}", scene.stack.endpoint("login"));
    steps.push(json!({ "open": login, "until": "You are signed in as ana" }));
    steps.push(json!({ "press": "Go on", "until": "Allow an application" }));
    steps.push(json!({ "reload": true, "until": "Allow an application" }));
    // Another tab, in which the user signs in again: the question in the first one has to be asked anew.
    steps.push(json!({ "tab": 1, "open": login, "until": "User name" }));
    steps.push(json!({ "fill": sign_in(), "press": "Sign in", "until": "Allow an application" }));
    steps.push(json!({ "tab": 0, "press": "Allow", "until": "before you signed in again" }));
    steps.push(json!({ "press": "Show the question again", "until": "Allow an application" }));
    steps.push(json!({ "press": "Allow", "asks": APPLICATION }));
    let seen = scene.walk(&steps).await;
    for page in &seen {
        let text = page["text"].as_str().unwrap_or_default();
        assert!(!text.contains("not signed in"), "{page}");
    }
    // A click that comes twice, before the first is answered: the user arrives, or is told how to.
    let link = scene.link(CALLBACK).await;
    let mut steps = up_to_consent(&link);
    steps.push(
        json!({ "press": "Allow", "times": 2, "until": "ARRIVED at the client|You have answered already" }),
    );
    steps.push(json!({ "open": link, "until": "ARRIVED at the client" }));
    scene.walk(&steps).await;
}
