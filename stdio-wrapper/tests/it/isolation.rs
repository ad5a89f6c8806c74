//! Tests of attack 107 in which the attacker controls a child and attacks the children of other callers or the
//! wrapper.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use landlock::{CompatLevel, Compatible as _, Ruleset, RulesetAttr as _, Scope};
use serde_json::{Value, json};

use crate::wrapper::{Client, Wrapper, gone, is_alive};

/// What a child attempts against another process, by the names in `child.py`. The Landlock domain prevents the
/// attempts in this list, and the system call filter prevents those in the next list.
const ATTEMPTS: [&str; 5] = ["write", "environment", "memory", "trace", "kill"];
const CALLS: [&str; 6] = ["limit", "scheduler", "affinity", "attributes", "priority", "io_priority"];
/// The attempt to make a system call by its number for 32-bit programs.
const OLD_CALLS: &[&str] = if cfg!(target_arch = "x86_64") { &["old_call"] } else { &[] };
const SIGTERM: i32 = 15;

/// The processes that make the attempts: the child itself, a process that it has started, and an orphan. The
/// parent of an orphan is the child's supervisor.
const BY: [&str; 3] = ["itself", "a descendant", "orphan"];

/// Whether the kernel supports the tested isolation (Linux 6.12). If not, prints that the test is skipped.
fn kernel_isolates(test: &str) -> bool {
    let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let found = rules.scope(Scope::Signal).and_then(Ruleset::create);
    let Err(error) = found else { return true };
    // The test runner shows the output of `eprintln` only if the test fails.
    std::io::stderr().write_all(format!("SKIPPED isolation::{test}: {error}\n").as_bytes()).unwrap();
    false
}

async fn user(wrapper: &Wrapper, name: &str) -> Client {
    let client = wrapper.client().with_header("x-auth-subject", name);
    client.initialize("2025-11-25").await
}

async fn reach(client: &Client, pid: i32, by: &str) -> Value {
    let found = client.text("reach", json!({"pid": pid, "by": by, "signal": SIGTERM})).await;
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!(found["own"], "done", "{by}: {found}");
    found
}

/// Asserts that an attempt was refused for lack of permission.
fn assert_refused(found: &Value, attempt: &str, by: &str, target: &str) {
    let outcome = found[attempt].as_str().unwrap();
    let is_refused = outcome.contains("PermissionError") || outcome.contains("not permitted");
    assert!(is_refused, "{by} of a child on {target}: {attempt}: {found}");
}

