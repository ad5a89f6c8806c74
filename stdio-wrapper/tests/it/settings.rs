//! Tests of the command line and of the operator's endpoints.

use std::process::{Command, Output};

use crate::wrapper::Wrapper;

fn run(args: &[&str], env: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stdio-wrapper")).args(args).envs(env.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_mistake_is_told_at_once_with_cause_and_fix() {
    let output = run(
        &["--max-line", "much", "--", "no-such-program"],
        &[("LISTEN", "nowhere"), ("IDENTITY", "assertion"), ("ISSUR", "x"), ("LOG", "loud")],
    );
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    for part in [
        "LISTEN is `nowhere`",
        "MAX_LINE is `much`",
        "JWKS_URL is not set",
        "ISSUER is not set",
        "ISSUR: there is no such setting. Did you mean ISSUER?",
        "LOG: \"loud\" is not a log level",
        "RESOURCE is not set",
        "`no-such-program` was not found",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn a_command_without_hyphens_before_it_is_told_where_it_goes() {
    let output = run(&["cat"], &[]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(message.contains("goes after --, like: stdio-wrapper -- cat"), "{message}");
    assert!(!text(&run(&["--lisetn", "x"], &[]).stderr).contains("goes after --"));
}

#[test]
fn a_command_that_cannot_be_run_is_told_at_the_start() {
    for (command, cause) in [("/etc/passwd", "is not executable"), ("/etc", "is a directory")] {
        let output = run(&["--ops-listen", "127.0.0.1:0", "--listen", "nowhere", "--", command], &[]);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(&format!("The command `{command}` cannot be run")), "{message}");
        assert!(message.contains(cause), "{message}");
    }
}

#[test]
fn completions_and_the_manual_page_are_printed_without_a_command() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["--completions", shell], &[]);
        let script = text(&output.stdout);
        assert!(output.status.success() && script.contains("child-memory"), "{shell}: {script}");
    }
    let output = run(&["--man"], &[]);
    let page = text(&output.stdout);
    assert!(
        output.status.success() && page.contains(".SH OPTIONS") && page.contains("START_TIMEOUT"),
        "{page}"
    );
}

#[test]
fn a_pipe_in_place_of_the_tool_rules_does_not_hang_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("rules");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let pipe = pipe.to_str().unwrap();
    // If the wrapper hangs, `timeout` terminates it and exits with 124.
    let mut process = Command::new("timeout");
    process.args(["20", env!("CARGO_BIN_EXE_stdio-wrapper"), "--identity=headers", "--tool-rules", pipe]);
    let output = process.args(["--", "true"]).output().unwrap();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    let cause = format!("TOOL_RULES is `{pipe}`, which cannot be read: it is not a regular file.");
    assert!(message.contains(&cause), "{message}");
}

#[test]
fn a104_a_server_that_everybody_can_call_is_told_at_the_start() {
    // The wrapper exits after the start, because the port is taken.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (host, is_told) in [("0.0.0.0", true), ("127.0.0.1", false)] {
        let listen = format!("{host}:{port}");
        let options = ["--listen", &listen, "--ops-listen", "127.0.0.1:0", "--", "true"];
        let output = run(&options, &[("ISSUER", "https://auth.example")]);
        let message = text(&output.stderr);
        assert_eq!(message.contains("everybody who can reach this port"), is_told, "{message}");
        assert!(message.contains("ISSUER is set, but has no effect"), "{message}");
    }
}

#[test]
fn a_taken_port_is_one_clear_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output =
        run(&["--listen", &address, "--ops-listen", "127.0.0.1:0", "--log", "error", "--", "true"], &[]);
    let message = text(&output.stderr);
    assert!(!output.status.success());
    assert!(message.contains(&format!("LISTEN is {address}, which cannot be used")), "{message}");
}

/// Whether a text contains Rust debug output, such as `Os { code: 98 }` or `InvalidData(…)`.
fn has_debug_output(text: &str) -> bool {
    let is_name = |before: &str| {
        let name = before.rsplit(|letter: char| !letter.is_ascii_alphanumeric()).next().unwrap_or_default();
        name.starts_with(|letter: char| letter.is_ascii_uppercase())
            && name.contains(|letter: char| letter.is_ascii_lowercase())
    };
    let before = |marks: &str| text.match_indices(marks).any(|(at, _)| is_name(&text[..at]));
    before(" { ") || before("(")
}

