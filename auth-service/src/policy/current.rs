//! The policy that is in force, and how a changed file comes into force.
//!
//! The file is read again a few times a second and compared by content: that survives an atomic rename, a `ConfigMap`
//! whose symlink is swapped, editors, and clocks of file systems. A content counts when it was seen twice in a row, so
//! that a file in the middle of being written is not taken for a shorter one with fewer rules.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::oneshot;

use crate::domain::resource::ProtectedHosts;
use crate::files;

use super::Policy;
use super::file::{self, LONGEST_FILE, PolicyProblems};
use super::who::Who;

/// How often the file is read. Twice that, and the time to read it, is how long a change takes.
const EVERY: Duration = Duration::from_millis(250);

/// How long the file may take to be read before that is told.
const SILENCE: Duration = Duration::from_secs(5);

/// Where rules come from.
#[derive(Debug, Clone, Default)]
pub struct PolicySource {
    /// `POLICY_FILE`.
    pub file: Option<PathBuf>,
    /// `ALLOWED_USERS`, `ALLOWED_GROUPS`, `ALLOWED_EMAIL_DOMAINS`.
    pub allowed: Who,
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("cannot read {path}: {cause}")]
    Read {
        /// Which.
        path: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// It is no policy.
    #[error("{path}: {problems}")]
    Problems {
        /// Which.
        path: String,
        /// What is wrong with it.
        problems: PolicyProblems,
    },
}

/// How the policy in force stands to its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// See [`Policy::epoch`].
    pub epoch: u64,
    /// Why the file as it is now is not in force; the last good one is.
    pub error: Option<String>,
}

/// The policy in force. Whoever decides takes it once, and so sees one policy from beginning to end.
#[derive(Debug)]
pub struct CurrentPolicy {
    policy: ArcSwap<Policy>,
    source: PolicySource,
    hosts: ProtectedHosts,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    /// The content that was judged last.
    judged: Content,
    /// The content of the last look, when it differed: the next look shows whether it is whole.
    fresh: Option<Content>,
    error: Option<String>,
}

/// What a look at the file gave: its bytes, or why there are none.
type Content = Result<Vec<u8>, String>;

impl CurrentPolicy {
    /// Loads the file, if there is one. Nothing starts with rules that cannot be read.
    pub fn load(source: PolicySource, hosts: ProtectedHosts) -> Result<Self, LoadError> {
        let (policy, judged) = match &source.file {
            None => (Policy::without_file(source.allowed.clone()), Ok(Vec::new())),
            Some(path) => {
                let bytes = content(path)
                    .map_err(|cause| LoadError::Read { path: path.display().to_string(), cause })?;
                (accept(path, &bytes, &source.allowed, &hosts)?, Ok(bytes))
            }
        };
        report(&policy, false);
        let seen = Mutex::new(Seen { judged, fresh: None, error: None });
        Ok(Self { policy: ArcSwap::from_pointee(policy), source, hosts, seen })
    }

    /// The rules as they are now.
    pub fn now(&self) -> Guard<Arc<Policy>> {
        self.policy.load()
    }

    /// How they stand to the file.
    pub fn standing(&self) -> Standing {
        let error = self.seen.lock().unwrap_or_else(PoisonError::into_inner).error.clone();
        Standing { epoch: self.policy.load().epoch, error }
    }

    /// Looks at the file again and again; ends at once when there is none.
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

    /// Reads the file now, and takes it for whole: somebody says that it is.
    pub async fn reload(self: &Arc<Self>) {
        if self.source.file.is_some() {
            self.look_beside().await;
            self.look_beside().await;
        }
    }

    /// Looks at the file once, on a thread of its own: a network file system may take its time or never answer, and neither
    /// requests nor the end of the process may wait for it.
    async fn look_beside(self: &Arc<Self>) {
        let (this, (done, looked)) = (Arc::clone(self), oneshot::channel());
        let look = move || {
            this.look();
            // Nobody may be waiting any more.
            let _ = done.send(());
        };
        if std::thread::Builder::new().name("policy-file".to_owned()).spawn(look).is_err() {
            self.note_error("the policy file could not be looked at: no thread can be started".to_owned());
            return;
        }
        tokio::pin!(looked);
        if tokio::time::timeout(SILENCE, &mut looked).await.is_err() {
            self.note_error(format!("the policy file was not read within {} s", SILENCE.as_secs()));
            // Until that has ended, another look would hang as well.
            let _ = looked.await;
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).error = None;
        }
    }

    fn note_error(&self, error: String) {
        tracing::error!(target: "audit", event = "policy_refused", "the last good policy stays in force: {error}");
        metrics::counter!("mcp_gate_policy_loads_total", "result" => "refused").increment(1);
        metrics::gauge!("mcp_gate_policy_stale").set(1.0);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).error = Some(error);
    }

    /// Looks at the file once. A content that was there the last time too, and was not judged yet, is judged.
    pub fn look(&self) {
        let Some(path) = &self.source.file else { return };
        let found: Content =
            content(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.judged == found {
            seen.fresh = None;
            return;
        }
        if seen.fresh.as_ref() != Some(&found) {
            seen.fresh = Some(found);
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
            tracing::error!(target: "audit", event = "policy_refused", "the last good policy stays in force: {error}");
            metrics::counter!("mcp_gate_policy_loads_total", "result" => "refused").increment(1);
            metrics::gauge!("mcp_gate_policy_stale").set(1.0);
        }
        seen.judged = found;
        seen.fresh = None;
    }

    fn put_in_force(&self, mut policy: Policy) {
        policy.epoch = self.policy.load().epoch + 1;
        tracing::info!(target: "audit", event = "policy_loaded", epoch = policy.epoch);
        report(&policy, true);
        self.policy.store(Arc::new(policy));
    }
}

fn report(policy: &Policy, changed: bool) {
    if changed {
        metrics::counter!("mcp_gate_policy_loads_total", "result" => "loaded").increment(1);
    }
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; 2^53 policies do not come")]
    metrics::gauge!("mcp_gate_policy_epoch").set(policy.epoch as f64);
    metrics::gauge!("mcp_gate_policy_stale").set(0.0);
}

fn content(path: &Path) -> std::io::Result<Vec<u8>> {
    // One byte more than a policy may have: that one is too long is said in the words of the policy.
    files::read_regular(path, LONGEST_FILE + 1)
}

fn accept(path: &Path, bytes: &[u8], allowed: &Who, hosts: &ProtectedHosts) -> Result<Policy, LoadError> {
    let text = std::str::from_utf8(bytes).map_err(|_| LoadError::Read {
        path: path.display().to_string(),
        cause: std::io::Error::new(std::io::ErrorKind::InvalidData, "it is not UTF-8 text"),
    })?;
    match file::parse(text, allowed.clone(), Some(hosts)) {
        Ok((policy, warnings)) => {
            for warning in warnings {
                tracing::warn!("{}: {warning}", path.display());
            }
            Ok(policy)
        }
        Err(problems) => Err(LoadError::Problems { path: path.display().to_string(), problems }),
    }
}
