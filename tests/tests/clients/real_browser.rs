//! Tests in real Chromium and Firefox. They sign in and follow all redirects beyond the client's callback, and try
//! second clicks, the back button and tabs. No HTTP client would reveal some of the faults that these tests find:
//! for example, Chromium applies `form-action` to every redirect that follows a form.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tests::places::{repository, tool, tools_dir};
use tests::process;
use tests::setup::ACCOUNT;
use tests::web_page;
use tests::{Setup, Stack};

use crate::document_host::DocumentHost;

/// Allows only one browser at a time, because each needs a quarter of a gigabyte and the machine can have as few
/// as two cores.
static BROWSERS: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(1);

const APPLICATION: &str = "cursor://anysphere.cursor-mcp/oauth/callback";
const NEW_PASSWORD: &str = "a password of my own";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Browser {
    Chromium,
    Firefox,
}

impl Browser {
    /// The name of the browser in `tests/clients/walk.mjs`.
    fn name(self) -> &'static str {
        match self {
            Self::Chromium => "chromium",
            Self::Firefox => "firefox",
        }
    }

    fn program(self) -> anyhow::Result<PathBuf> {
        match self {
            Self::Chromium => web_page::chromium(),
            Self::Firefox => web_page::firefox(),
        }
    }

    /// Whether this browser is installed. If it is not, prints on standard error that `test` is skipped.
    fn is_here(self, test: &str) -> bool {
        let Err(why) = self.program() else { return true };
        std::io::stderr().write_all(format!("SKIPPED {test}: {why}\n").as_bytes()).unwrap();
        false
    }
}

/// Creates a test for each of these functions in each browser.
macro_rules! each_browser {
    ($($test:ident),+ $(,)?) => {
        each_browser!(@in chromium Chromium $($test)+);
        each_browser!(@in firefox Firefox $($test)+);
    };
    (@in $name:ident $browser:ident $($test:ident)+) => {
        mod $name {
            $(
                #[tokio::test]
                async fn $test() {
                    let browser = super::Browser::$browser;
                    if browser.is_here(concat!(module_path!(), "::", stringify!($test))) {
                        super::$test(super::Scene::start(browser).await).await;
                    }
                }
            )+
        }
    };
}

each_browser!(
    the_first_consent_and_a_no_end_beyond_the_callback,
    a_login_that_is_answered_at_once_ends_beyond_the_callback,
    a_device_is_connected_and_stays_so_when_the_page_is_loaded_again,
    second_clicks_the_back_button_and_tabs_end_in_a_sentence_and_a_way_on,
    what_a_policy_blocks_is_noticed,
);

/// A redirect URI, and what a step must wait for after the redirect: a field of the step and its value.
struct Callback {
    uri: String,
    arrival: (&'static str, &'static str),
}

/// auth-service behind its edge, the sites of clients, and a browser that can reach all of them.
struct Scene {
    stack: Stack,
    browser: Browser,
    sites: DocumentHost,
    /// The port of app.example and other.example.
    port: u16,
    _directory: tempfile::TempDir,
}

impl Scene {
    /// The name of the session cookie. It contains the port because the service is on loopback.
    fn session_cookie(&self) -> String {
        let issuer = url::Url::parse(&self.stack.issuer).unwrap();
        format!("mcp_gate_session_{}", issuer.port().unwrap())
    }

