//! A store whose file is emptied, removed, or removed while it is in use.

use std::fs;

use tests::{Setup, Stack};

use crate::sky::{ana, until_ready_is};

async fn start() -> Stack {
    // Nobody asks what is behind the edge.
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
    assert_eq!(fs::metadata(&file).unwrap().len(), 0, "it is left as it was found");
    let command = stack.try_operator(&["user", "list"]).unwrap_err();
    assert!(command.contains("although there was a store"), "{command}");

    fs::remove_file(&file).unwrap();
    let refused = stack.refusal_to_start();
    assert!(refused.contains("although there was a store"), "{refused}");
    assert!(!file.exists(), "no new store is made");

    fs::rename(&aside, &file).unwrap();
    stack.start_auth_service().await;
    stack.log_in_as(&ana(), &stack.mcp_url).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_removed_while_it_is_in_use_takes_nothing_more() {
    let stack = start().await;
    let (file, aside) = (stack.dir().join("auth/store.redb"), stack.dir().join("auth/aside"));
    fs::rename(&file, &aside).unwrap();
    let told = until_ready_is(&stack, 503).await;
    assert!(told.body.contains("removed or replaced while it was in use"), "{}", told.body);
    assert!(
        stack.register_as("Newcomer").await.is_err(),
        "a client is registered that nobody would find again"
    );

    fs::rename(&aside, &file).unwrap();
    until_ready_is(&stack, 200).await;
    stack.register_as("Newcomer").await.unwrap();
}
