//! A process of auth-service, and the proxy through which it reaches Redis.

use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use crate::chaos::Chaos;
use crate::redis_server::free_port;
use crate::store::things::ISSUER;
use crate::store::worlds::key;

/// A process of auth-service that can be killed and started again.
pub(super) struct Replica {
    process: Mutex<Option<Child>>,
    pub(super) way: Chaos,
    pub(super) public: u16,
    pub(super) edge: u16,
    data: tempfile::TempDir,
}

impl Replica {
    pub(super) async fn start(redis: u16) -> Self {
        let way = Chaos::before(redis).await;
        let data = tempfile::tempdir().unwrap();
        let replica = Self { process: Mutex::new(None), way, public: free_port(), edge: free_port(), data };
        replica.run();
        replica
    }

    fn run(&self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.data.path().join("log"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_auth-service"));
        command.env_clear().envs([
            ("ISSUER", ISSUER),
            ("PROTECTED_HOSTS", "mcp.example"),
            ("REGISTRATION_RATE", "100000"),
            ("WORKERS", "1"),
            ("RUST_LOG", "warn"),
            ("OPS_LISTEN", "127.0.0.1:0"),
        ]);
        command.env("REDIS_URL", self.way.url()).env("STORE_KEY", key().encode().as_str());
        command.env("PUBLIC_LISTEN", format!("127.0.0.1:{}", self.public));
        command.env("EDGE_LISTEN", format!("127.0.0.1:{}", self.edge));
        command.stdout(log.unwrap()).stderr(Stdio::null());
        *self.process.lock().unwrap() = Some(command.spawn().unwrap());
    }

    /// The last 40 lines of its log.
    pub(super) fn log(&self) -> String {
        let log = std::fs::read_to_string(self.data.path().join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(40).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    pub(super) fn kill(&self) {
        if let Some(mut process) = self.process.lock().unwrap().take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts the process if it is not running. The process exits if Redis is unreachable, so several starts might
    /// be needed, as under a supervisor.
    pub(super) fn see_that_it_runs(&self) {
        let ended = match self.process.lock().unwrap().as_mut() {
            Some(process) => process.try_wait().unwrap().is_some(),
            None => true,
        };
        if ended {
            self.run();
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.kill();
    }
}
