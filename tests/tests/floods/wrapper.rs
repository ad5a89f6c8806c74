//! Floods against the wrapper and the server behind it.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tests::browser::Person;
use tests::container::Container;
use tests::control_group::ControlGroup;
use tests::flood::{Flood, Kind};
use tests::places::{everything_server, repository, tool};
use tests::setup::ACCOUNT;
use tests::{Setup, Stack, Tier, say};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;

use crate::caller::{Caller, call};
use crate::honest::Priority;
use crate::{Memory, ONE_AT_A_TIME};

const BOB: &str = "another battery that is a staple";

/// A stack with two accounts. Ana floods, and Bob uses the wrapper as usual.
struct Scene {
    stack: Stack,
    ana: Caller,
    bob: Caller,
    /// The identifier of Bob's session.
    session: String,
    memory: Memory,
    _priority: Priority,
}

impl Scene {
    async fn of(server: Vec<String>) -> Self {
        let bounds = Container::of_service().bounds();
        let connections = Container::of_service().setting("MAX_CONNECTIONS");
        let setup = Setup::as_shipped().wrapping(server).wrapper_setting("MAX_CONNECTIONS", &connections);
        let stack = setup.within(Tier::Wrapper, bounds).start().await;
        stack.add_account("bob", Some(BOB));
        let ana = stack.log_in_as(&Person::new(ACCOUNT.0, ACCOUNT.1), &stack.mcp_url).await.unwrap().1;
        let bob = stack.log_in_as(&Person::new("bob", BOB), &stack.mcp_url).await.unwrap().1;
        let ana = Caller::new(&stack, ana.access_token).await;
        let bob = Caller::new(&stack, bob.access_token).await;
        let session = bob.open("2025-06-18").await.unwrap().unwrap();
        let priority = Priority::take();
        let (calls, sessions, _) = bob.is_served(&stack, &session).await;
        say(&format!("FIGURE wrapper, quiet: call {calls}; new session {sessions}"));
        let memory = Memory::before(&stack, Tier::Wrapper);
        Self { stack, ana, bob, session, memory, _priority: priority }
    }

    /// Calls the wrapper as Bob while these floods run, and prints the times. The wrapper must keep running.
    async fn bob_is_served(&mut self, name: &str, floods: Vec<Flood>) {
        tokio::time::sleep(Duration::from_secs(2)).await;
        self.memory.look(&self.stack);
        self.bob.renew(&self.stack).await;
        let (calls, sessions, refused) = self.bob.is_served(&self.stack, &self.session).await;
        self.memory.look(&self.stack);
        let health = format!("http://127.0.0.1:{}/health", self.stack.wrapper_ops_port);
        assert_eq!(self.stack.get(&health).await.unwrap().status, 200, "{name}");
        let answers: Vec<_> = floods.iter().map(|flood| (flood.opened(), flood.answers())).collect();
        let most = self.memory.most >> 20;
        say(&format!(
            "FIGURE wrapper, {name} {answers:?}, {most} MiB: call {calls}; new session {sessions}; {refused} told to come again"
        ));
        drop(floods);
        assert!(self.stack.runs(Tier::Wrapper), "{name}\n{}", self.stack.logs());
        assert_eq!(self.stack.group(Tier::Wrapper).killed().unwrap(), 0, "{name}\n{}", self.stack.logs());
        self.ana.renew(&self.stack).await;
    }
}

fn plain_server() -> Vec<String> {
    let script = repository().join("tests/children/plain.py");
    vec![tool("venv/bin/python").display().to_string(), script.display().to_string()]
}

