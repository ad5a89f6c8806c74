//! Tests `scripts/up --native` from a clean clone. It must become ready, keep its state across a restart, and
//! leave no processes behind.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use reqwest::header::HeaderMap;
use rustix::process::Signal;
use serde_json::json;
use tests::Gate;
use tests::browser::Person;
use tests::engine::clean_clone;
use tests::places::{binary, free_port, repository, tool, tools_dir};
use tests::process::{self, Process, kill_9};

/// The time limit from the start to "Ready".
const READY: Duration = Duration::from_secs(60);
/// The time limit from Ctrl-C to the exit.
const STOP: Duration = Duration::from_secs(30);

/// A running `scripts/up --native` with its data directory.
struct Up {
    process: Process,
    data: PathBuf,
}

impl Up {
    /// Starts `scripts/up` from a clone in which nothing has been built. The programs are those of this build,
    /// because compiling them again would prove nothing.
    fn start(name: &'static str, data: &Path, port: u16) -> Self {
        tool("traefik");
        tool("npm/node_modules/@modelcontextprotocol/server-everything");
        let dir = data.parent().expect("the data directory is in the test's directory");
        let checkout = dir.join("checkout");
        if !checkout.exists() {
            clean_clone(repository(), dir).unwrap();
        }
        // If the tests were started in the background, a shell might have set SIGINT to be ignored, which a script
        // cannot undo.
        let mut command = process::command("env");
        command
            .arg("--default-signal=INT")
            .arg(checkout.join("scripts/up"))
            .args(["--native", "--port", &port.to_string(), "--data"])
            .arg(data)
            .arg("--programs")
            .arg(binary("auth-service").parent().unwrap())
            .env("MCP_GATE_TOOLS", tools_dir())
            .current_dir("/");
        let process = Process::start(name, &mut command, dir);
        Self { process, data: data.to_path_buf() }
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + READY;
        while !self.process.output().contains("Ctrl-C stops everything.") {
            let ended = self.process.ended();
            assert!(ended.is_none(), "it exited with {ended:?}\n{}", self.process.log_tail());
            assert!(
                Instant::now() < deadline,
                "it is not ready after {READY:?}\n{}",
                self.process.log_tail()
            );
            sleep(Duration::from_millis(100));
        }
    }

    /// The word that follows `word` at the start of a line of the output.
    fn told(&self, word: &str) -> Option<String> {
        let output = self.process.output();
        let after = output.lines().find_map(|line| line.trim_start().strip_prefix(word))?;
        after.split_whitespace().next().map(str::to_owned)
    }

    /// The value of a line `NAME=VALUE` in `stack.env`, which `scripts/up` writes for other scripts.
    fn note(&self, name: &str) -> String {
        let notes = fs::read_to_string(self.data.join("stack.env")).unwrap();
        let value = notes.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        value.unwrap_or_else(|| panic!("no {name} in {notes}")).to_owned()
    }

    fn gate(&self) -> Gate {
        Gate::at(&self.note("ISSUER"), &self.note("MCP_URL"))
    }

    /// Stops `scripts/up` with the signal that Ctrl-C sends or with another signal. No process that it has started
    /// may remain.
    fn stop(mut self, signal: Signal) {
        let started = descendants(self.process.id());
        assert!(started.len() >= 3, "three tiers at least: {started:?}");
        self.process.signal(signal);
        let ended = self.process.wait_for(STOP);
        assert!(
            ended.is_some(),
            "it is still running {STOP:?} after {signal:?}\n{}",
            self.process.log_tail()
        );
        assert_gone(&started);
    }
}

/// A process. Its start time distinguishes it from a later process with the same ID.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Running {
    id: u32,
    name: String,
    start: String,
}

/// The parent ID and the identity of a process.
fn look_up(id: u32) -> Option<(u32, Running)> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (before, after) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let name = before.split_once('(')?.1.to_owned();
    // A zombie has exited, and is only waiting for its parent.
    if fields.first() == Some(&"Z") {
        return None;
    }
    Some((fields.get(1)?.parse().ok()?, Running { id, name, start: (*fields.get(19)?).to_owned() }))
}

