//! Tests that check what the program prints when its output is no longer read, and when it cannot start.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::redis_server::RedisServer;

const KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

/// The program with these arguments, and with no variables other than these.
fn program(words: &str, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_auth-service"));
    command.args(words.split_whitespace()).env_clear().envs(settings.iter().copied());
    command
}

fn errors_of(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Standard error without the log lines, which contain the time.
fn messages_of(output: &Output) -> String {
    let errors = errors_of(output);
    errors.lines().filter(|line| !line.contains("Z  INFO ") && !line.contains("Z  WARN ")).collect()
}

/// A pipe that nobody reads.
fn closed() -> Stdio {
    let (_, writer) = io::pipe().unwrap();
    writer.into()
}

#[test]
fn a_command_whose_output_nobody_reads_ends_quietly_with_its_own_exit_code() {
    let all = tempfile::tempdir().unwrap();
    let at = |name: &str| all.path().join(name).display().to_string();
    let (data, dump, rules) = (at("data"), at("dump"), at("policy.toml"));
    let here = [("DATA_DIR", data.as_str()), ("RUST_LOG", "off")];
    fs::write(&rules, "default_scope = \"mcp\"\n").unwrap();
    let run = |words: &str| program(words, &here).output().unwrap();
    assert!(run("user add --new-store ana").status.success());
    let client = String::from_utf8(
        run("client add robot --grant client-credentials --resource http://localhost:8080/mcp").stdout,
    )
    .unwrap();
    let client = client.lines().next().unwrap().strip_prefix("client_id: ").unwrap();
    for words in [
        "user list",
        "user reset ana",
        "user reset nobody",
        "client list",
        &format!("client show {client}"),
        "keys list",
        &format!("store export {dump}"),
        &format!("store verify {dump}"),
        &format!("policy check {rules}"),
        &format!("policy check {dump}"),
        &format!("policy explain --user ana --host mcp.example --file {rules}"),
        "policy explain --user ana --host mcp.example --scope other",
        "doctor http://127.0.0.1:1/mcp",
        "doctor http://127.0.0.1:1/mcp --json",
        "client add other --grant client-credentials --resource http://localhost:8080/mcp",
        "user add bo",
        "--help",
        "user frobnicate",
    ] {
        let unread = program(words, &here).stdout(closed()).output().unwrap();
        assert!(!errors_of(&unread).contains("panicked"), "{words}: {}", errors_of(&unread));
        let mute = program(words, &here).stdout(closed()).stderr(closed()).status().unwrap();
        if ["store export", "client add", "user add"].iter().any(|once| words.starts_with(once)) {
            assert_eq!(unread.status.code(), Some(0), "{words}: {}", errors_of(&unread));
            continue;
        }
        let read = run(words);
        assert_eq!(unread.status.code(), read.status.code(), "{words}: {}", errors_of(&unread));
        assert_eq!(mute.code(), read.status.code(), "{words}");
        assert_eq!(messages_of(&unread), messages_of(&read), "{words}");
    }
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let all = tempfile::tempdir().unwrap();
    let here = [("DATA_DIR", all.path().to_str().unwrap()), ("RUST_LOG", "off")];
    assert!(program("user add --new-store ana", &here).output().unwrap().status.success());
    for words in ["user list", "keys list", "policy explain --user ana --host mcp.example"] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = program(words, &here).stdout(full).output().unwrap();
        assert!(!output.status.success(), "{words}");
        let told = errors_of(&output);
        assert!(
            told.contains("standard output cannot be written: No space left on device"),
            "{words}: {told}"
        );
    }
}

#[test]
fn an_account_that_does_not_exist_is_refused_by_the_explanation() {
    let all = tempfile::tempdir().unwrap();
    let here = [("DATA_DIR", all.path().to_str().unwrap()), ("RUST_LOG", "off")];
    assert!(program("user add --new-store ana", &here).output().unwrap().status.success());
    for (words, code, last) in [
        ("--user ana", 0, "=> ALLOWED"),
        ("--user nobody --group staff", 0, "=> ALLOWED"),
        (
            "--user nobody",
            1,
            "=> REFUSED: there is no such account, so it has no tokens. With --group or --email, ",
        ),
    ] {
        let words = format!("policy explain --host mcp.example {words}");
        let output = program(&words, &here).output().unwrap();
        let rows = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(code), "{words}: {rows}");
        assert!(rows.lines().last().is_some_and(|row| row.starts_with(last)), "{words}: {rows}");
    }
}

