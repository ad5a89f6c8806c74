//! The connection to Redis. Commands and scripts have a time limit, and fail immediately while Redis does not
//! respond.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use fred::clients::WithOptions;
use fred::error::{Error, ErrorKind};
use fred::prelude::{
    Client, ClientLike, ConnectionConfig, EventInterface, FromValue, Options, PerformanceConfig,
    ReconnectPolicy,
};
use fred::types::config::{TcpConfig, UnresponsiveConfig};
use fred::types::scan::{ScanResult, Scanner};
use fred::types::{ClusterHash, ConnectHandle, CustomCommand, Value};
use fred::util::redis_keyslot;
use futures_util::future::join_all;
use futures_util::stream::{BoxStream, StreamExt};
use tokio::task::AbortHandle;

use crate::domain::replaced_token::Grace;
use crate::store::StoreError;

use super::address::RedisAddress;
use super::age::Age;
use super::circuit::Circuit;
use super::errors::{COMMAND, cannot_connect, is_elsewhere, is_silence, unavailable};
use super::renewal::Renewal;
use super::silence::Silence;

/// Time limit for making a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// A connection is closed if a response has been overdue for this long.
const UNRESPONSIVE: Duration = Duration::from_secs(1);

/// How many keys a server examines for one page of a scan.
const SCANNED: u32 = 1000;

/// The key that a probe reads. Any response counts, even the error that the user has no permission.
const PROBED: &str = "mcp-gate:{meta}:key-check";

/// How many times a command is sent to a cluster whose nodes report that the key is elsewhere, and the pause
/// between attempts. All attempts together take less time than the time limit of one command.
const REDIRECTIONS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(40);

/// A Lua script, which runs atomically. Redis identifies it by its SHA-1.
pub(super) struct Script {
    lua: String,
    sha1: String,
}

impl Script {
    pub(super) fn new(lua: &'static str) -> Self {
        Self::made(lua)
    }

    /// Like [`Script::new`], for Lua source that is assembled from parts.
    pub(super) fn made(lua: &str) -> Self {
        // The response repeats the number of the request, so that no caller can receive the response to another
        // request.
        let lua = format!("local function run() {lua} end return {{ARGV[#ARGV], run()}}");
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, lua.as_bytes());
        let mut sha1 = String::with_capacity(40);
        for byte in hash.as_ref() {
            // Writing to a string cannot fail.
            let _ = write!(sha1, "{byte:02x}");
        }
        Self { lua, sha1 }
    }
}

/// One multiplexed connection to each node. A broken connection is replaced, with no limit on the number of
/// attempts.
pub(super) struct Connection {
    bare: Client,
    client: WithOptions<Client>,
    task: ConnectHandle,
    asked: AtomicU64,
    circuit: Arc<Circuit>,
    silence: Arc<Silence>,
    renewal: Arc<Renewal>,
    helpers: [AbortHandle; 4],
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
        for helper in &self.helpers {
            helper.abort();
        }
    }
}

