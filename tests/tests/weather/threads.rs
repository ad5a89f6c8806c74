//! Tests of a container in which no more threads can be started (`pids_limit`).

use std::time::Duration;

use tests::control_group::{Bounds, ControlGroup};
use tests::{Setup, Tier, places};

use crate::sky::{ana, until_ready_is};

const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn bounds(pids: u64) -> Bounds {
    Bounds { memory: 640 << 20, pids, files: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a093_logins_work_while_and_after_the_system_gives_no_thread() {
    if !ControlGroup::is_possible(bounds(256), "a093_logins_work_while_and_after_the_system_gives_no_thread")
    {
        return;
    }
    let setup = Setup::as_shipped().in_front_of(places::free_port()).within(Tier::AuthService, bounds(256));
    let stack = setup.start().await;
    stack.group(Tier::AuthService).allow_no_more_threads().unwrap();
    let log_in = async || {
        let logged_in = tokio::time::timeout(PATIENCE, stack.log_in_as(&ana(), &stack.mcp_url)).await;
        logged_in.unwrap_or_else(|_| panic!("a login did not finish\n{}", stack.logs())).unwrap()
    };
    log_in().await;
    stack.add_account("bob", Some("correct horse battery staple 2"));
    until_ready_is(&stack, 200).await;
    stack.group(Tier::AuthService).allow_threads().unwrap();
    log_in().await;
    let log = stack.log_of("auth-service");
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_threads_for_the_workers_are_told_with_what_to_do() {
    if !ControlGroup::is_possible(bounds(256), "too_few_threads_for_the_workers_are_told_with_what_to_do") {
        return;
    }
    let mut stack = Setup::as_shipped()
        .in_front_of(places::free_port())
        .within(Tier::AuthService, bounds(64))
        .auth_setting("WORKERS", "2")
        .start()
        .await;
    stack.kill_auth_service();
    let refused = stack.refusal_to_start_with("WORKERS", "32");
    assert!(refused.contains("WORKERS (32): ") && refused.contains("pids_limit"), "{refused}");
    assert!(!refused.contains("panicked"), "{refused}");
}