    async fn start(browser: Browser) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let sites = DocumentHost::named(&["app.example", "other.example"], directory.path());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        sites.listen(listener);
        sites.put_page("/cb", "ARRIVED at the client");
        sites.put_page("/landed", "ARRIVED beyond the callback");
        sites.put_redirect("/cb-other-host", &format!("https://other.example:{port}/landed"));
        sites.put_redirect("/cb-application", "claude://oauth/done");
        let stack = Setup::as_shipped().auth_setting("ADDITIONAL_GRANTS", "device_code").start().await;
        Self { stack, browser, sites, port, _directory: directory }
    }

    /// The URL of a page on the client's site.
    fn site(&self, path: &str) -> String {
        format!("https://app.example:{}{path}", self.port)
    }

    fn callback(&self) -> Callback {
        Callback { uri: self.site("/cb"), arrival: ("until", "ARRIVED at the client") }
    }

    /// A callback at which the client's site redirects the user to another site.
    fn callback_to_other_host(&self) -> Callback {
        Callback { uri: self.site("/cb-other-host"), arrival: ("until", "ARRIVED beyond the callback") }
    }

    /// A callback at which the client's site opens an application on the user's machine.
    fn callback_to_application(&self) -> Callback {
        Callback { uri: self.site("/cb-application"), arrival: ("opens", "claude://oauth/done") }
    }

    /// The callback of a client that is itself an application on the user's machine.
    fn application() -> Callback {
        Callback { uri: APPLICATION.to_owned(), arrival: ("opens", APPLICATION) }
    }

    /// Registers a client with this redirect URI. Returns its authorization URL.
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

    /// Runs these steps in a new browser (`tests/clients/walk.mjs`). Returns what the browser shows after each
    /// step. The test fails if a policy blocks anything.
    async fn walk(&self, steps: &[Value]) -> Vec<Value> {
        let output = self.attempt(steps).await;
        let (seen, errors) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "{errors}\n{seen}\n{}", self.stack.logs());
        assert!(!seen.contains("Content Security Policy"), "{seen}");
        seen.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn attempt(&self, steps: &[Value]) -> Output {
        let _turn = BROWSERS.acquire().await.unwrap();
        let profile = tempfile::tempdir().unwrap();
        let mut command = tokio::process::Command::from(process::clean_command(tool("node/bin/node")));
        tool("npm/node_modules/puppeteer-core");
        command
            .env("MCP_GATE_TOOLS", tools_dir())
            .arg(repository().join("tests/clients/walk.mjs"))
            .arg(self.browser.name())
            .args([self.browser.program().unwrap().as_path(), profile.path()])
            .arg(self.site(""))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let script = serde_json::to_vec(steps).unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stdin, &script).await.unwrap();
        drop(stdin);
        child.wait_with_output().await.unwrap()
    }
}

fn sign_in() -> Value {
    json!({ "username": ACCOUNT.0, "password": ACCOUNT.1 })
}

/// The steps from the link through the login to the consent page.
fn up_to_consent(link: &str) -> Vec<Value> {
    vec![
        json!({ "open": link, "until": "User name" }),
        json!({ "fill": sign_in(), "press": "Sign in", "until": "Allow an application" }),
    ]
}

async fn the_first_consent_and_a_no_end_beyond_the_callback(scene: Scene) {
    let callbacks = [
        scene.callback(),
        scene.callback_to_other_host(),
        scene.callback_to_application(),
        Scene::application(),
    ];
    for Callback { uri, arrival: (how, what) } in callbacks {
        let link = scene.link(&uri).await;
        for button in ["Deny", "Allow"] {
            let mut steps = up_to_consent(&link);
            steps.push(json!({ "press": button, how: what }));
            let seen = scene.walk(&steps).await;
            let asked = seen[2]["asked"].to_string();
            let answer = if button == "Allow" { "?code=" } else { "?error=access_denied" };
            assert!(asked.contains(&format!("{uri}{answer}")), "{button}: {asked}");
        }
    }
}

async fn a_login_that_is_answered_at_once_ends_beyond_the_callback(mut scene: Scene) {
    let callbacks = [scene.callback(), scene.callback_to_other_host(), scene.callback_to_application()];
    for Callback { uri, arrival: (how, what) } in callbacks {
        let link = scene.link(&uri).await;
        // The user has already allowed the client, but the session has ended, so the login is the only page.
        let mut steps = up_to_consent(&link);
        steps.push(json!({ "press": "Allow", how: what }));
        steps.push(json!({ "forget": [scene.session_cookie()], "open": link, "until": "User name" }));
        steps.push(json!({ "fill": sign_in(), "press": "Sign in", how: what }));
        let seen = scene.walk(&steps).await;
        assert!(seen[4]["asked"].to_string().contains(&format!("{uri}?code=")), "{}", seen[4]);
    }
    // The same applies to the login if the user must choose a new password. The account is added while the service
    // is stopped.
    scene.stack.kill_auth_service();
    let one_time = scene.stack.add_account("eve", None);
    scene.stack.start_auth_service().await;
    let link = scene.link(&scene.callback_to_other_host().uri).await;
    let steps = [
        json!({ "open": link, "until": "User name" }),
        json!({ "fill": { "username": "eve", "password": one_time }, "press": "Sign in", "until": "Choose your own" }),
        json!({
            "fill": { "new_password": NEW_PASSWORD, "new_password_repeat": "another one" },
            "press": "Save and continue", "until": "not the same",
        }),
        json!({ "reload": true, "until": "not the same" }),
        json!({
            "fill": { "new_password": NEW_PASSWORD, "new_password_repeat": NEW_PASSWORD },
            "press": "Save and continue", "times": 2, "until": "Allow an application",
        }),
        json!({ "press": "Allow", "until": "ARRIVED beyond the callback" }),
    ];
    scene.walk(&steps).await;
}

