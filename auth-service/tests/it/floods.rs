//! Tests of the limits on what strangers can make the service store or do (docs/limits.md).

use std::time::{Duration, Instant};

use auth_service::domain::account::StoredPassword;
use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::app::{PASSWORD, REDIRECT, TestApp, authorize_query, error_code};

/// The client address with this number, as the edge sends it in `X-Forwarded-For`.
fn address(n: usize) -> String {
    format!("198.51.{}.{}", n / 250, n % 250 + 1)
}

/// The cookie and the form token of the login form in a new browser.
async fn form(app: &TestApp) -> (String, String) {
    let mut browser = app.browser();
    let form_token = browser.open("/login").await.form_token();
    let (name, value) = &browser.cookies[0];
    (format!("{name}={value}"), form_token)
}

fn attempt(
    app: &TestApp,
    (cookie, form_token): &(String, String),
    from: usize,
    name: &str,
) -> RequestBuilder {
    app.http
        .post(format!("{}/login", app.public))
        .header("cookie", cookie)
        .header("x-forwarded-for", address(from))
        .form(&[("form_token", form_token.as_str()), ("username", name), ("password", "wrong wrong wrong")])
}

fn retry_after(answer: &Response) -> Option<u64> {
    answer.headers().get("retry-after")?.to_str().ok()?.parse().ok()
}

async fn statuses(answers: impl IntoIterator<Item = RequestBuilder>) -> Vec<Response> {
    join_all(answers.into_iter().map(|request| async move { request.send().await.unwrap() })).await
}

fn count(answers: &[Response], status: StatusCode) -> usize {
    answers.iter().filter(|answer| answer.status() == status).count()
}

#[actix_web::test]
async fn a093_attempts_with_a_name_that_cannot_be_are_counted_for_their_address() {
    let app = TestApp::start().await;
    app.person("ana").await;
    let form = form(&app).await;
    let mut answers = Vec::new();
    // One address can have at most 256 requests in progress.
    for _ in 0..4 {
        answers.extend(statuses((0..100).map(|_| attempt(&app, &form, 1, "a b"))).await);
    }
    assert!(count(&answers, StatusCode::TOO_MANY_REQUESTS) >= 80, "{:?}", answers[399]);
    assert!(
        answers
            .iter()
            .all(|answer| answer.status() == StatusCode::SEE_OTHER || retry_after(answer) > Some(0))
    );
    // Attempts from this address are also refused for a valid user name, but attempts from another address are
    // not.
    let same = attempt(&app, &form, 1, "ana").send().await.unwrap();
    assert_eq!(same.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(attempt(&app, &form, 2, "ana").send().await.unwrap().status(), StatusCode::SEE_OTHER);
}

#[actix_web::test]
async fn a093_a_flood_of_logins_is_told_to_come_back_and_the_owner_still_gets_in() {
    let app = TestApp::start().await;
    let mut owner = app.browser_of("ana").await;
    let form = form(&app).await;
    let flood = statuses((0..200).map(|n| attempt(&app, &form, n, &format!("nobody{n}"))));
    let page = owner.open("/login").await;
    let fields = [("username", "ana"), ("password", PASSWORD)];
    let (answers, signed_in) = futures_util::future::join(flood, owner.submit(&page, &fields)).await;
    assert_eq!(signed_in.status, StatusCode::OK);
    let busy: Vec<_> =
        answers.iter().filter(|answer| answer.status() == StatusCode::SERVICE_UNAVAILABLE).collect();
    assert!(!busy.is_empty(), "all 200 were hashed");
    assert!(busy.iter().all(|answer| retry_after(answer) > Some(0)));
}

#[actix_web::test]
async fn many_users_behind_one_address_log_in_at_the_same_moment() {
    let app = TestApp::start().await;
    let form = form(&app).await;
    let answers = statuses((0..15).map(|n| attempt(&app, &form, 1, &format!("user{n}")))).await;
    assert_eq!(count(&answers, StatusCode::SEE_OTHER), 15);
}

#[actix_web::test]
async fn a093_attempts_beyond_the_share_of_an_address_get_429() {
    let app = TestApp::start().await;
    let form = form(&app).await;
    let answers = statuses((0..60).map(|n| attempt(&app, &form, 1, &format!("user{n}")))).await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status() != StatusCode::SEE_OTHER).collect();
    assert!(!refused.is_empty(), "all 60 were hashed");
    assert!(
        refused
            .iter()
            .all(|answer| answer.status() == StatusCode::TOO_MANY_REQUESTS && retry_after(answer) > Some(0)),
        "{refused:?}"
    );
}

