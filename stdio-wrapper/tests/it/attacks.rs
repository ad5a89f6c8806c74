//! Tests of attacks 103 to 111 of the threat list (docs/attacks.md). Most tests of attack 107, which is a
//! misbehaving child, are in `children` and `isolation`.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::wrapper::{Client, Wrapper, answer_of, call};

#[tokio::test(flavor = "multi_thread")]
async fn a103_nothing_in_a_request_reaches_the_command_line() {
    let wrapper = Wrapper::start(&[], &["--plain"]).await;
    let mut client = wrapper.client().with_header("x-auth-subject", "--evil").with_header("command", "evil");
    client.url.push_str("?command=evil&args=--evil");
    let client = client.initialize("2025-11-25").await;
    let process: Value =
        serde_json::from_str(&client.text("self", json!({"argv": ["evil"], "command": "evil"})).await)
            .unwrap();
    assert_eq!(process["argv"].as_array().unwrap().len(), 2);
    assert_eq!(process["argv"][1], "--plain");
    assert!(!process["env"].to_string().contains("evil"));
}

async fn status_with(client: &Client, method: Method, headers: &[(&str, &str)]) -> u16 {
    let mut client = client.clone();
    for (name, value) in headers {
        client.headers.push(((*name).to_owned(), (*value).to_owned()));
    }
    let request = client.request(method.clone()).header("accept", "application/json, text/event-stream");
    let request = if method == Method::POST {
        request.header("content-type", "application/json").body(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#)
    } else {
        request
    };
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a104_other_hosts_and_origins_are_turned_away_on_every_method() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    for method in [Method::POST, Method::GET, Method::DELETE, Method::OPTIONS] {
        for bad in [
            vec![("host", "evil.example.com")],
            vec![("host", "evil.example.com:8080")],
            vec![("origin", "http://evil.example.com")],
            vec![("origin", "null")],
            vec![("origin", "http://localhost"), ("origin", "http://evil.example.com")],
        ] {
            assert_eq!(status_with(&client, method.clone(), &bad).await, 403, "{method} {bad:?}");
        }
    }
    assert_eq!(status_with(&client, Method::POST, &[("origin", "http://localhost:6274")]).await, 200);
    assert_eq!(status_with(&client, Method::POST, &[("host", "localhost:1")]).await, 200);
    assert_eq!(wrapper.metric("stdio_wrapper_children").await, 1, "the session still exists");
}

/// Sends `count` calls with id 1 at the same time. The child responds to the last one first.
async fn every_answer_its_own(client: &Client, count: usize) {
    let calls = (0..count).map(|value| async move {
        let body = call(1, "hold", json!({"count": count, "value": format!("value-{value}")}));
        let answer = answer_of(client.post(body).await).await;
        assert_eq!(answer["id"], 1);
        assert_eq!(answer["result"]["content"][0]["text"], format!("value-{value}"), "{answer}");
    });
    join_all(calls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a105_equal_ids_never_cross_16() {
    let wrapper = Wrapper::start(&[], &[]).await;
    every_answer_its_own(&wrapper.session().await, 16).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a105_equal_ids_never_cross_256() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    for _ in 0..3 {
        every_answer_its_own(&client, 256).await;
    }
    assert_eq!(wrapper.metric("stdio_wrapper_requests_in_flight").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a105_equal_ids_never_cross_between_sessions_of_a_shared_child() {
    let wrapper = Wrapper::start(&["--shared"], &[]).await;
    let clients = join_all((0..32).map(|_| wrapper.session())).await;
    assert_eq!(wrapper.metric("stdio_wrapper_children").await, 1);
    join_all(clients.iter().enumerate().map(|(value, client)| async move {
        let text = client.text("hold", json!({"count": 32, "value": format!("of {value}")})).await;
        assert_eq!(text, format!("of {value}"));
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a105_equal_progress_tokens_never_cross() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    join_all((1..=8).map(|steps| {
        let client = client.clone();
        async move {
            let params = json!({"name": "progress", "arguments": {"steps": steps, "pause": 0.01}, "_meta": {"progressToken": "same"}});
            let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string();
            let events = crate::wrapper::Events::new(client.post(body).await).rest().await;
            let progress: Vec<&Value> =
                events.iter().map(|event| &event.data).filter(|data| data["method"] == "notifications/progress").collect();
            assert_eq!(progress.len(), steps, "{events:?}");
            assert!(progress.iter().all(|data| data["params"]["progressToken"] == "same"));
        }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a106_doubled_and_case_variant_keys_are_refused() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    for body in [
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","ID":2}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","param\u0073":{},"params":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","paramſ":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"pi\u0000ng"}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
        r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#,
    ] {
        assert_eq!(client.post(body).await.status(), 400, "{body}");
    }
    for params in [
        r#"{"name":"echo","name":"crash"}"#,
        r#"{"name":"echo","Name":"crash"}"#,
        r#"{"name":"echo","_meta":{},"_META":{}}"#,
    ] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        let answer = answer_of(client.post(body).await).await;
        assert_eq!(answer["error"]["code"], -32600, "{params}: {answer}");
    }
    assert_eq!(client.text("double", json!({})).await, "answered once");
    assert_eq!(wrapper.metric("stdio_wrapper_child_junk_lines_total").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a106_a_method_that_another_reader_may_take_for_a_different_one_reaches_no_child() {
    let wrapper = Wrapper::start(&[crate::wrapper::EVERY_LINE], &[]).await;
    let client = wrapper.client().initialize("2025-03-26").await;
    let odd = [
        "tool\u{17f}/call",
        "tools/call ",
        " tools/call",
        "tools/ca\u{217c}l",
        "p\u{131}ng",
        "tools/call\n",
        "tools/call\u{200b}",
        "",
    ];
    let in_other_letters = ["Tools/Call", "INITIALIZE", "Notifications/Cancelled", "resources/Subscribe"];
    for method in odd.into_iter().chain(in_other_letters) {
        let request = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": {"name": "crash"}});
        let response = client.post(request.to_string()).await;
        assert_eq!(response.status(), 400, "{method:?}");
        let answer = answer_of(response).await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(7), &json!(-32600)), "{answer}");
        let notification = json!({"jsonrpc": "2.0", "method": method, "params": {"name": "crash"}});
        assert_eq!(client.post(notification.to_string()).await.status(), 400, "{method:?}");
        let good = json!({"jsonrpc": "2.0", "id": 8, "method": "ping"});
        let answers: Value =
            client.post(json!([request, notification, good]).to_string()).await.json().await.unwrap();
        let of =
            |id: Value| answers.as_array().unwrap().iter().find(|answer| answer["id"] == id).unwrap().clone();
        assert_eq!(of(json!(7))["error"]["code"], -32600, "{answers}");
        assert!(of(json!(8)).get("result").is_some(), "{answers}");
    }
    assert_eq!(client.text("echo", json!({})).await, "{}", "the child still answers");
    // The test child logs every notification that it receives.
    assert!(
        !wrapper.log().iter().any(|line| line.contains("notified") && line.contains("crash")),
        "{:#?}",
        wrapper.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a108_a_session_is_its_users_alone() {
    let wrapper = Wrapper::start(&["--identity=headers"], &[]).await;
    let ana = wrapper.client().with_header("x-auth-subject", "ana").with_header("x-auth-client-id", "c1");
    let ana = ana.initialize("2025-11-25").await;
    let eve = ana.clone().with_header("x-auth-subject", "eve");
    assert_eq!(eve.status_of_ping().await, 404);
    assert_eq!(eve.get(None).await.status(), 404);
    assert_eq!(eve.delete().await, 404);
    // A client that requests more scopes can return with a different client identifier. The Go SDK registers again
    // for a step-up.
    let stepped_up = ana.clone().with_header("x-auth-client-id", "c2");
    assert_eq!(stepped_up.status_of_ping().await, 200);
    let mut nobody = ana.clone();
    nobody.headers.clear();
    assert_eq!(nobody.status_of_ping().await, 401);
    assert_eq!(ana.status_of_ping().await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a108_session_ids_are_long_and_never_the_same() {
    let wrapper = Wrapper::start(&["--shared"], &[]).await;
    let clients = join_all((0..50).map(|_| wrapper.session())).await;
    let ids: HashSet<String> = clients.into_iter().map(|client| client.session.unwrap()).collect();
    assert_eq!(ids.len(), 50);
    assert!(ids.iter().all(|id| id.len() == 43 && id.bytes().all(|byte| byte.is_ascii_graphic())));
    let mut guess = wrapper.client();
    guess.session = Some("A".repeat(43));
    assert_eq!(guess.status_of_ping().await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a109_bombs_are_refused_before_they_cost_anything() {
    let wrapper = Wrapper::start(&["--max-body=1MiB", "--max-batch=10"], &[]).await;
    let client = wrapper.client().initialize("2025-03-26").await;
    assert_eq!(client.clone().with_header("content-encoding", "gzip").status_of_ping().await, 415);
    assert_eq!(client.post(call(1, "echo", json!("x".repeat(1 << 20)))).await.status(), 413);
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"a":{}{}}}}}"#,
        "[".repeat(5000),
        "]".repeat(5000)
    );
    assert_eq!(client.post(deep).await.status(), 400);
    let batch = format!("[{}]", [r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#; 11].join(","));
    assert_eq!(client.post(batch).await.status(), 400);
    assert_eq!(client.status_of_ping().await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a110_a_page_elsewhere_cannot_run_a_tool() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
    ] {
        let request = client.request(Method::POST).header("accept", "application/json, text/event-stream");
        let answer =
            request.header("content-type", kind).body(call(1, "echo", json!({}))).send().await.unwrap();
        assert_eq!(answer.status(), 415, "{kind}");
    }
    let preflight = [("origin", "https://evil.example"), ("access-control-request-method", "POST")];
    assert_eq!(status_with(&client, Method::OPTIONS, &preflight).await, 403);
    let answer = client
        .clone()
        .with_header("origin", "http://localhost:6274")
        .with_header("access-control-request-headers", "mcp-method,mcp-param-region,x-auth-subject")
        .request(Method::OPTIONS)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["access-control-allow-origin"], "http://localhost:6274");
    let allowed = answer.headers()["access-control-allow-headers"].to_str().unwrap();
    for (name, is_allowed) in [("mcp-method", true), ("mcp-param-region", true), ("x-auth-subject", false)] {
        assert_eq!(allowed.split(", ").any(|known| known == name), is_allowed, "{name}: {allowed}");
    }
    let vary: Vec<&str> =
        answer.headers().get_all("vary").iter().filter_map(|value| value.to_str().ok()).collect();
    assert_eq!(vary, ["Access-Control-Request-Headers", "Origin"], "a cache must not mix up these responses");
}

#[tokio::test(flavor = "multi_thread")]
async fn a104_a_page_may_read_what_a_client_needs_of_an_answer_and_only_if_it_may_call() {
    let wrapper = Wrapper::start(&["--allowed-origins=https://app.example"], &[]).await;
    let page = wrapper.client().with_header("origin", "https://app.example");
    let opened = page.try_initialize("2025-11-25").await;
    let exposed = opened.headers()["access-control-expose-headers"].to_str().unwrap().to_lowercase();
    // A page can read the session id, the challenge and the time to wait before a retry. Everything else that a
    // client needs is in the body, or in a safelisted header (Fetch standard).
    assert_eq!(exposed, "mcp-session-id, www-authenticate, retry-after");
    assert_eq!(opened.headers()["access-control-allow-origin"], "https://app.example");
    assert!(opened.headers().contains_key("mcp-session-id"));
    assert!(
        !opened.headers().contains_key("access-control-allow-credentials"),
        "the wrapper uses no cookies"
    );
    // A page must also be able to read refusals, because a 404 tells a client to open a new session.
    let mut stale = page.clone();
    stale.session = Some("gone".to_owned());
    let refused = stale.post(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).await;
    assert_eq!(refused.status(), 404);
    assert_eq!(
        refused.headers()["access-control-expose-headers"],
        opened.headers()["access-control-expose-headers"]
    );
    let foreign =
        wrapper.client().with_header("origin", "https://evil.example").try_initialize("2025-11-25").await;
    for header in ["access-control-allow-origin", "access-control-expose-headers", "mcp-session-id"] {
        assert!(!foreign.headers().contains_key(header), "{header}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a111_the_child_never_sees_token_cookie_or_setting() {
    let env = [("EDGE_SECRET", "s3cret-edge"), ("ISSUER", "https://s3cret.example"), ("GIVEN", "on purpose")];
    let command = ["python3", crate::wrapper::CHILD];
    let wrapper =
        Wrapper::run(&["--identity=headers", "--env=GIVEN", "--env=MODE=test"], &command, &env).await;
    let client = wrapper
        .client()
        .with_header("authorization", "Bearer s3cret-token")
        .with_header("cookie", "s=s3cret-cookie");
    let client = client
        .with_header("x-auth-assertion", "s3cret-assertion")
        .with_header("x-auth-subject", "s3cret-subject");
    let client = client.with_header("x-edge-secret", "s3cret-edge").initialize("2025-11-25").await;
    let process = client.text("self", json!({})).await;
    assert!(!process.contains("s3cret"), "{process}");
    let process: Value = serde_json::from_str(&process).unwrap();
    let mut names: Vec<&str> = process["env"].as_object().unwrap().keys().map(String::as_str).collect();
    // The wrapper always passes the first four variables. Python adds LC_CTYPE (PEP 538), and the start script
    // of a version manager adds the others.
    let own = ["PATH", "HOME", "LANG", "TZ", "LC_CTYPE", "PWD", "SHLVL", "_"];
    names.retain(|name| !own.contains(name) && !name.contains("PYENV"));
    names.sort_unstable();
    assert_eq!(names, ["GIVEN", "MODE"]);
    assert!(!client.text("params", json!({})).await.contains("s3cret"));
    // The test child logs every notification that it receives.
    tokio::time::sleep(Duration::from_millis(100)).await;
    // The log names the user, and nothing else of the request.
    let secret = |line: &String| line.replace("s3cret-subject", "").contains("s3cret");
    assert!(!wrapper.log().iter().any(secret), "{:#?}", wrapper.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn children_cannot_read_the_wrappers_memory_or_environment() {
    use std::os::unix::fs::MetadataExt as _;
    let wrapper = Wrapper::unprivileged(&[], &["cat"]).await;
    // If a process is not dumpable, these files belong to root, and the kernel allows reading them only with the
    // right to trace the process.
    let owner = std::fs::metadata(format!("/proc/{}/environ", wrapper.pid())).unwrap().uid();
    assert_eq!(owner, 0, "the user of the wrapper and of its children can read them");
}
