//! A real Docker engine: either the one that runs on this machine, or one that the test starts as root.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::places::binary_dir;
use crate::process::{self, Process};

/// Time limit for the start of an engine.
const START: Duration = Duration::from_secs(60);

/// A Docker engine. If the test has started it, dropping this value stops it.
#[derive(Debug)]
pub struct Engine {
    /// `DOCKER_HOST` for an engine that the test has started, and `None` for the machine's own.
    host: Option<String>,
    // The fields are dropped in this order.
    _daemon: Option<Process>,
    _dir: Option<tempfile::TempDir>,
}

impl Engine {
    /// Finds the running engine or starts a new one. The error explains what is missing on this machine.
    pub fn find() -> Result<Self, String> {
        let said = |program: &str, word: &str| {
            let output = Command::new(program).arg(word).output();
            output.is_ok_and(|output| output.status.success())
        };
        if !said("docker", "--version") {
            return Err("there is no docker (Debian: apt-get install docker.io docker-compose)".into());
        }
        let plugin = Command::new("docker").args(["compose", "version"]).output();
        if !plugin.is_ok_and(|output| output.status.success()) && !said("docker-compose", "version") {
            return Err("there is no Compose (Debian: apt-get install docker-compose)".into());
        }
        if said("docker", "info") && Self::answers(None) {
            return Ok(Self { host: None, _daemon: None, _dir: None });
        }
        if !rustix::process::getuid().is_root() || !said("dockerd", "--version") {
            return Err("no Docker engine responds, and only root can start one".into());
        }
        Self::start().map_err(|error| format!("the Docker engine did not start: {error:#}"))
    }

    fn answers(host: Option<&str>) -> bool {
        let mut command = Command::new("docker");
        command.args(["version", "--format", "{{.Server.Version}}"]);
        if let Some(host) = host {
            command.env("DOCKER_HOST", host);
        }
        command.output().is_ok_and(|output| output.status.success())
    }

    /// Starts an engine with its own state. Images are kept for the next run, and everything else is in a
    /// temporary directory.
    fn start() -> Result<Self> {
        let images = binary_dir().parent().context("no target directory")?.join("docker");
        std::fs::create_dir_all(&images)?;
        // The name of the directory is short, because the path of a socket can have only about a hundred
        // characters.
        let dir = tempfile::Builder::new().prefix("engine-").tempdir_in("/tmp")?;
        let at = |name: &str| dir.path().join(name).display().to_string();
        let host = format!("unix://{}", at("sock"));
        let mut command = process::command("dockerd");
        command.arg("--data-root").arg(&images).args(["--exec-root", &at("exec"), "--pidfile", &at("pid")]);
        command.args(["--host", &host, "--log-level", "warn"]);
        let mut daemon = Process::start("dockerd", &mut command, dir.path());
        let deadline = Instant::now() + START;
        while !Self::answers(Some(&host)) {
            if daemon.ended().is_some() || Instant::now() > deadline {
                bail!("{}", daemon.log_tail());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let engine = Self { host: Some(host), _daemon: Some(daemon), _dir: Some(dir) };
        engine.forget_an_earlier_run()?;
        Ok(engine)
    }

    /// Removes the containers, volumes and networks of an earlier run that was killed, but keeps the images.
    fn forget_an_earlier_run(&self) -> Result<()> {
        let containers = self.docker(&["ps", "--all", "--quiet"])?;
        let ids: Vec<&str> = containers.lines().collect();
        if !ids.is_empty() {
            self.docker(&[["rm", "--force", "--volumes"].as_slice(), &ids].concat())?;
        }
        let volumes = self.docker(&["volume", "ls", "--quiet"])?;
        let names: Vec<&str> = volumes.lines().collect();
        if !names.is_empty() {
            self.docker(&[["volume", "rm"].as_slice(), &names].concat())?;
        }
        self.docker(&["network", "prune", "--force"]).map(drop)
    }

    /// Whether the test has started this engine, so that no other program uses it.
    pub fn is_ours(&self) -> bool {
        self.host.is_some()
    }

    /// A command that uses this engine.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = process::command(program);
        if let Some(host) = &self.host {
            command.env("DOCKER_HOST", host);
        }
        command
    }

    /// Runs `docker` with these arguments. Returns what it prints.
    pub fn docker(&self, words: &[&str]) -> Result<String> {
        let output = self.command("docker").args(words).output()?;
        text(&output).with_context(|| format!("docker {}", words.join(" ")))
    }

    /// The result of `docker inspect` for one object.
    pub fn inspect(&self, id: &str) -> Result<Value> {
        let list: Value = serde_json::from_str(&self.docker(&["inspect", id])?)?;
        Ok(list[0].clone())
    }
}

/// The first two numbers of an IPv4 network that no route of this machine uses. The networks of an engine that was
/// killed can still exist.
pub fn free_subnet() -> Result<String> {
    let routes = std::fs::read_to_string("/proc/net/route")?;
    let taken = |second: u8| {
        // The kernel lists addresses with the last byte first.
        let end = format!("{second:02X}0A");
        routes
            .lines()
            .filter_map(|line| line.split_whitespace().nth(1))
            .any(|address| address.ends_with(&end))
    };
    let free =
        (210..=250).find(|second| !taken(*second)).context("every network from 10.210 to 10.250 is taken")?;
    Ok(format!("10.{free}"))
}

/// The standard output of a command. If the command failed, returns an error.
pub fn text(output: &Output) -> Result<String> {
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{}{printed}{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(printed)
}

/// Clones this repository without any build output, and applies the uncommitted changes.
pub fn clean_clone(repository: &Path, dir: &Path) -> Result<PathBuf> {
    let checkout = dir.join("checkout");
    let script = format!(
        "git clone --quiet --no-hardlinks . '{to}' \
         && git ls-files -z --modified --others --exclude-standard \
         | tar --null --files-from=- --ignore-failed-read -cf - 2>/dev/null | tar -C '{to}' -mxf -",
        to = checkout.display()
    );
    let output =
        Command::new("bash").args(["-euo", "pipefail", "-c", &script]).current_dir(repository).output()?;
    text(&output)?;
    Ok(checkout)
}
