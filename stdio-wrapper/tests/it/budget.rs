//! Tests that one caller can make the wrapper use only a limited amount of memory, whatever the memory is used
//! for.

use std::net::TcpStream;

use serde_json::{Value, json};

use crate::modern::{request, with_headers};
use crate::slow::{caller, post_and_not_read};
use crate::wrapper::{Client, Events, Wrapper, answer_of, call};

const ASKING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/children/asking.py");

async fn memory(wrapper: &Wrapper) -> u64 {
    wrapper.metric("process_resident_memory_bytes").await
}

/// Measures until no request is in progress. Returns the peak memory use of the wrapper.
async fn most_memory(wrapper: &Wrapper) -> u64 {
    let mut most = 0;
    loop {
        most = most.max(memory(wrapper).await);
        if wrapper.metric("stdio_wrapper_requests_in_flight").await == 0 {
            return most;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a109_the_questions_of_a_translated_call_have_a_size_together() {
    let wrapper = Wrapper::run(&["--max-line=1MiB"], &["python3", ASKING], &[]).await;
    let meta = json!({"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}});
    let ask = |count: usize| {
        let arguments = json!({"count": count, "size": 400_000});
        request(1, "tools/call", json!({"name": "flood", "arguments": arguments, "_meta": meta}))
    };
    let answer = async |message: &Value| {
        let client = with_headers(&wrapper.client(), message);
        answer_of(client.post(message.to_string()).await).await
    };
    let before = memory(&wrapper).await;
    // The total size of the questions is 100 MB. The questions of one call can have at most as many bytes as one
    // line (MAX_LINE).
    let refused = answer(&ask(250)).await;
    assert!(refused["error"]["message"].as_str().unwrap().contains("than 1048576 bytes"), "{refused}");
    let after = memory(&wrapper).await;
    assert!(after < before + (60 << 20), "{after} after {before}");
}

/// A client with a session that can answer the server's questions, in front of a stateless server.
async fn askable(wrapper: &Wrapper) -> Client {
    let mut client = wrapper.client();
    let params = json!({"protocolVersion": "2025-06-18", "capabilities": {"elicitation": {}}, "clientInfo": {"name": "t", "version": "1"}});
    let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
    let response = client.post(hello.to_string()).await;
    client.session = Some(response.headers()["mcp-session-id"].to_str().unwrap().to_owned());
    client.post(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string()).await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a109_answers_that_wait_for_the_others_of_their_round_have_a_ceiling() {
    let wrapper = crate::modern::wrapper(&["--max-body=1MiB"]).await;
    let client = askable(&wrapper).await;
    let mut events = Events::new(client.post(call("c", "ask_much", json!({"count": 100}))).await);
    let mut ids = Vec::new();
    for _ in 0..100 {
        ids.push(events.next().await.unwrap().data["id"].clone());
    }
    let idle = memory(&wrapper).await;
    let reply = |id: &Value, size: usize| {
        let content = json!({"text": "x".repeat(size)});
        json!({"jsonrpc": "2.0", "id": id, "result": {"action": "accept", "content": content}}).to_string()
    };
    // The total size of the answers is 99 MB. The wrapper keeps at most 32 MiB for one caller.
    for id in &ids[1..] {
        assert_eq!(client.post(reply(id, 1_000_000)).await.status(), 202);
    }
    let held = memory(&wrapper).await;
    assert!(held < idle + (75 << 20), "{held} after {idle}");
    client.post(reply(&ids[0], 1)).await;
    let failed = events.next().await.unwrap().data;
    assert!(failed["error"]["message"].as_str().unwrap().contains("large messages"), "{failed}");
    // The wrapper has released all of that memory.
    let mut events = Events::new(client.post(call("d", "ask", json!({}))).await);
    let question = events.next().await.unwrap().data;
    client.post(reply(&question["id"], 900_000)).await;
    let done = events.next().await.unwrap().data;
    assert!(
        done["result"]["content"][0]["text"].as_str().unwrap().len() > 900_000,
        "the server received the answer"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a109_lines_that_wait_for_memory_have_a_ceiling_together() {
    let wrapper = Wrapper::start(&["--identity=headers", "--max-line=8MiB", "--max-sessions=40"], &[]).await;
    let bob = caller(&wrapper, "bob").initialize("2025-11-25").await;
    let mut sessions = Vec::new();
    for _ in 0..16 {
        sessions.push(caller(&wrapper, "ana").initialize("2025-11-25").await);
    }
    let idle = memory(&wrapper).await;
    // The total size of the results is 126 MB. Ana can use 32 MiB of the 128 MiB for all callers.
    let body = call(1, "big", json!({"bytes": 7_900_000}));
    let held: Vec<TcpStream> =
        sessions.iter().map(|session| post_and_not_read(session, &wrapper.address, &body)).collect();
    wrapper.metric_at_least("stdio_wrapper_requests_total", 17 + 16).await;
    let most = most_memory(&wrapper).await;
    assert!(most < idle + (90 << 20), "{most} after {idle}");
    assert_eq!(
        bob.text("big", json!({"bytes": 7_900_000})).await.len(),
        7_900_000,
        "other callers still have their quota"
    );
    drop(held);
    assert_eq!(sessions[0].text("big", json!({"bytes": 7_900_000})).await.len(), 7_900_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a109_the_clients_of_a_user_share_the_requests_that_can_wait() {
    let wrapper = crate::modern::wrapper(&["--identity=headers", "--max-in-flight=2"]).await;
    let of = |client: &str| {
        let names =
            [("subject", "ana"), ("client-id", client), ("username", "ana"), ("groups", ""), ("scope", "")];
        names.iter().fold(wrapper.client(), |client, (name, value)| {
            client.with_header(&format!("x-auth-{name}"), value)
        })
    };
    let sleep = request(1, "tools/call", json!({"name": "sleep", "arguments": {"seconds": 20}}));
    let mut calls = Vec::new();
    for client in ["one", "two"] {
        let (client, body) = (with_headers(&of(client), &sleep), sleep.to_string());
        calls.push(tokio::spawn(async move { client.post(body).await }));
    }
    wrapper.metric_at_least("stdio_wrapper_requests_in_flight", 2).await;
    let third = with_headers(&of("three"), &sleep).post(sleep.to_string()).await;
    assert_eq!(third.status(), 429);
    calls.iter().for_each(tokio::task::JoinHandle::abort);
}