/// The wrapper runs as a user without any privileges, as in a container. Some privileges of root would allow the
/// attempts.
#[tokio::test(flavor = "multi_thread")]
async fn a107_a_child_reaches_neither_other_callers_children_nor_the_wrapper() {
    if !kernel_isolates("a107_a_child_reaches_neither_other_callers_children_nor_the_wrapper") {
        return;
    }
    let command = ["python3", "-c", include_str!("../children/child.py")];
    let wrapper = Wrapper::unprivileged(&["--identity=headers"], &command).await;
    wrapper.logged("children cannot read, trace or signal each other").await;
    let (mallory, alice) = (user(&wrapper, "mallory").await, user(&wrapper, "alice").await);
    for (target, pid) in [("another child", alice.server_pid), ("the wrapper", wrapper.pid())] {
        for by in BY {
            let found = reach(&mallory, pid, by).await;
            for attempt in ATTEMPTS {
                assert_refused(&found, attempt, by, target);
            }
        }
    }
    assert_eq!(alice.text("echo", json!({})).await, "{}");
    // The wrapper can still find and kill the processes that the child has left behind.
    let orphan: i32 = mallory.text("orphan", json!({"seconds": 1000})).await.parse().unwrap();
    assert_eq!(mallory.delete().await, 204);
    gone(orphan).await;
    gone(mallory.server_pid).await;
    assert!(is_alive(alice.server_pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_a_child_changes_neither_limits_nor_priorities_of_others() {
    let command = ["python3", "-c", include_str!("../children/child.py")];
    let wrapper = Wrapper::unprivileged(&["--identity=headers"], &command).await;
    let (mallory, alice) = (user(&wrapper, "mallory").await, user(&wrapper, "alice").await);
    for (target, pid) in [("another child", alice.server_pid), ("the wrapper", wrapper.pid())] {
        for by in BY {
            let found = reach(&mallory, pid, by).await;
            for attempt in CALLS.iter().chain(OLD_CALLS) {
                assert_refused(&found, attempt, by, target);
            }
        }
    }
    wrapper.logged("children cannot change the limits and priorities of each other").await;
    // The kernel divides processor time between sessions (`autogroup`, sched(7)), and each process of a session
    // can change the weight of its session.
    let sessions = [mallory.server_pid, alice.server_pid, wrapper.pid()].map(session_of);
    assert!(
        sessions[0] != sessions[1] && sessions[0] != sessions[2] && sessions[1] != sessions[2],
        "{sessions:?}"
    );
}

/// The session of a process (`proc_pid_stat(5)`). It is 0 if the session was started outside this container.
fn session_of(pid: i32) -> i32 {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name of the program, which can contain spaces, precedes these fields.
    state.rsplit(") ").next().unwrap().split(' ').nth(3).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_without_isolation_a_child_forges_the_answers_of_another_and_ends_it() {
    for by in BY {
        let wrapper = Wrapper::start(&["--identity=headers", "--child-isolation=off"], &[]).await;
        wrapper.logged("CHILD_ISOLATION is off").await;
        let (mallory, alice) = (user(&wrapper, "mallory").await, user(&wrapper, "alice").await);
        let found = reach(&mallory, alice.server_pid, by).await;
        for attempt in ATTEMPTS.iter().chain(&CALLS).chain(OLD_CALLS) {
            assert_eq!(found[attempt], "done", "{by}: {found}");
        }
        gone(alice.server_pid).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn required_isolation_is_there_or_nothing_starts() {
    if !kernel_isolates("required_isolation_is_there_or_nothing_starts") {
        return;
    }
    let wrapper = Wrapper::start(&["--child-isolation=required"], &[]).await;
    assert_eq!(wrapper.session().await.text("echo", json!({})).await, "{}");
    for (without, needs, warning) in [
        (no_more_domains as fn(), "Linux 5.19 or later", "can read, trace and signal"),
        (no_more_filters, "that needs seccomp", "can change the limits and priorities"),
    ] {
        let output = start_after(without, &["--child-isolation=required"]).wait_with_output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("CHILD_ISOLATION is `required`, but is not available here"), "{message}");
        assert!(message.contains(needs), "{message}");
        // Without `required`, the wrapper starts and logs which protection is missing.
        let mut process = start_after(without, &[]);
        let log = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
        let lines: Vec<String> = log.take_while(|line| !line.contains(" serving ")).collect();
        process.kill().unwrap();
        process.wait().unwrap();
        let warnings: Vec<&String> = lines.iter().filter(|line| line.contains("WARN")).collect();
        assert!(matches!(warnings[..], [line] if line.contains(warning)), "{lines:#?}");
    }
}

/// Starts the wrapper from a thread that has called `prepare`. Domains and filters belong to a thread, and the
/// processes that it starts inherit them.
fn start_after(prepare: fn(), options: &[&str]) -> Child {
    let mut process = Command::new(env!("CARGO_BIN_EXE_stdio-wrapper"));
    process.args(["--listen=127.0.0.1:0", "--ops-listen=127.0.0.1:0"]).args(options).args(["--", "cat"]);
    let start = move || {
        prepare();
        process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    std::thread::spawn(start).join().unwrap()
}

/// Makes the kernel refuse another domain, because it allows at most sixteen nested ones.
fn no_more_domains() {
    for _ in 0..16 {
        let domain = Ruleset::default().scope(Scope::AbstractUnixSocket).unwrap().create().unwrap();
        domain.restrict_self().unwrap();
    }
}

/// Makes the kernel refuse another filter. The first filter refuses seccomp(2), like the profile of some
/// containers.
fn no_more_filters() {
    let number = if cfg!(target_arch = "x86_64") { 317 } else { 277 };
    let instruction = |code, jf, k| seccompiler::sock_filter { code, jt: 0, jf, k };
    let filter = [
        instruction(0x20, 0, 0),
        instruction(0x15, 1, number),
        instruction(0x06, 0, 0x0005_0001),
        instruction(0x06, 0, 0x7fff_0000),
    ];
    seccompiler::apply_filter(&filter).unwrap();
}
