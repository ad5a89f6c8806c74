//! A running stack: an edge proxy, auth-service and the wrapper.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::control_group::ControlGroup;
use crate::edge::Surroundings;
use crate::gate::{Answer, Gate};
use crate::places::{binary, everything_server, free_port};
use crate::process::{self, Process};
use crate::setup::{ACCOUNT, Backend, Setup, Tier};

/// Time limit for a part of a stack to become ready.
const START: Duration = Duration::from_secs(40);

/// The host name by which an edge reaches a program with several replicas.
const REPLICAS: &str = "replicas";

/// The settings for the location of auth-service's state and for its key.
const STATE: [&str; 3] = ["DATA_DIR", "REDIS_URL", "STORE_KEY"];

/// The real auth-service, wrapper and edge proxy, in a temporary directory. Dropping this value stops them.
#[derive(Debug)]
pub struct Stack {
    /// The stack from the point of view of a client.
    pub gate: Gate,
    /// The port of the edge.
    pub port: u16,
    /// The secret that only the edge and auth-service know.
    pub edge_secret: String,
    /// The public port of auth-service, which the edge forwards to.
    pub auth_public_port: u16,
    /// The port of auth-service for checks over HTTP.
    pub auth_edge_port: u16,
    /// The port of auth-service for checks over gRPC.
    pub auth_edge_grpc_port: u16,
    /// The port of auth-service's ops listener.
    pub ops_port: u16,
    /// The port of the service behind the edge.
    pub upstream_port: u16,
    /// The port of the wrapper's ops listener.
    pub wrapper_ops_port: u16,
    setup: Setup,
    /// The command that the wrapper runs, unless the test has its own server.
    wrapped: Vec<String>,
    // The fields are dropped in this order: the edge first, the directory last.
    edge: Option<Process>,
    wrapper: Option<Process>,
    auth_service: Option<Process>,
    groups: BTreeMap<Tier, ControlGroup>,
    dir: TempDir,
}

impl Setup {
    /// Starts the stack and waits until it is ready.
    pub async fn start(mut self) -> Stack {
        let backend = self.backend.take().unwrap_or_else(|| Backend::Wrapper(everything_server()));
        Stack::from_setup(self, backend).await
    }
}

impl Stack {
    /// Starts the stack like `scripts/up`.
    pub async fn start() -> Self {
        Setup::as_shipped().start().await
    }

