//! Detects changes by other replicas. A separate connection to each server receives the keys of rows that were
//! written (client-side caching of Redis 6, RESP3, broadcasting mode). This includes rows that are removed by
//! hand, evicted or expired. The signing keys, the store's identity, and the number and the history of changes are
//! followed as well: lost or older data must be detected before a cached value is used ([`super::age`]).
//!
//! Notifications and the response to a PING arrive on the same connection in the order in which they were sent. A
//! response therefore proves that all changes before the PING have been received, and extends the lease for cached
//! values by [`LEASE`]. If a connection hangs, the lease expires. If it breaks, the lease ends immediately.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fred::clients::Client;
use fred::interfaces::{ClientLike, EventInterface, TrackingInterface};
use fred::prelude::{Config, ConnectionConfig, Error, PerformanceConfig, Server};
use fred::types::client::Invalidation;
use fred::types::config::{ServerConfig, UnresponsiveConfig};
use fred::types::{ConnectHandle, RespVersion};
use futures_util::future::try_join_all;
use tokio::sync::Notify;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::task::JoinHandle;

use crate::store::changes::Changes;

use super::address::RedisAddress;
use super::errors::names_permission;
use super::keys::Keys;
use super::words::words_of;

/// How long cached values are valid after the last time at which all changes were known to have been received. A
/// revocation can go unnoticed for at most this long, regardless of network failures.
pub(super) const LEASE: Duration = Duration::from_secs(1);
/// How often a server is pinged, and how often the list of servers is checked for changes.
const BEAT: Duration = Duration::from_millis(200);
/// Time limits for making a connection and for a response.
const CONNECT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_millis(500);
/// Pause before the next attempt to connect.
const PAUSE: Duration = Duration::from_millis(200);
/// Maximum number of unread notifications. If there are more, all cached values become invalid.
const WAITING: usize = 16_384;

/// A task that follows the servers of `followed` until it is dropped.
pub(super) struct Tracking(JoinHandle<()>);

impl Drop for Tracking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The keys with which reported changes are compared, and the objects in which changes are recorded.
#[derive(Clone)]
pub(super) struct Heard {
    pub(super) keys: Keys,
    pub(super) changes: Arc<Changes>,
    /// Notified when the number or the history of changes has changed.
    pub(super) age: Arc<Notify>,
}

/// The reason why changes are no longer received.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("Redis: {}", words_of(.0))]
    Redis(#[from] Error),
    #[error("a Redis server was lost or added")]
    Servers,
    #[error("more changes arrived than could be read")]
    Lag,
    #[error("a message about changes could not be read")]
    Unreadable,
    #[error("a Redis server did not respond within {} ms", ANSWER.as_millis())]
    Silence,
}

impl Tracking {
    pub(super) fn start(address: &RedisAddress, followed: Client, heard: Heard) -> Self {
        let config = address.config();
        Self(tokio::spawn(async move {
            let mut told = None;
            loop {
                let Err(lost) = follow(&config, &followed, &heard, &mut told).await;
                heard.changes.end_lease();
                metrics::gauge!("mcp_gate_token_cache_channel_live").set(0.0);
                metrics::counter!("mcp_gate_token_cache_channel_losses_total").increment(1);
                // Each reason is logged only once, because Redis could be unavailable for hours.
                let reason = lost.to_string();
                if told.as_ref() != Some(&reason) {
                    tracing::warn!(
                        %reason,
                        "changes in Redis are not reported to this replica: tokens are not cached until they are{}",
                        lost.hint()
                    );
                    told = Some(reason);
                }
                tokio::time::sleep(PAUSE).await;
            }
        }))
    }
}

impl Lost {
    /// What the operator can do, if Redis refused a command. In all other cases, the connection is restored
    /// without the operator.
    fn hint(&self) -> &'static str {
        match self {
            Self::Redis(error) if names_permission(error.details()) => {
                ". The Redis user needs +client|tracking and +ping"
            }
            // Redis before version 6 does not have the command.
            Self::Redis(error) if error.details().to_lowercase().contains("unknown subcommand") => {
                ". This needs Redis 6 or later"
            }
            _ => "",
        }
    }
}