/// Whether a text contains Rust debug output, such as `Os { code: 111 }` or `InvalidData(…)`.
fn has_debug_output(text: &str) -> bool {
    let is_name = |word: &str| {
        let name = word.rsplit(|letter: char| !letter.is_ascii_alphanumeric()).next().unwrap_or_default();
        name.starts_with(|letter: char| letter.is_ascii_uppercase())
            && name.contains(|letter: char| letter.is_ascii_lowercase())
    };
    text.match_indices(" { ").any(|(at, _)| is_name(&text[..at]))
        || text.match_indices('(').any(|(at, _)| is_name(&text[..at]))
}

#[test]
fn debug_output_is_recognised() {
    for text in
        ["IO Error: Os { code: 111 }", "x: InvalidCertificate(UnknownIssuer)", "Custom { kind: Other }"]
    {
        assert!(has_debug_output(text), "{text}");
    }
    for text in ["not a file (os error 2)", "a { b }", "EDGE_LISTEN (127.0.0.1:9001)", "set {\"a\": 1}"] {
        assert!(!has_debug_output(text), "{text}");
    }
}

/// Asserts that the program fails, and that its message contains `parts`, no debug output, and `once` exactly once.
fn refuses(words: &str, settings: &[(&str, &str)], once: &str, parts: &[&str]) {
    let mut command = Command::new("timeout");
    command.args(["60", env!("CARGO_BIN_EXE_auth-service")]).args(words.split_whitespace());
    let output =
        command.env_clear().env("PATH", "/usr/bin:/bin").envs(settings.iter().copied()).output().unwrap();
    let all = errors_of(&output);
    let told: Vec<&str> =
        all.lines().filter(|line| !line.contains(" WARN ") && !line.contains(" INFO ")).collect();
    let told = told.join("\n");
    assert!(matches!(output.status.code(), Some(1 | 2)), "{words} {settings:?}: {:?} {all}", output.status);
    assert!(!has_debug_output(&all), "{words} {settings:?}: {all}");
    assert_eq!(told.matches(once).count(), 1, "{once} in {words} {settings:?}: {told}");
    for part in parts {
        assert!(told.contains(part), "{part} in {words} {settings:?}: {told}");
    }
}

/// An address on which no process listens.
fn away() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// The service, for at most a minute, with the address of its operators' listener and a file for its log.
struct Service {
    process: Child,
    ops: String,
    log: PathBuf,
}

impl Service {
    /// Starts the service with this store and a log of the level `info`, and waits until it listens.
    fn start(directory: &Path, store: &[(&str, &str)]) -> Self {
        let (log, ops) = (directory.join("log"), away());
        let process = Command::new("timeout")
            .args(["60", env!("CARGO_BIN_EXE_auth-service")])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .envs(store.iter().copied())
            .envs([("ISSUER", "http://localhost:1"), ("PROTECTED_HOSTS", "localhost:1")])
            .envs([("PUBLIC_LISTEN", "127.0.0.1:0"), ("EDGE_LISTEN", "127.0.0.1:0"), ("OPS_LISTEN", &ops)])
            .env("RUST_LOG", "info")
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let is_listening = (0..1000).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            TcpStream::connect(&ops).is_ok()
        });
        assert!(is_listening, "{}", fs::read_to_string(&log).unwrap());
        Self { process, ops, log }
    }

    /// Sends this to the operators' listener, and waits until the service closes the connection.
    fn send(&self, requests: &[u8]) {
        let mut stream = TcpStream::connect(&self.ops).unwrap();
        stream.write_all(requests).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Stops the service, and returns its log.
    fn stop(mut self) -> String {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let status = self.process.wait().unwrap();
        let log = self.log();
        assert!(status.success() && log.contains("stopped"), "{status}: {log}");
        log
    }
}

/// Any client can cause any number of such lines, and they would hide real errors.
#[test]
fn what_clients_do_with_their_connections_is_not_an_error_in_the_log() {
    let all = tempfile::tempdir().unwrap();
    let data = all.path().join("data").display().to_string();
    let service = Service::start(all.path(), &[("DATA_DIR", &data)]);
    // The server closes the connection when the second request arrives.
    service.send(&b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3));
    let log = service.stop();
    assert!(!log.contains("ERROR"), "{log}");
}