    async fn from_setup(setup: Setup, backend: Backend) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("mcp-gate-")
            .tempdir()
            .expect("a temporary directory can be created");
        let port = free_port();
        let gate = Gate::at(
            &format!("http://localhost:{port}{}", setup.issuer_path),
            &format!("http://localhost:{port}/mcp"),
        );
        let mut stack = Self {
            gate,
            port,
            edge_secret: format!("edge-secret-of-{port}-0123456789abcdef"),
            auth_public_port: free_port(),
            auth_edge_port: free_port(),
            auth_edge_grpc_port: free_port(),
            ops_port: free_port(),
            upstream_port: 0,
            wrapper_ops_port: free_port(),
            setup,
            wrapped: Vec::new(),
            edge: None,
            wrapper: None,
            auth_service: None,
            groups: BTreeMap::new(),
            dir,
        };
        stack.add_account(ACCOUNT.0, Some(ACCOUNT.1));
        stack.start_auth_service().await;
        stack.upstream_port = match backend {
            Backend::Port(port) => port,
            Backend::Wrapper(command) => stack.start_wrapper(command).await,
        };
        stack.start_edge();
        stack.wait_until_ready().await;
        stack
    }

    /// The directory with the logs and the state.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The last log lines of all programs.
    pub fn logs(&self) -> String {
        [&self.auth_service, &self.wrapper, &self.edge].into_iter().flatten().map(Process::log_tail).collect()
    }

    /// The whole log of one program (`auth-service`, `stdio-wrapper`, or the name of the edge).
    pub fn log_of(&self, tier: &str) -> String {
        fs::read_to_string(self.dir().join(format!("{tier}.log"))).unwrap_or_default()
    }

    /// Adds an account while auth-service is not running. Without `password`, the account gets a one-time
    /// password. Returns the password.
    #[track_caller]
    pub fn add_account(&self, name: &str, password: Option<&str>) -> String {
        let mut command = self.auth_command();
        command.args(["user", "add", "--new-store", name]);
        if password.is_some() {
            command.arg("--password-stdin");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("auth-service starts");
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        if let Some(password) = password {
            writeln!(stdin, "{password}").expect("auth-service reads the password");
        }
        drop(stdin);
        let output = child.wait_with_output().expect("auth-service ends");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "`auth-service user add {name}` failed: {out}{err}");
        match password {
            Some(password) => password.to_owned(),
            None => out
                .lines()
                .find_map(|line| line.strip_prefix("password:"))
                .unwrap_or_else(|| panic!("no line `password: …` in: {out}{err}"))
                .trim()
                .to_owned(),
        }
    }

    /// Runs an operator command of auth-service and returns its output. The command uses the running service, or
    /// else the stored state. Only the settings for the location of the state are set, as for an operator.
    #[track_caller]
    pub fn operator(&self, arguments: &[&str]) -> String {
        self.try_operator(arguments)
            .unwrap_or_else(|said| panic!("`auth-service {}` failed: {said}", arguments.join(" ")))
    }

    /// Like [`Stack::operator`]. The error is the output of a failed command.
    pub fn try_operator(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = process::clean_command(binary("auth-service"));
        let output = command
            .args(arguments)
            .env("DATA_DIR", self.dir().join("auth"))
            .envs(self.setup.auth_settings.iter().filter(|(name, _)| STATE.contains(&name.as_str())).cloned())
            .output()
            .expect("auth-service starts");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(out.into_owned()) } else { Err(format!("{out}{err}")) }
    }

    /// Sends a signal to the process group of auth-service.
    #[track_caller]
    pub fn signal_auth_service(&self, signal: rustix::process::Signal) {
        self.auth_service.as_ref().expect("auth-service runs").signal(signal);
    }

    /// Waits at most 30 seconds for auth-service to exit on its own. Returns its exit status.
    pub async fn auth_service_ends(&mut self) -> Option<std::process::ExitStatus> {
        let mut process = self.auth_service.take().expect("auth-service runs");
        let waited = tokio::task::spawn_blocking(move || process.wait_for(Duration::from_secs(30)));
        waited.await.expect("waiting does not fail")
    }

    /// The port of auth-service for checks over HTTP, and the secret of the edge.
    pub fn check_at(&self) -> (u16, String) {
        (self.auth_edge_port, self.edge_secret.clone())
    }

    /// The response of auth-service at `/ready`.
    pub async fn ready(&self) -> Answer {
        self.get(&format!("http://127.0.0.1:{}/ready", self.ops_port))
            .await
            .expect("the ops listener responds")
    }

    /// The metrics of auth-service, as `/metrics` returns them.
    pub async fn metrics(&self) -> String {
        self.metrics_of(Ipv4Addr::LOCALHOST).await
    }

    /// The metrics of the replica of auth-service at this address.
    pub async fn metrics_of(&self, address: Ipv4Addr) -> String {
        let url = format!("http://{address}:{}/metrics", self.ops_port);
        self.get(&url).await.expect("the ops listener responds").body
    }

    /// The output of auth-service when it refuses to start.
    #[track_caller]
    pub fn refusal_to_start(&self) -> String {
        assert!(self.auth_service.is_none(), "auth-service is already running");
        let output = self.auth_command().output().expect("auth-service starts");
        assert!(!output.status.success(), "auth-service exited successfully");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// Like [`Stack::refusal_to_start`], with a different value for a setting, and within the limits of the setup.
    #[track_caller]
    pub fn refusal_to_start_with(&mut self, name: &str, value: &str) -> String {
        assert!(self.auth_service.is_none(), "auth-service is already running");
        let mut command = self.auth_command();
        command.env(name, value);
        let output = self.bounded(Tier::AuthService, command).output().expect("auth-service starts");
        assert!(!output.status.success(), "auth-service exited successfully");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// The URL of the MCP endpoint behind the edge, which clients cannot reach.
    pub fn upstream_url(&self) -> String {
        format!("http://127.0.0.1:{}/mcp", self.upstream_port)
    }

    /// The process ID of auth-service.
    #[track_caller]
    pub fn auth_service_pid(&self) -> u32 {
        self.auth_service.as_ref().expect("auth-service runs").id()
    }

    /// Kills auth-service with SIGKILL, and waits until it has exited.
    #[track_caller]
    pub fn kill_auth_service(&mut self) {
        self.auth_service.take().expect("auth-service runs").kill();
    }

    /// Starts auth-service again with the same state.
    pub async fn start_auth_service(&mut self) {
        self.start_auth_service_until_ready_is(&[200]).await;
    }

    /// Like [`Stack::start_auth_service`], but waits until the readiness endpoint returns one of these statuses.
    pub async fn start_auth_service_until_ready_is(&mut self, statuses: &[u16]) {
        assert!(self.auth_service.is_none(), "auth-service is already running");
        let command = self.auth_command();
        let mut command = self.bounded(Tier::AuthService, command);
        let log = self.setup.auth_log.as_deref();
        let process = Process::start_with_errors_to(log, "auth-service", &mut command, self.dir());
        self.auth_service = Some(process);
        let ready = format!("http://127.0.0.1:{}/ready", self.ops_port);
        self.wait_for("auth-service", &ready, |answer| statuses.contains(&answer.status)).await;
    }

    /// Starts another replica of auth-service, which uses the same ports at another loopback address.
    pub async fn start_replica(&mut self, address: Ipv4Addr) -> Process {
        let at = |port: u16| SocketAddr::from((address, port)).to_string();
        let mut command = self.auth_command();
        command
            .env("DATA_DIR", self.dir().join(format!("auth-{address}")))
            .env("PUBLIC_LISTEN", at(self.auth_public_port))
            .env("EDGE_LISTEN", at(self.auth_edge_port))
            .env("EDGE_GRPC_LISTEN", at(self.auth_edge_grpc_port))
            .env("OPS_LISTEN", at(self.ops_port));
        let replica = Process::start("replica", &mut command, self.dir());
        let ready = format!("http://{}/ready", at(self.ops_port));
        self.wait_for("a replica", &ready, |answer| answer.status == 200).await;
        replica
    }

    fn auth_command(&self) -> Command {
        let data = self.dir().join("auth");
        fs::create_dir_all(&data).expect("the data directory can be created");
        let hosts: Vec<String> = std::iter::once("localhost")
            .chain(self.setup.other_hosts.iter().map(String::as_str))
            .map(|host| format!("{host}:{}", self.port))
            .collect();
        let mut command = process::clean_command(binary("auth-service"));
        command
            .env("ISSUER", &self.issuer)
            .env("PROTECTED_HOSTS", hosts.join(","))
            .env("DATA_DIR", data)
            .env("EDGE_SECRET", &self.edge_secret)
            .env("PUBLIC_LISTEN", loopback(self.auth_public_port))
            .env("EDGE_LISTEN", loopback(self.auth_edge_port))
            .env("OPS_LISTEN", loopback(self.ops_port))
            .env("EDGE_GRPC_LISTEN", loopback(self.auth_edge_grpc_port))
            .env("RUST_LOG", "info")
            .envs(self.setup.auth_settings.iter().map(|(name, value)| (name, value)));
        command
    }

    async fn start_wrapper(&mut self, wrapped: Vec<String>) -> u16 {
        self.wrapped = wrapped;
        let port = free_port();
        let command = self.wrapper_command(Ipv4Addr::LOCALHOST, port);
        let mut command = self.bounded(Tier::Wrapper, command);
        self.wrapper = Some(Process::start("stdio-wrapper", &mut command, self.dir()));
        let health = format!("http://127.0.0.1:{}/health", self.wrapper_ops_port);
        self.wait_for("stdio-wrapper", &health, |answer| answer.status == 200).await;
        port
    }

    /// Starts another instance of the wrapper, which uses the same ports at another loopback address.
    pub async fn start_wrapper_at(&mut self, address: Ipv4Addr) -> Process {
        let mut command = self.wrapper_command(address, self.upstream_port);
        let instance = Process::start("wrapper", &mut command, self.dir());
        let health = format!("http://{address}:{}/health", self.wrapper_ops_port);
        self.wait_for("a wrapper", &health, |answer| answer.status == 200).await;
        instance
    }

    fn wrapper_command(&self, address: Ipv4Addr, port: u16) -> Command {
        let at = |port: u16| SocketAddr::from((address, port)).to_string();
        let mut command = process::clean_command(binary("stdio-wrapper"));
        command
            .env("LISTEN", at(port))
            .env("OPS_LISTEN", at(self.wrapper_ops_port))
            .env("MCP_PATH", "/mcp")
            .env("IDENTITY", "assertion")
            .env("ISSUER", &self.issuer)
            .env("RESOURCE", &self.mcp_url)
            .env(
                "JWKS_URL",
                format!("http://127.0.0.1:{}{}/jwks", self.auth_public_port, self.setup.issuer_path),
            )
            .envs(self.setup.wrapper_settings.iter().map(|(name, value)| (name, value)))
            .arg("--")
            .args(&self.wrapped);
        command
    }

    fn start_edge(&mut self) {
        assert!(self.edge.is_none(), "the edge is already running");
        let address_of = |tier: Tier| match &self.setup.replicated {
            Some((replicated, _)) if *replicated == tier => REPLICAS.to_owned(),
            _ => Ipv4Addr::LOCALHOST.to_string(),
        };
        let around = Surroundings {
            dir: self.dir().to_owned(),
            port: self.port,
            secret: self.edge_secret.clone(),
            issuer_path: self.setup.issuer_path.clone(),
            auth_address: address_of(Tier::AuthService),
            auth_public_port: self.auth_public_port,
            auth_edge_port: self.setup.checked_at.unwrap_or(self.auth_edge_port),
            auth_edge_grpc_port: self.auth_edge_grpc_port,
            wrapper_address: address_of(Tier::Wrapper),
            wrapper_port: self.upstream_port,
            requests_per_second: self.setup.requests_per_second,
        };
        let mut command = self.setup.edge.command(&around, &self.setup.edge_changes);
        command.envs(self.setup.edge.container().memory_settings());
        if let Some((_, addresses)) = &self.setup.replicated {
            command = process::with_host(REPLICAS, addresses, self.dir(), &command);
        }
        let mut command = self.bounded(Tier::Edge, command);
        self.edge = Some(Process::start(self.setup.edge.name(), &mut command, self.dir()));
    }

    /// Puts the command into the control group of its program, if the setup limits that program.
    fn bounded(&mut self, tier: Tier, command: Command) -> Command {
        let Some(bounds) = self.setup.bounds.get(&tier) else { return command };
        let make = || ControlGroup::make(*bounds).expect("a control group can be created");
        self.groups.entry(tier).or_insert_with(make).enter(&command)
    }

    /// The control group of one of the programs.
    #[track_caller]
    pub fn group(&self, tier: Tier) -> &ControlGroup {
        self.groups.get(&tier).expect("the program has limits")
    }

    /// Whether the process of one of the programs is still running.
    pub fn runs(&mut self, tier: Tier) -> bool {
        let process = match tier {
            Tier::Edge => &mut self.edge,
            Tier::AuthService => &mut self.auth_service,
            Tier::Wrapper => &mut self.wrapper,
        };
        process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    /// Sends SIGTERM to the edge. Returns whether it exited on its own and successfully.
    #[track_caller]
    pub fn stop_edge(&mut self) -> bool {
        let status = self.edge.take().expect("the edge runs").stop();
        status.is_some_and(|status| status.success())
    }

    /// Starts the edge again, and waits until it is ready.
    pub async fn start_edge_again(&mut self) {
        self.start_edge();
        self.wait_until_ready().await;
    }

    /// Waits until a request through the edge gets a challenge.
    async fn wait_until_ready(&mut self) {
        let url = self.mcp_url.clone();
        let any = self.setup.any_answer;
        let challenges = |answer: &Answer| answer.status == 401 && !answer.challenge().is_empty();
        self.wait_for("the edge", &url, |answer| challenges(answer) || any && answer.status != 404).await;
    }

    async fn wait_for(&mut self, what: &str, url: &str, enough: impl Fn(&Answer) -> bool) {
        let deadline = Instant::now() + START;
        let mut last = String::from("none");
        loop {
            match self.get(url).await {
                Ok(answer) if enough(&answer) => return,
                Ok(answer) => last = format!("{answer:?}"),
                Err(error) => last = if last == "none" { format!("{error:#}") } else { last },
            }
            for process in [&mut self.auth_service, &mut self.wrapper, &mut self.edge].into_iter().flatten() {
                if let Some(status) = process.ended() {
                    panic!("a tier exited ({status}) before {what} was ready\n{}", process.log_tail());
                }
            }
            assert!(
                Instant::now() < deadline,
                "{what} is not ready after {START:?}; last response: {last}\n{}",
                self.logs()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Deref for Stack {
    type Target = Gate;

    fn deref(&self) -> &Gate {
        &self.gate
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}
