//! Tests that check which user gets a session or a stateless child when the wrapper is full.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::capacity::Group;
use crate::modern;
use crate::wrapper::{Client, Wrapper};

/// The command of a server that supports both eras.
const BOTH: [&str; 3] = ["python3", modern::CHILD, "both"];

fn user(wrapper: &Wrapper, name: &str) -> Client {
    wrapper.client().with_header("x-auth-subject", name)
}

/// Opens a session with a call that runs until the end of the test. Returns `None` if the session is refused.
async fn busy(wrapper: &Wrapper, name: &str) -> Option<(Client, JoinHandle<Value>)> {
    let mut client = user(wrapper, name);
    let response = client.try_initialize("2025-11-25").await;
    client.session = Some(response.headers().get("mcp-session-id")?.to_str().unwrap().to_owned());
    let running = tokio::spawn({
        let client = client.clone();
        async move { client.call("sleep", json!({"seconds": 55})).await }
    });
    Some((client, running))
}

/// Tries to open sessions for a user without pauses. The returned task ends when a session has been opened.
fn hammer(wrapper: &Wrapper, name: &str) -> JoinHandle<()> {
    let client = user(wrapper, name);
    tokio::spawn(async move { while client.try_initialize("2025-11-25").await.status() != 200 {} })
}

async fn status_of_stateless_call(client: &Client) -> u16 {
    let params = json!({"name": "pid", "arguments": {}});
    modern::send(client, &modern::request(1, "tools/call", params)).await.status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_users_whose_sessions_are_all_in_use_keep_nobody_out() {
    let options = ["--identity=headers", "--max-sessions=12", "--max-sessions-per-principal=0"];
    // The children exit slowly, so that other users have time to take the freed slots.
    let wrapper = Wrapper::start(&options, &["--ignores-eof", "--ignores-sigterm"]).await;
    let mut all = Vec::new();
    for _ in 0..6 {
        for name in ["mallory", "eve"] {
            all.push((name, busy(&wrapper, name).await.unwrap()));
        }
    }
    wrapper.metric_becomes("stdio_wrapper_requests_in_flight", 12).await;
    let hammering = [hammer(&wrapper, "mallory"), hammer(&wrapper, "eve")];
    let mut others = Vec::new();
    for name in ["ana", "bob", "carol", "dave"] {
        assert_eq!(wrapper.ops_status("/ready").await, 200);
        for (_, (session, _)) in &all {
            session.status_of_ping().await;
        }
        others.push(user(&wrapper, name).initialize("2025-11-25").await);
    }
    for refused in ["erin", "ana"] {
        let response = user(&wrapper, refused).try_initialize("2025-11-25").await;
        assert_eq!(response.status(), 503, "{refused}: users must keep four sessions");
    }
    let mut kept = Vec::new();
    for (name, (session, running)) in all {
        if session.status_of_ping().await == 200 {
            kept.push(name);
            continue;
        }
        let answer = running.await.unwrap();
        assert_eq!(answer["error"]["code"], -32603, "{answer}");
        assert!(
            answer["error"]["message"].as_str().unwrap().contains("another user had no session"),
            "{answer}"
        );
    }
    kept.sort_unstable();
    assert_eq!(kept, [["eve"; 4], ["mallory"; 4]].concat());
    for session in &others {
        assert_eq!(session.status_of_ping().await, 200);
    }
    wrapper.logged("a session was ended for another user").await;
    assert!(hammering.iter().all(|task| !task.is_finished()), "users with many sessions got no new one");
    hammering.iter().for_each(JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_just_ended_a_session_gets_its_place_for_another_one() {
    let options = ["--identity=headers", "--max-sessions=6", "--max-sessions-per-principal=0"];
    // The slot is free only after the child has exited, which takes half a second.
    let wrapper = Wrapper::start(&options, &["--ignores-eof", "--ignores-sigterm"]).await;
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(busy(&wrapper, "eve").await.unwrap());
    }
    let ana = user(&wrapper, "ana").initialize("2025-11-25").await;
    assert!((200..300).contains(&ana.delete().await));
    assert_eq!(user(&wrapper, "ana").try_initialize("2025-11-25").await.status(), 200);
    for (session, _) in &all {
        assert_eq!(session.status_of_ping().await, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_sessions_in_use_do_not_keep_the_stateless_child_of_all_others_from_starting() {
    let Some(group) = Group::new("eras", 120, 1 << 30) else { return };
    let options = ["--identity=headers", "--max-sessions-per-principal=0"];
    let wrapper = group.run(&options, &BOTH).await;
    let mut all = Vec::new();
    while let Some(session) = busy(&wrapper, "mallory").await {
        all.push(session);
    }
    assert!(all.len() > 4, "{}", all.len());
    // After the wrapper has measured how small the children are, a few more sessions can fit.
    tokio::time::sleep(Duration::from_secs(6)).await;
    while let Some(session) = busy(&wrapper, "mallory").await {
        all.push(session);
    }
    assert_eq!(status_of_stateless_call(&user(&wrapper, "ana")).await, 200);
    let mut ended = 0;
    for (session, _) in &all {
        ended += usize::from(session.status_of_ping().await == 404);
    }
    assert_eq!(ended, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_used_makes_room_for_clients_of_the_other_kind() {
    let (Some(first), Some(second)) =
        (Group::new("unused-1", 120, 1 << 30), Group::new("unused-2", 120, 1 << 30))
    else {
        return;
    };
    let with_sessions = first.run(&["--identity=headers"], &BOTH).await;
    let stateless = second.run(&["--identity=headers", "--env=WHO={subject}"], &BOTH).await;
    let mut counts = [0, 0];
    for round in 0..2 {
        for number in 0..200 {
            let name = format!("user-{round}-{number}");
            if user(&with_sessions, &name).try_initialize("2025-11-25").await.status() != 200 {
                break;
            }
            counts[0] += 1;
        }
        for number in 0..200 {
            if status_of_stateless_call(&user(&stateless, &format!("user-{round}-{number}"))).await != 200 {
                break;
            }
            counts[1] += 1;
        }
        // By then, the wrapper has measured how much a child uses and can accept more sessions, so the test fills
        // it again.
        tokio::time::sleep(Duration::from_secs(6)).await;
    }
    assert!(counts.iter().all(|count| (1..200).contains(count)), "{counts:?}");
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(status_of_stateless_call(&user(&with_sessions, "ana")).await, 200);
    assert_eq!(user(&stateless, "ana").try_initialize("2025-11-25").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_who_makes_the_server_end_at_its_start_is_paused_and_nobody_else() {
    let wrapper = Wrapper::start(&["--identity=headers"], &[]).await;
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "killer", "version": "1"}});
    let greeting = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}).to_string();
    let mallory = user(&wrapper, "mallory");
    let mut paused = 0;
    for _ in 0..100 {
        let response = mallory.post(greeting.clone()).await;
        if response.status() == 503 {
            assert!(response.text().await.unwrap().contains("keeps failing at start"));
            assert_eq!(user(&wrapper, "ana").try_initialize("2025-11-25").await.status(), 200);
            assert_eq!(wrapper.ops_status("/ready").await, 200);
            paused += 1;
        }
        if paused == 3 {
            return;
        }
    }
    panic!("mallory was not paused");
}
