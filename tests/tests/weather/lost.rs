//! Tests of a store whose file is emptied, removed, overwritten or damaged, in some cases while it is in use.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use tests::{Registration, Setup, Stack, Tokens};

use crate::sky::{ana, until_ready_is};

async fn start() -> Stack {
    // Nothing listens on this port, because no test calls the service behind the edge.
    let stack = Setup::as_shipped().in_front_of(tests::places::free_port()).start().await;
    stack.log_in_as(&ana(), &stack.mcp_url).await.unwrap();
    stack
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_empty_or_gone_is_not_taken_for_a_first_start() {
    let mut stack = start().await;
    stack.kill_auth_service();
    let (file, aside) = (stack.dir().join("auth/store.redb"), stack.dir().join("auth/aside"));
    fs::copy(&file, &aside).unwrap();

    fs::File::create(&file).unwrap();
    let refused = stack.refusal_to_start();
    assert!(refused.contains("although there was a store: restore it from a backup"), "{refused}");
    assert_eq!(fs::metadata(&file).unwrap().len(), 0, "the file was changed");
    let command = stack.try_operator(&["user", "list"]).unwrap_err();
    assert!(command.contains("although there was a store"), "{command}");

    fs::remove_file(&file).unwrap();
    let refused = stack.refusal_to_start();
    assert!(refused.contains("although there was a store"), "{refused}");
    assert!(!file.exists(), "a new store was created");

    fs::rename(&aside, &file).unwrap();
    stack.start_auth_service().await;
    stack.log_in_as(&ana(), &stack.mcp_url).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_removed_while_it_is_in_use_takes_nothing_more() {
    let stack = start().await;
    let (file, aside) = (stack.dir().join("auth/store.redb"), stack.dir().join("auth/aside"));
    fs::rename(&file, &aside).unwrap();
    let answer = until_ready_is(&stack, 503).await;
    assert!(
        answer.body.contains("was removed, replaced, truncated or overwritten while it was in use"),
        "{}",
        answer.body
    );
    assert!(stack.register_as("Newcomer").await.is_err(), "a client was registered in a lost store");

    fs::rename(&aside, &file).unwrap();
    until_ready_is(&stack, 200).await;
    stack.register_as("Newcomer").await.unwrap();

    // The file is overwritten in place, so it keeps its name and its inode.
    let earlier = fs::read(&file).unwrap();
    for written in [&earlier[..], &[]] {
        stack.register_as(&format!("Another {}", written.len())).await.unwrap();
        let latest = fs::read(&file).unwrap();
        fs::write(&file, written).unwrap();
        let answer = until_ready_is(&stack, 503).await;
        assert!(answer.body.contains("overwritten while it was in use"), "{}", answer.body);
        assert!(stack.register_as("Newcomer").await.is_err(), "a client was registered in a foreign store");
        fs::write(&file, &latest).unwrap();
        until_ready_is(&stack, 200).await;
    }

    // The file is truncated, and its beginning stays the same.
    let latest = fs::read(&file).unwrap();
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(latest.len() as u64 / 2).unwrap();
    let answer = until_ready_is(&stack, 503).await;
    assert!(answer.body.contains("truncated or overwritten while it was in use"), "{}", answer.body);
    assert!(stack.register_as("Newcomer").await.is_err(), "a client was registered in a truncated store");
    fs::write(&file, &latest).unwrap();
    until_ready_is(&stack, 200).await;
    stack.register_as("Newcomer").await.unwrap();
}

/// What takes the place of the store.
#[derive(Clone, Copy, Debug)]
enum Other {
    Pipe,
    Directory,
    File,
}

/// Moves the store aside, puts something else in its place, and moves the store back after `pause`.
async fn replace_for(pause: Duration, file: &Path, other: Other) {
    let aside = file.with_extension("aside");
    fs::rename(file, &aside).unwrap();
    match other {
        Other::Pipe => mknodat(CWD, file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap(),
        Other::Directory => fs::create_dir(file).unwrap(),
        Other::File => fs::write(file, [b'z'; 4096]).unwrap(),
    }
    tokio::time::sleep(pause).await;
    if matches!(other, Other::Directory) {
        fs::remove_dir(file).unwrap();
    }
    fs::rename(&aside, file).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_replaced_while_it_is_written_recovers_by_itself_when_it_is_back() {
    let mut stack = start().await;
    let file = stack.dir().join("auth/store.redb");
    let is_over = AtomicBool::new(false);
    let (one, other) = (
        stack.log_in_as(&ana(), &stack.mcp_url).await.unwrap(),
        stack.log_in_as(&ana(), &stack.mcp_url).await.unwrap(),
    );
    let load = async |(client, mut tokens): (Registration, Tokens)| {
        let mut refreshed = 0;
        while !is_over.load(Ordering::Relaxed) {
            if let Ok(newer) = stack.refresh(&client, &tokens.refresh_token).await {
                (tokens, refreshed) = (newer, refreshed + 1);
            } else {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        refreshed
    };
    let replace = async {
        for round in 0..6 {
            for other in [Other::Pipe, Other::File, Other::Directory] {
                replace_for(Duration::from_millis(300), &file, other).await;
                until_ready_is(&stack, 200).await;
                let registered = stack.register_as(&format!("{other:?} {round}")).await;
                registered.unwrap_or_else(|error| panic!("{other:?}: {error}"));
            }
        }
        is_over.store(true, Ordering::Relaxed);
    };
    let (first, second, ()) = tokio::join!(load(one), load(other), replace);
    assert!(first > 0 && second > 0, "nothing was written: {first}, {second}");
    stack.signal_auth_service(Signal::TERM);
    assert!(stack.auth_service_ends().await.is_some_and(|status| status.success()), "{}", stack.logs());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_damaged_is_refused_in_words() {
    let mut stack = start().await;
    stack.kill_auth_service();
    let file = stack.dir().join("auth/store.redb");
    let whole = fs::read(&file).unwrap();
    for (from, to) in
        [(0, 64), (9, 40), (64, 192), (192, 320), (4096, 65_536), (whole.len() / 2, whole.len())]
    {
        let mut damaged = whole.clone();
        damaged.get_mut(from..to).unwrap().fill(0xa5);
        fs::write(&file, &damaged).unwrap();
        let refused = stack.try_operator(&["user", "list"]).err().unwrap_or_default();
        assert!(
            refused.is_empty() || refused.contains("restore it from a backup"),
            "bytes {from} to {to}: {refused}"
        );
    }
    // In a store that was closed properly, redb has recorded the length of the file.
    fs::write(&file, &whole).unwrap();
    stack.operator(&["user", "list"]);
    let closed = fs::read(&file).unwrap();
    for length in [closed.len() / 2, closed.len() - 4096, closed.len() + 4096] {
        let mut other = closed.clone();
        other.resize(length, 0);
        fs::write(&file, &other).unwrap();
        // redb can repair some of these files.
        match stack.try_operator(&["user", "list"]) {
            Ok(list) => assert!(list.contains("ana"), "{length} of {} bytes: {list}", closed.len()),
            Err(refused) => {
                assert!(refused.contains("restore it from a backup"), "{length} bytes: {refused}");
            }
        }
    }
    fs::write(&file, &whole).unwrap();
    stack.start_auth_service().await;
}
