//! A network of the test's own, with no way out of it: two network namespaces with a cable between them.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// `gate`, where auth-service runs, and `inside`, what it must not reach. Gone when dropped.
pub(crate) struct Namespaces {
    gate: String,
    inside: String,
}

/// Names that no other process makes, and that tell whose they were.
const PREFIX: &str = "mcpgate-";

impl Namespaces {
    /// The pair with these addresses (`10.1.2.3/24`) at its two ends, or why this machine cannot have it.
    pub(crate) fn new(of_gate: &[&str], of_inside: &[&str]) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("network namespaces need root".to_owned());
        }
        remove_those_of_dead_processes();
        let id = std::process::id();
        let pair = Self { gate: format!("{PREFIX}g-{id}"), inside: format!("{PREFIX}i-{id}") };
        ip(&["netns", "add", &pair.gate])?;
        ip(&["netns", "add", &pair.inside])?;
        let cable = ["link", "add", "cable", "netns", &pair.gate, "type", "veth", "peer", "name", "cable"];
        ip(&[&cable[..], &["netns", &pair.inside]].concat())?;
        for (namespace, addresses) in [(&pair.gate, of_gate), (&pair.inside, of_inside)] {
            ip(&["-n", namespace, "link", "set", "lo", "up"])?;
            ip(&["-n", namespace, "link", "set", "cable", "up"])?;
            for address in addresses {
                // IPv6 addresses are usable at once only without the search for duplicates.
                let more: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
                ip(&[&["-n", namespace, "address", "add", address, "dev", "cable"], more].concat())?;
            }
        }
        Ok(pair)
    }

    /// What names lead to for programs that [`command_in_gate`](Self::command_in_gate) starts. Any other name they ask for
    /// on port 53 of the gate's loopback interface.
    pub(crate) fn set_hosts(&self, lines: &str) {
        let directory = etc(&self.gate);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("hosts"), lines).unwrap();
        fs::write(directory.join("nsswitch.conf"), "hosts: files dns\n").unwrap();
        let resolver = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n";
        fs::write(directory.join("resolv.conf"), resolver).unwrap();
    }

    /// A command that runs `program` in `gate`.
    pub(crate) fn command_in_gate(&self, program: &Path) -> Command {
        let mut command = tests::process::command("ip");
        command.args(["netns", "exec", &self.gate]).arg(program);
        command
    }

    /// Moves this thread: sockets that it makes from now on belong there, and stay there.
    pub(crate) fn enter_gate(&self) {
        enter(&self.gate);
    }

    /// See [`enter_gate`](Self::enter_gate).
    pub(crate) fn enter_inside(&self) {
        enter(&self.inside);
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in [&self.gate, &self.inside] {
            remove(name);
        }
    }
}

fn enter(namespace: &str) {
    let link = File::open(Path::new("/run/netns").join(namespace)).unwrap();
    move_into_link_name_space(link.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

fn etc(namespace: &str) -> PathBuf {
    Path::new("/etc/netns").join(namespace)
}

fn remove(namespace: &str) {
    ip(&["netns", "delete", namespace]).ok();
    fs::remove_dir_all(etc(namespace)).ok();
}

/// A test run that was killed could not clean up.
fn remove_those_of_dead_processes() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.get(2..)).map(str::to_owned);
        if owner.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            remove(&name);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let what = format!("`ip {}`", arguments.join(" "));
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("{what}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Says that a test did nothing, past the capture of test output: a run that skipped must not look like one that passed.
pub(crate) fn skipped(test: &str, reason: &str) {
    std::io::stderr().write_all(format!("SKIPPED {test}: {reason}\n").as_bytes()).unwrap();
}
