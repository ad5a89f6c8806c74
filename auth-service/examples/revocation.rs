//! How soon a revocation on one replica is one on the others: three replicas of the whole service on one Redis.
//!
//! `cargo run --release --example revocation [TIMES]` (1000). Asks the check of the two other replicas over HTTP, again
//! and again, until both refuse, and counts from the moment at which the change was asked for.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a measurement"
)]

#[path = "../tests/support/redis_server.rs"]
mod redis_server;
#[path = "../tests/store/things.rs"]
#[expect(dead_code, reason = "tests use the rest")]
mod things;

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::web::Data;
use anyhow::{Context, ensure};
use auth_service::app;
use auth_service::config::Config;
use auth_service::domain::account::Account;
use auth_service::domain::clock::{Clock, SystemClock};
use auth_service::domain::grant::Grant;
use auth_service::domain::opaque_token::TokenHash;
use auth_service::keys::seal::{StoreKey, SystemRandomSource};
use auth_service::keys::tokens::{ACCESS_TOKEN_TYPE, AccessTokenClaims};
use auth_service::state::AppState;
use auth_service::store::redis::{RedisAddress, RedisStore};
use futures_util::future::try_join;
use metrics_exporter_prometheus::PrometheusBuilder;
use redis_server::RedisServer;

struct Replica {
    state: Data<AppState>,
    check: String,
    http: reqwest::Client,
}

/// What is done on the first replica, and how one sees it at the others.
const CHANGES: [&str; 4] = ["revoke a grant", "disable a user", "delete a client", "change the groups"];

#[actix_web::main]
async fn main() -> anyhow::Result<()> {
    let times: usize = std::env::args().nth(1).map_or(Ok(1000), |text| text.parse()).context("how many?")?;
    let server = RedisServer::start(&["--appendonly", "no"]).context("there is no Redis")?;
    let replicas = [replica(&server).await?, replica(&server).await?, replica(&server).await?];
    for replica in &replicas {
        while !replica.state.store.changes().is_live() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    for change in CHANGES {
        let mut took = Vec::with_capacity(times);
        for n in 0..times {
            let name = format!("{}{n}", change.replace(' ', "-"));
            let (_, person, grant) = things::granted(replicas[0].state.store.as_ref(), &name, &name).await;
            let token = token(&replicas[0].state, &grant)?;
            for replica in &replicas {
                // Twice: the second answer comes from memory.
                ensure!(replica.allows(&token).await?.is_some() && replica.allows(&token).await?.is_some());
            }
            let start = Instant::now();
            act(change, &replicas[0], &person, &grant).await?;
            try_join(replicas[1].sees(change, &token), replicas[2].sees(change, &token)).await?;
            took.push(start.elapsed());
        }
        took.sort_unstable();
        let at = |share: usize| took[(took.len() - 1) * share / 1000];
        println!(
            "{change:<20} {times} times: p50 {:.2?}  p99 {:.2?}  longest {:.2?}",
            at(500),
            at(990),
            at(1000)
        );
        ensure!(at(990) < Duration::from_millis(50), "the others must know within 50 ms");
    }
    Ok(())
}

async fn replica(server: &RedisServer) -> anyhow::Result<Replica> {
    let settings = [
        ("ISSUER", "https://auth.example.com"),
        ("PROTECTED_HOSTS", "mcp.example"),
        ("WORKERS", "1"),
        ("PUBLIC_LISTEN", "127.0.0.1:0"),
        ("EDGE_LISTEN", "127.0.0.1:0"),
        ("OPS_LISTEN", "127.0.0.1:0"),
    ];
    let config = Config::from_variables(settings.map(|(name, value)| (name.to_owned(), value.to_owned())))?;
    let (key, listeners) = (StoreKey::new([7; 32]), config.listeners);
    let store = Arc::new(RedisStore::connect(&RedisAddress::parse(&server.url())?, &key).await?);
    let state =
        AppState::new(config, store, &key, Arc::new(SystemClock), Arc::new(SystemRandomSource)).await?;
    let state = Data::new(state);
    let servers = app::listen(listeners, &state, PrometheusBuilder::new().build_recorder().handle())?;
    let check = format!("http://{}/verify/envoy/mcp", servers.addresses[1]);
    tokio::spawn(servers.public);
    tokio::spawn(servers.edge);
    tokio::spawn(servers.ops);
    Ok(Replica { state, check, http: reqwest::Client::builder().no_proxy().build()? })
}

impl Replica {
    /// The groups that it tells, if it lets the token pass.
    async fn allows(&self, token: &str) -> anyhow::Result<Option<String>> {
        let request = self.http.post(&self.check).header("host", "mcp.example");
        let answer = request.header("x-forwarded-proto", "https").bearer_auth(token).send().await?;
        match answer.status().as_u16() {
            200 => Ok(Some(answer.headers()["x-auth-groups"].to_str()?.to_owned())),
            401 => Ok(None),
            other => panic!("{other}"),
        }
    }

    async fn sees(&self, change: &str, token: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let groups = self.allows(token).await?;
            if groups.is_none() || (change == "change the groups" && groups.as_deref() == Some("")) {
                return Ok(());
            }
            ensure!(start.elapsed() < Duration::from_secs(5), "{change}: never seen");
        }
    }
}

async fn act(change: &str, on: &Replica, person: &Account, grant: &Grant) -> anyhow::Result<()> {
    let store = on.state.store.as_ref();
    match change {
        "revoke a grant" => store.revoke_grant(&grant.id).await?,
        "disable a user" => ensure!(store.set_account_disabled(&person.subject, true).await?),
        "delete a client" => ensure!(store.delete_client(&grant.client_id).await?),
        _ => ensure!(store.set_account_groups(&person.subject, &[]).await?),
    }
    Ok(())
}

fn token(state: &AppState, grant: &Grant) -> anyhow::Result<String> {
    let now = SystemClock.now();
    let claims = AccessTokenClaims {
        iss: "https://auth.example.com".to_owned(),
        sub: grant.subject.clone(),
        aud: grant.resources.clone(),
        client_id: grant.client_id.clone(),
        scope: grant.scope.clone(),
        exp: now.plus(things::HOUR),
        iat: now,
        jti: TokenHash::of(&things::random()).text(),
        gid: grant.id.clone(),
        groups: vec![],
        cnf: None,
        act: None,
    };
    Ok(state.keys.sign(ACCESS_TOKEN_TYPE, &claims)?)
}
