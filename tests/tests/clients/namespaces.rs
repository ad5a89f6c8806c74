//! Two network namespaces with a virtual cable between them, and without a connection to any other network.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The namespaces `gate`, in which auth-service runs, and `inside`, which it must not reach. They are removed when
/// this value is dropped.
pub(crate) struct Namespaces {
    gate: String,
    inside: String,
}

/// The prefix of the namespaces' names. Each name also contains the ID of the process that created it.
const PREFIX: &str = "mcpgate-";

impl Namespaces {
    /// Creates the two namespaces with these addresses, such as `10.1.2.3/24`, at the ends of the cable. The error
    /// explains why this machine cannot do that.
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
                // Without duplicate address detection, an IPv6 address can be used immediately.
                let more: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
                ip(&[&["-n", namespace, "address", "add", address, "dev", "cable"], more].concat())?;
            }
        }
        Ok(pair)
    }

    /// Sets the host names for programs that [`command_in_gate`](Self::command_in_gate) starts. Other names are
    /// resolved by a name server on port 53 of the namespace's loopback interface.
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

    /// Moves this thread into `gate`. Sockets that it creates afterwards belong to that namespace.
    pub(crate) fn enter_gate(&self) {
        enter(&self.gate);
    }

    /// Moves this thread into `inside`, like [`enter_gate`](Self::enter_gate).
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

/// Removes the namespaces of processes that have exited, because a killed test run could not remove its own.
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

/// Prints that a test was skipped. It writes directly to standard error, which the test runner does not hide if
/// the test passes.
pub(crate) fn skipped(test: &str, reason: &str) {
    std::io::stderr().write_all(format!("SKIPPED {test}: {reason}\n").as_bytes()).unwrap();
}
