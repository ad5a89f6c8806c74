//! Tests of the policy file: in the check, in messages to clients and users, and when the file changes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::{Method, Response, StatusCode};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

use super::app::{TestApp, Tokens, VERIFIER, authorize_query};

const RULES: &str = r#"
[scopes]
mcp = "Use the tools"
"mcp:admin" = "Change what others see"

[[service]]
host = "mcp.example"

[[service.tool]]
match = "delete_*"
scopes = "mcp:admin"

[[service.tool]]
match = "shutdown"
groups = ["nobody"]

[[service]]
host = "other.example"
groups = ["directors"]
"#;

/// An app with a policy file that the test can change.
pub(crate) struct Ruled {
    pub(crate) app: TestApp,
    file: PathBuf,
    _directory: tempfile::TempDir,
}

impl Ruled {
    pub(crate) async fn by(rules: &str, settings: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("policy.toml");
        std::fs::write(&file, rules).unwrap();
        let mut settings = settings.to_vec();
        settings.push(("POLICY_FILE", file.to_str().unwrap()));
        Self { app: TestApp::start_with(&settings).await, file, _directory: directory }
    }

    /// Replaces the policy file, and makes the service read it twice. The service uses a changed file only after
    /// the second time.
    fn rewrite(&self, rules: &str) {
        let next = self.file.with_extension("next");
        std::fs::write(&next, rules).unwrap();
        std::fs::rename(&next, &self.file).unwrap();
        self.app.state.policy.look();
        self.app.state.policy.look();
    }

    async fn ready(&self) -> Value {
        self.app.http.get(format!("{}/ready", self.app.ops)).send().await.unwrap().json().await.unwrap()
    }

    async fn tokens_with(&self, scope: &str) -> Tokens {
        let client = self.app.client().await;
        let mut browser = self.app.browser_of("ana").await;
        let code = browser.allow(&authorize_query(&client, &[("scope", scope)])).await;
        Tokens::of(self.app.redeem(&client, &code).await).await
    }

    /// A check of a modern request, with the method and the name in its headers.
    async fn calls(&self, token: &str, method: &str, name: &str) -> Response {
        let check = self.app.check(Method::POST, "mcp.example", "/mcp").bearer_auth(token);
        let check = check.header("mcp-protocol-version", "2026-07-28").header("mcp-method", method);
        let check = if name.is_empty() { check } else { check.header("mcp-name", name) };
        check.send().await.unwrap()
    }
}

fn challenge(response: &Response) -> &str {
    response.headers().get("www-authenticate").map_or("", |value| value.to_str().unwrap())
}

