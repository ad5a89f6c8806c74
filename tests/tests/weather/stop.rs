//! Tests of the signals that make auth-service stop or read its files again, and of signals that it ignores.
//! Other tests replace the policy file with a pipe or a file that hangs.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tests::Setup;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::sky::{Sky, until_ready_is};

/// Reads one response. Returns `None` if the connection ends before the response is complete.
async fn answer(stream: &mut TcpStream) -> Option<String> {
    let mut received = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&received);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok()
            });
            if length.is_none_or(|length: usize| body.len() >= length) {
                return Some(text.into_owned());
            }
        }
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => received.extend_from_slice(piece.get(..read)?),
        }
    }
}

/// Sends checks over kept-alive connections, as an edge does, until nothing is listening. Returns the number of
/// checks that were accepted and got no response.
async fn check_until_it_is_gone(port: u16, secret: Arc<str>, answered: Arc<AtomicUsize>) -> usize {
    let request = format!(
        "POST /verify/caddy HTTP/1.1\r\nHost: localhost\r\nX-Edge-Secret: {secret}\r\nX-Forwarded-Method: POST\r\n\
         X-Forwarded-Proto: http\r\nX-Forwarded-Host: localhost\r\nX-Forwarded-Uri: /mcp\r\nContent-Length: 0\r\n\r\n"
    );
    let (mut cut, mut was_taken) = (0, true);
    while let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await {
        // The last connection might have been accepted only by the kernel, just before the listener was closed.
        // Therefore a check on a new connection counts only if the next connection succeeds.
        cut += usize::from(!was_taken);
        was_taken = false;
        loop {
            if stream.write_all(request.as_bytes()).await.is_err() {
                cut += usize::from(was_taken);
                break;
            }
            let Some(answer) = answer(&mut stream).await else {
                cut += usize::from(was_taken);
                break;
            };
            was_taken = true;
            answered.fetch_add(1, Ordering::Relaxed);
            if answer.to_ascii_lowercase().contains("connection: close") {
                break;
            }
        }
    }
    cut
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_cuts_no_check_that_an_edge_has_sent() {
    let mut stack = Setup::as_shipped().in_front_of(tests::places::free_port()).start().await;
    let (port, secret) = stack.check_at();
    let (secret, answered): (Arc<str>, _) = (secret.into(), Arc::new(AtomicUsize::new(0)));
    let edges: Vec<_> = (0..8)
        .map(|_| tokio::spawn(check_until_it_is_gone(port, secret.clone(), answered.clone())))
        .collect();
    while answered.load(Ordering::Relaxed) < 200 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stack.signal_auth_service(Signal::TERM);
    assert!(stack.auth_service_ends().await.is_some_and(|status| status.success()), "{}", stack.logs());
    let mut cut = 0;
    for edge in edges {
        cut += edge.await.unwrap();
    }
    assert_eq!(cut, 0, "of {} checks", answered.load(Ordering::Relaxed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_for_a_reload_and_unknown_ones_do_not_end_the_service() {
    let stack = Setup::as_shipped().in_front_of(tests::places::free_port()).start().await;
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2] {
        stack.signal_auth_service(signal);
    }
    let is_logged = AtomicBool::new(false);
    for _ in 0..600 {
        let log = stack.log_of("auth-service");
        if ["SIGHUP: the policy file", "SIGUSR1 has no effect", "SIGUSR2 has no effect"]
            .iter()
            .all(|s| log.contains(s))
        {
            is_logged.store(true, Ordering::Relaxed);
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(is_logged.into_inner(), "{}", stack.logs());
    until_ready_is(&stack, 200).await;
}

const POLICY: &str = "[[service]]\nname = \"notes\"\nhost = \"*\"\npath = \"/mcp\"\ngroups = [\"staff\"]\n";

fn pipe_at(path: &std::path::Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_in_place_of_the_policy_is_told_and_stops_neither_the_watch_nor_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let (policy, beside) = (directory.path().join("policy.toml"), directory.path().join("new"));
    fs::write(&policy, POLICY).unwrap();
    let setup = Setup::as_shipped()
        .in_front_of(tests::places::free_port())
        .auth_setting("POLICY_FILE", policy.to_str().unwrap());
    let mut stack = setup.start().await;
    let until_ready_says = async |stack: &tests::Stack, what: &str| {
        for _ in 0..600 {
            if stack.ready().await.body.contains(what) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("/ready did not report {what:?}: {:?}\n{}", stack.ready().await, stack.logs());
    };

    pipe_at(&beside);
    fs::rename(&beside, &policy).unwrap();
    until_ready_says(&stack, "it is not a regular file").await;
    fs::write(&beside, format!("# Another one.\n{POLICY}")).unwrap();
    fs::rename(&beside, &policy).unwrap();
    until_ready_says(&stack, r#""state":"current""#).await;

    pipe_at(&beside);
    fs::rename(&beside, &policy).unwrap();
    until_ready_says(&stack, "it is not a regular file").await;
    stack.signal_auth_service(Signal::TERM);
    assert!(stack.auth_service_ends().await.is_some_and(|status| status.success()), "{}", stack.logs());
    let refused = stack.refusal_to_start();
    assert!(refused.contains("it is not a regular file"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_file_that_does_not_answer_holds_up_no_signal() {
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.toml");
    fs::write(&policy, POLICY).unwrap();
    let sky = Sky::new();
    let setup = sky.over(Setup::as_shipped().in_front_of(tests::places::free_port()));
    let mut stack = setup.auth_setting("POLICY_FILE", policy.to_str().unwrap()).start().await;
    sky.hang("hang-policy", true);
    for _ in 0..2 {
        stack.signal_auth_service(Signal::HUP);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    stack.signal_auth_service(Signal::TERM);
    let ended = stack.auth_service_ends().await;
    sky.hang("hang-policy", false);
    assert!(ended.is_some_and(|status| status.success()), "{}", stack.logs());
}