/// A tracking connection to one server.
struct Followed {
    client: Client,
    task: ConnectHandle,
    changed: Receiver<Invalidation>,
    broken: Receiver<(Error, Option<Server>)>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(
    config: &Config,
    main: &Client,
    records: &Heard,
    told: &mut Option<String>,
) -> Result<Infallible, Lost> {
    let Heard { keys, changes, .. } = records;
    let mut reconnected = main.reconnect_rx();
    let servers = servers(main);
    if servers.is_empty() {
        return Err(Lost::Servers);
    }
    let mut connections = try_join_all(servers.iter().map(|server| connect(config, server, keys))).await?;
    // The signing keys might have been read before tracking began, and a change in between is not reported.
    changes.note_signing_keys();
    // For each server, the last time until which all changes are known. There is no lease until every server has
    // responded.
    let heard = Mutex::new(vec![None; connections.len()]);
    let renew = |at: usize, asked: Instant| {
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = heard.get_mut(at) {
            *slot = Some(asked);
        }
        let earliest: Option<Vec<Instant>> = heard.iter().copied().collect();
        if let Some(earliest) = earliest.and_then(|all| all.into_iter().min()) {
            let first = !changes.is_live();
            changes.renew(earliest, LEASE);
            first
        } else {
            false
        }
    };
    let mut started = false;
    let mut begun = |first: bool| {
        if first && !started {
            started = true;
            metrics::gauge!("mcp_gate_token_cache_channel_live").set(1.0);
            tracing::info!(
                servers = servers.len(),
                "changes in Redis are reported to this replica: tokens are cached"
            );
            *told = None;
        }
    };
    let begun = Mutex::new(&mut begun);
    let following = connections.iter_mut().enumerate().map(|(at, connection)| {
        let (renew, begun) = (&renew, &begun);
        hear(connection, records, move |asked| {
            let first = renew(at, asked);
            (begun.lock().unwrap_or_else(PoisonError::into_inner))(first);
        })
    });
    let watching = async {
        let mut beats = tokio::time::interval(BEAT);
        loop {
            tokio::select! {
                _ = reconnected.recv() => return Err(Lost::Servers),
                _ = beats.tick() => {
                    if self::servers(main) != servers {
                        return Err(Lost::Servers);
                    }
                }
            }
        }
    };
    tokio::select! {
        lost = try_join_all(following) => match lost {
            Err(lost) => Err(lost),
            Ok(_) => Err(Lost::Servers),
        },
        lost = watching => lost,
    }
}

/// The servers from which rows are currently read.
fn servers(main: &Client) -> Vec<Server> {
    let mut servers = main.active_connections();
    servers.sort_by(|a, b| (&a.host, a.port).cmp(&(&b.host, b.port)));
    servers
}

async fn connect(config: &Config, server: &Server, keys: &Keys) -> Result<Followed, Lost> {
    let config = Config {
        version: RespVersion::RESP3,
        server: ServerConfig::Centralized { server: server.clone() },
        ..config.clone()
    };
    let performance = PerformanceConfig {
        default_command_timeout: ANSWER,
        broadcast_channel_capacity: WAITING,
        ..PerformanceConfig::default()
    };
    let connection = ConnectionConfig {
        connection_timeout: CONNECT,
        internal_command_timeout: CONNECT,
        unresponsive: UnresponsiveConfig { max_timeout: Some(LEASE), interval: BEAT },
        ..ConnectionConfig::default()
    };
    // This client must not reconnect on its own, because changes would be missed between two connections.
    let client = Client::new(config, Some(performance), Some(connection), None);
    let (changed, broken) = (client.invalidation_rx(), client.error_rx());
    let connected = tokio::time::timeout(CONNECT * 2, client.init()).await;
    let task = connected.map_err(|_| Lost::Silence)??;
    let followed = Followed { client, task, changed, broken };
    followed.client.start_tracking(keys.tracked(), true, false, false, false).await?;
    Ok(followed)
}

/// Records the changes that a server reports. After each response to a ping, calls `heard` with the time up to
/// which all changes are known.
async fn hear(
    connection: &mut Followed,
    records: &Heard,
    heard: impl Fn(Instant),
) -> Result<Infallible, Lost> {
    let Followed { client, changed, broken, .. } = connection;
    // The first ping is sent immediately.
    let mut beat = Box::pin(beat(client, Duration::ZERO));
    loop {
        tokio::select! {
            biased;
            told = changed.recv() => match told {
                Ok(told) => note(&told, records)?,
                Err(RecvError::Lagged(_)) => return Err(Lost::Lag),
                Err(RecvError::Closed) => return Err(Lost::Servers),
            },
            error = broken.recv() => return Err(error.map_or(Lost::Servers, |(error, _)| Lost::Redis(error))),
            asked = &mut beat => {
                let asked = asked?;
                // fred delivers messages in the order of their arrival, so all notifications before the response
                // are already in the channel.
                drain(changed, records)?;
                heard(asked);
                beat.set(self::beat(client, BEAT));
            }
        }
    }
}

/// Pings the server after `pause`. Returns the time at which the ping was sent.
async fn beat(client: &Client, pause: Duration) -> Result<Instant, Lost> {
    tokio::time::sleep(pause).await;
    let asked = Instant::now();
    tokio::time::timeout(ANSWER, client.ping::<()>(None)).await.map_err(|_| Lost::Silence)??;
    Ok(asked)
}

/// Records all waiting notifications.
fn drain(waiting: &mut Receiver<Invalidation>, records: &Heard) -> Result<(), Lost> {
    loop {
        match waiting.try_recv() {
            Ok(told) => note(&told, records)?,
            Err(TryRecvError::Empty) => return Ok(()),
            Err(TryRecvError::Lagged(_)) => return Err(Lost::Lag),
            Err(TryRecvError::Closed) => return Err(Lost::Servers),
        }
    }
}

fn note(told: &Invalidation, records: &Heard) -> Result<(), Lost> {
    let Heard { keys, changes, age } = records;
    if told.keys.is_empty() {
        return Err(Lost::Unreadable);
    }
    for key in &told.keys {
        let key = key.as_str().ok_or(Lost::Unreadable)?;
        if !keys.is_tracked(key) {
            return Err(Lost::Unreadable);
        }
        if let Some((about, hash)) = keys.about(key) {
            metrics::counter!("mcp_gate_token_cache_changes_heard_total").increment(1);
            changes.note_hashed(about, hash);
        } else if keys.tells_age(key) {
            age.notify_one();
        } else if *key == keys.signing_keys() {
            changes.note_signing_keys();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use fred::error::ErrorKind;

    use super::*;

    #[test]
    fn only_a_refused_command_is_told_as_a_missing_permission() {
        let hint = |kind, said: &'static str| Lost::Redis(Error::new(kind, said)).hint();
        for said in [
            "NOPERM User gate has no permissions to run the 'client|tracking' command",
            "NOPERM this user has no permissions to run the 'client' command or its subcommand",
        ] {
            assert!(hint(ErrorKind::Unknown, said).contains("+client|tracking"), "{said}");
        }
        let old = "ERR Unknown subcommand or wrong number of arguments for 'TRACKING'";
        assert!(hint(ErrorKind::Unknown, old).contains("Redis 6"));
        for (kind, said) in [
            (ErrorKind::IO, "Connection refused (os error 111)"),
            (ErrorKind::Canceled, "Canceled."),
            (ErrorKind::Unknown, "LOADING Redis is loading the dataset in memory"),
        ] {
            assert_eq!(hint(kind, said), "", "{said}");
        }
        assert_eq!(Lost::Servers.hint(), "");
    }
}
