//! Floods against the wrapper and the server behind it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tests::container::Container;
use tests::control_group::ControlGroup;
use tests::flood::{Flood, Kind};
use tests::places::{everything_server, repository, tool};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;

use crate::ONE_AT_A_TIME;
use crate::caller::{Caller, call};
use crate::scene::{Place, Scene};

pub(crate) fn plain_server() -> Vec<String> {
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
    let both = |kind: fn(&str) -> Kind, connections: usize| {
        move |place: &Place| {
            let (port, ops) = (place.stack.upstream_port, place.stack.wrapper_ops_port);
            vec![
                Flood::stalled(port, "localhost", &kind("/mcp"), connections, 100),
                Flood::stalled(ops, "localhost", &kind("/ready"), 200, 100),
            ]
        }
    };
    scene.bob_is_served("unterminated heads", both(|_| Kind::Head(120_000), 4000)).await;
    let body = |path: &str| Kind::Body(path.to_owned(), 500_000);
    scene.bob_is_served("stalled bodies of strangers", both(body, 1000)).await;
    let wrong_assertions = |place: &Place| {
        let wrong = place.ana.post("", "", &call("echo", &json!({})));
        let wrong = String::from_utf8(wrong).unwrap().replace("X-Auth-Assertion: ey", "X-Auth-Assertion: xy");
        vec![Flood::requests(place.stack.upstream_port, 64, 100, move |_| wrong.clone().into_bytes())]
    };
    scene.bob_is_served("requests with wrong assertions", wrong_assertions).await;
    let wrong_signatures = |place: &Place| {
        let good = String::from_utf8(place.ana.post("", "", &call("echo", &json!({})))).unwrap();
        let (start, end) = good.split_once("X-Auth-Assertion: ").unwrap();
        let (assertion, end) = end.split_once("\r\n").unwrap();
        let (assertion, signature) = assertion.rsplit_once('.').unwrap();
        let (start, end) = (format!("{start}X-Auth-Assertion: {assertion}."), end.to_owned());
        let length = signature.len();
        let request = move |number: usize| format!("{start}{number:A>length$}\r\n{end}").into_bytes();
        vec![Flood::requests(place.stack.upstream_port, 64, 100, request)]
    };
    scene.bob_is_served("assertions with wrong signatures", wrong_signatures).await;
    scene.memory_is_back("wrapper after strangers");
}

#[tokio::test]
async fn a100_somebody_with_an_account_does_not_end_the_wrapper() {
    let test = "a100_somebody_with_an_account_does_not_end_the_wrapper";
    if !ControlGroup::is_possible(Container::of_service().bounds(), test) {
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().await;
    let mut scene = Scene::of(plain_server()).await;
    scene.open_sessions(4, "2025-06-18").await;
    scene.bob_is_served("stalled bodies of one account", stalled_bodies).await;
    let unread = |place: &Place| {
        let port = place.stack.upstream_port;
        vec![unread_answers(port, place.sessions.iter().map(|session| place.ana.post(session, "", &big())))]
    };
    scene.bob_is_served("responses of 12 MB that the client does not read", unread).await;
    scene.bob_is_served("GET streams", |place| vec![get_streams(&place.ana, &place.sessions, 500)]).await;

    // Each server responds to this call, and reads nothing afterwards.
    scene.call_in_sessions("deaf").await;
    let notes = |place: &Place| {
        let params = json!({ "x": "x".repeat(3_000_000) });
        let note = json!({ "jsonrpc": "2.0", "method": "notifications/x", "params": params });
        let post = |session: &String| place.ana.post(session, "", &note);
        let notes: Vec<Vec<u8>> = place.sessions.iter().map(post).collect();
        let port = place.stack.upstream_port;
        vec![Flood::requests(port, 64, 1, move |number| notes[number % notes.len()].clone())]
    };
    scene.bob_is_served("a child that does not read", notes).await;
    scene.close_sessions().await;

    scene.open_sessions(1, "2025-03-26").await;
    let batches = |place: &Place| {
        let one = call("echo", &json!({ "text": "x".repeat(30_000) }));
        let batch: Vec<Value> = (0..100)
            .map(|number| {
                let mut one = one.clone();
                one["id"] = number.into();
                one
            })
            .collect();
        let batch = place.ana.post(&place.sessions[0], "", &batch.into());
        vec![Flood::requests(place.stack.upstream_port, 32, 1, move |_| batch.clone())]
    };
    scene.bob_is_served("batches", batches).await;
    scene.close_sessions().await;

    let subscriptions = |place: &Place| {
        let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} });
        let params = json!({ "notifications": { "toolsListChanged": true }, "_meta": meta });
        let listen =
            json!({ "jsonrpc": "2.0", "id": "l", "method": "subscriptions/listen", "params": params });
        let headers = "Mcp-Protocol-Version: 2026-07-28\r\nMcp-Method: subscriptions/listen\r\n";
        let listen = Kind::Bytes(place.ana.post("", headers, &listen));
        vec![Flood::stalled(place.stack.upstream_port, "", &listen, 1000, 1)]
    };
    scene.bob_is_served("subscriptions", subscriptions).await;
    scene.memory_is_back("wrapper after one account");
}

/// Ana's requests with bodies of the maximum size, which stall just before their end.
fn stalled_bodies(place: &Place) -> Vec<Flood> {
    let body = [place.ana.head("", "", 4_190_000).into_bytes(), vec![b' '; 4_100_000]].concat();
    vec![Flood::stalled(place.stack.upstream_port, "", &Kind::Bytes(body), 250, 1)]
}

fn big() -> Value {
    call("big", &json!({ "pieces": 184 }))
}

/// A flood that sends each request on ten connections, and does not read the responses.
fn unread_answers(port: u16, requests: impl Iterator<Item = Vec<u8>>) -> Flood {
    let requests: Arc<Vec<Vec<u8>>> = Arc::new(requests.collect());
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
    // The sessions of each wrapper, by its port.
    let opened = Arc::new(Mutex::new(BTreeMap::<u16, Vec<String>>::new()));
    let opening = |place: &Place| vec![opening(&place.ana, place.stack.upstream_port, &opened)];
    scene.bob_is_served_after(Duration::from_secs(8), "sessions without end", opening).await;
    // Ana already has many sessions. The bodies use memory in addition to the memory of these sessions.
    scene.bob_is_served("stalled bodies beside many sessions", stalled_bodies).await;
    for place in scene.places() {
        place.sessions = opened.lock().unwrap().remove(&place.stack.upstream_port).unwrap_or_default();
    }
    scene.close_sessions().await;
    scene.memory_is_back("wrapper after many sessions");
}

/// Ana opens sixteen sessions at a time, and stores them by the port of their wrapper.
fn opening(ana: &Caller, port: u16, opened: &Arc<Mutex<BTreeMap<u16, Vec<String>>>>) -> Flood {
    Flood::of(16, move |_, counts| {
        let (ana, opened) = (ana.clone(), opened.clone());
        async move {
            loop {
                match ana.open("2025-06-18").await {
                    Ok(Ok(session)) => {
                        opened.lock().unwrap().entry(port).or_default().push(session);
                        counts.answered(200);
                    }
                    Ok(Err(status)) => counts.answered(status),
                    Err(_) => counts.answered(0),
                }
            }
        }
    })
}
