//! Tests an MCP client that is a web page from a different origin, in a real browser. CORS must allow the client's
//! requests through every edge.

use std::io::Write as _;

use serde_json::json;
use tests::browser::Person;
use tests::places::everything_server;
use tests::setup::ACCOUNT;
use tests::web_page::{chromium, show};
use tests::{Edge, Setup};

each_edge!(
    a_page_of_another_origin_connects_by_url_alone,
    a097_a_page_of_an_origin_that_is_not_listed_reads_nothing
);

const PAGE: &str = include_str!("web_page.html");

/// Allows only one browser at a time, because each needs a quarter of a gigabyte and the machine can have as few
/// as two cores.
static BROWSERS: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(1);

/// Whether Chromium is installed. If it is not, prints on standard error that the test is skipped.
fn has_browser() -> bool {
    let Err(why) = chromium() else { return true };
    std::io::stderr().write_all(format!("SKIPPED edges::web_page: {why}\n").as_bytes()).unwrap();
    false
}

fn person() -> Person {
    Person::new(ACCOUNT.0, ACCOUNT.1)
}

pub(crate) async fn a_page_of_another_origin_connects_by_url_alone(edge: Edge) {
    if !has_browser() {
        return;
    }
    let stack = Setup::as_shipped().through(edge).wrapping(everything_server()).start().await;
    let _turn = BROWSERS.acquire().await.unwrap();
    let mut seen = show(PAGE, &stack.mcp_url, &person()).await.unwrap();
    let echoed = seen["echoed"].take();
    assert!(
        echoed.as_str().is_some_and(|text| text.contains("Echo: grüße")),
        "{echoed} {seen}\n{}",
        stack.logs()
    );
    let expected = json!({
        "challenged": 401, "bad": [401, true], "opened": [200, true], "noted": 202, "echoed": null, "progress": 2,
        "stream": [200, "text/event-stream"], "ended": 204, "gone": 404,
    });
    assert_eq!(seen, expected, "{}", stack.logs());
}

pub(crate) async fn a097_a_page_of_an_origin_that_is_not_listed_reads_nothing(edge: Edge) {
    if !has_browser() {
        return;
    }
    let setup = Setup::as_shipped().through(edge).auth_setting("ALLOWED_ORIGINS", "https://app.example");
    let stack = setup.start().await;
    let _turn = BROWSERS.acquire().await.unwrap();
    let seen = show(PAGE, &stack.mcp_url, &person()).await.unwrap();
    assert_eq!(seen, json!({ "error": "TypeError: Failed to fetch" }), "{}", stack.logs());
}
