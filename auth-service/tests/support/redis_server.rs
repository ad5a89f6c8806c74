//! A `redis-server` for one test, on a free loopback port and in its own directory. It is stopped at the end of
//! the test.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) struct RedisServer {
    pub(crate) port: u16,
    pub(crate) process: Option<Child>,
    options: Vec<String>,
    pub(crate) data: tempfile::TempDir,
}

/// The program that `REDIS_SERVER` names, such as Valkey or another version, or the installed `redis-server` by
/// default.
pub(crate) fn program() -> Command {
    Command::new(std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into()))
}

/// A port that was free a moment ago. It is low enough that the cluster bus port above it is also valid.
pub(crate) fn free_port() -> u16 {
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if port < 55_000 {
            return port;
        }
    }
}

impl RedisServer {
    /// Starts a server. If Redis is not installed, prints a message and returns `None`.
    pub(crate) fn start(options: &[&str]) -> Option<Self> {
        let installed = program().arg("--version").stdout(Stdio::null()).status().is_ok();
        if !installed {
            #[expect(clippy::print_stderr, reason = "tells the user why a test did nothing")]
            {
                eprintln!("SKIPPED: there is no redis-server on PATH; install Redis 7 to run this test");
            }
            return None;
        }
        for _ in 0..20 {
            let options = options.iter().map(|option| (*option).to_owned()).collect();
            let mut server =
                Self { port: free_port(), process: None, options, data: tempfile::tempdir().unwrap() };
            if server.run() {
                return Some(server);
            }
        }
        panic!("redis-server did not start");
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts the process on its port. Returns whether it accepts connections, according to its own log. A test
    /// connection would prove nothing, because another process could have taken the port in the meantime.
    pub(crate) fn run(&mut self) -> bool {
        let log = self.data.path().join("log");
        std::fs::write(&log, "").unwrap();
        let mut command = program();
        command.args(["--bind", "127.0.0.1", "--daemonize", "no", "--save", "", "--rdbcompression", "no"]);
        command.arg("--port").arg(self.port.to_string()).arg("--dir").arg(self.data.path());
        command.arg("--logfile").arg(&log);
        command.args(&self.options).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if process.try_wait().unwrap().is_some() {
                return false;
            }
            if std::fs::read_to_string(&log).unwrap().contains("Ready to accept connections") {
                self.process = Some(process);
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.process = Some(process);
        self.kill();
        false
    }

    /// Kills the process immediately, to simulate a crash.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
