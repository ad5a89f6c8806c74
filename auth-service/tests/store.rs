//! Tests of the behaviour that every store must have. One suite runs on the embedded store, on Redis and on a
//! Redis Cluster.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "support/chaos.rs"]
mod chaos;
#[path = "support/redis_server.rs"]
mod redis_server;

mod store {
    mod accounts;
    mod clients;
    mod everything;
    mod faults;
    mod grants;
    mod heartbeats;
    mod holdings;
    mod keys;
    mod late_writes;
    mod lost;
    mod model;
    mod newer_release;
    mod pending;
    mod portable;
    mod principals;
    mod resp;
    mod round_trips;
    mod secrecy;
    mod sole_clients;
    mod storm;
    mod suite;
    mod switch;
    mod things;
    mod tls;
    mod topology;
    mod unwritable;
    mod worlds;
}