/// The claims of the assertion that the service behind the edge gets.
fn assertion(response: &Response) -> Value {
    let text = response.headers()["x-auth-assertion"].to_str().unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

#[actix_web::test]
async fn a_tool_is_allowed_or_refused_by_its_name_in_the_headers() {
    let ruled = Ruled::by(RULES, &[]).await;
    let tokens = ruled.tokens_with("mcp:read mcp").await;
    let ok = async |method, name| ruled.calls(&tokens.access, method, name).await.status();
    assert_eq!(ok("tools/list", "").await, StatusCode::OK);
    assert_eq!(ok("tools/call", "read_notes").await, StatusCode::OK);
    // `mcp` includes `mcp:admin`. A challenge lists all required scopes.
    assert_eq!(ok("tools/call", "delete_notes").await, StatusCode::OK);
    let denied = ruled.calls(&tokens.access, "tools/call", "shutdown").await;
    assert_eq!((denied.status(), challenge(&denied)), (StatusCode::FORBIDDEN, ""), "no scope is enough");
    let body: Value = denied.json().await.unwrap();
    assert_eq!(body["error"], "access_denied");
}

#[actix_web::test]
async fn a_tool_that_needs_more_scope_is_refused_with_everything_that_is_needed() {
    let rules = RULES.replace("host = \"mcp.example\"\n", "host = \"mcp.example\"\nscopes = \"mcp:read\"\n");
    let ruled = Ruled::by(&rules, &[]).await;
    let tokens = ruled.tokens_with("mcp:read").await;
    assert_eq!(ruled.calls(&tokens.access, "tools/call", "read_notes").await.status(), StatusCode::OK);
    // Names in Base64 are decoded before the rules apply. This one is `delete_notes`.
    for name in ["delete_notes", "=?base64?ZGVsZXRlX25vdGVz?="] {
        let denied = ruled.calls(&tokens.access, "tools/call", name).await;
        assert_eq!(denied.status(), StatusCode::FORBIDDEN);
        let header = challenge(&denied);
        assert!(header.starts_with("Bearer error=\"insufficient_scope\""), "{header}");
        assert!(header.ends_with("scope=\"mcp:admin mcp:read\""), "{header}");
    }
}

#[actix_web::test]
async fn a092_a_request_that_does_not_say_what_it_does_meets_every_rule() {
    let ruled = Ruled::by(RULES, &[]).await;
    let tokens = ruled.tokens_with("mcp").await;
    let check = || ruled.app.check(Method::POST, "mcp.example", "/mcp").bearer_auth(&tokens.access);
    let mut requests = vec![check()];
    for version in ["2025-11-25", "2026-07-2", "latest"] {
        let check = check().header("mcp-protocol-version", version);
        requests.push(check.header("mcp-method", "tools/call").header("mcp-name", "read_notes"));
    }
    requests.push(check().header("mcp-protocol-version", "2026-07-28").header("mcp-name", "read_notes"));
    for request in requests {
        assert_eq!(request.send().await.unwrap().status(), StatusCode::FORBIDDEN);
    }
}

#[actix_web::test]
async fn a092_rules_that_the_caller_does_not_meet_go_to_the_wrapper_in_the_assertion() {
    let rules =
        RULES.replace("host = \"mcp.example\"\n", "host = \"mcp.example\"\nlegacy_tools = \"wrapper\"\n");
    let ruled = Ruled::by(&rules, &[]).await;
    let tokens = ruled.tokens_with("mcp").await;
    let answer = ruled.app.check_token(&tokens.access).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(assertion(&answer)["tool_rules"], json!([{ "tools": ["shutdown"], "denied": true }]));
    // After a change to the rules, a new assertion contains the new rules.
    ruled.rewrite(&rules.replace("shutdown", "reboot"));
    let answer = ruled.app.check_token(&tokens.access).await;
    assert_eq!(assertion(&answer)["tool_rules"], json!([{ "tools": ["reboot"], "denied": true }]));
}

#[actix_web::test]
async fn a083_a_changed_file_counts_for_the_next_request_of_a_known_token() {
    let ruled = Ruled::by(RULES, &[]).await;
    let tokens = ruled.tokens_with("mcp").await;
    let status = async || ruled.calls(&tokens.access, "tools/call", "read_notes").await.status();
    assert_eq!(status().await, StatusCode::OK);
    ruled.rewrite(&RULES.replace("delete_*", "*").replace("scopes = \"mcp:admin\"", "scopes = \"root\""));
    assert_eq!(status().await, StatusCode::FORBIDDEN);
    ruled.rewrite(RULES);
    assert_eq!(status().await, StatusCode::OK);
}

#[actix_web::test]
async fn a_file_that_cannot_be_used_leaves_the_last_good_one_in_force_and_is_told() {
    let ruled = Ruled::by(RULES, &[]).await;
    let tokens = ruled.tokens_with("mcp").await;
    assert_eq!(ruled.ready().await["policy"], json!({ "epoch": 1, "state": "current" }));
    for broken in ["", "[[service]]\nhots = \"mcp.example\"\n", "default_scope = "] {
        ruled.rewrite(broken);
        let ready = ruled.ready().await;
        assert_eq!((&ready["status"], &ready["policy"]["state"]), (&json!("ready"), &json!("stale")));
        assert!(ready["policy"]["error"].as_str().unwrap().contains("policy.toml"), "{ready}");
        let denied = ruled.calls(&tokens.access, "tools/call", "shutdown").await;
        assert_eq!(denied.status(), StatusCode::FORBIDDEN, "the last good rules do not apply");
    }
    std::fs::remove_file(&ruled.file).unwrap();
    ruled.app.state.policy.look();
    ruled.app.state.policy.look();
    assert!(ruled.ready().await["policy"]["error"].as_str().unwrap().contains("cannot read"));
    ruled.rewrite(RULES);
    assert_eq!(ruled.ready().await["policy"], json!({ "epoch": 2, "state": "current" }));
}

#[actix_web::test]
async fn a_file_in_the_middle_of_being_written_is_not_believed() {
    let ruled = Ruled::by(RULES, &[]).await;
    std::fs::write(&ruled.file, "[[service]]\nhost = \"mcp.example\"\n").unwrap();
    ruled.app.state.policy.look();
    assert_eq!(ruled.app.state.policy.status().epoch, 1, "seen once");
    std::fs::write(&ruled.file, RULES.replace("shutdown", "reboot")).unwrap();
    ruled.app.state.policy.look();
    assert_eq!(ruled.app.state.policy.status().epoch, 1, "seen once");
    ruled.app.state.policy.look();
    assert_eq!(ruled.app.state.policy.status().epoch, 2);
}

#[actix_web::test]
async fn a_file_that_changes_all_the_time_is_told() {
    let ruled = Ruled::by(RULES, &[]).await;
    for n in 0..30 {
        std::fs::write(&ruled.file, RULES.replace("shutdown", &format!("version{n}"))).unwrap();
        ruled.app.state.policy.look();
    }
    let standing = ruled.app.state.policy.status();
    assert!(standing.error.unwrap().contains("changes with every read"));
    ruled.app.state.policy.look();
    let standing = ruled.app.state.policy.status();
    assert_eq!((standing.epoch, standing.error), (2, None), "the file has stopped changing");
}

#[actix_web::test]
async fn a_running_service_notices_a_change_by_itself() {
    let ruled = Ruled::by(RULES, &[]).await;
    let follower = actix_web::rt::spawn(Arc::clone(&ruled.app.state.policy).follow());
    let changed = Duration::from_millis(50);
    std::fs::write(&ruled.file, RULES.replace("shutdown", "reboot")).unwrap();
    // The number of attempts only limits the duration of the test. docs/policy.md states how fast the service
    // notices a change.
    for _ in 0..400 {
        if ruled.app.state.policy.status().epoch == 2 {
            follower.abort();
            return;
        }
        tokio::time::sleep(changed).await;
    }
    panic!("the change was not noticed");
}

#[actix_web::test]
async fn a072_a_path_that_many_servers_take_for_a_ruled_one_is_refused() {
    let rules = "[[service]]\nhost = \"mcp.example\"\nscopes = \"a\"\n\
                 [[service]]\nhost = \"mcp.example\"\npath = \"/mcp/admin\"\nscopes = \"b\"\nusers = [\"root\"]\n";
    let ruled = Ruled::by(rules, &[]).await;
    let client = ruled.app.client().await;
    let query = authorize_query(&client, &[("scope", "a"), ("resource", "https://mcp.example")]);
    let mut browser = ruled.app.browser_of("ana").await;
    let code = browser.allow(&query).await;
    let form = [
        ("grant_type", "authorization_code"),
        ("client_id", client.as_str()),
        ("code", code.as_str()),
        ("code_verifier", VERIFIER),
    ];
    let token = Tokens::of(ruled.app.token(&form).await).await.access;
    for (path, status) in [
        ("/mcp", 200),
        ("/mcp/other", 200),
        ("/mcp/Other", 200),
        ("/MCP", 200),
        ("/mcp/admins", 200),
        ("/mcp/admin", 403),
        ("/mcp/Admin", 403),
        ("/MCP/ADMIN/x", 403),
        ("/mcp./admin", 403),
        ("/mcp/admin.", 403),
        ("/mcp/admin%20", 403),
        ("/mcp/admin%20./x", 403),
        ("/mcp/admin/", 403),
    ] {
        for proxy in ["traefik", "nginx"] {
            let check = ruled.app.check_by(proxy, "POST", "mcp.example", path).bearer_auth(&token);
            let answer = check.send().await.unwrap();
            assert_eq!(answer.status(), status, "{proxy} {path}");
            if status == 403 {
                assert_eq!(challenge(&answer), "", "no scope is enough");
            }
        }
    }
    // An authorization request for a lookalike resource is refused.
    let lookalike = ruled.app.check_by("traefik", "POST", "mcp.example", "/mcp/Admin").send().await.unwrap();
    let body = (lookalike.status(), lookalike.text().await.unwrap());
    assert!(body.0 == StatusCode::FORBIDDEN && body.1.contains("case"), "{body:?}");
    let query = authorize_query(&client, &[("resource", "https://mcp.example/mcp/Admin")]);
    let page = browser.open(&format!("/authorize?{query}")).await;
    assert_eq!(page.parameter("error").as_deref(), Some("invalid_target"));
}

#[actix_web::test]
async fn metadata_and_registration_speak_of_the_scopes_in_the_file() {
    let ruled = Ruled::by(
        &RULES.replace("host = \"mcp.example\"\n", "host = \"mcp.example\"\nscopes = \"mcp:read\"\n"),
        &[],
    )
    .await;
    let document = async |path: &str, host: &str| -> Value {
        let url = format!("{}/.well-known/{path}", ruled.app.public);
        ruled.app.http.get(url).header("host", host).send().await.unwrap().json().await.unwrap()
    };
    let server = document("oauth-authorization-server", "auth.example").await;
    assert_eq!(server["scopes_supported"], json!(["mcp", "mcp:admin", "mcp:read",]));
    // The metadata lists only the scopes that every request needs. `mcp:admin` is not among them, because only
    // some tools need it.
    let resource = document("oauth-protected-resource/mcp", "mcp.example").await;
    assert_eq!(resource["scopes_supported"], json!(["mcp:read"]));
    let client = ruled.app.client().await;
    let mut browser = ruled.app.browser_of("ana").await;
    let query = authorize_query(&client, &[("scope", "")]);
    let code = browser.allow(&query).await;
    let got: Value = ruled.app.redeem(&client, &code).await.json().await.unwrap();
    assert_eq!(got["scope"], "mcp:read", "a request without a scope gets what the service needs");
    let page =
        browser.open(&format!("/authorize?{}", authorize_query(&client, &[("scope", "mcp:admin")]))).await;
    assert!(page.body.contains("Change what others see (mcp:admin)"), "{}", page.body);
}

#[actix_web::test]
async fn a_person_who_is_not_let_in_learns_it_before_allowing_anything() {
    let ruled = Ruled::by(RULES, &[]).await;
    let app = &ruled.app;
    let client = app.client().await;
    let mut browser = app.browser_of("ana").await;
    let query = authorize_query(&client, &[("resource", "https://other.example/mcp")]);
    let page = browser.open(&format!("/authorize?{query}")).await;
    assert_eq!(page.status, StatusCode::FORBIDDEN);
    assert!(page.body.contains("not allowed to use") && page.body.contains("https://other.example/mcp"));
    assert!(!page.body.contains("value=\"allow\""), "{}", page.body);
    // An approval is refused, because the page contains no button for it. After a denial, the client receives an
    // error.
    assert_eq!(browser.submit(&page, &[("decision", "allow")]).await.status, StatusCode::FORBIDDEN);
    let answer = browser.submit(&page, &[("decision", "deny")]).await;
    assert_eq!(answer.parameter("error").as_deref(), Some("access_denied"));
}

#[actix_web::test]
async fn a079_a085_settings_let_in_by_the_exact_name_group_and_domain() {
    for (setting, good, bad) in [
        ("ALLOWED_USERS", "eve, ANA", "eve, ana@example.com"),
        ("ALLOWED_GROUPS", "ops", "Ops, staf"),
        ("ALLOWED_EMAIL_DOMAINS", "example.com", "example.org, sub.example.com"),
    ] {
        for (value, status) in [(good, StatusCode::OK), (bad, StatusCode::FORBIDDEN)] {
            let ruled = Ruled::by("default_scope = \"mcp\"\n", &[(setting, value)]).await;
            let client = ruled.app.client().await;
            let mut browser = ruled.app.browser_of("ana").await;
            let page = browser.open(&format!("/authorize?{}", authorize_query(&client, &[]))).await;
            assert_eq!(page.status, status, "{setting}={value}");
        }
    }
}

#[actix_web::test]
async fn a082_a_token_of_a_person_who_is_let_in_here_opens_nothing_there() {
    let ruled = Ruled::by(RULES, &[]).await;
    let tokens = ruled.tokens_with("mcp").await;
    assert_eq!(ruled.calls(&tokens.access, "tools/list", "").await.status(), StatusCode::OK);
    let check = ruled.app.check(Method::POST, "other.example", "/mcp").bearer_auth(&tokens.access);
    assert_eq!(check.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
}

#[actix_web::test]
async fn the_policy_commands_refuse_a_pipe_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let pipe = pipe.to_str().unwrap();
    let explain = ["policy", "explain", "--user", "ana", "--host", "mcp.example"];
    let cases = [
        (vec!["policy", "check", pipe], None),
        ([explain.as_slice(), &["--file", pipe]].concat(), None),
        (explain.to_vec(), Some(pipe)),
    ];
    for (arguments, setting) in cases {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_auth-service"));
        command.args(&arguments).env_clear().kill_on_drop(true);
        command.envs(setting.map(|pipe| ("POLICY_FILE", pipe)));
        let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await;
        let output = output.unwrap_or_else(|_| panic!("{arguments:?} {setting:?} hangs")).unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains("not a regular file"), "{arguments:?} {setting:?}: {message}");
        assert_eq!(output.status.code(), Some(2), "{message}");
    }
}
