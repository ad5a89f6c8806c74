//! Tests of the caller's identity: headers, assertions, placeholders and tool rules.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::modern;
use crate::wrapper::{CHILD, EVERY_LINE, Wrapper, answer_of, call};

/// An authorization server that only signs assertions and publishes its key.
pub(crate) struct Issuer {
    key: Ed25519KeyPair,
    pub(crate) url: String,
    fetches: Arc<AtomicUsize>,
    is_down: Arc<AtomicBool>,
}

impl Issuer {
    pub(crate) async fn start() -> Self {
        let key = Ed25519KeyPair::generate().unwrap();
        let x = URL_SAFE_NO_PAD.encode(key.public_key().as_ref());
        let rsa = json!({"kty": "RSA", "kid": "other", "n": "AQAB", "e": "AQAB"});
        let jwks = json!({"keys": [rsa, {"kty": "OKP", "crv": "Ed25519", "kid": "k1", "alg": "EdDSA", "use": "sig", "x": x}]}).to_string();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        let (fetches, is_down) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, down) = (Arc::clone(&fetches), Arc::clone(&is_down));
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let mut request = [0; 4096];
                let _ = socket.read(&mut request).await;
                let (status, body) = if down.load(Ordering::SeqCst) {
                    ("500 No", String::new())
                } else {
                    ("200 OK", jwks.clone())
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = socket.write_all(head.as_bytes()).await;
            }
        });
        Self { key, url, fetches, is_down }
    }

    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(signed.as_bytes()).as_ref());
        format!("{signed}.{signature}")
    }

    async fn wrapper(&self, options: &[&str]) -> Wrapper {
        self.wrapper_of(options, &["python3", CHILD]).await
    }

    /// Starts a wrapper that accepts this issuer's assertions, in front of this command.
    async fn wrapper_of(&self, options: &[&str], command: &[&str]) -> Wrapper {
        let own = [
            "--identity=assertion",
            &format!("--jwks-url={}", self.url),
            "--issuer=https://auth.example",
            "--resource=https://mcp.example/svc",
        ];
        Wrapper::run(&[&own[..], options].concat(), command, &[]).await
    }
}

#[expect(clippy::disallowed_methods, reason = "the binary under test has the real clock")]
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub(crate) fn header() -> Value {
    json!({"alg": "EdDSA", "typ": "mcp-assertion+jwt", "kid": "k1"})
}

pub(crate) fn claims() -> Value {
    json!({
        "iss": "https://auth.example", "aud": "https://mcp.example/svc", "sub": "u-1", "iat": now(), "exp": now() + 60,
        "username": "ana", "email": "ana@example.com", "groups": ["dev", "ops"], "client_id": "c", "scope": "mcp mcp:read",
    })
}

