//! Tests of servers that use up the epoll watches of their user id. Without free watches, no connection can be
//! accepted.

use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::Mutex;

use crate::wrapper::{Client, Wrapper, call};

const LIMIT: &str = "/proc/sys/fs/epoll/max_user_watches";
/// The lowered limit. It is enough for all other tests, which run at the same time.
const LOWERED: u64 = 60_000;
/// A user id that no other process has.
const USER: u32 = 54_321;

/// Held by a test that changes the limit or uses up watches, because only one test at a time can do so.
pub(crate) static TURN: Mutex<()> = Mutex::const_new(());

/// The lowered limit of watches per user of the machine. Dropping this value restores the previous limit.
struct Lowered(String);

impl Lowered {
    /// Lowers the limit. If this machine does not allow that, prints that `test` is skipped, and returns
    /// `None`.
    fn new(test: &str) -> Option<Self> {
        let before = fs::read_to_string(LIMIT).unwrap_or_default();
        let lowered = if rustix::process::getuid().is_root() {
            fs::write(LIMIT, LOWERED.to_string())
        } else {
            Err(std::io::ErrorKind::PermissionDenied.into())
        };
        if let Err(error) = lowered {
            let told =
                format!("SKIPPED watches::{test}: the limit of epoll watches cannot be lowered: {error}\n");
            std::io::stderr().write_all(told.as_bytes()).unwrap();
            return None;
        }
        Some(Self(before))
    }
}

impl Drop for Lowered {
    fn drop(&mut self) {
        fs::write(LIMIT, &self.0).unwrap();
    }
}

/// A client with its own connection, which is opened by the first request.
fn newcomer(wrapper: &Wrapper, name: &str) -> Client {
    Client { http: reqwest::Client::new(), ..wrapper.client() }.with_header("x-auth-subject", name)
}

async fn loses_the_session(how: &str) {
    let _turn = TURN.lock().await;
    let Some(_lowered) = Lowered::new("a100_who_uses_up_the_watches…") else { return };
    let command = ["python3", "-c", include_str!("../children/child.py")];
    let wrapper = Wrapper::as_user(USER, &["--identity=headers"], &command).await;
    let bob = newcomer(&wrapper, "bob").initialize("2025-11-25").await;
    assert_eq!(bob.text("undumpable", json!({})).await, "0");
    let mallory = newcomer(&wrapper, "mallory").initialize("2025-11-25").await;
    assert_eq!(mallory.text("watch", json!({"how": how})).await, "watches");
    wrapper.logged("starts of servers can fail").await;
    let begun = Instant::now();
    loop {
        let carol = newcomer(&wrapper, "carol").http;
        let ping = carol.get(format!("http://{}/ready", wrapper.ops)).send().await;
        if ping.is_ok_and(|answer| answer.status() == 200) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "nobody is served: {:#?}", wrapper.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    newcomer(&wrapper, "carol").initialize("2025-11-25").await;
    let told = wrapper.logged("the server with most of them").await;
    assert!(told.contains("mallory"), "{told}");
    assert_eq!(mallory.post(call(9, "echo", json!({}))).await.status(), 404);
    assert_eq!(bob.text("echo", json!({})).await, "{}");
    assert_eq!(wrapper.metric("stdio_wrapper_children_ended_for_watches_total").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_who_uses_up_the_watches_loses_the_session_and_everybody_is_served() {
    loses_the_session("kept").await;
}

/// One start of a server needs more watches than the few that are left, so nobody else could start one.
#[tokio::test(flavor = "multi_thread")]
async fn a100_who_leaves_a_few_watches_loses_the_session() {
    loses_the_session("spare").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_who_hides_the_watches_on_their_way_loses_the_session() {
    loses_the_session("sent").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_who_passes_the_watches_from_one_process_to_the_next_loses_the_session() {
    loses_the_session("chain").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_who_hides_the_watches_in_a_process_that_nobody_can_look_at_loses_the_session() {
    loses_the_session("undumpable").await;
}

/// A system call that waits for an epoll instance keeps the instance, even after the process has closed it.
#[tokio::test(flavor = "multi_thread")]
async fn a100_who_hides_the_watches_in_a_call_that_waits_loses_the_session() {
    loses_the_session("call").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_who_passes_the_watches_from_one_thread_to_the_next_loses_the_session() {
    loses_the_session("threads").await;
}