#[actix_web::test]
async fn a093_an_attempt_whose_client_hung_up_is_dropped() {
    let app = TestApp::start().await;
    let (cookie, form_token) = form(&app).await;
    // These verifications take a few seconds, and have priority over the verifications of the flood.
    let known: Vec<_> = (0..32)
        .map(|_| {
            let passwords = app.state.passwords.clone();
            let queue = auth_service::identity::password::Queue::Known;
            tokio::spawn(async move { passwords.verify(None, "x".into(), queue).await })
        })
        .collect();
    let mut streams = Vec::new();
    for n in 0..20 {
        let body = serde_urlencoded::to_string([
            ("form_token", form_token.as_str()),
            ("username", &format!("nobody{n}")),
            ("password", "wrong wrong wrong"),
        ])
        .unwrap();
        let mut stream = TcpStream::connect(app.public.strip_prefix("http://").unwrap()).await.unwrap();
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: auth.example\r\nCookie: {cookie}\r\nX-Forwarded-For: {}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n",
            ["/login", "/%6Cogin"][n % 2],
            address(n),
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).await.unwrap();
        streams.push(stream);
    }
    let passwords = &app.state.passwords;
    while passwords.waiting() < 20 {
        assert!(known.iter().any(|one| !one.is_finished()), "the attempts were not queued");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(streams);
    while passwords.waiting() > 0 {
        assert!(
            known.iter().any(|one| !one.is_finished()),
            "the service hashes passwords for clients that have disconnected"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[actix_web::test]
async fn a_stored_hash_that_cannot_be_read_is_no_wrong_password() {
    let app = TestApp::start().await;
    let account = app.person("ana").await;
    let damaged = StoredPassword { phc: "$argon2id$v=19$m=19456".to_owned(), one_time: false };
    assert!(
        app.state
            .store
            .replace_password(&account.subject, &account.password, &damaged)
            .await
            .unwrap()
            .is_some()
    );
    let answer = attempt(&app, &form(&app).await, 1, "ana").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[actix_web::test]
async fn a093_a_new_password_is_hashed_only_when_it_will_do_and_not_without_end() {
    let app = TestApp::start().await;
    app.account("ana", true).await;
    let mut browser = app.browser();
    let page = browser.open("/login").await;
    let choose = browser.submit_and_follow(&page, &[("username", "ana"), ("password", PASSWORD)]).await;
    let same = [("new_password", PASSWORD), ("new_password_repeat", PASSWORD)];
    let mut last = StatusCode::OK;
    for _ in 0..12 {
        last = browser.submit(&choose, &same).await.status;
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
    // A password that would be refused in any case does not count as an attempt.
    let short = [("new_password", "short"), ("new_password_repeat", "short")];
    assert_eq!(browser.submit(&choose, &short).await.status, StatusCode::UNPROCESSABLE_ENTITY);
}

fn push(app: &TestApp, client: &str, from: usize, more: &[(&str, &str)]) -> RequestBuilder {
    app.http
        .post(format!("{}/par", app.public))
        .header("content-type", "application/x-www-form-urlencoded")
        .header("x-forwarded-for", address(from))
        .body(authorize_query(client, more))
}

#[actix_web::test]
async fn a044_pushed_requests_end_for_a_client_for_an_address_and_for_all() {
    for on_redis in [false, true] {
        let app = TestApp::start_on(on_redis, &[]).await;
        let client = app.client().await;
        let answers = statuses((0..60).map(|_| push(&app, &client, 1, &[]))).await;
        let created = count(&answers, StatusCode::CREATED);
        assert!((30..=50).contains(&created), "{created}");
        let refused =
            answers.into_iter().find(|answer| answer.status() == StatusCode::TOO_MANY_REQUESTS).unwrap();
        assert!(retry_after(&refused) > Some(0));
        assert_eq!(error_code(refused).await, "temporarily_unavailable");
        // A stranger who pushes requests in the name of a client does not block that client at another address.
        assert_eq!(push(&app, &client, 2, &[]).send().await.unwrap().status(), StatusCode::CREATED);
        // First, many clients push requests from one address, then from many addresses.
        let mut clients = Vec::new();
        for n in 0..10 {
            clients.push(app.client_with(&[&format!("{REDIRECT}/{n}")]).await);
        }
        let uri = |n: usize| format!("{REDIRECT}/{n}");
        let answers = statuses(
            (0..200).map(|n| push(&app, &clients[n % 10], 3, &[("redirect_uri", uri(n % 10).as_str())])),
        )
        .await;
        let created = count(&answers, StatusCode::CREATED);
        assert!((120..=150).contains(&created), "{created}");
        let start = Instant::now();
        let mut created = 0;
        for from in 10..60 {
            let answers = statuses(
                (0..30)
                    .map(|n| push(&app, &clients[n % 10], from, &[("redirect_uri", uri(n % 10).as_str())])),
            )
            .await;
            created += count(&answers, StatusCode::CREATED);
        }
        let most = 1000 + 20 * (usize::try_from(start.elapsed().as_secs()).unwrap() + 1);
        assert!((700..=most).contains(&created), "{created} of 1500");
        // A public client that a user has allowed has its own limit.
        app.tokens(&client).await;
        let flood = statuses(
            (0..300).map(|n| push(&app, &clients[n % 10], 60 + n, &[("redirect_uri", uri(n % 10).as_str())])),
        );
        assert!(count(&flood.await, StatusCode::TOO_MANY_REQUESTS) > 200);
        assert_eq!(push(&app, &client, 2, &[]).send().await.unwrap().status(), StatusCode::CREATED);
    }
}

#[actix_web::test]
async fn a040_a_pushed_request_and_the_metadata_of_a_client_have_a_largest_size() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let fits = push(&app, &client, 1, &[("state", &"s".repeat(7000))]).send().await.unwrap();
    assert_eq!(fits.status(), StatusCode::CREATED);
    let larger = push(&app, &client, 1, &[("state", &"s".repeat(8100))]).send().await.unwrap();
    assert_eq!(
        (larger.status(), error_code(larger).await.as_str()),
        (StatusCode::BAD_REQUEST, "invalid_request")
    );
    let with_keys = |bytes: usize| {
        json!({
            "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "private_key_jwt",
            "jwks": { "keys": ["x".repeat(bytes)] },
        })
    };
    assert_eq!(app.register(&with_keys(7000)).await.status(), StatusCode::CREATED);
    let larger = app.register(&with_keys(8100)).await;
    assert_eq!(
        (larger.status(), error_code(larger).await.as_str()),
        (StatusCode::BAD_REQUEST, "invalid_client_metadata")
    );
    assert_eq!(app.register(&with_keys(60_000)).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[actix_web::test]
async fn a045_a_few_addresses_neither_drive_a_newcomer_out_nor_keep_one_from_coming() {
    let app = TestApp::start_with(&[("CLIENT_CEILING", "600"), ("REGISTRATION_RATE", "10000")]).await;
    let register = async |from: usize, name: String| {
        let metadata =
            json!({ "client_name": name, "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" });
        let request = app.http.post(format!("{}/register", app.public));
        request.header("x-forwarded-for", address(from)).json(&metadata).send().await.unwrap()
    };
    let newcomer: Value = register(9, "newcomer".to_owned()).await.json().await.unwrap();
    let newcomer = newcomer["client_id"].as_str().unwrap();
    for round in 0..20 {
        let flood = join_all((0..50).map(|n| register(n % 5, format!("flood {round} {n}")))).await;
        assert_eq!(count(&flood, StatusCode::CREATED), 50, "{round}");
    }
    let page = app.browser().open(&format!("/authorize?{}", authorize_query(newcomer, &[]))).await;
    assert_eq!(page.status, StatusCode::SEE_OTHER, "{}", page.body);
    assert_eq!(register(10, "another".to_owned()).await.status(), StatusCode::CREATED);
    // If every registered client must be kept, a new registration is refused with `Retry-After`.
    let mut last = register(11, "first".to_owned()).await;
    for n in 0..800 {
        last = register(11 + n / 7, format!("more {n}")).await;
    }
    assert_eq!(last.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(retry_after(&last) > Some(0));
    app.wait(Duration::from_secs(31 * 60));
    assert_eq!(register(200, "later".to_owned()).await.status(), StatusCode::CREATED);
}

/// Registers `metadata`, and then replaces the client's metadata.
async fn register_and_leave(app: &TestApp, metadata: &Value, n: usize) -> Response {
    let registered = app.register(metadata).await;
    if registered.status() != StatusCode::CREATED {
        return registered;
    }
    let registered: Value = registered.json().await.unwrap();
    let mut other = metadata.clone();
    other["client_name"] = json!(format!("other {n}"));
    other["client_id"] = registered["client_id"].clone();
    let uri = format!("{}/register/{}", app.public, registered["client_id"].as_str().unwrap());
    let token = registered["registration_access_token"].as_str().unwrap();
    app.http.request(Method::PUT, uri).bearer_auth(token).json(&other).send().await.unwrap()
}

#[actix_web::test]
async fn a044_changed_clients_leave_the_real_one_its_registration() {
    let app = TestApp::start().await;
    let metadata =
        json!({ "client_name": "Claude", "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" });
    for n in 0..6 {
        assert_eq!(register_and_leave(&app, &metadata, n).await.status(), StatusCode::OK, "round {n}");
    }
    assert_eq!(app.register(&metadata).await.status(), StatusCode::CREATED);
}

#[actix_web::test]
async fn a044_registering_and_changing_in_turn_is_slowed_as_registering_is() {
    let app = TestApp::start_with(&[("REGISTRATION_RATE", "8")]).await;
    let metadata =
        json!({ "client_name": "Claude", "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" });
    let mut answers = Vec::new();
    for n in 0..12 {
        answers.push(register_and_leave(&app, &metadata, n).await.status());
    }
    assert_eq!(answers[0], StatusCode::OK);
    assert_eq!(answers[11], StatusCode::TOO_MANY_REQUESTS, "{answers:?}");
}

#[actix_web::test]
async fn readiness_knows_a_redis_that_takes_no_more() {
    let Some(app) = TestApp::start_on_redis().await else { return };
    let ready = async || app.http.get(format!("{}/ready", app.ops)).send().await.unwrap();
    assert_eq!(ready().await.status(), StatusCode::OK);
    app.tell_store("CONFIG SET maxmemory 1mb");
    let full = ready().await;
    assert_eq!(full.status(), StatusCode::SERVICE_UNAVAILABLE);
    let body: Value = full.json().await.unwrap();
    assert!(body["store"].as_str().unwrap().contains("OOM"), "{body}");
    app.tell_store("CONFIG SET maxmemory 0");
    assert_eq!(ready().await.status(), StatusCode::OK);
}

/// The first bytes of a listener's response to these bytes. The connection is left open.
async fn answer_to(listener: &str, bytes: &str) -> String {
    let mut stream = TcpStream::connect(listener.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(60), stream.read(&mut answer)).await;
    String::from_utf8_lossy(&answer[..read.unwrap().unwrap_or_default()]).into_owned()
}

#[actix_web::test]
async fn a100_a_body_that_does_not_come_is_not_waited_for() {
    let app = TestApp::start().await;
    let head = |path: &str, length: usize| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: auth.example\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {length}\r\n\r\n"
        )
    };
    for path in ["/token", "/register", "/login", "/nowhere"] {
        let answer = answer_to(&app.public, &(head(path, 9000) + &"a".repeat(8000))).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{path}: {answer}");
    }
    for (listener, path) in [(&app.edge, "/verify/traefik"), (&app.ops, "/health")] {
        let answer = answer_to(listener, &(head(path, 9000) + "a")).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{path}: {answer}");
    }
}

/// Reads until the listener closes the connection.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection stays open after {}", String::from_utf8_lossy(&answer));
    String::from_utf8_lossy(&answer).into_owned()
}

#[actix_web::test]
async fn a100_a_connection_is_not_held_by_a_chunked_body_that_does_not_come() {
    let app = TestApp::start().await;
    let long = format!("/jwks?{}", "x".repeat(9000));
    let requests = [
        (&app.public, "GET /jwks"),
        (&app.public, "POST /login"),
        (&app.public, &*format!("GET {long}")),
        (&app.edge, "GET /verify/traefik"),
        (&app.edge, "GET /nowhere"),
        (&app.ops, "GET /health"),
        (&app.ops, "POST /nowhere"),
    ];
    for (listener, line) in requests {
        for body in ["", "5\r\nhe", "5\r\nhello\r\n"] {
            let mut stream = TcpStream::connect(listener.strip_prefix("http://").unwrap()).await.unwrap();
            let request = format!("{line} HTTP/1.1\r\nHost: l\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            stream.write_all(request.as_bytes()).await.unwrap();
            let answer = until_closed(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 "), "{line}: {answer}");
        }
    }
}

#[actix_web::test]
async fn a100_a_connection_is_not_held_by_half_of_a_second_head() {
    let app = TestApp::start().await;
    for (listener, path) in [(&app.public, "/jwks"), (&app.ops, "/health")] {
        let mut stream = TcpStream::connect(listener.strip_prefix("http://").unwrap()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: l\r\n\r\nGET /");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = until_closed(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
}

#[actix_web::test]
async fn a040_a_body_of_more_than_16_kb_is_refused() {
    let app = TestApp::start().await;
    let form = [("client_id", "x"), ("grant_type", &*"x".repeat(17_000))];
    let answer = app.token(&form).await;
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(error_code(answer).await, "invalid_request");
}

#[actix_web::test]
async fn a045_an_account_that_allows_ever_new_clients_leaves_only_its_latest() {
    let app = TestApp::start_with(&[("CLIENT_CEILING", "600")]).await;
    let first = app.client_with(&["https://first.example/cb"]).await;
    // A client is kept for this long after its registration, because a user could be logging in with it.
    app.wait(Duration::from_secs(30 * 60));
    let others = app.client().await;
    let others = app.tokens(&others).await;
    let mut browser = app.browser_of("hostile").await;
    let mut last = String::new();
    for n in 0..11 {
        let uri = if n == 0 { "https://first.example/cb".to_owned() } else { format!("{REDIRECT}/{n}") };
        last = if n == 0 { first.clone() } else { app.client_with(&[&uri]).await };
        browser.allow(&authorize_query(&last, &[("redirect_uri", &uri)])).await;
        app.wait(Duration::from_secs(1));
    }
    let open = async |client: &str, uri: &str| {
        app.browser().open(&format!("/authorize?{}", authorize_query(client, &[("redirect_uri", uri)]))).await
    };
    assert_eq!(open(&first, "https://first.example/cb").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(open(&last, &format!("{REDIRECT}/10")).await.status, StatusCode::SEE_OTHER);
    assert_eq!(app.check_token(&others.access).await.status(), StatusCode::OK);
}