pub(crate) fn with(mut base: Value, changes: &[(&str, Value)]) -> Value {
    for (name, value) in changes {
        base[*name] = value.clone();
    }
    base
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_header_that_is_not_ascii_is_told_as_that() {
    let wrapper = Wrapper::start(&["--identity=headers"], &[]).await;
    let client = wrapper.client().with_header("x-auth-subject", "u-1").with_header("x-auth-username", "José");
    let refused = client.try_initialize("2025-11-25").await;
    assert_eq!(refused.status(), 400);
    let message = refused.text().await.unwrap().to_lowercase();
    assert!(
        message.contains("header x-auth-username of the request has a byte that is not ascii"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_must_be_right_in_every_part() {
    let issuer = Issuer::start().await;
    let wrapper = issuer.wrapper(&[]).await;
    let status = async |token: String| {
        wrapper
            .client()
            .with_header("x-auth-assertion", &token)
            .try_initialize("2025-11-25")
            .await
            .status()
            .as_u16()
    };
    assert_eq!(status(issuer.sign(&header(), &claims())).await, 200);
    let bad_claims = [
        ("iss", json!("https://evil.example")),
        ("aud", json!("https://mcp.example/other")),
        ("aud", json!("https://mcp.example/svc/")),
        ("exp", json!(now() - 10)),
        ("iat", json!(now() + 100)),
        ("iat", json!(now() - 1000)),
        ("nbf", json!(now() + 100)),
        ("sub", json!("")),
        ("sub", Value::Null),
    ];
    for change in bad_claims {
        let is_about_time = ["exp", "iat", "nbf"].contains(&change.0);
        assert_eq!(
            status(issuer.sign(&header(), &with(claims(), std::slice::from_ref(&change)))).await,
            if is_about_time { 503 } else { 401 },
            "{change:?}"
        );
    }
    for change in [
        ("alg", json!("none")),
        ("alg", json!("HS256")),
        ("typ", json!("at+jwt")),
        ("typ", json!("JWT")),
        ("kid", json!("other")),
        ("kid", json!("k2")),
        ("crit", json!(["exp"])),
    ] {
        assert_eq!(
            status(issuer.sign(&with(header(), std::slice::from_ref(&change)), &claims())).await,
            401,
            "{change:?}"
        );
    }
    let good = issuer.sign(&header(), &claims());
    let other = Issuer::start().await.sign(&header(), &claims());
    for token in [
        good.rsplit_once('.').unwrap().0.to_owned() + ".",
        good.replace("ey", "ez"),
        other,
        "x".to_owned(),
        "a.b.c".to_owned(),
    ] {
        assert_eq!(status(token.clone()).await, 401, "{token}");
    }
    assert_eq!(wrapper.client().try_initialize("2025-11-25").await.status(), 401);
    let mut twice = wrapper.client().with_header("x-auth-assertion", &good);
    twice.headers.push(("x-auth-assertion".to_owned(), good));
    assert_eq!(twice.try_initialize("2025-11-25").await.status(), 400);
    // If assertions are required, plain identity headers are ignored.
    assert_eq!(
        wrapper.client().with_header("x-auth-subject", "ana").try_initialize("2025-11-25").await.status(),
        401
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_differ_are_named_to_the_caller_and_once_in_a_while_in_the_log() {
    let issuer = Issuer::start().await;
    let wrapper = issuer.wrapper(&[]).await;
    let answer = async |iat: u64| {
        let token = issuer.sign(&header(), &with(claims(), &[("iat", json!(iat)), ("exp", json!(iat + 60))]));
        let client = wrapper.client().with_header("x-auth-assertion", &token);
        let response = client.try_initialize("2025-11-25").await;
        // A client that gets 401 asks its user to sign in, which would not help.
        assert_eq!((response.status().as_u16(), response.headers().contains_key("retry-after")), (503, true));
        response.text().await.unwrap()
    };
    let early = answer(now() + 3600).await;
    assert!(early.contains("s in the future") && early.contains("must set both"), "{early}");
    let line: Value = serde_json::from_str(&wrapper.logged("an assertion is from the future").await).unwrap();
    let seconds = line["fields"]["seconds"].as_u64().unwrap();
    assert!((3500..=3600).contains(&seconds), "{line}");
    let late = answer(now() - 3600).await;
    assert!(late.contains("it was issued 36") && late.contains("must set both"), "{late}");
    for _ in 0..50 {
        answer(now() - 3600).await;
    }
    let count = wrapper.log().iter().filter(|line| line.contains("Set both clocks")).count();
    assert!(count < 10, "{count} lines");
    // A stranger without a genuine assertion must learn nothing about the wrapper's clock.
    let forged = Issuer::start().await.sign(&header(), &with(claims(), &[("iat", json!(now() + 3600))]));
    let client = wrapper.client().with_header("x-auth-assertion", &forged);
    let refused = client.try_initialize("2025-11-25").await.text().await.unwrap();
    assert!(refused.contains("its signature is wrong") && !refused.contains("clock"), "{refused}");
}

/// An operator who only sees 401 in the client cannot know which setting is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_is_not_identified_is_logged_with_the_reason() {
    let issuer = Issuer::start().await;
    for (change, reason) in [
        (("aud", json!("https://mcp.example/other")), "its audience is not RESOURCE"),
        (("iss", json!("https://evil.example")), "its issuer is not ISSUER"),
        (("sub", Value::Null), "it has a claim that cannot be read"),
    ] {
        // Each wrapper is new, because at most one line per second is written.
        let wrapper = issuer.wrapper(&[]).await;
        let token = issuer.sign(&header(), &with(claims(), &[change]));
        let client = wrapper.client().with_header("x-auth-assertion", &token);
        assert_eq!(client.try_initialize("2025-11-25").await.status(), 401);
        let line = wrapper.logged("its caller is not identified").await;
        assert!(line.contains(reason) && line.contains("\"peer\":\"127.0.0.1\""), "{line}");
        assert!(line.contains("\"level\":\"WARN\"") && !line.contains(&token), "{line}");
    }
    let (wrapper, started) = (issuer.wrapper(&[]).await, Instant::now());
    for _ in 0..50 {
        assert_eq!(wrapper.client().try_initialize("2025-11-25").await.status(), 401);
    }
    assert!(wrapper.logged("its caller is not identified").await.contains("x-auth-assertion is missing"));
    let lines = || wrapper.log().iter().filter(|line| line.contains("is not identified")).count();
    let (lines, seconds) = (lines(), usize::try_from(started.elapsed().as_secs()).unwrap());
    assert!(lines <= seconds + 2, "{lines} lines in {seconds} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_the_rules_refuse_is_logged_with_user_tool_and_reason() {
    let issuer = Issuer::start().await;
    let wrapper = issuer.wrapper(&[]).await;
    let rules = json!([
        {"tools": ["delete_*"], "scopes": ["mcp:write"]},
        {"methods": ["resources/*"], "denied": true},
    ]);
    let token = issuer.sign(&header(), &with(claims(), &[("tool_rules", rules)]));
    let client = wrapper.client().with_header("x-auth-assertion", &token).initialize("2025-11-25").await;
    let refused = client.post(call(1, "delete_\u{1b}page", json!({}))).await;
    assert_eq!(refused.status(), 400, "a name with control characters is malformed");
    let refused = client.post(call(2, "delete_page", json!({}))).await;
    assert_eq!(refused.status(), 403);
    let line = wrapper.logged("a call was refused by the rules").await;
    let line: Value = serde_json::from_str(&line).unwrap();
    let fields = &line["fields"];
    assert_eq!(
        (&fields["user"], &fields["client"], &fields["method"], &fields["tool"]),
        (&json!("ana"), &json!("c"), &json!("tools/call"), &json!("delete_page")),
        "{line}"
    );
    assert!(fields["why"].as_str().unwrap().contains("needs the scope mcp:write"), "{line}");
    let list = json!({"jsonrpc": "2.0", "id": 3, "method": "resources/list"});
    assert_eq!(client.post(list.to_string()).await.status(), 403);
    let line = wrapper.logged("resources/list").await;
    assert!(line.contains("a call was refused by the rules") && !line.contains("\"tool\""), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_fetched_once_and_unknown_ones_do_not_hammer_the_issuer() {
    let issuer = Issuer::start().await;
    let wrapper = issuer.wrapper(&["--shared"]).await;
    let good = issuer.sign(&header(), &claims());
    let calls =
        (0..20).map(|_| wrapper.client().with_header("x-auth-assertion", &good).initialize("2025-11-25"));
    futures_util::future::join_all(calls).await;
    for kid in 0..20 {
        let token = issuer.sign(&with(header(), &[("kid", json!(format!("k-{kid}")))]), &claims());
        assert_eq!(
            wrapper
                .client()
                .with_header("x-auth-assertion", &token)
                .try_initialize("2025-11-25")
                .await
                .status(),
            401
        );
    }
    assert!(issuer.fetches.load(Ordering::SeqCst) <= 2, "{}", issuer.fetches.load(Ordering::SeqCst));
    issuer.is_down.store(true, Ordering::SeqCst);
    wrapper
        .client()
        .with_header("x-auth-assertion", &issuer.sign(&header(), &with(claims(), &[("sub", json!("b"))])))
        .initialize("2025-11-25")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_keys_nobody_passes_and_the_wrapper_is_not_ready() {
    let issuer = Issuer::start().await;
    issuer.is_down.store(true, Ordering::SeqCst);
    let wrapper = issuer.wrapper(&[]).await;
    let answer = wrapper
        .client()
        .with_header("x-auth-assertion", &issuer.sign(&header(), &claims()))
        .try_initialize("2025-11-25")
        .await;
    assert_eq!(answer.status(), 503);
    assert_eq!(wrapper.ops_status("/ready").await, 503);
    assert_eq!(wrapper.ops_status("/health").await, 200);
    // The keys are fetched again soon after the authorization service has become available.
    issuer.is_down.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let token = issuer.sign(&header(), &claims());
    wrapper.client().with_header("x-auth-assertion", &token).initialize("2025-11-25").await;
    assert_eq!(wrapper.ops_status("/ready").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn placeholders_are_filled_from_the_verified_caller_only() {
    let issuer = Issuer::start().await;
    let base = tempfile::tempdir().unwrap();
    let cwd = format!("--cwd={}/{{group}}/{{subject}}", base.path().display());
    let own = [
        "--identity=assertion",
        &format!("--jwks-url={}", issuer.url),
        "--issuer=https://auth.example",
        "--resource=https://mcp.example/svc",
        "--group-order=ops,dev",
        "--env=DATA=/data/{user}",
        &cwd,
    ];
    let wrapper = Wrapper::start(&own, &["--user={user}"]).await;
    let token = issuer.sign(&header(), &with(claims(), &[("sub", json!("../../etc/passwd"))]));
    let client =
        wrapper.client().with_header("x-auth-assertion", &token).with_header("x-auth-username", "eve");
    let client = client.initialize("2025-11-25").await;
    let process: Value = serde_json::from_str(&client.text("self", json!({})).await).unwrap();
    assert_eq!(process["argv"][1], "--user=ana");
    assert_eq!(process["env"]["DATA"], "/data/ana");
    let expected = base.path().join("ops").join("=2E.=2F..=2Fetc=2Fpasswd");
    assert_eq!(process["cwd"], expected.canonicalize().unwrap().display().to_string());
    let nameless = issuer.sign(&header(), &with(claims(), &[("username", Value::Null)]));
    let refused =
        wrapper.client().with_header("x-auth-assertion", &nameless).try_initialize("2025-11-25").await;
    assert_eq!(refused.status(), 403);
    assert!(refused.text().await.unwrap().contains("{user}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tool_rules_are_enforced_from_the_body() {
    let issuer = Issuer::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rules.toml");
    std::fs::write(&path, "[[tool]]\nmatch = \"cr*\"\nscopes = [\"mcp:write\"]\n[[tool]]\nmatch = \"self\"\ngroups = [\"root\"]\n").unwrap();
    let wrapper = issuer.wrapper(&[&format!("--tool-rules={}", path.display())]).await;
    let client = wrapper
        .client()
        .with_header(
            "x-auth-assertion",
            &issuer.sign(&header(), &with(claims(), &[("scope", json!("mcp:read"))])),
        )
        .initialize("2025-03-26")
        .await;
    assert_eq!(client.text("echo", json!({})).await, "{}");
    // The tool name in the body applies, even if the header that repeats it in later revisions differs.
    let response = client.clone().with_header("mcp-name", "echo").post(call(5, "crash", json!({}))).await;
    assert_eq!(response.status(), 403);
    let challenge = response.headers()["www-authenticate"].to_str().unwrap().to_owned();
    assert_eq!(
        challenge,
        r#"Bearer error="insufficient_scope", scope="mcp:read mcp:write", resource_metadata="https://mcp.example/.well-known/oauth-protected-resource/svc""#,
        "the challenge also contains the scopes that the caller has, so that the client keeps them"
    );
    let answer = answer_of(response).await;
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(5), &json!(-32000)));
    assert_eq!(client.post(call(1, "self", json!({}))).await.status(), 403);
    for trick in [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools\/call","params":{"n\u0061me":"crash"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","name":"crash"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","NAME":"crash"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["crash"]}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"crash\u0000"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name\u0000":"crash","name":"echo"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","n\u0061m\u0065":"crash"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"},"p\u0061rams\u0000":{"name":"crash"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"Tools/Call","params":{"name":"crash"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"crash\ud800"}}"#,
    ] {
        let status = client.post(trick).await.status().as_u16();
        assert!([400, 403].contains(&status), "{trick}: {status}");
    }
    for name in ["self ", " self", "\u{feff}self", "self\u{a0}", "self\n"] {
        assert_eq!(client.post(call(1, name, json!({}))).await.status(), 400, "{name:?}");
    }
    let batch = format!("[{},{}]", call(1, "echo", json!({})), call(2, "crash", json!({})));
    let answers: Vec<Value> = client.post(batch).await.json().await.unwrap();
    assert!(
        answers.iter().any(|answer| answer["id"] == 2 && answer["error"]["code"] == -32000),
        "{answers:?}"
    );
    assert!(answers.iter().any(|answer| answer["id"] == 1 && answer.get("result").is_some()));
    let writer = issuer.sign(&header(), &with(claims(), &[("scope", json!("mcp:read mcp"))]));
    let answer = client.with_header("x-auth-assertion", &writer).call("crash", json!({})).await;
    assert_eq!(
        answer["error"]["code"], -32603,
        "a scope that includes the needed one lets the call reach the child"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_the_assertion_says_are_not_met_are_enforced_from_the_body() {
    let issuer = Issuer::start().await;
    let wrapper = issuer.wrapper(&[]).await;
    let unmet = json!([
        {"tools": ["cr*"], "scopes": ["mcp", "mcp:write"]},
        {"tools": ["self"], "denied": true},
        {"methods": ["resources/*"], "scopes": ["mcp:files"]},
    ]);
    let token = issuer.sign(&header(), &with(claims(), &[("tool_rules", unmet)]));
    let client = wrapper.client().with_header("x-auth-assertion", &token).initialize("2025-11-25").await;
    assert_eq!(client.text("echo", json!({})).await, "{}");
    // The tool name in the body applies, even if the header that repeats it in later revisions differs.
    let refused = client.clone().with_header("mcp-name", "echo").post(call(5, "crash", json!({}))).await;
    assert_eq!(refused.status(), 403);
    let challenge = refused.headers()["www-authenticate"].to_str().unwrap().to_owned();
    assert!(challenge.starts_with(r#"Bearer error="insufficient_scope", scope="mcp", "#), "{challenge}");
    let closed = client.post(call(1, "self", json!({}))).await;
    assert!(closed.status() == 403 && !closed.headers().contains_key("www-authenticate"));
    let read = r#"{"jsonrpc":"2.0","id":2,"method":"resources/read","params":{"uri":"x:y"}}"#;
    assert_eq!(client.post(read).await.status(), 403);
    assert_eq!(client.post(read.replace("resources/read", "Resources/Read")).await.status(), 400);
    // A tool call that is sent as a notification is still a call.
    for (name, reaches_the_child) in [("crash", false), ("echo", true)] {
        let note = json!({"jsonrpc": "2.0", "method": "tools/call", "params": {"name": name}});
        assert_eq!(client.post(note.to_string()).await.status(), 202);
        if reaches_the_child {
            wrapper.logged("notified").await;
        }
    }
    // The wrapper logs the refusal, and the child logs what it receives.
    let crashes = |line: &String| line.contains("notified") && line.contains("crash");
    assert!(!wrapper.log().iter().any(crashes), "{:?}", wrapper.log());
    // A rule with members that this release does not support must not be ignored.
    let unknown = json!([{"prompts": ["x"], "denied": true}]);
    let token = issuer.sign(&header(), &with(claims(), &[("tool_rules", unknown)]));
    let refused = wrapper.client().with_header("x-auth-assertion", &token).try_initialize("2025-11-25").await;
    assert_eq!(refused.status(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_principal_has_a_ceiling_of_its_own() {
    let wrapper =
        Wrapper::start(&["--identity=headers", "--max-sessions-per-principal=2", "--max-sessions=3"], &[])
            .await;
    let open = |name: &'static str| wrapper.client().with_header("x-auth-subject", name);
    open("ana").initialize("2025-11-25").await;
    open("ana").initialize("2025-11-25").await;
    assert_eq!(open("ana").try_initialize("2025-11-25").await.status(), 429);
    open("bob").initialize("2025-11-25").await;
    assert_eq!(open("bob").try_initialize("2025-11-25").await.status(), 503, "now the wrapper is full");
    assert_eq!(open("").try_initialize("2025-11-25").await.status(), 401);
}

/// An assertion of a caller who is not allowed to use these methods.
fn denied(issuer: &Issuer, methods: &[&str]) -> String {
    let unmet = json!([{"methods": methods, "denied": true}]);
    issuer.sign(&header(), &with(claims(), &[("tool_rules", unmet)]))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_translation_asks_a_server_with_sessions_passes_the_rules_too() {
    let issuer = Issuer::start().await;
    let wrapper = issuer.wrapper_of(&[EVERY_LINE], &["python3", CHILD, "--rich", "--tells-methods"]).await;
    let client =
        wrapper.client().with_header("x-auth-assertion", &denied(&issuer, &["resources/*", "logging/*"]));
    let wanted = json!({"toolsListChanged": true, "resourceSubscriptions": ["test://a"]});
    let (_events, acknowledged) = modern::listen(&client, 1, wanted).await;
    let granted = &acknowledged["params"]["notifications"];
    assert_eq!(granted, &json!({"toolsListChanged": true}), "a denied subscription is not acknowledged");
    let meta = json!({
        "io.modelcontextprotocol/logLevel": "info",
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
    });
    let echo = modern::request(2, "tools/call", json!({"name": "echo", "arguments": {}, "_meta": meta}));
    let answer = answer_of(modern::send(&client, &echo).await).await;
    assert!(answer.get("result").is_some(), "{answer}");
    wrapper.logged("asked tools/call").await;
    let log = wrapper.log().join("\n");
    assert!(!log.contains("asked resources/subscribe") && !log.contains("asked logging/setLevel"), "{log}");
    // A caller who is allowed to use both methods can use both.
    let client = wrapper.client().with_header("x-auth-assertion", &denied(&issuer, &["prompts/*"]));
    let (_events, acknowledged) =
        modern::listen(&client, 1, json!({"resourceSubscriptions": ["test://a"]})).await;
    assert_eq!(acknowledged["params"]["notifications"]["resourceSubscriptions"], json!(["test://a"]));
    modern::send(&client, &echo).await;
    wrapper.logged("asked resources/subscribe").await;
    wrapper.logged("asked logging/setLevel").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_translation_asks_a_server_without_sessions_passes_the_rules_too() {
    let issuer = Issuer::start().await;
    let wrapper = issuer.wrapper_of(&[EVERY_LINE], &["python3", modern::CHILD, "--tells-methods"]).await;
    let token = denied(&issuer, &["subscriptions/*"]);
    let client = wrapper.client().with_header("x-auth-assertion", &token).initialize("2025-11-25").await;
    let subscribe =
        json!({"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": {"uri": "test://a"}});
    let refused = answer_of(client.post(subscribe.to_string()).await).await;
    assert!(refused["error"]["message"].as_str().unwrap().contains("subscriptions/listen"), "{refused}");
    assert_eq!(client.text("echo", json!({})).await, "{}");
    wrapper.logged("asked tools/call").await;
    let log = wrapper.log().join("\n");
    // The wrapper's own subscription covers every list, and does not belong to a caller.
    assert!(!log.contains("test://a") && !log.contains("{'toolsListChanged': True}"), "{log}");
    let token = denied(&issuer, &["prompts/*"]);
    let client = wrapper.client().with_header("x-auth-assertion", &token).initialize("2025-11-25").await;
    let granted = answer_of(client.post(subscribe.to_string()).await).await;
    assert_eq!(granted["result"], json!({}), "{granted}");
    wrapper.logged("test://a").await;
}

/// Attack 106: a part of a request can mean the same as a denied method of an earlier revision.
#[tokio::test(flavor = "multi_thread")]
async fn a106_a_server_without_sessions_gets_no_part_of_a_request_that_the_rules_deny() {
    const LEVEL: &str = "io.modelcontextprotocol/logLevel";
    let issuer = Issuer::start().await;
    let wrapper = issuer.wrapper_of(&[], &["python3", modern::CHILD]).await;
    let is_level_seen = |answer: &str| answer.contains(LEVEL);
    let seen = json!({"name": "seen", "arguments": {}, "_meta": {LEVEL: "debug", "progressToken": 7}});
    for (methods, may) in
        [(["logging/setLevel", "resources/subscribe"], false), (["prompts/*", "tasks/*"], true)]
    {
        let client = wrapper.client().with_header("x-auth-assertion", &denied(&issuer, &methods));
        let native = modern::request("a", "tools/call", seen.clone());
        let native = answer_of(modern::send(&client, &native).await).await;
        assert_eq!(native["id"], "a");
        let text = native["result"]["content"][0]["text"].as_str().unwrap();
        assert!(is_level_seen(text) == may && text.contains("progressToken"), "{text}");
        let wanted = json!({"toolsListChanged": true, "resourceSubscriptions": ["test://a"]});
        let (_events, acknowledged) = modern::listen(&client, 1, wanted).await;
        let granted = &acknowledged["params"]["notifications"];
        assert_eq!(granted["toolsListChanged"], json!(true), "{granted}");
        assert_eq!(granted.get("resourceSubscriptions").is_some(), may, "{granted}");
        let session = client.initialize("2025-11-25").await;
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": seen});
        let translated = answer_of(session.post(call.to_string()).await).await;
        let text = translated["result"]["content"][0]["text"].as_str().unwrap();
        assert_eq!(is_level_seen(text), may, "{text}");
    }
}

/// Attack 106: a server can support both kinds of revisions, and need not check which of them a request belongs to.
#[tokio::test(flavor = "multi_thread")]
async fn a106_a_server_with_sessions_gets_no_request_that_means_the_same_as_a_denied_method() {
    let issuer = Issuer::start().await;
    let level = json!({"io.modelcontextprotocol/logLevel": "debug"});
    let asks = [
        ("subscriptions/listen", json!({"notifications": {"resourceSubscriptions": ["test://a"]}})),
        ("tools/call", json!({"name": "echo", "arguments": {}, "_meta": level})),
    ];
    let is_refused = |answer: &Value| answer.to_string().contains("The rules deny");
    for shared in ["--shared=false", "--shared=true"] {
        let wrapper = issuer.wrapper_of(&[EVERY_LINE, shared], &["python3", CHILD, "--tells-methods"]).await;
        for (methods, may) in
            [(["logging/setLevel", "resources/subscribe"], false), (["prompts/*", "tasks/*"], true)]
        {
            let client = wrapper.client().with_header("x-auth-assertion", &denied(&issuer, &methods));
            let greeting = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "a", "version": "1"}, "_meta": level});
            let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": greeting});
            let greeted = client.post(initialize.to_string()).await;
            assert_eq!(greeted.status(), if may { 200 } else { 403 });
            let session = client.initialize("2025-11-25").await;
            for (method, params) in &asks {
                let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
                let answer = answer_of(session.post(request.to_string()).await).await;
                assert_eq!(is_refused(&answer), !may, "{shared} {answer}");
                let is_asked = wrapper.log().iter().any(|line| line.contains(&format!("asked {method}")));
                assert!(may || !is_asked, "{shared} {method}");
            }
            let notification =
                json!({"jsonrpc": "2.0", "method": "notifications/x", "params": {"_meta": level}});
            assert_eq!(session.post(notification.to_string()).await.status(), 202);
            assert_eq!(session.text("echo", json!({})).await, "{}");
            let is_told = wrapper.log().iter().any(|line| line.contains("asked notifications/x"));
            assert!(may || !is_told, "{shared}");
        }
    }
}

/// Attack 106: a message without an id is judged as well, also in a batch and as a cancellation.
#[tokio::test(flavor = "multi_thread")]
async fn a106_a_notification_in_any_form_carries_no_denied_part() {
    let issuer = Issuer::start().await;
    let child = ["python3", CHILD, "--tells-methods"];
    let wrapper = issuer.wrapper_of(&[EVERY_LINE], &child).await;
    let client = wrapper.client().with_header("x-auth-assertion", &denied(&issuer, &["logging/*"]));
    let session = client.initialize("2025-03-26").await;
    let level = r#""io.modelcontextprotocol/logLevel":"debug""#;
    let hidden = [
        format!(r#""_Meta":{{{level}}}"#),
        format!(r#""_meta":{{{level}}},"_meta":{{}}"#),
        format!(r#""_meta":[{{{level}}}]"#),
        format!(r#""_meta":{{{level}}}"#),
    ];
    let items = hidden.map(|params| format!(r#"{{"jsonrpc":"2.0","method":"x/y","params":{{{params}}}}}"#));
    assert_eq!(session.post(format!("[{}]", items.join(","))).await.status(), 202);
    let running = tokio::spawn({
        let session = session.clone();
        async move { answer_of(session.post(call(7, "sleep", json!({"seconds": 30}))).await).await }
    });
    wrapper.logged("asked tools/call").await;
    let cancel = format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":7,"_meta":{{{level}}}}}}}"#
    );
    assert_eq!(session.post(cancel).await.status(), 202);
    assert_eq!(running.await.unwrap()["error"]["message"], "The request was cancelled.");
    wrapper.logged("asked notifications/cancelled").await;
    assert!(
        !wrapper.log().iter().any(|line| line.contains("with a log level") || line.contains("asked x/y"))
    );
}
