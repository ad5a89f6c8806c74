//! Processes of a test. Each has its own process group, and is stopped when its value is dropped.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// The time limit for a process to exit after SIGTERM.
const GRACE: Duration = Duration::from_secs(15);

/// A command whose process gets SIGTERM when the thread that started it ends, so that a killed test run leaves no
/// processes behind. This needs `setpriv` of util-linux. Without it, a process is stopped only when its value is
/// dropped.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    static SETPRIV: OnceLock<bool> = OnceLock::new();
    let dies_with_us = *SETPRIV.get_or_init(|| {
        let trial = Command::new("setpriv").args(["--pdeathsig", "TERM", "true"]).status();
        trial.is_ok_and(|status| status.success())
    });
    if !dies_with_us {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]).arg(program);
    command
}

/// Like [`command`], with only `PATH` and `HOME` in its environment, so that no setting of the machine
/// affects the test.
pub fn clean_command(program: impl AsRef<OsStr>) -> Command {
    let mut command = command(program);
    command.env_clear();
    for name in ["PATH", "HOME"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// The same command, run by another program whose last arguments are a command line, such as `unshare`.
#[must_use]
pub fn run_by(runner: &[&OsStr], command: &Command) -> Command {
    let (program, arguments) = runner.split_first().expect("a runner has a name");
    let mut run = Command::new(program);
    run.args(arguments).arg(command.get_program()).args(command.get_args());
    // It is not possible to find out whether `env_clear` was called on the command, so the whole environment is
    // set here.
    run.env_clear();
    run.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    run
}

/// The same command, for which a host name has these addresses, in this order. The command gets its own
/// `/etc/hosts`, which is written to this directory.
#[track_caller]
pub fn with_host(name: &str, addresses: &[Ipv4Addr], dir: &Path, command: &Command) -> Command {
    let hosts = dir.join("hosts");
    // Envoy's resolver uses only the first line of an address, so `localhost` has no separate line.
    let lines: Vec<String> = addresses.iter().map(|address| format!("{address} {name}")).collect();
    fs::write(&hosts, lines.join("\n") + "\n").expect("the file is writable");
    let script = OsStr::new("mount --bind \"$0\" /etc/hosts && exec \"$@\"");
    let mut runner = vec![OsStr::new("unshare"), OsStr::new("--mount")];
    if !rustix::process::geteuid().is_root() {
        runner.push(OsStr::new("--map-root-user"));
    }
    runner.extend([OsStr::new("sh"), OsStr::new("-c"), script, hosts.as_os_str()]);
    run_by(&runner, command)
}

/// A running process, and the file with its output.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command in its own process group. Its output is appended to `NAME.log` in `log_dir`.
    #[track_caller]
    pub fn start(name: &'static str, command: &mut Command, log_dir: &Path) -> Self {
        Self::start_with_errors_to(None, name, command, log_dir)
    }

    /// Like [`Process::start`], with standard error in this file, if there is one.
    #[track_caller]
    pub fn start_with_errors_to(
        errors: Option<&File>,
        name: &'static str,
        command: &mut Command,
        log_dir: &Path,
    ) -> Self {
        let log = log_dir.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log).expect("the log can be written");
        let errors = errors.unwrap_or(&output).try_clone().expect("a file handle can be cloned");
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} did not start: {error}"));
        Self { name, child, log }
    }

    /// The process ID, which is also the ID of the process group.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, if the process has exited.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Sends SIGKILL, as in a crash or by the kernel's out-of-memory killer, and waits until the process exits.
    pub fn kill(&mut self) {
        kill_9(self.id());
        self.child.wait().expect("a child can be waited for");
    }

    /// Sends a signal to the whole process group.
    pub fn signal(&self, signal: Signal) {
        // The group might have exited already, which is not an error.
        kill_process_group(self.group(), signal).ok();
    }

    /// Sends SIGTERM, and SIGKILL if the process does not exit in time. Returns the exit status, unless the
    /// process was killed.
    pub fn stop(&mut self) -> Option<ExitStatus> {
        if let Some(status) = self.ended() {
            return Some(status);
        }
        self.signal(Signal::TERM);
        let status = self.wait_for(GRACE);
        if status.is_none() {
            eprintln!("{} did not exit within {GRACE:?} after SIGTERM and is killed", self.name);
            self.signal(Signal::KILL);
            self.child.wait().expect("a child can be waited for");
        }
        status
    }

    /// Waits at most this long for the process to exit on its own.
    pub fn wait_for(&mut self, most: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + most;
        loop {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            if Instant::now() > deadline {
                return None;
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// The whole output of the process so far.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines of its output with a heading, for a failure message.
    pub fn log_tail(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        let tail = lines[lines.len().saturating_sub(25)..].join("\n  | ");
        format!("--- {} ({})\n  | {tail}\n", self.name, self.log.display())
    }

    fn group(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

/// Sends SIGKILL to a process that this test has started and has not yet waited for, so its ID cannot have been
/// reused.
pub fn kill_9(id: u32) {
    let id = i32::try_from(id).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(id, Signal::KILL).expect("a child can be killed");
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}
