//! The policy in force, and the loading of a changed policy file.
//!
//! The file is read several times per second, and its content is compared. Comparing contents works with atomic
//! renames, with a `ConfigMap` whose symlink is replaced, with editors, and with unreliable file times. New
//! content is used only after two reads in a row have returned it, so that a file that is still being written is
//! not treated as a shorter file with fewer rules.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::oneshot;

use crate::domain::resource::ProtectedHosts;

use super::Policy;
use super::file::{self, MAX_FILE_SIZE, Note, PolicyProblems};
use super::who::Who;

/// How often the file is read. A change takes effect after twice this time plus the time to read the file.
const EVERY: Duration = Duration::from_millis(250);

/// How long a read of the file can take before it is reported as a problem.
const SILENCE: Duration = Duration::from_secs(5);
/// Number of consecutive reads with different content after which a problem is reported.
const RESTLESS: u32 = 20;

/// The sources of the rules.
#[derive(Debug, Clone, Default)]
pub struct PolicySource {
    /// The path of the policy file (`POLICY_FILE`).
    pub file: Option<PathBuf>,
    /// The users in `ALLOWED_USERS`, `ALLOWED_GROUPS` and `ALLOWED_EMAIL_DOMAINS`.
    pub allowed: Who,
}

impl PolicySource {
    /// Checks whether the policy file can be used, if there is one.
    ///
    /// # Errors
    /// Fails if the file cannot be read, or is not a valid policy.
    pub fn check(&self, hosts: Option<&ProtectedHosts>) -> Result<(), LoadError> {
        let Some(path) = &self.file else { return Ok(()) };
        parsed(path, &read(path)?, &self.allowed, hosts).map(drop)
    }
}

/// Why the policy file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {path}: {cause}; name a regular file in UTF-8 that this user can read")]
    Read {
        /// The path of the file.
        path: String,
        /// The error from the operating system.
        cause: std::io::Error,
    },
    /// The file is not a valid policy.
    #[error("{path}: {problems}")]
    Problems {
        /// The path of the file.
        path: String,
        /// The problems that were found in the file.
        problems: PolicyProblems,
    },
}

/// Whether the policy in force is the one in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyStatus {
    /// The number of the policy in force ([`Policy::epoch`]).
    pub epoch: u64,
    /// The reason why the current file is not in force. The last valid policy is in force instead.
    pub error: Option<String>,
}

/// Holds the policy in force. A decision must read the policy once, so that a change cannot affect only part of
/// the decision.
#[derive(Debug)]
pub struct CurrentPolicy {
    policy: ArcSwap<Policy>,
    source: PolicySource,
    hosts: ProtectedHosts,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    /// The most recently parsed content.
    judged: Content,
    /// New content from the last read, which differs from `judged`. It is parsed if the next read returns the same
    /// content.
    fresh: Option<Content>,
    /// The number of consecutive reads that returned different content each time.
    restless: u32,
    /// Why `judged` is not in force.
    error: Option<String>,
    /// Why the last attempts to read the file failed. Cleared when a read returns the same content as the previous
    /// read, or the content of `judged`.
    trouble: Option<String>,
}

impl Seen {
    fn problem(&self) -> Option<&String> {
        self.trouble.as_ref().or(self.error.as_ref())
    }

    /// Records that the file can be read and no longer changes.
    fn settle(&mut self) {
        (self.fresh, self.restless, self.trouble) = (None, 0, None);
        metrics::gauge!("mcp_gate_policy_stale").set(if self.error.is_some() { 1.0 } else { 0.0 });
    }
}

/// The result of reading the file: its bytes or an error message.
type Content = Result<Vec<u8>, String>;

impl CurrentPolicy {
    /// Loads the policy file, if there is one. The service does not start with a file that cannot be used.
    pub fn load(source: PolicySource, hosts: ProtectedHosts) -> Result<Self, LoadError> {
        let (policy, judged) = match &source.file {
            None => (Policy::without_file(source.allowed.clone()), Ok(Vec::new())),
            Some(path) => {
                let bytes = read(path)?;
                (accept(path, &bytes, &source.allowed, &hosts)?, Ok(bytes))
            }
        };
        tracing::info!(target: "audit", event = "policy_loaded", epoch = policy.epoch);
        report(&policy, false);
        let seen = Mutex::new(Seen { judged, fresh: None, restless: 0, error: None, trouble: None });
        Ok(Self { policy: ArcSwap::from_pointee(policy), source, hosts, seen })
    }

    /// The policy that is in force now.
    pub fn now(&self) -> Guard<Arc<Policy>> {
        self.policy.load()
    }

    /// Whether the policy in force is the one in the file.
    pub fn status(&self) -> PolicyStatus {
        let error = self.seen().problem().cloned();
        PolicyStatus { epoch: self.policy.load().epoch, error }
    }