#[tokio::test]
async fn a100_strangers_do_not_end_the_wrapper() {
    if !ControlGroup::is_possible(Container::of_service().bounds(), "a100_strangers_do_not_end_the_wrapper") {
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().await;
    let mut scene = Scene::of(plain_server()).await;
    let (port, ops) = (scene.stack.upstream_port, scene.stack.wrapper_ops_port);
    let heads = vec![
        Flood::stalled(port, "localhost", &Kind::Head(120_000), 4000, 100),
        Flood::stalled(ops, "localhost", &Kind::Head(120_000), 200, 100),
    ];
    scene.bob_is_served("heads that never end", heads).await;
    let bodies = vec![
        Flood::stalled(port, "localhost", &Kind::Body("/mcp".into(), 500_000), 1000, 100),
        Flood::stalled(ops, "localhost", &Kind::Body("/ready".into(), 500_000), 200, 100),
    ];
    scene.bob_is_served("bodies of strangers that stall", bodies).await;
    let wrong = scene.ana.post("", "", &call("echo", &json!({})));
    let wrong = String::from_utf8(wrong).unwrap().replace("X-Auth-Assertion: ey", "X-Auth-Assertion: xy");
    let requests = vec![Flood::requests(port, 64, 100, move |_| wrong.clone().into_bytes())];
    scene.bob_is_served("requests with wrong assertions", requests).await;
    scene.memory.is_back(&mut scene.stack, "wrapper after strangers");
}

#[tokio::test]
async fn a100_somebody_with_an_account_does_not_end_the_wrapper() {
    let test = "a100_somebody_with_an_account_does_not_end_the_wrapper";
    if !ControlGroup::is_possible(Container::of_service().bounds(), test) {
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().await;
    let mut scene = Scene::of(plain_server()).await;
    let port = scene.stack.upstream_port;
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push(scene.ana.open("2025-06-18").await.unwrap().unwrap());
    }

    let body = [scene.ana.head("", "", 4_190_000).into_bytes(), vec![b' '; 4_100_000]].concat();
    let bodies = vec![Flood::stalled(port, "", &Kind::Bytes(body), 250, 1)];
    scene.bob_is_served("bodies of one account that stall", bodies).await;

    let unread: Vec<Vec<u8>> = sessions.iter().map(|session| scene.ana.post(session, "", &big())).collect();
    scene.bob_is_served("answers of 12 MB that nobody reads", vec![unread_answers(port, unread)]).await;

    let streams = vec![get_streams(&scene.ana, &sessions, 500)];
    scene.bob_is_served("GET streams", streams).await;

    let note =
        json!({ "jsonrpc": "2.0", "method": "notifications/x", "params": { "x": "x".repeat(3_000_000) } });
    let mut notes = Vec::new();
    for session in &sessions {
        scene.ana.call(session, "deaf").await.unwrap();
        notes.push(scene.ana.post(session, "", &note));
    }
    let notes = vec![Flood::requests(port, 64, 1, move |number| notes[number % notes.len()].clone())];
    scene.bob_is_served("a child that does not read", notes).await;
    for session in &sessions {
        scene.ana.close(session).await;
    }

    let session = scene.ana.open("2025-03-26").await.unwrap().unwrap();
    let one = call("echo", &json!({ "text": "x".repeat(30_000) }));
    let batch: Vec<Value> = (0..100)
        .map(|number| {
            let mut one = one.clone();
            one["id"] = number.into();
            one
        })
        .collect();
    let batch = scene.ana.post(&session, "", &batch.into());
    scene.bob_is_served("batches", vec![Flood::requests(port, 32, 1, move |_| batch.clone())]).await;
    scene.ana.close(&session).await;

    let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} });
    let params = json!({ "notifications": { "toolsListChanged": true }, "_meta": meta });
    let listen = json!({ "jsonrpc": "2.0", "id": "l", "method": "subscriptions/listen", "params": params });
    let headers = "Mcp-Protocol-Version: 2026-07-28\r\nMcp-Method: subscriptions/listen\r\n";
    let listen = Kind::Bytes(scene.ana.post("", headers, &listen));
    scene.bob_is_served("subscriptions", vec![Flood::stalled(port, "", &listen, 1000, 1)]).await;
    scene.memory.is_back(&mut scene.stack, "wrapper after one account");
}

fn big() -> Value {
    call("big", &json!({ "pieces": 184 }))
}

/// A flood that sends each request on ten connections, and does not read the responses.
fn unread_answers(port: u16, requests: Vec<Vec<u8>>) -> Flood {
    let requests = Arc::new(requests);
    Flood::of(requests.len() * 10, move |member, counts| {
        let requests = requests.clone();
        async move {
            loop {
                let socket = TcpSocket::new_v4().unwrap();
                socket.set_recv_buffer_size(4096).unwrap();
                if let Ok(mut stream) = socket.connect(([127, 0, 0, 1], port).into()).await {
                    stream.write_all(&requests[member % requests.len()]).await.ok();
                    counts.answered(0);
                    tokio::time::sleep(Duration::from_secs(40)).await;
                }
            }
        }
    })
}

fn get_streams(ana: &Caller, sessions: &[String], count: usize) -> Flood {
    let (ana, sessions) = (ana.clone(), Arc::new(sessions.to_vec()));
    Flood::of(count, move |member, counts| {
        let (ana, sessions) = (ana.clone(), sessions.clone());
        async move {
            loop {
                let request = ana.request(Method::GET, &sessions[member % sessions.len()]);
                if let Ok(mut answer) = request.send().await {
                    counts.answered(answer.status().as_u16());
                    while let Ok(Some(_)) = answer.chunk().await {}
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    })
}

#[tokio::test]
async fn a100_sessions_of_one_account_do_not_end_the_wrapper() {
    let test = "a100_sessions_of_one_account_do_not_end_the_wrapper";
    if !ControlGroup::is_possible(Container::of_service().bounds(), test) {
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().await;
    let mut scene = Scene::of(everything_server()).await;
    let port = scene.stack.upstream_port;
    let ana = scene.ana.clone();
    let opened = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = opened.clone();
    let opening = Flood::of(16, move |_, counts| {
        let (ana, kept) = (ana.clone(), kept.clone());
        async move {
            loop {
                match ana.open("2025-06-18").await {
                    Ok(Ok(session)) => {
                        kept.lock().unwrap().push(session);
                        counts.answered(200);
                    }
                    Ok(Err(status)) => counts.answered(status),
                    Err(_) => counts.answered(0),
                }
            }
        }
    });
    tokio::time::sleep(Duration::from_secs(8)).await;
    scene.bob_is_served("sessions without end", vec![opening]).await;
    // Ana already has many sessions. The memory for these bodies is used in addition to theirs.
    let body = [scene.ana.head("", "", 4_190_000).into_bytes(), vec![b' '; 4_100_000]].concat();
    let bodies = vec![Flood::stalled(port, "", &Kind::Bytes(body), 250, 1)];
    scene.bob_is_served("bodies that stall beside many sessions", bodies).await;
    let sessions = opened.lock().unwrap().clone();
    for session in sessions {
        scene.ana.close(&session).await;
    }
    scene.memory.is_back(&mut scene.stack, "wrapper after many sessions");
}
