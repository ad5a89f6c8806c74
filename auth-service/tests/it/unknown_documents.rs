//! Tests of clients with a metadata document that no user has allowed yet. Their pushed requests and device codes
//! stay valid after a user has allowed the client.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::app::{TestApp, Tokens, error_code};
use super::browser::Page;
use super::device::{decide, type_code};
use super::document_host::{Answer, DocumentHost};
use super::documents::{PATH, app, document, query, redemption};

const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";

async fn push(app: &TestApp, query: String) -> String {
    let request = app.http.post(format!("{}/par", app.public)).body(query);
    let pushed = request.header("content-type", "application/x-www-form-urlencoded").send().await.unwrap();
    assert_eq!(pushed.status(), StatusCode::CREATED);
    let pushed: Value = pushed.json().await.unwrap();
    pushed["request_uri"].as_str().unwrap().to_owned()
}

fn pushed_query(client: &str, request_uri: &str) -> String {
    let pairs = [("client_id", client), ("request_uri", request_uri)];
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

#[actix_web::test]
async fn a_client_by_document_pushes_its_very_first_request() {
    let host = DocumentHost::start().await;
    host.put(PATH, Answer::json(&document(&host), "max-age=600"));
    let app = app(&host, &[("REQUIRE_PUSHED_REQUESTS", "on")]).await;
    let id = host.url(PATH);
    let mut browser = app.browser_of("ana").await;
    let (first, second) = (push(&app, query(&id)).await, push(&app, query(&id)).await);
    let code = browser.allow(&pushed_query(&id, &first)).await;
    let tokens = Tokens::of(app.token(&redemption(&id, &code)).await).await;
    assert_eq!(app.refresh(&id, &tokens.refresh).await.status(), StatusCode::OK);
    // The request was pushed before a user allowed the client, and is opened afterwards.
    let answered = browser.follow(&format!("/authorize?{}", pushed_query(&id, &second))).await;
    assert!(answered.parameter("code").is_some(), "{}", answered.body);
}

#[actix_web::test]
async fn a_request_that_an_unknown_document_pushed_is_not_that_of_another_document() {
    let host = DocumentHost::start().await;
    host.put(PATH, Answer::json(&document(&host), "max-age=60"));
    let app = app(&host, &[]).await;
    let id = host.url(PATH);
    let pushed = push(&app, query(&id)).await;
    let mut changed = document(&host);
    changed["client_name"] = json!("Another");
    host.put(PATH, Answer::json(&changed, "max-age=600"));
    app.wait(Duration::from_secs(61));
    let page =
        app.browser_of("ana").await.follow(&format!("/authorize?{}", pushed_query(&id, &pushed))).await;
    assert_eq!((page.status, page.location), (StatusCode::BAD_REQUEST, None));
}

#[actix_web::test]
async fn a_device_of_a_client_by_document_is_connected_as_its_very_first_use() {
    let host = DocumentHost::start().await;
    let mut television = document(&host);
    television["grant_types"] = json!(["authorization_code", "refresh_token", DEVICE_CODE]);
    host.put(PATH, Answer::json(&television, "max-age=600"));
    let app = app(&host, &[("ADDITIONAL_GRANTS", "device_code")]).await;
    let id = host.url(PATH);
    let (first, second) = (start(&app, &id).await, start(&app, &id).await);
    let mut browser = app.browser_of("ana").await;
    let mut allow = async |codes: &Value| -> Page {
        let page = type_code(&mut browser, codes["user_code"].as_str().unwrap()).await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.body);
        decide(&mut browser, &page, "allow").await
    };
    for codes in [&first, &second] {
        assert!(allow(codes).await.body.contains("is connected"));
    }
    let poll = async |codes: &Value| {
        let code = codes["device_code"].as_str().unwrap();
        app.token(&[("grant_type", DEVICE_CODE), ("client_id", &id), ("device_code", code)]).await
    };
    // The second code is redeemed after the first redemption, which makes the client a known client.
    for codes in [&first, &second] {
        let tokens = Tokens::of(poll(codes).await).await;
        assert_eq!(app.refresh(&id, &tokens.refresh).await.status(), StatusCode::OK);
    }
    assert_eq!(error_code(poll(&first).await).await, "invalid_grant");
}

/// A user who answers a page gets 429 for the limits of this user and of the client, as elsewhere.
#[actix_web::test]
async fn a050_an_answer_that_exceeds_the_limit_of_its_client_gets_429() {
    let host = DocumentHost::start().await;
    let mut television = document(&host);
    television["grant_types"] = json!(["authorization_code", "refresh_token", DEVICE_CODE]);
    host.put(PATH, Answer::json(&television, "max-age=60"));
    let app = app(&host, &[("ADDITIONAL_GRANTS", "device_code")]).await;
    let id = host.url(PATH);
    let codes = start(&app, &id).await;
    let user_code = codes["user_code"].as_str().unwrap();
    let mut browser = app.browser_of("ana").await;
    let consent = browser.follow(&format!("/authorize?{}", query(&id))).await;
    let device = type_code(&mut browser, user_code).await;
    assert!(consent.body.contains("Documented") && device.body.contains("Documented"), "{}", device.body);
    let shown = format!("/device/consent?form_token={}", device.form_token());
    // The cached document expires and no longer exists, so each answer causes a fetch.
    host.put(PATH, Answer { head: "404 Not Found".to_owned(), body: String::new() });
    app.wait(Duration::from_secs(61));
    for request in ["answer", "answer of the device", "page of the device", "code of the device"] {
        let mut page = None;
        for _ in 0..100 {
            let answer = match request {
                "answer" => browser.submit(&consent, &[("decision", "allow")]).await,
                "answer of the device" => browser.submit(&device, &[("decision", "allow")]).await,
                "page of the device" => browser.open(&shown).await,
                _ => type_code(&mut browser, user_code).await,
            };
            if answer.status != StatusCode::BAD_REQUEST {
                page = Some(answer);
                break;
            }
        }
        let page = page.unwrap();
        assert_eq!(page.status, StatusCode::TOO_MANY_REQUESTS, "{request}: {}", page.body);
        assert_eq!(page.headers["retry-after"], "10", "{request}");
        assert!(page.body.contains("fetched too often"), "{request}: {}", page.body);
    }
}

async fn start(app: &TestApp, id: &str) -> Value {
    let form = [("client_id", id), ("resource", "http://localhost:8080/mcp"), ("scope", "mcp")];
    let started =
        app.http.post(format!("{}/device_authorization", app.public)).form(&form).send().await.unwrap();
    assert_eq!(started.status(), StatusCode::OK);
    started.json().await.unwrap()
}