/// All descendants of a process.
fn descendants(root: u32) -> HashSet<Running> {
    let ids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let all: Vec<(u32, Running)> = ids.filter_map(look_up).collect();
    let mut found: HashSet<Running> = HashSet::new();
    loop {
        let before = found.len();
        let parents: HashSet<u32> = found.iter().map(|process| process.id).chain([root]).collect();
        found.extend(
            all.iter().filter(|(parent, _)| parents.contains(parent)).map(|(_, process)| process.clone()),
        );
        if found.len() == before {
            return found;
        }
    }
}

fn assert_gone(started: &HashSet<Running>) {
    let left: Vec<&Running> =
        started.iter().filter(|was| look_up(was.id).is_some_and(|(_, is)| is == **was)).collect();
    assert!(left.is_empty(), "processes remain: {left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_gets_ready_keeps_its_state_and_leaves_no_process() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let port = free_port();

    let mut up = Up::start("first", &data, port);
    up.wait_until_ready();
    assert_eq!(up.told("MCP URL"), Some(format!("http://localhost:{port}/mcp")));
    let gate = up.gate();
    let once = up.told("Password").expect("a one-time password");
    let person =
        Person::new(&up.told("Account").unwrap(), &once).choosing("a password of my own, and a long one");
    let (client, tokens) = gate.log_in_as(&person, &gate.mcp_url).await.unwrap();
    let mut session = gate.open_session(&tokens.access_token, HeaderMap::new()).await.unwrap();
    assert_eq!(session.call("echo", json!({ "message": "hello" })).await.unwrap(), "Echo: hello");
    for (file, least) in [("secrets/edge-secret", 32), ("traefik.yaml", 1000)] {
        use std::os::unix::fs::PermissionsExt as _;
        let about = fs::metadata(data.join(file)).unwrap();
        assert_eq!(about.permissions().mode() & 0o777, 0o600, "{file}");
        assert!(about.len() > least, "{file}");
    }
    up.stop(Signal::INT);

    let mut up = Up::start("second", &data, port);
    up.wait_until_ready();
    assert_eq!(up.told("Password"), None, "the second start must print no password");
    let mut session = gate.open_session(&tokens.access_token, HeaderMap::new()).await.unwrap();
    assert_eq!(session.call("echo", json!({ "message": "again" })).await.unwrap(), "Echo: again");
    gate.refresh(&client, &tokens.refresh_token).await.unwrap();
    let same_person = Person::new(&person.username, &person.new_password);
    gate.code(&client, &same_person, &gate.mcp_url).await.unwrap();

    // Runs the command that the output recommends for a lost password, while the stack is running.
    let output = up.process.output();
    let command =
        output.lines().find_map(|line| line.trim_start().strip_prefix("To reset a lost password:")).unwrap();
    let reset = Command::new("bash").args(["-c", command]).env_clear().output().unwrap();
    let printed = String::from_utf8_lossy(&reset.stdout);
    let once = printed.lines().find_map(|line| line.strip_prefix("password: "));
    let once = once.unwrap_or_else(|| panic!("no password from `{command}`: {reset:?}"));
    let forgetful = Person::new(&person.username, once).choosing("another password of my own, as long");
    gate.code(&client, &forgetful, &gate.mcp_url).await.unwrap();
    up.stop(Signal::TERM);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tier_that_dies_is_named_and_takes_the_rest_with_it() {
    for (name, note) in [("auth-service", "AUTH_SERVICE_PID"), ("stdio-wrapper", "STDIO_WRAPPER_PID")] {
        let dir = tempfile::tempdir().unwrap();
        let mut up = Up::start("up", &dir.path().join("data"), free_port());
        up.wait_until_ready();
        let started = descendants(up.process.id());
        kill_9(up.note(note).parse().unwrap());
        let ended = up.process.wait_for(STOP);
        assert!(ended.is_some_and(|status| !status.success()), "{ended:?}\n{}", up.process.log_tail());
        let error = format!("error: {name} exited unexpectedly (killed by SIGKILL)");
        let output = up.process.output();
        assert!(output.contains(&error), "{}", up.process.log_tail());
        // A process cannot log anything when it gets SIGKILL.
        assert!(
            output.contains("might have run out of memory") && !output.contains("shows the reason"),
            "{output}"
        );
        assert_gone(&started);
    }
}

#[test]
fn a_taken_port_is_one_clear_line() {
    // Two listeners side by side, so the script must not suggest the port after the taken one. They are outside the
    // range from which the system chooses the ports of connections: nothing listens there, but nobody else can either.
    let (port, _taken, _next_taken) = std::iter::repeat_with(free_port)
        .find_map(|port| {
            let listen = |port| TcpListener::bind(("127.0.0.1", port)).ok();
            Some((port, listen(port)?, listen(port + 1)?))
        })
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut up = Up::start("up", &dir.path().join("data"), port);
    let ended = up.process.wait_for(STOP);
    assert!(ended.is_some_and(|status| status.code() == Some(1)), "{ended:?}");
    let output = up.process.output();
    assert_eq!(output.lines().count(), 1, "{output}");
    assert!(
        output.starts_with(&format!("error: Port {port} is in use by another program. Stop that program,")),
        "{output}"
    );
    let suggestion =
        output.trim_end().strip_suffix('.').and_then(|all| all.rsplit_once("scripts/up --native --port "));
    let suggested: u16 = suggestion.unwrap_or_else(|| panic!("{output}")).1.parse().unwrap();
    assert!(suggested != port && suggested != port + 1, "{output}");
}

#[test]
fn programs_that_are_not_there_are_one_clear_line() {
    let ended = Command::new(repository().join("scripts/up"))
        .args(["--native", "--programs", "/nowhere"])
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let error = String::from_utf8_lossy(&ended.stderr);
    assert!(error.starts_with("error: --programs /nowhere: this directory does not contain both"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn a_setting_with_which_the_edge_could_not_work_is_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("proxies");
    fs::write(&file, "10.0.0.0/8,\n192.0.2.7\n").unwrap();
    let file = file.to_str().unwrap();
    let programs = binary("auth-service");
    let programs = programs.parent().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let start = |name: &str, value: &str| {
        let mut command = process::clean_command(repository().join("scripts/up"));
        command.args(["--native", "--port", &port, "--programs"]).arg(programs).env(name, value);
        let ended = command.output().unwrap();
        assert_eq!(ended.status.code(), Some(1));
        let error = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(error.lines().count(), 1, "{name}={value}: {error}");
        error
    };
    let absent = "error: TRUSTED_PROXIES does not include 127.0.0.1, so";
    for (name, value, expected) in [
        ("REQUESTS_PER_SECOND", "many", "error: REQUESTS_PER_SECOND is many. Write a number"),
        ("TRUSTED_PROXIES", "10.0.0.0/8", absent),
        ("TRUSTED_PROXIES", "126.0.0.0/8, 127.0.0.2, ::1", absent),
        ("TRUSTED_PROXIES_FILE", file, absent),
        ("TRUSTED_PROXIES", "edge.example, 127.0.0.1", "error: \"edge.example\" in TRUSTED_PROXIES is not"),
        ("TRUSTED_PROXIES", "127.0.0.01", "error: \"127.0.0.01\" in TRUSTED_PROXIES is not"),
        ("TRUSTED_PROXIES", "127.0.0.1, 10.0.0.256", "error: \"10.0.0.256\" in TRUSTED_PROXIES is not"),
        ("TRUSTED_PROXIES", "127.0.0.1/08", "error: \"127.0.0.1/08\" in TRUSTED_PROXIES is not"),
        ("TRUSTED_PROXIES", "127.0.0.1, 10.0.0.0/33", "error: \"10.0.0.0/33\" in TRUSTED_PROXIES is not"),
        ("TRUSTED_PROXIES", "127.0.0.1 10.0.0.7", "error: \"127.0.0.1 10.0.0.7\" in TRUSTED_PROXIES is not"),
    ] {
        let error = start(name, value);
        assert!(error.starts_with(expected), "{name}={value}: {error}");
    }
    // These values are good, so the script goes on to the next check.
    for value in [" ", "127.0.0.1", "::1,127.0.0.0/8", "10.0.0.0/8 , 0.0.0.0/0", "126.0.0.0/7"] {
        let error = start("TRUSTED_PROXIES", value);
        assert!(error.contains(&format!("Port {port} is in use")), "{value}: {error}");
    }
}
