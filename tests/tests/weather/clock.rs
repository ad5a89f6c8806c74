//! Tests of a clock that is wrong when auth-service starts, and is corrected a moment later.

use std::time::Duration;

use tests::Setup;

use crate::sky::{Sky, ana, until_ready_is};

const DAYS: i64 = 200 * 86_400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_two_hundred_days_ahead_deletes_nothing_and_leaves_no_rotation_behind() {
    let sky = Sky::new();
    let mut stack = sky.over(Setup::as_shipped().in_front_of(tests::places::free_port())).start().await;
    let (client, tokens) = stack.log_in_as(&ana(), &stack.mcp_url).await.unwrap();
    let keys = stack.operator(&["keys", "list"]);

    stack.kill_auth_service();
    sky.set_clock_ahead(DAYS);
    stack.start_auth_service().await;
    let answer = until_ready_is(&stack, 200).await;
    assert!(answer.body.contains("jumped 172"), "{}", answer.body);
    assert!(stack.log_of("auth-service").contains("the clock: jumped"), "{}", stack.logs());
    // This is longer than the interval at which the keys are read.
    tokio::time::sleep(Duration::from_secs(6)).await;

    sky.set_clock_ahead(0);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(until_ready_is(&stack, 200).await.body.contains(r#""clock":"ok""#));
    assert_eq!(stack.operator(&["keys", "list"]), keys, "the keys have changed");
    stack.refresh(&client, &tokens.refresh_token).await.unwrap();
    stack.log_in_as(&ana(), &stack.mcp_url).await.unwrap();
    stack.operator(&["keys", "rotate"]);
}