/// Each connection of the Redis client reports the same outage, and none of these lines says what it means.
#[test]
fn an_outage_of_redis_is_in_the_log_only_in_the_words_of_the_service() {
    let Some(mut server) = RedisServer::start(&[]) else { return };
    let all = tempfile::tempdir().unwrap();
    let url = server.url();
    let service = Service::start(all.path(), &[("REDIS_URL", &url), ("STORE_KEY", KEY)]);
    server.kill();
    let is_told = (0..1000).any(|_| {
        service.send(b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        service.log().contains("Redis does not respond")
    });
    let log = service.stop();
    assert!(is_told, "{log}");
    assert!(!log.contains("fred"), "{log}");
}

#[test]
fn each_refusal_to_start_names_its_cause_and_its_fix_once() {
    let all = tempfile::tempdir().unwrap();
    let at = |name: &str| all.path().join(name).display().to_string();
    let (new, file, rules, missing) = (at("new"), at("file"), at("policy.toml"), at("missing"));
    fs::write(&file, "not a directory").unwrap();
    fs::write(&rules, "[[service]]\nhosts = \"mcp.example\"\n").unwrap();
    let least = [
        ("ISSUER", "http://localhost:1"),
        ("PROTECTED_HOSTS", "localhost:1"),
        ("DATA_DIR", &new),
        ("PUBLIC_LISTEN", "127.0.0.1:0"),
        ("EDGE_LISTEN", "127.0.0.1:0"),
        ("OPS_LISTEN", "127.0.0.1:0"),
    ];
    let starts = |more: &[(&'static str, &str)], once: &str, expected: &[&str]| {
        let settings: Vec<(&str, &str)> = least.iter().chain(more).copied().collect();
        refuses("", &settings, once, expected);
    };
    let inside = format!("{file}/store");
    starts(&[("DATA_DIR", &inside)], &inside, &["cannot use", "DATA_DIR must be a directory"]);
    let form = ["REDIS_URL is not the address of a Redis; write it as", "USER and PASSWORD can be omitted."];
    starts(&[("REDIS_URL", "http://localhost"), ("STORE_KEY", KEY)], "REDIS_URL", &form);
    starts(
        &[("POLICY_FILE", &rules), ("LOG_FORMAT", "xml"), ("ALLOWED_GROUP", "staff")],
        &rules,
        &["3 problems", "\n  - POLICY_FILE: ", "\n      - line 2: ", "LOG_FORMAT", "mean ALLOWED_GROUPS?"],
    );
    starts(&[("POLICY_FILE", &missing)], &missing, &["1 problem", "POLICY_FILE: cannot read"]);
    starts(&[("EDGE_SECRET_FILE", &missing)], &missing, &["1 problem", "EDGE_SECRET_FILE: cannot read"]);
    assert!(!Path::new(&new).exists(), "the store was opened although a setting is wrong");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    starts(&[("OPS_LISTEN", &taken)], &taken, &["Address already in use", "OPS_LISTEN"]);
}

#[test]
fn each_refusal_of_a_command_names_its_cause_and_its_fix_once() {
    let all = tempfile::tempdir().unwrap();
    let at = |name: &str| all.path().join(name).display().to_string();
    let (data, file, absent) = (at("data"), at("file"), at("absent"));
    fs::write(&file, "no dump").unwrap();
    let stored = [("DATA_DIR", data.as_str())];
    assert!(program("user add --new-store ana", &stored).output().unwrap().status.success());
    let missing = format!("{absent}/missing");
    let export = ["cannot be written: No such file or directory", "Name a new file"];
    refuses(&format!("store export {missing}"), &stored, &missing, &export);
    let verify = ["cannot be read: No such file or directory", "store export"];
    refuses(&format!("store verify {missing}"), &stored, &missing, &verify);
    refuses(&format!("store verify {file}"), &stored, &file, &["is not a dump of a store"]);
    refuses("user list", &[("DATA_DIR", &absent)], &absent, &["there is no store in", "set DATA_DIR"]);
    let database = format!("{data}/store.redb");
    refuses(
        "user list",
        &[stored[0], ("STORE_KEY", KEY)],
        &database,
        &["another store key. Put back", "set STORE_KEY to that key"],
    );
    refuses(&format!("policy check {missing}"), &stored, &missing, &["cannot read", "name a regular file"]);
    let doctor = format!("doctor http://localhost:1/mcp --ca-file {missing}");
    refuses(&doctor, &[], &missing, &["--ca-file: cannot read", "name a regular file"]);
    for (words, fix) in [
        ("doctor mcp.example.com/mcp", "write https://mcp.example.com/mcp"),
        ("doctor localhost:1/mcp", "write http://localhost:1/mcp"),
    ] {
        refuses(words, &[], "it has no scheme", &[fix]);
    }
    let no_scheme = [("ISSUER", "auth.example:8443"), ("PROTECTED_HOSTS", "mcp.example")];
    refuses("doctor https://localhost:1/mcp", &no_scheme, "ISSUER", &["write https://auth.example:8443"]);
    let ops = away();
    refuses("healthcheck", &[("OPS_LISTEN", &ops)], &ops, &["Connection refused", "is it running?"]);
    let key = format!("{data}/store.key");
    fs::write(&key, "no key").unwrap();
    refuses(
        "user list",
        &stored,
        &key,
        &["does not contain a store key, so it was damaged", "from a backup", "set STORE_KEY"],
    );
}

#[test]
fn a_command_of_another_user_is_told_about_the_user_and_not_that_there_is_no_store() {
    let all = tempfile::tempdir().unwrap();
    let (data, copy) = (all.path().join("data"), all.path().join("auth-service"));
    let stored = [("DATA_DIR", data.to_str().unwrap())];
    assert!(program("user add --new-store ana", &stored).output().unwrap().status.success());
    let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let mut command = if fs::metadata(&data).unwrap().uid() == 0 {
        // Permissions do not stop root, so the command runs as another user, who might not reach the original program.
        fs::copy(env!("CARGO_BIN_EXE_auth-service"), &copy).unwrap();
        chmod(all.path(), 0o755);
        let mut command = Command::new(&copy);
        command.uid(65_534).gid(65_534).current_dir("/");
        command
    } else {
        chmod(&data, 0o000);
        Command::new(env!("CARGO_BIN_EXE_auth-service"))
    };
    let output = command.args(["user", "list"]).env_clear().envs(stored).output().unwrap();
    chmod(&data, 0o700);
    let told = errors_of(&output);
    assert!(!output.status.success() && !told.contains("there is no store"), "{told}");
    assert!(told.contains("store.redb: permission denied. Run this as the user"), "{told}");
}

#[test]
fn a_store_key_that_others_can_read_gets_the_mode_of_the_store_and_a_warning() {
    let all = tempfile::tempdir().unwrap();
    let key = all.path().join("data/store.key");
    let data = all.path().join("data").display().to_string();
    assert!(program("user add --new-store ana", &[("DATA_DIR", &data)]).output().unwrap().status.success());
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let list = || errors_of(&program("user list", &[("DATA_DIR", &data)]).output().unwrap());
    let told = list();
    assert!(told.contains("WARN") && told.contains("store.key could be read by users"), "{told}");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!list().contains("store.key"), "the mode is right now");
}

#[test]
fn each_refusal_of_redis_names_its_cause_and_its_fix_once() {
    let all = tempfile::tempdir().unwrap();
    let (data, nobody) = (all.path().display().to_string(), away());
    let url = format!("redis://{nobody}");
    for words in ["user list", "user add --new-store ana", "store adopt", "store migrate --to embedded"] {
        let settings = [("REDIS_URL", url.as_str()), ("STORE_KEY", KEY), ("DATA_DIR", data.as_str())];
        refuses(words, &settings, &nobody, &["Connection refused (os error 111)", "check REDIS_URL"]);
    }
    let Some(server) = RedisServer::start(&[]) else { return };
    let url = server.url();
    let address = url.rsplit('/').next().unwrap();
    let refused = |words: &str, url: &str, expected: &[&str]| {
        refuses(words, &[("REDIS_URL", url), ("STORE_KEY", KEY)], address, expected);
    };
    let absent = ["there is no store of this service in Redis", "Restore a backup"];
    refused("user list", &url, &absent);
    refused("store adopt", &url, &absent);
    let wrong = format!("redis://nobody:wrong@{address}");
    refused("user list", &wrong, &["WRONGPASS", "check the user and password"]);
    refused("user list", &format!("rediss://{address}"), &["check REDIS_URL (rediss if"]);
}