impl Connection {
    /// Connects to the server or cluster at `address`. `age` is notified of every later connection.
    pub(super) async fn open(address: &RedisAddress, age: Arc<Age>) -> Result<Self, StoreError> {
        let performance =
            PerformanceConfig { default_command_timeout: COMMAND, ..PerformanceConfig::default() };
        let connection = ConnectionConfig {
            connection_timeout: CONNECT,
            internal_command_timeout: CONNECT,
            unresponsive: UnresponsiveConfig { max_timeout: Some(UNRESPONSIVE), interval: UNRESPONSIVE / 4 },
            // To follow an ASK redirection, fred takes the next response on the connection as the response to its
            // own ASKING, even if it belongs to another command. All later responses would then go to the wrong
            // callers. Therefore fred follows no redirections, and commands are repeated here.
            max_redirections: 0,
            // Without this option (RFC 896), the second of two commands waits until the first is acknowledged,
            // which takes a round trip.
            tcp: TcpConfig { nodelay: Some(true), ..TcpConfig::default() },
            ..ConnectionConfig::default()
        };
        let mut policy = ReconnectPolicy::new_exponential(0, 50, 1000, 2);
        policy.set_jitter(50);
        let client = Client::new(address.config(), Some(performance), Some(connection), Some(policy));
        let renewal = Arc::new(Renewal::default());
        let (failing, connecting) = (Arc::clone(&renewal), Arc::clone(&renewal));
        let lost = Arc::clone(&age);
        let failed = client.on_error(move |(error, _)| {
            failing.note_error(&error);
            // The event that announces the next connection can arrive when that connection is already in use.
            lost.doubt();
            std::future::ready(Ok(()))
        });
        let connected_again = client.on_reconnect(move |_| {
            connecting.note_connected();
            age.doubt();
            std::future::ready(Ok(()))
        });
        let connected = tokio::time::timeout(CONNECT * 2, client.init()).await;
        let task = match connected {
            Ok(connected) => connected.map_err(|error| cannot_connect(address, &error))?,
            Err(_) => return Err(StoreError::Unavailable(format!("{address} did not respond within 4 s"))),
        };
        // With `fail_fast`, a command whose response was lost is not sent again. It might have been executed, and
        // executing it twice could, for example, turn the redemption of a code into a replay.
        let options = Options {
            fail_fast: true,
            max_attempts: Some(1),
            max_redirections: Some(0),
            timeout: Some(COMMAND),
            ..Options::default()
        };
        let (bare, client, circuit) =
            (client.clone(), client.with_options(&options), Arc::new(Circuit::new()));
        let (asking, broken) = (client.clone(), Arc::clone(&circuit));
        let mender = tokio::spawn(async move {
            loop {
                broken.next_try().await;
                let get = CustomCommand::new_static("GET", ClusterHash::FirstKey, false);
                let answer: Result<Value, Error> = asking.custom(get, vec![Value::from(PROBED)]).await;
                if answer.is_err_and(|error| is_silence(&error)) {
                    // fred measures silence from the last command that it sent. With steady requests, it would
                    // never close a connection whose peer has disappeared.
                    let _ = tokio::time::timeout(CONNECT, asking.force_reconnection()).await;
                } else {
                    broken.succeeded();
                }
            }
        });
        let silence = Arc::new(Silence::default());
        let (silent, asking) = (Arc::clone(&silence), client.clone());
        let asker = tokio::spawn(async move {
            loop {
                let slots = silent.next_try().await;
                join_all(slots.into_iter().map(|slot| end_if_answered(&silent, &asking, slot))).await;
            }
        });
        let helpers = [
            mender.abort_handle(),
            failed.abort_handle(),
            connected_again.abort_handle(),
            asker.abort_handle(),
        ];
        Ok(Self { bare, client, task, asked: AtomicU64::new(0), circuit, silence, renewal, helpers })
    }

    /// The grace period of refresh tokens, with the recent outages, which do not count.
    pub(super) fn grace(&self, period: Duration) -> Grace {
        self.silence.grace(period)
    }