#[test]
fn each_refusal_names_its_cause_and_its_fix_once() {
    let directory = tempfile::tempdir().unwrap();
    let rules = directory.path().join("rules.toml");
    std::fs::write(&rules, "[[tool]]\nmatches = 1\n").unwrap();
    let (rules, missing) = (rules.to_str().unwrap(), directory.path().join("missing"));
    let missing = missing.to_str().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let free = ["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"];
    for (args, once, parts) in [
        (
            &["--listen", &taken, "--ops-listen", "127.0.0.1:0"][..],
            taken.as_str(),
            &["LISTEN", "Free the port, or set", "in use"][..],
        ),
        (
            &["--listen", "127.0.0.1:0", "--ops-listen", &taken],
            &taken,
            &["OPS_LISTEN", "Free the port, or set", "in use"],
        ),
        (&["--listen", "192.0.2.1:80"], "192.0.2.1:80", &["LISTEN", "annot assign requested address"]),
        (
            &["--listen", &taken, "--ops-listen", &taken],
            &taken,
            &["LISTEN and OPS_LISTEN are both", "Give them different ports"],
        ),
        (&["--listen", "8080"], "`8080`", &["Write it like 127.0.0.1:8080 or [::1]:8080."]),
        (&["--max-sessions", "many"], "`many`", &["not auto or a number from 1 to 1000000"]),
        (
            &["--identity=headers", "--tool-rules", missing],
            missing,
            &["cannot be read: No such file", "check its path"],
        ),
        (
            &["--identity=headers", "--tool-rules", rules],
            rules,
            &["is not a rule file", "See docs/stdio-wrapper.md"],
        ),
        (
            &["--identity=headers", "--cwd", "/tmp/{subjct}"],
            "CHILD_CWD has `{subjct}`",
            &["is not a placeholder. The placeholders are {subject}"],
        ),
        (&["--cwd", missing], missing, &["CHILD_CWD is", "Create it, or use another one."]),
        (
            &["--env", "MISSING_VARIABLE"],
            "passes MISSING_VARIABLE",
            &["the wrapper has no such variable. Set it"],
        ),
    ] {
        let args = [&free[..], args, &["--log", "error", "--", "cat"]].concat();
        let mut command = Command::new("timeout");
        command.args(["60", env!("CARGO_BIN_EXE_stdio-wrapper")]).args(&args);
        let output = command.output().unwrap();
        let told = text(&output.stderr);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{args:?}: {:?} {told}", output.status);
        assert!(!has_debug_output(&told), "{args:?}: {told}");
        assert_eq!(told.matches(once).count(), 1, "{args:?}: {told}");
        for part in parts {
            assert!(told.contains(part), "{part}: {told}");
        }
    }
}

#[test]
fn a_message_that_nobody_reads_is_no_panic() {
    let closed = || -> std::process::Stdio { std::io::pipe().unwrap().1.into() };
    for args in [&["--listen", "nowhere"][..], &["--healthcheck", "--ops-listen", "127.0.0.1:1"], &["--help"]]
    {
        let run = || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_stdio-wrapper"));
            command.args(args);
            command
        };
        let read = run().output().unwrap().status.code();
        assert_eq!(run().stdout(closed()).stderr(closed()).status().unwrap().code(), read, "{args:?}");
    }
}

#[test]
fn help_and_version_are_there() {
    let help = text(&run(&["--help"], &[]).stdout);
    for part in ["--max-body <SIZE>", "[default: 4MiB]", "[env: MAX_BODY=]", "- headers:"] {
        assert!(help.contains(part), "{part}: {help}");
    }
    for name in ["LISTEN", "MAX_SESSIONS", "IDENTITY", "PREWARM", "TOOL_RULES"] {
        assert!(help.contains(name), "{name}");
    }
    assert!(text(&run(&["--version"], &[]).stdout).starts_with("stdio-wrapper "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_wrapper_is_healthy_and_one_that_is_gone_is_not() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let ops = wrapper.ops.clone();
    assert!(run(&["--healthcheck"], &[("OPS_LISTEN", &ops)]).status.success());
    assert_eq!(wrapper.metric("stdio_wrapper_children_started_total").await, 0);
    wrapper.terminate().await;
    let output = run(&["--healthcheck"], &[("OPS_LISTEN", &ops)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&ops), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_starts_no_child() {
    let wrapper = Wrapper::start(&[], &[]).await;
    for path in ["/health", "/ready", "/metrics"] {
        assert_eq!(wrapper.ops_status(path).await, 200, "{path}");
    }
    assert_eq!(wrapper.metric("stdio_wrapper_children_started_total").await, 0);
    // The operator's endpoints are not on the public listener.
    let mut client = wrapper.client();
    client.url = format!("http://{}/metrics", wrapper.address);
    assert_eq!(client.get(None).await.status(), 404);
}