    /// Reads the file at regular intervals. Returns immediately if there is no policy file.
    pub async fn follow(self: Arc<Self>) {
        if self.source.file.is_none() {
            return;
        }
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look_beside().await;
        }
    }

    /// Reads the file now and treats it as complete. Called when an operator requests a reload.
    pub async fn reload(self: &Arc<Self>) {
        if self.source.file.is_some() {
            self.look_beside().await;
            self.look_beside().await;
        }
    }

    /// Reads the file once on a separate thread. A network file system can be slow or never respond, and this must
    /// not delay requests or the shutdown of the process.
    async fn look_beside(self: &Arc<Self>) {
        let (this, (done, looked)) = (Arc::clone(self), oneshot::channel());
        let look = move || {
            this.look();
            // Sending fails only if the receiver has already been dropped.
            let _ = done.send(());
        };
        if std::thread::Builder::new().name("policy-file".to_owned()).spawn(look).is_err() {
            note_trouble(
                &mut self.seen(),
                "the policy file could not be read: no thread can be started".to_owned(),
            );
            return;
        }
        tokio::pin!(looked);
        if tokio::time::timeout(SILENCE, &mut looked).await.is_err() {
            let error = format!("the policy file was not read within {} s", SILENCE.as_secs());
            note_trouble(&mut self.seen(), error);
            // The next read must not start before this one has finished, because it would hang as well.
            let _ = looked.await;
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the file once. New content is parsed if the previous read returned the same content.
    pub fn look(&self) {
        let Some(path) = &self.source.file else { return };
        let found: Content =
            content(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
        let mut seen = self.seen();
        if seen.judged == found {
            seen.settle();
            return;
        }
        if seen.fresh.as_ref() != Some(&found) {
            seen.fresh = Some(found);
            seen.restless = seen.restless.saturating_add(1);
            if seen.restless == RESTLESS {
                note_trouble(
                    &mut seen,
                    format!(
                        "{} changes with every read, so no version of it is used. Write the new version to another file, \
                         and rename that file",
                        path.display()
                    ),
                );
            }
            return;
        }
        seen.error = match &found {
            Ok(bytes) => accept(path, bytes, &self.source.allowed, &self.hosts)
                .map(|policy| self.put_in_force(policy))
                .err()
                .map(|error| error.to_string()),
            Err(error) => Some(error.clone()),
        };
        if let Some(error) = &seen.error {
            tell_refused(error);
        }
        seen.judged = found;
        seen.settle();
    }

    fn put_in_force(&self, mut policy: Policy) {
        policy.epoch = self.policy.load().epoch + 1;
        tracing::info!(target: "audit", event = "policy_loaded", epoch = policy.epoch);
        report(&policy, true);
        self.policy.store(Arc::new(policy));
    }
}

/// Records that the file cannot be read, and logs it once.
fn note_trouble(seen: &mut Seen, error: String) {
    if seen.trouble.as_ref() != Some(&error) {
        tell_refused(&error);
    }
    metrics::gauge!("mcp_gate_policy_stale").set(1.0);
    seen.trouble = Some(error);
}

fn tell_refused(error: &str) {
    // Each log event must be one line.
    let error = error.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    tracing::error!(target: "audit", event = "policy_refused", "the last good policy stays in force: {error}");
    metrics::counter!("mcp_gate_policy_loads_total", "result" => "refused").increment(1);
}

fn report(policy: &Policy, changed: bool) {
    if changed {
        metrics::counter!("mcp_gate_policy_loads_total", "result" => "loaded").increment(1);
    }
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; there are never 2^53 policies")]
    metrics::gauge!("mcp_gate_policy_epoch").set(policy.epoch as f64);
    metrics::gauge!("mcp_gate_policy_stale").set(0.0);
}

fn content(path: &Path) -> std::io::Result<Vec<u8>> {
    // One byte more than the limit is read, so that the parser can report a file that is too long.
    contract::files::read_regular(path, MAX_FILE_SIZE + 1)
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    content(path).map_err(|cause| LoadError::Read { path: path.display().to_string(), cause })
}

/// Parses the content of a policy file, and logs the warnings.
fn accept(path: &Path, bytes: &[u8], allowed: &Who, hosts: &ProtectedHosts) -> Result<Policy, LoadError> {
    let (policy, warnings) = parsed(path, bytes, allowed, Some(hosts))?;
    for warning in warnings {
        tracing::warn!("{}: {warning}", path.display());
    }
    Ok(policy)
}

fn parsed(
    path: &Path,
    bytes: &[u8],
    allowed: &Who,
    hosts: Option<&ProtectedHosts>,
) -> Result<(Policy, Vec<Note>), LoadError> {
    let text = std::str::from_utf8(bytes).map_err(|_| LoadError::Read {
        path: path.display().to_string(),
        cause: std::io::Error::new(std::io::ErrorKind::InvalidData, "it is not UTF-8 text"),
    })?;
    file::parse(text, allowed.clone(), hosts)
        .map_err(|problems| LoadError::Problems { path: path.display().to_string(), problems })
}