    /// The danger that operators should know of, if a server of a cluster is silent.
    pub(super) fn danger(&self) -> Option<&'static str> {
        self.silence.danger().filter(|_| self.bare.is_clustered())
    }

    /// The client whose servers the tracking connections follow.
    pub(super) fn followed(&self) -> Client {
        self.bare.clone()
    }

    /// Runs a command whose first argument is its key.
    pub(super) async fn run<T: FromValue>(
        &self,
        command: &'static str,
        arguments: Vec<Value>,
    ) -> Result<T, StoreError> {
        let command = CustomCommand::new_static(command, ClusterHash::FirstKey, false);
        let key = arguments.first().and_then(Value::as_bytes).unwrap_or_default();
        self.ask(redis_keyslot(key), &command, &arguments).await.map_err(|error| self.unavailable(&error))
    }

    /// Streams all keys that match, from every server, in pages. A key can occur twice. A key that is created
    /// or removed during the scan might be missing.
    pub(super) fn scan(&self, pattern: String) -> BoxStream<'static, Result<Vec<String>, StoreError>> {
        let client = self.bare.clone();
        // The next page is requested when this one is dropped.
        let keys = |page: Result<ScanResult, Error>| {
            let keys = page.map_err(|error| unavailable(&error))?.take_results().unwrap_or_default();
            keys.into_iter().map(|key| key.into_string().ok_or(StoreError::Unreadable)).collect()
        };
        if client.is_clustered() {
            client.scan_cluster(pattern, Some(SCANNED), None).map(keys).boxed()
        } else {
            client.scan(pattern, Some(SCANNED), None).map(keys).boxed()
        }
    }

    /// Runs a script on keys that are in one slot.
    pub(super) async fn script<T: FromValue>(
        &self,
        script: &Script,
        keys: &[&str],
        arguments: Vec<Value>,
    ) -> Result<T, StoreError> {
        let count = i64::try_from(keys.len()).unwrap_or_default();
        let number = self.asked.fetch_add(1, Ordering::Relaxed).to_string();
        let with = |script: &str| -> Vec<Value> {
            let keys = keys.iter().map(|key| Value::from(*key));
            let arguments = arguments.iter().cloned().chain([Value::from(&number)]);
            [Value::from(script), Value::from(count)].into_iter().chain(keys).chain(arguments).collect()
        };
        // fred would mistake the script for the key. For custom commands, it only accepts a slot as a number.
        let slot = redis_keyslot(keys.first().copied().unwrap_or_default().as_bytes());
        let by_hash = CustomCommand::new_static("EVALSHA", ClusterHash::Custom(slot), false);
        let answer: Value = match self.ask(slot, &by_hash, &with(&script.sha1)).await {
            // A node that has been restarted or added does not have the script yet. EVAL also stores it.
            Err(error) if error.details().starts_with("NOSCRIPT") => {
                let in_full = CustomCommand::new_static("EVAL", ClusterHash::Custom(slot), false);
                self.ask(slot, &in_full, &with(&script.lua)).await
            }
            other => other,
        }
        .map_err(|error| self.unavailable(&error))?;
        match <[Value; 2]>::try_from(answer.into_array()) {
            Ok([to, result]) if to.as_str().as_deref() == Some(&*number) => {
                result.convert().map_err(|error| self.unavailable(&error))
            }
            _ => {
                // If the responses on a connection do not match their requests, they stay out of step, so the
                // connection must be replaced.
                let _ = tokio::time::timeout(CONNECT, self.client.force_reconnection()).await;
                Err(StoreError::Unavailable("Redis returned the response to another request".to_owned()))
            }
        }
    }

    /// Sends a command for a slot unless the circuit is open, and reports to the circuit breaker whether Redis
    /// responded.
    async fn ask<T: FromValue>(
        &self,
        slot: u16,
        command: &CustomCommand,
        arguments: &[Value],
    ) -> Result<T, Error> {
        if self.circuit.is_open() {
            return Err(Error::new(ErrorKind::Backpressure, "Redis does not respond"));
        }
        let from = Instant::now();
        // The future is boxed, because callers hold several of them at the same time.
        let answer = Box::pin(self.ask_until_told(command, arguments)).await;
        match &answer {
            Err(error) if is_silence(error) => {
                // Without a cluster, a single server has all slots.
                self.silence.noticed(if self.bare.is_clustered() { slot } else { 0 }, from);
                self.circuit.failed();
            }
            Err(error) if self.renewal.is_due(error) => {
                tracing::warn!(
                    "Redis is a replica that accepts no writes; a new connection is made to find the master"
                );
                let _ = tokio::time::timeout(CONNECT, self.bare.force_reconnection()).await;
            }
            _ => self.circuit.succeeded(),
        }
        answer
    }

    /// The error for callers. If Redis refused the user or password, the error says so instead of reporting
    /// a timeout.
    fn unavailable(&self, error: &Error) -> StoreError {
        match (error.kind(), self.renewal.refused()) {
            (ErrorKind::Canceled | ErrorKind::Backpressure | ErrorKind::Timeout, Some(said)) => {
                StoreError::Unavailable(format!(
                    "Redis refuses the user or password in REDIS_URL ({said}): set the current ones, and restart"
                ))
            }
            _ => unavailable(error),
        }
    }

    async fn ask_until_told<T: FromValue>(
        &self,
        command: &CustomCommand,
        arguments: &[Value],
    ) -> Result<T, Error> {
        let mut asked = 1;
        loop {
            match self.client.custom(command.clone(), arguments.to_vec()).await {
                Err(error) if is_elsewhere(&error) && asked < REDIRECTIONS => {
                    asked += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                answer => return answer,
            }
        }
    }
}

/// Sends a `PING` to the server that has this slot, and records whether it responds. Any response counts, even an
/// error because the user lacks a permission.
async fn end_if_answered(silence: &Silence, client: &WithOptions<Client>, slot: u16) {
    let ping = CustomCommand::new_static("PING", ClusterHash::Custom(slot), false);
    let answer: Result<Value, Error> = client.custom(ping, Vec::<Value>::new()).await;
    if !answer.is_err_and(|error| is_silence(&error)) {
        silence.ended(slot);
    }
}
