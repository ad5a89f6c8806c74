//! Tests of auth-service over real sockets, with a clock that the test sets.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "support/chaos.rs"]
#[expect(dead_code, reason = "these tests use only some of the faults")]
mod chaos;
#[path = "support/redis_server.rs"]
mod redis_server;

mod it {
    mod again;
    mod app;
    mod authorize;
    mod backup;
    mod bad_weather;
    mod browser;
    mod bursts;
    mod check;
    mod clock_jumps;
    mod commands;
    mod consent;
    mod cross_origin;
    mod delegation;
    mod device;
    mod discovery;
    mod doctor;
    mod document_host;
    mod document_keys;
    mod documents;
    mod dpop;
    mod earlier_store;
    mod entry_point;
    mod errors;
    mod faulty_edge;
    mod fixtures;
    mod floods;
    mod grpc;
    mod healthcheck;
    mod keys;
    mod life_cycle;
    mod login;
    mod machines;
    mod manage;
    mod messages;
    mod one_account;
    mod operator;
    mod policy;
    mod policy_commands;
    mod prompt;
    mod proxies;
    mod queries;
    mod refused_checks;
    mod register;
    mod scopes;
    mod slow_senders;
    mod store_away;
    mod token;
    mod unknown_documents;
}
