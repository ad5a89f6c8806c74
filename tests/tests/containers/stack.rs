//! A stack in its own checkout, with helpers for the tests.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tests::Gate;
use tests::engine::{Engine, text};
use tests::places::tools_dir;

/// The time limit for a part of the stack to work again.
pub(crate) const SOON: Duration = Duration::from_secs(40);

/// Prints a line to standard error, which the test runner shows even if the test passes.
pub(crate) fn tell(text: &str) {
    std::io::stderr().write_all(format!("{text}\n").as_bytes()).unwrap();
}

/// A stack in its own checkout.
pub(crate) struct Containers {
    pub(crate) engine: Engine,
    pub(crate) checkout: PathBuf,
    pub(crate) project: String,
    pub(crate) port: u16,
    // The field is last, so that it is dropped last.
    pub(crate) _dir: tempfile::TempDir,
}

impl Containers {
    pub(crate) fn script(&self, words: &[&str]) -> String {
        let started = Instant::now();
        let mut command = self.engine.command(self.checkout.join("scripts").join(words[0]));
        command.args(&words[1..]).env("MCP_GATE_TOOLS", tools_dir()).stdin(Stdio::null());
        let printed = text(&command.output().unwrap()).unwrap_or_else(|error| panic!("{words:?}: {error:#}"));
        tell(&format!("  {} ({:.0} s)", words.join(" "), started.elapsed().as_secs_f32()));
        printed
    }

    /// Adds or replaces a line of `.env`.
    pub(crate) fn set(&self, name: &str, value: &str) {
        let path = self.checkout.join(".env");
        let old = fs::read_to_string(&path).unwrap();
        let others = old.lines().filter(|line| !line.starts_with(&format!("{name}=")));
        let lines: Vec<&str> = others.collect();
        fs::write(path, format!("{}\n{name}={value}\n", lines.join("\n"))).unwrap();
    }

    pub(crate) fn setting(&self, name: &str) -> String {
        let text = fs::read_to_string(self.checkout.join(".env")).unwrap();
        let line = text.lines().rev().find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.unwrap_or_default().to_owned()
    }

    pub(crate) fn docker(&self, words: &[&str]) -> String {
        self.engine.docker(words).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// The IDs of the running containers, or of all containers, by service.
    pub(crate) fn containers(&self, all: bool) -> BTreeMap<String, Vec<String>> {
        let project = format!("label=com.docker.compose.project={}", self.project);
        let format = "{{.ID}} {{.Label \"com.docker.compose.service\"}}";
        let mut words = vec!["ps", "--no-trunc", "--filter", &project, "--format", format];
        if all {
            words.push("--all");
        }
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in self.docker(&words).lines() {
            let (id, service) = line.split_once(' ').unwrap();
            found.entry(service.to_owned()).or_default().push(id.to_owned());
        }
        found
    }

    pub(crate) fn container(&self, service: &str) -> String {
        self.containers(true).get(service).and_then(|ids| ids.first().cloned()).expect(service)
    }

    /// The address of a container in one of the stack's networks.
    pub(crate) fn address(&self, service: &str, network: &str) -> String {
        let about = self.engine.inspect(&self.container(service)).unwrap();
        let networks = &about["NetworkSettings"]["Networks"];
        networks[format!("{}_{network}", self.project)]["IPAddress"].as_str().expect(network).to_owned()
    }

    /// The address of this machine in one of the stack's networks.
    pub(crate) fn gateway(&self, network: &str) -> String {
        let about = self.engine.inspect(&format!("{}_{network}", self.project)).unwrap();
        about["IPAM"]["Config"][0]["Gateway"].as_str().map_or_else(
            // If Docker has chosen the gateway, it is not listed here, and is the first address of the network.
            || about["IPAM"]["Config"][0]["Subnet"].as_str().unwrap().replace("0.64/26", "0.65"),
            |address| address.split('/').next().unwrap().to_owned(),
        )
    }

    pub(crate) fn gate(&self, service: &str) -> Gate {
        let url = format!("http://localhost:{}", self.port);
        Gate::at(&url, &format!("{url}/{service}/mcp"))
    }

    pub(crate) fn logs(&self) -> String {
        let mut all = String::new();
        for (service, ids) in self.containers(true) {
            for id in ids {
                let output =
                    self.engine.command("docker").args(["logs", "--tail", "15", &id]).output().unwrap();
                let lines = [output.stdout, output.stderr].concat();
                writeln!(all, "--- {service}\n{}", String::from_utf8_lossy(&lines)).unwrap();
            }
        }
        all
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        let mut command = self.engine.command(self.checkout.join("scripts/down"));
        command.args(["--delete-everything", "--yes"]).stdin(Stdio::null()).stdout(Stdio::null());
        command.status().ok();
    }
}

/// Opens a session, calls a tool, and ends the session.
pub(crate) async fn call(gate: &Gate, token: &str, tool: &str, arguments: Value) -> anyhow::Result<String> {
    let mut session = gate.open_session(token, HeaderMap::new()).await?;
    let answer = session.call(tool, arguments).await;
    session.end().await?;
    answer
}

pub(crate) async fn echo(gate: &Gate, token: &str) -> anyhow::Result<String> {
    call(gate, token, "echo", json!({ "message": "hello" })).await
}

/// Waits until a tool call works again. Returns how long that took.
pub(crate) async fn until_it_works(stack: &Containers, gate: &Gate, token: &str) -> Duration {
    let started = Instant::now();
    loop {
        match echo(gate, token).await {
            Ok(said) => {
                assert_eq!(said, "Echo: hello");
                return started.elapsed();
            }
            Err(error) if started.elapsed() > SOON => {
                panic!("no tool call after {SOON:?}: {error:#}\n{}", stack.logs())
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// The word that follows `word` at the start of a line of a script's output.
pub(crate) fn told(output: &str, word: &str) -> Option<String> {
    let after = output.lines().find_map(|line| line.trim_start().strip_prefix(word))?;
    after.split_whitespace().next().map(str::to_owned)
}
