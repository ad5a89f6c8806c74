//! Finds the repository, its programs, the tools that `scripts/tools` installs, and free ports.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// The root directory of the repository.
pub fn repository() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        crate_dir.parent().expect("the crate is in the workspace").to_path_buf()
    })
}

/// The directory with the programs of this build, such as `target/debug`.
pub fn binary_dir() -> PathBuf {
    let test = std::env::current_exe().expect("a test can find its own path");
    // The path of a test is target/debug/deps/name-of-test.
    test.ancestors().nth(2).expect("a test is in target/PROFILE/deps").to_path_buf()
}

/// The path of a program of this repository. Panics if it is not built.
///
/// `PROGRAMS` can name another directory, such as `target/release`, to measure a build other than the debug build.
#[track_caller]
pub fn binary(name: &str) -> PathBuf {
    let dir = std::env::var_os("PROGRAMS").map_or_else(binary_dir, |dir| repository().join(dir));
    let path = dir.join(name);
    assert!(
        path.exists(),
        "{} is not built. Run `cargo build --workspace` first (`scripts/test` does).",
        path.display()
    );
    path
}

/// The directory into which `scripts/tools` installs.
pub fn tools_dir() -> PathBuf {
    std::env::var_os("MCP_GATE_TOOLS").map_or_else(|| repository().join(".tools"), PathBuf::from)
}

/// A file that `scripts/tools` installs, by its path below `.tools`. Panics if it is missing.
#[track_caller]
pub fn tool(below: &str) -> PathBuf {
    let path = tools_dir().join(below);
    assert!(
        path.exists(),
        "{} is not installed. Run `scripts/tools clients` first (`scripts/test` does).",
        path.display()
    );
    path
}

/// The command line of a real MCP server that supports the protocol revisions with sessions.
#[track_caller]
pub fn everything_server() -> Vec<String> {
    let node = tool("node/bin/node");
    let script = tool("npm/node_modules/@modelcontextprotocol/server-everything/dist/index.js");
    vec![node.display().to_string(), script.display().to_string(), "stdio".into()]
}

/// The command line of our own MCP server that reports what it received.
#[track_caller]
pub fn recorder() -> Vec<String> {
    let script = repository().join("tests/children/recorder.py");
    vec![tool("venv/bin/python").display().to_string(), script.display().to_string()]
}

/// A free loopback port. Each call in a process returns a different one.
///
/// The ports are below the range that the kernel uses for outgoing connections, so that no such connection takes
/// the port between this call and its use.
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes that run at the same time start with different ports.
    let offset = u16::try_from(std::process::id() % u32::from(COUNT)).expect("less than COUNT");
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(7, Ordering::Relaxed);
        let port = FIRST + (offset.wrapping_add(step)) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("There is no free loopback port between {FIRST} and {}.", FIRST + COUNT);
}

/// Whether the loopback interface has an IPv6 address.
pub fn has_ipv6_loopback() -> bool {
    TcpListener::bind(("::1", 0)).is_ok()
}
