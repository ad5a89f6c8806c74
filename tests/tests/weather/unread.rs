//! Tests of a log that is not read. The pipe of its output is full, as with a log driver whose disk is full.

use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pipe::{fcntl_setpipe_size, pipe};
use rustix::process::Signal;
use tests::{Setup, places};

use crate::sky::{ana, until_ready_is};

/// The time limit for one request, with a margin for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A full pipe. The reading end must be kept open.
fn full_pipe() -> (File, File) {
    let (reader, writer) = pipe().unwrap();
    fcntl_setpipe_size(&writer, 4096).unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    let mut writer = File::from(writer);
    for size in [512, 1] {
        while writer.write_all(&vec![b'x'; size]).is_ok() {}
    }
    fcntl_setfl(&writer, OFlags::empty()).unwrap();
    (File::from(reader), writer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a095_a_log_that_nobody_reads_stops_neither_users_nor_operators_nor_the_end() {
    let (reader, writer) = full_pipe();
    let mut stack = Setup::as_shipped().in_front_of(places::free_port()).logging_to(writer).start().await;
    stack.add_account("bob", Some("correct horse battery staple 2"));
    for _ in 0..3 {
        let person = ana();
        let log_in = stack.log_in_as(&person, &stack.mcp_url);
        let (client, tokens) = tokio::time::timeout(PATIENCE, log_in).await.unwrap().unwrap();
        stack.refresh(&client, &tokens.refresh_token).await.unwrap();
        let form = [("token", tokens.refresh_token.as_str()), ("client_id", client.client_id.as_str())];
        let revoke = reqwest::Client::new().post(stack.endpoint("revoke")).form(&form).timeout(PATIENCE);
        assert_eq!(revoke.send().await.unwrap().status(), 200);
    }
    stack.operator(&["user", "disable", "bob"]);
    assert!(until_ready_is(&stack, 200).await.body.contains(r#""log""#));
    stack.signal_auth_service(Signal::TERM);
    assert!(stack.auth_service_ends().await.is_some_and(|status| status.success()));
    drop(reader);
}