async fn a_device_is_connected_and_stays_so_when_the_page_is_loaded_again(scene: Scene) {
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
        json!({ "fill": { "user_code": "BCDF-GHJK" }, "press": "Continue", "until": "No device with this code is waiting" }),
        json!({ "reload": true, "until": "No device with this code is waiting" }),
        json!({ "fill": { "user_code": codes["user_code"] }, "press": "Continue", "until": "Let a device act" }),
        json!({ "back": true, "until": "No device with this code is waiting" }),
        json!({ "fill": { "user_code": codes["user_code"] }, "press": "Continue", "until": "Let a device act" }),
        json!({ "press": "Allow", "times": 2, "until": "The device is connected" }),
        json!({ "reload": true, "until": "The device is connected" }),
        // In some browsers, the page with the result has replaced the question in the history. The page can come
        // from the browser's cache or be requested again, but the browser must not ask to send a form again.
        json!({ "back": true, "until": "Let a device act|The device is connected|Type the code" }),
    ];
    scene.walk(&steps).await;
}

async fn second_clicks_the_back_button_and_tabs_end_in_a_sentence_and_a_way_on(scene: Scene) {
    let link = scene.link(APPLICATION).await;
    let mistyped = json!({ "username": ACCOUNT.0, "password": "not quite the password" });
    let mut steps = vec![
        json!({ "open": link, "until": "User name" }),
        json!({ "fill": mistyped, "press": "Sign in", "until": "password is wrong" }),
        json!({ "reload": true, "until": "password is wrong" }),
        json!({ "fill": sign_in(), "press": "Sign in", "times": 2, "until": "Allow an application" }),
        json!({ "back": true, "until": "You are signed in as ana" }),
        json!({ "press": "Go on", "until": "Allow an application" }),
    ];
    // The page stays open after it has opened an application, so users click again.
    steps.push(json!({ "press": "Allow", "opens": APPLICATION }));
    steps.push(json!({ "press": "Allow", "until": "You have already answered" }));
    steps.push(json!({ "reload": true, "until": "You have already answered" }));
    steps.push(json!({ "press": "It is not connected: ask again", "until": "You allowed it before" }));
    steps.push(json!({ "press": "Allow", "opens": APPLICATION }));
    // The login form shows who is signed in and offers to continue.
    let query = link.split_once('?').unwrap().1;
    let login = format!("{}?{query}", scene.stack.endpoint("login"));
    steps.push(json!({ "open": login, "until": "You are signed in as ana" }));
    steps.push(json!({ "press": "Go on", "until": "Allow an application" }));
    steps.push(json!({ "reload": true, "until": "Allow an application" }));
    // After the user signs in again in another tab, the question in the first tab must be shown again.
    steps.push(json!({ "tab": 1, "open": login, "until": "User name" }));
    steps.push(json!({ "fill": sign_in(), "press": "Sign in", "until": "Allow an application" }));
    steps.push(json!({ "tab": 0, "press": "Allow", "until": "before you signed in again" }));
    steps.push(json!({ "press": "Show the question again", "until": "Allow an application" }));
    steps.push(json!({ "press": "Allow", "opens": APPLICATION }));
    let seen = scene.walk(&steps).await;
    for page in &seen {
        let text = page["text"].as_str().unwrap_or_default();
        assert!(!text.contains("not signed in"), "{page}");
    }
    // The button is clicked twice before the first response. The user arrives at the client, or sees a page with a
    // link to the client.
    let link = scene.link(&scene.callback().uri).await;
    let mut steps = up_to_consent(&link);
    steps.push(
        json!({ "press": "Allow", "times": 2, "until": "ARRIVED at the client|You have already answered" }),
    );
    steps.push(json!({ "open": link, "until": "ARRIVED at the client" }));
    scene.walk(&steps).await;
}

/// Shows that these tests can fail, using a page with the policy that our pages had in an earlier version. Every
/// browser applies it to the target of the form, but Firefox does not apply it to the redirects that follow (ADR
/// 17).
async fn what_a_policy_blocks_is_noticed(scene: Scene) {
    let away = format!("https://other.example:{}/landed", scene.port);
    let blocks_redirects = scene.browser == Browser::Chromium;
    for (leads_to, is_blocked) in [(away.as_str(), true), ("/cb-other-host", blocks_redirects)] {
        let page = format!("<form method=post action='{leads_to}'><button>Allow</button></form>");
        scene.sites.put_page_with_policy("/question", &page, "default-src 'none'; form-action 'self'");
        let steps = [
            json!({ "open": scene.site("/question"), "until": "Allow" }),
            json!({ "press": "Allow", "until": "ARRIVED beyond the callback" }),
        ];
        let output = scene.attempt(&steps).await;
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.success(), !is_blocked, "{leads_to}: {errors}");
        let says_why = errors.contains("Content Security Policy: form-action forbids");
        assert_eq!(says_why, is_blocked, "{leads_to}: {errors}");
    }
}
