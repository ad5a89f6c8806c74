//! Floods with messages from one account that are expensive to parse.

use serde_json::json;
use tests::container::Container;
use tests::control_group::ControlGroup;
use tests::flood::Flood;

use crate::ONE_AT_A_TIME;
use crate::caller::call;
use crate::scene::{Place, Scene};
use crate::wrapper::plain_server;

/// The number of connections on which the account sends one message after another.
const CONNECTIONS: usize = 16;

#[tokio::test]
async fn a100_large_texts_of_one_account_do_not_end_the_wrapper() {
    let test = "a100_large_texts_of_one_account_do_not_end_the_wrapper";
    if !ControlGroup::is_possible(Container::of_service().bounds(), test) {
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().await;
    let mut scene = Scene::of(plain_server()).await;
    scene.open_sessions(4, "2025-06-18").await;
    let keys = |count: usize| (0..count).map(|key| format!("\"{key:06}\":0")).collect::<Vec<_>>().join(",");
    let list = |item: &str, count: usize| format!("[{}]", vec![item; count].join(","));
    let texts = [
        ("a million arrays", arguments(&list("[]", 1_000_000))),
        ("an object with 370 000 keys", arguments(&format!("{{{}}}", keys(370_000)))),
        ("800 000 times null", arguments(&list("null", 800_000))),
        ("a text of 690 000 escapes", arguments(&format!("\"{}\"", "\\u0041".repeat(690_000)))),
        (
            "370 000 unknown keys",
            format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",{}}}", keys(370_000)),
        ),
        ("broken JSON", arguments(&"[],".repeat(1_300_000))),
    ];
    for (name, text) in texts {
        scene.bob_is_served(name, |place| vec![posts(place, &text)]).await;
    }
    let lines = call("arrays", &json!({ "count": 2_000_000 })).to_string();
    scene.bob_is_served("lines with two million arrays", |place| vec![posts(place, &lines)]).await;
    scene.close_sessions().await;
    scene.memory_is_back("wrapper after large texts");
}

/// A call to a tool that returns nothing, with this JSON as its argument.
fn arguments(json: &str) -> String {
    let start =
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"swallow","arguments":{"x":"#;
    format!("{start}{json}}}}}}}")
}

/// A flood of requests with this body, in all sessions.
fn posts(place: &Place, text: &str) -> Flood {
    let post = |session: &String| (place.ana.head(session, "", text.len()) + text).into_bytes();
    let posts: Vec<Vec<u8>> = place.sessions.iter().map(post).collect();
    Flood::requests(place.stack.upstream_port, CONNECTIONS, 1, move |number| {
        posts[number % posts.len()].clone()
    })
}
