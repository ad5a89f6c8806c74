//! The last step of a start. The wrapper's program runs once more, sets its own resource limits and then
//! becomes the child (`execve(2)`), so the limits are in force before the first instruction of the child.
//! Limits that the supervisor set from outside would come too late for processes that the child starts
//! immediately. Limits that the supervisor set on itself could not be undone, because only root can raise a
//! hard limit.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use contract::printing::print_error;

use super::orders::{Orders, PREFIX, Report};
use super::pipes;

/// Replaces this process with the child that the arguments name. Standard input is a socket to the supervisor,
/// which receives the reports. The socket is closed when the child starts to run.
pub fn become_child(arguments: impl Iterator<Item = String>) -> ExitCode {
    let Ok(mut supervisor) = pipes::socket() else { return ExitCode::FAILURE };
    let Err(error) = run(arguments, &mut supervisor);
    if say(&mut supervisor, &Report::NotStarted(error.to_string())).is_err() {
        print_error(format_args!("stdio-wrapper: only a supervisor can start a child: {error}"));
    }
    ExitCode::FAILURE
}

fn run(
    mut arguments: impl Iterator<Item = String>,
    supervisor: &mut UnixStream,
) -> io::Result<std::convert::Infallible> {
    let orders = arguments.next().ok_or_else(|| io::Error::other("there are no orders"))?;
    let orders: Orders = serde_json::from_str(&orders)?;
    let pipes = pipes::receive(supervisor)?;
    let mut command = command(arguments, &orders, pipes)?;
    // A Unix session has its own process group, which receives signals, and its own share of the processor
    // (`autogroup`, sched(7)). A child in the wrapper's session could lower the wrapper's share.
    rustix::process::setsid()?;
    for warning in orders.limits.apply() {
        // The child is started even if the warning cannot be sent.
        let _ = say(supervisor, &Report::Warning(warning));
    }
    Err(command.exec())
}

fn command(
    mut arguments: impl Iterator<Item = String>,
    orders: &Orders,
    [stdin, stdout, stderr]: [OwnedFd; 3],
) -> io::Result<Command> {
    let program = arguments.next().ok_or_else(|| io::Error::other("there is no command"))?;
    let mut command = Command::new(program);
    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.to_str()?.strip_prefix(PREFIX)?.to_owned(), value)));
    command.args(arguments).env_clear().envs(env);
    command.stdin(stdin).stdout(stdout).stderr(stderr);
    if let Some(cwd) = &orders.cwd {
        command.current_dir(cwd);
    }
    Ok(command)
}

fn say(supervisor: &mut UnixStream, report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    supervisor.write_all(&line)
}
