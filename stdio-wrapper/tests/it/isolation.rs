//! Attack 107: a child that was taken over goes for the children of other callers, and for the wrapper.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use landlock::{CompatLevel, Compatible as _, Ruleset, RulesetAttr as _, Scope};
use serde_json::{Value, json};

use crate::wrapper::{Client, Wrapper, gone, is_alive};

/// What a child can try; `own` is what it must be able to do with what is its own.
const ATTEMPTS: [&str; 5] = ["write", "environment", "memory", "trace", "kill"];
const SIGTERM: i32 = 15;

/// The child's own process, one that it has started, and one that has left it and is the wrapper's now.
const BY: [&str; 3] = ["itself", "a descendant", "orphan"];

/// Whether the kernel supports what is tested here (Linux 6.12). If not, reports that the test is skipped.
fn kernel_isolates(test: &str) -> bool {
    let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let found = rules.scope(Scope::Signal).and_then(Ruleset::create);
    let Err(error) = found else { return true };
    // Not eprintln, which the test runner shows only if the test fails.
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

/// As in a container: a user without any right. Some rights of root would open what is tried here.
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
                let told = found[attempt].as_str().unwrap();
                let is_refused = told.contains("PermissionError") || told.contains("not permitted");
                assert!(is_refused, "{by} of a child on {target}: {attempt}: {found}");
            }
        }
    }
    assert_eq!(alice.text("echo", json!({})).await, "{}");
    // What it has left behind can still be found and ended.
    let orphan: i32 = mallory.text("orphan", json!({"seconds": 1000})).await.parse().unwrap();
    assert_eq!(mallory.delete().await, 204);
    gone(orphan).await;
    gone(mallory.server_pid).await;
    assert!(is_alive(alice.server_pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_without_isolation_a_child_forges_the_answers_of_another_and_ends_it() {
    for by in BY {
        let wrapper = Wrapper::start(&["--identity=headers", "--child-isolation=off"], &[]).await;
        wrapper.logged("CHILD_ISOLATION is off").await;
        let (mallory, alice) = (user(&wrapper, "mallory").await, user(&wrapper, "alice").await);
        let found = reach(&mallory, alice.server_pid, by).await;
        for attempt in ATTEMPTS {
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
    let output = without_landlock(&["--child-isolation=required"]).wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("CHILD_ISOLATION is `required`, which cannot be had"), "{told}");
    assert!(told.contains("Linux 5.19 or later"), "{told}");
    // Otherwise it starts, and says what does not hold.
    let mut process = without_landlock(&[]);
    let log = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
    let lines: Vec<String> = log.take_while(|line| !line.contains(" serving ")).collect();
    process.kill().unwrap();
    process.wait().unwrap();
    let is_warning = |line: &String| line.contains("WARN") && line.contains("can read, trace and signal");
    assert!(lines.iter().any(is_warning), "{lines:#?}");
}

/// The wrapper where no further domain can be entered: the kernel allows sixteen, one in the other.
fn without_landlock(options: &[&str]) -> Child {
    let mut process = Command::new(env!("CARGO_BIN_EXE_stdio-wrapper"));
    process.args(["--listen=127.0.0.1:0", "--ops-listen=127.0.0.1:0"]).args(options).args(["--", "cat"]);
    let start = move || {
        for _ in 0..16 {
            let domain = Ruleset::default().scope(Scope::AbstractUnixSocket).unwrap().create().unwrap();
            domain.restrict_self().unwrap();
        }
        process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    // Domains belong to a thread.
    std::thread::spawn(start).join().unwrap()
}
