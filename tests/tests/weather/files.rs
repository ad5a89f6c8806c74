//! Tests of a limit on open files that is lower than the number of connections that strangers can open.

use std::time::Duration;

use tests::control_group::{Bounds, ControlGroup};
use tests::{Setup, Tier, places};
use tokio::net::TcpStream;

use crate::sky::until_ready_is;
use crate::threads::bounds;

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a100_idle_connections_of_a_stranger_leave_files_for_readiness_and_checks() {
    if !ControlGroup::is_possible(
        bounds(256),
        "a100_idle_connections_of_a_stranger_leave_files_for_readiness_and_checks",
    ) {
        return;
    }
    let few = Bounds { files: Some(128), ..bounds(256) };
    let setup = Setup::as_shipped().in_front_of(places::free_port()).within(Tier::AuthService, few);
    let stack = setup.auth_setting("WORKERS", "2").start().await;
    let log = stack.log_of("auth-service");
    assert_eq!(log.matches("the limit of open files is low").count(), 1, "{log}");
    let mut idle = Vec::new();
    for _ in 0..256 {
        let connect = TcpStream::connect(("127.0.0.1", stack.auth_public_port));
        // Connections that auth-service no longer accepts wait in the kernel's queue.
        if let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), connect).await {
            idle.push(stream);
        }
    }
    for _ in 0..20 {
        until_ready_is(&stack, 200).await;
        let (port, secret) = stack.check_at();
        let check = reqwest::Client::new()
            .post(format!("http://127.0.0.1:{port}/verify/caddy"))
            .header("x-edge-secret", secret)
            .header("x-forwarded-method", "POST")
            .header("x-forwarded-proto", "http")
            .header("x-forwarded-host", format!("localhost:{}", stack.port))
            .header("x-forwarded-uri", "/mcp")
            .timeout(PATIENCE);
        assert_eq!(check.send().await.unwrap().status(), 401);
    }
    drop(idle);
    let log = stack.log_of("auth-service");
    assert!(!log.contains("accepting connection"), "{log}");
}
