//! Isolates children from each other, although they have the same user id. Each child is started in its own
//! Landlock domain. A process in a domain can trace another process and open its memory, environment and files
//! in `/proc` only if the other process is in the same domain or in one nested inside it (Linux,
//! `Documentation/userspace-api/landlock.rst`, "Ptrace restrictions"). The wrapper and the supervisors are in
//! no domain, so they can access the children, and the children cannot access them. A system call filter
//! (`filter`) blocks calls that a domain does not block.

use std::error::Error;
use std::io;
use std::thread;

use landlock::{
    AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use serde::{Deserialize, Serialize};

use super::filter;

/// What a process in a domain cannot do to processes outside the domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Boundary {
    /// Tracing, and everything in `/proc` that needs the right to trace (Linux 5.19 and later).
    Tracing,
    /// Tracing as above, and also sending signals and connecting to abstract sockets (Linux 6.12 and later).
    Signals,
}

/// How children are isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// The domain that each child gets, if any.
    pub boundary: Option<Boundary>,
    /// Whether the system calls of each child are filtered.
    pub has_filter: bool,
}

/// Why the kernel cannot isolate children.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The kernel has no Landlock domains.
    #[error(
        "the kernel cannot isolate them: that needs Landlock of Linux 5.19 or later, enabled and not \
         forbidden by the container ({0})"
    )]
    Boundary(String),
    /// The kernel cannot filter system calls.
    #[error(
        "the kernel cannot filter their system calls: that needs seccomp, enabled and not forbidden by the \
         container ({0})"
    )]
    Filter(String),
}

impl Boundary {
    /// The strongest boundary that the kernel has.
    pub fn find() -> Result<Self, Unavailable> {
        let enters = |boundary: Self| on_a_thread(|| boundary.enter()).map(|()| boundary);
        enters(Self::Signals)
            .or_else(|_| enters(Self::Tracing))
            .map_err(|error| Unavailable::Boundary(error.to_string()))
    }
}

impl Isolation {
    /// No isolation between children.
    pub const OFF: Self = Self { boundary: None, has_filter: false };

    /// Whether the kernel can filter system calls.
    pub fn can_filter() -> Result<(), Unavailable> {
        on_a_thread(filter::enter).map_err(|error| Unavailable::Filter(error.to_string()))
    }

    /// Starts a process in its own domain with filtered system calls. The domain and the filter apply to a
    /// thread and everything that the thread starts, and cannot be removed. Therefore a separate thread enters
    /// them and starts the process. Entering them between fork and exec would need unsafe code.
    pub(super) fn start<P: Send>(self, start: impl FnOnce() -> io::Result<P> + Send) -> io::Result<P> {
        if self == Self::OFF {
            return start();
        }
        on_a_thread(|| {
            self.boundary.map_or(Ok(()), Boundary::enter)?;
            if self.has_filter {
                filter::enter()?;
            }
            start()
        })
    }
}

/// Stack size of the thread that starts a child, in bytes.
const STACK: usize = 256 << 10;

fn on_a_thread<T: Send>(run: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, run)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts children panicked")))
    })
}

impl Boundary {
    /// Puts this thread and every process that it starts from now on into a new domain. The kernel requires
    /// that these can no longer gain privileges by running a program (`no_new_privs`).
    fn enter(self) -> io::Result<()> {
        let entered = self.rules().and_then(|rules| Ok(rules.restrict_self()?));
        match entered.map_err(io::Error::other)?.ruleset {
            RulesetStatus::FullyEnforced => Ok(()),
            RulesetStatus::PartiallyEnforced | RulesetStatus::NotEnforced => {
                Err(io::Error::other("Landlock is not enforced"))
            }
        }
    }

    fn rules(self) -> Result<RulesetCreated, Box<dyn Error + Send + Sync>> {
        let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        match self {
            Self::Signals => Ok(rules.scope(Scope::Signal)?.scope(Scope::AbstractUnixSocket)?.create()?),
            // A domain must restrict something. This one restricts renaming and linking across directories, as
            // every domain with file rules does, and then allows both everywhere.
            Self::Tracing => {
                let root = PathBeneath::new(PathFd::new("/")?, AccessFs::Refer);
                Ok(rules.handle_access(AccessFs::Refer)?.create()?.add_rule(root)?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Child, Command, Stdio};
    use std::time::Instant;

    use super::*;

    fn run(isolation: Isolation, script: &str) -> Child {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
        isolation.start(|| shell.spawn()).unwrap()
    }

    fn succeeds(isolation: Isolation, script: &str) -> bool {
        run(isolation, script).wait().unwrap().success()
    }

    #[test]
    fn each_boundary_keeps_one_process_from_another_and_lets_it_rename() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().display();
        for boundary in [Boundary::Tracing, Boundary::Signals] {
            if let Err(error) = on_a_thread(|| boundary.enter()) {
                let line = format!("SKIPPED child::isolation, {boundary:?}: {error}\n");
                // The test runner shows the output of eprintln only for tests that fail.
                io::stderr().write_all(line.as_bytes()).unwrap();
                continue;
            }
            let apart = Isolation { boundary: Some(boundary), has_filter: false };
            let mut other = run(apart, "exec sleep 1000");
            let reads = format!("readlink /proc/{}/fd/0", other.id());
            assert!(!succeeds(apart, &reads), "{boundary:?}");
            // A process outside all domains, like the wrapper, can read it.
            assert!(succeeds(Isolation::OFF, &reads));
            assert!(succeeds(apart, "sleep 1000 & readlink /proc/$!/fd/0 && kill $!"));
            // `ln` fails across directories, whereas `mv` would fall back to copying.
            let links = format!("cd {place} && mkdir a b && touch a/x && ln a/x b/x && rm -r a b");
            assert!(succeeds(apart, &links), "{boundary:?}");
            assert_eq!(
                succeeds(apart, &format!("kill -0 {}", other.id())),
                boundary == Boundary::Tracing,
                "{boundary:?}"
            );
            other.kill().unwrap();
            other.wait().unwrap();
        }
    }

    fn strongest() -> Isolation {
        Isolation { boundary: Boundary::find().ok(), has_filter: Isolation::can_filter().is_ok() }
    }

    #[test]
    fn what_cannot_be_started_is_told_as_without_isolation() {
        let errors = [Isolation::OFF, strongest()].map(|isolation| {
            isolation.start(|| Command::new("no-such-program").spawn()).unwrap_err().to_string()
        });
        assert_eq!(errors[0], errors[1]);
    }

    /// Prints how much longer a process takes to start in a domain (`cargo test --lib what_a_domain_costs --
    /// --nocapture`).
    #[test]
    fn what_a_domain_costs() {
        let kinds = [Isolation::OFF, strongest()];
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..50 {
            for (isolation, times) in kinds.iter().zip(&mut times) {
                let start = Instant::now();
                let mut child = isolation.start(|| Command::new("true").spawn()).unwrap();
                times.push(start.elapsed());
                child.wait().unwrap();
            }
        }
        for (isolation, times) in kinds.iter().zip(&mut times) {
            times.sort_unstable();
            println!("{isolation:?}: {:?} to start a process, median of {}", times[25], times.len());
        }
    }
}
