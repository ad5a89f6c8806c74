//! Tests that the wrapper serves lists from its cache as long as the child's `ttlMs` and `cacheScope` allow it,
//! and no longer.

use std::time::Duration;

use serde_json::{Value, json};

use crate::modern::{CHILD, call, listen, request, send};
use crate::wrapper::{Client, Wrapper, answer_of};

async fn wrapper(options: &[&str], flags: &[&str]) -> Wrapper {
    let command = [&["python3", CHILD], flags].concat();
    let wrapper = Wrapper::run(options, &command, &[]).await;
    // The child has started. Soon afterwards, the wrapper knows whether the child announces changes.
    let _ = list(&wrapper.client().with_header("x-auth-subject", "first"), json!({})).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    wrapper
}

async fn list(client: &Client, params: Value) -> Value {
    let answer = answer_of(send(client, &request("mine", "tools/list", params)).await).await;
    assert_eq!(answer["id"], "mine", "{answer}");
    answer["result"].clone()
}

/// Requests the list, and returns the number of the child's response.
async fn answer(client: &Client) -> Value {
    list(client, json!({})).await["_meta"]["answer"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_list_is_given_again_until_it_changes() {
    let wrapper = wrapper(&[], &["fresh", "public"]).await;
    let client = wrapper.client();
    let first = list(&client, json!({})).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let again = list(&client, json!({})).await;
    assert_eq!((&first["tools"], &first["_meta"]), (&again["tools"], &again["_meta"]));
    let (before, rest) = (first["ttlMs"].as_u64().unwrap(), again["ttlMs"].as_u64().unwrap());
    assert!(rest <= before - 50 && rest > before - 30_000, "{before} {rest}");
    assert_eq!(wrapper.metric("stdio_wrapper_list_cache_hits_total").await, 1);
    // A request for a different page, with a different client's metadata, or for progress or logs is not served
    // from the cache.
    let other = list(&client, json!({"cursor": "1"})).await;
    assert_ne!(other["tools"], first["tools"]);
    for meta in
        [json!({"x": 1}), json!({"progressToken": 1}), json!({"io.modelcontextprotocol/logLevel": "info"})]
    {
        assert_ne!(list(&client, json!({"_meta": meta})).await["_meta"], first["_meta"], "{meta}");
    }
    assert_eq!(answer(&client).await, first["_meta"]["answer"]);
    // A client that is notified of a change and requests the list again gets the new list.
    let (mut events, _) = listen(&client, "l", json!({"toolsListChanged": true})).await;
    let _ =
        call(&client, "changed", json!({"add": {"name": "new", "inputSchema": {"type": "object"}}})).await;
    assert_eq!(events.next().await.unwrap().data["method"], "notifications/tools/list_changed");
    assert_ne!(answer(&client).await, first["_meta"]["answer"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a105_a_private_list_is_its_principals_and_a_public_one_everybodys() {
    for (flags, is_shared) in [(["fresh", "public"], true), (["fresh", ""], false)] {
        let wrapper = wrapper(&["--identity=headers"], &flags).await;
        let as_user = |name: &str| wrapper.client().with_header("x-auth-subject", name);
        let ana = answer(&as_user("ana")).await;
        assert_eq!(answer(&as_user("ana")).await, ana);
        assert_eq!(answer(&as_user("bob")).await == ana, is_shared);
    }
    // If the wrapper cannot distinguish callers, it caches nothing private.
    let wrapper = wrapper(&[], &["fresh"]).await;
    assert_ne!(answer(&wrapper.client()).await, answer(&wrapper.client()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_goes_with_its_child_and_can_be_switched_off() {
    let running = wrapper(&[], &["fresh", "public", "deaf"]).await;
    let client = running.client();
    let before = answer(&client).await;
    assert_eq!(answer(&client).await, before, "the cache applies although the child announces no changes");
    let _ = call(&client, "untagged", json!({})).await;
    let changed = answer(&client).await;
    assert_ne!(changed, before, "a notification without a subscription id must take effect");
    let _ = call(&client, "crash", json!({})).await;
    let after = answer(&client).await;
    let process = |answer: &Value| answer.as_str().unwrap().split(' ').next().unwrap().to_owned();
    assert_ne!(process(&after), process(&changed));
    for (options, flags) in [(&["--list-cache=0"][..], ["fresh", "public"]), (&[][..], ["", "public"])] {
        let wrapper = wrapper(options, &flags).await;
        assert_ne!(answer(&wrapper.client()).await, answer(&wrapper.client()).await);
        assert_eq!(wrapper.metric("stdio_wrapper_list_cache_hits_total").await, 0);
    }
}
