//! Measures a flood of registrations: how many are processed per second, how many the store alone can write per
//! second in the same run, and how many clients remain afterwards.
//!
//! `cargo run --release --example registration_flood [REGISTRATIONS]` (the default is 100000). Exits with an error
//! if a client in use is lost or the store contains more clients than its ceiling.
#![expect(clippy::print_stdout, reason = "prints its results")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix_web::web::Data;
use anyhow::{Context, ensure};
use auth_service::app;
use auth_service::config::Config;
use auth_service::domain::client::{Client, ClientId};
use auth_service::domain::client_use::ClientUse;
use auth_service::domain::clock::{Clock, SystemClock};
use auth_service::domain::grant::AuthorizationCode;
use auth_service::domain::grant_id::GrantId;
use auth_service::domain::opaque_token::TokenHash;
use auth_service::keys::seal::{StoreKey, SystemRandomSource};
use auth_service::state::AppState;
use auth_service::store::embedded::EmbeddedStore;
use auth_service::store::{ClientStore, Issuance, RegistrationTerms, Store};
use futures_util::future::join_all;
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::{Value, json};

const CEILING: u64 = 10_000;
const USED: usize = 100;
const PARALLEL: usize = 64;

#[actix_web::main]
async fn main() -> anyhow::Result<()> {
    let registrations: usize =
        std::env::args().nth(1).map_or(Ok(100_000), |text| text.parse()).context("how many?")?;
    let directory = tempfile::tempdir()?;
    let key = StoreKey::new([7; 32]);
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(&directory.path().join("served"), &key)?);
    let settings = [
        ("ISSUER", "http://localhost:1".to_owned()),
        ("PROTECTED_HOSTS", "localhost".to_owned()),
        ("CLIENT_CEILING", CEILING.to_string()),
        ("REGISTRATION_RATE", "10000000".to_owned()),
        ("PUBLIC_LISTEN", "127.0.0.1:0".to_owned()),
        ("EDGE_LISTEN", "127.0.0.1:0".to_owned()),
        ("OPS_LISTEN", "127.0.0.1:0".to_owned()),
    ];
    let config = Config::from_variables(settings.map(|(name, value)| (name.to_owned(), value)))?;
    let listeners = config.listeners;
    let state =
        AppState::new(config, Arc::clone(&store), &key, Arc::new(SystemClock), Arc::new(SystemRandomSource))
            .await?;
    let servers =
        app::listen(listeners, &Data::new(state), PrometheusBuilder::new().build_recorder().handle())?;
    let [public, ..] = servers.addresses;
    tokio::spawn(servers.public);
    let url = format!("http://{public}/register");
    let http = reqwest::Client::builder().no_proxy().build()?;

    let mut used = Vec::new();
    for n in 0..USED {
        used.push(use_client(store.as_ref(), register(&http, &url, &format!("used {n}")).await?).await?);
    }
    println!("{:>14} {:>12} {:>12}", "registrations", "store file", "memory");
    let done = AtomicUsize::new(0);
    let started = Instant::now();
    let worker = async || -> anyhow::Result<()> {
        loop {
            let n = done.fetch_add(1, Ordering::Relaxed);
            if n >= registrations {
                return Ok(());
            }
            register(&http, &url, &format!("flood {n}")).await?;
            if n.is_multiple_of((registrations / 10).max(1)) {
                println!(
                    "{n:>14} {:>12} {:>12}",
                    megabytes(size(&directory.path().join("served"))?),
                    megabytes(resident()?)
                );
            }
        }
    };
    for outcome in join_all((0..PARALLEL).map(|_| worker())).await {
        outcome?;
    }
    let served = rate(registrations, started.elapsed());

    let template = used.first().context("a client")?;
    let floor = floor(&directory.path().join("floor"), &key, template, registrations.min(20_000)).await?;
    println!("over HTTP {served:.0}/s, the store alone {floor:.0}/s: {:.2} of the floor", served / floor);

    let now = SystemClock.now();
    let mut left = 0;
    let mut after: Option<ClientId> = None;
    loop {
        let page = store.clients(after.as_ref(), 1000, now).await?;
        left += page.len();
        match page.last() {
            Some(last) => after = Some(last.id.clone()),
            None => break,
        }
    }
    for client in &used {
        ensure!(store.client(&client.id, now).await?.is_some(), "a client in use was lost");
    }
    println!(
        "{left} of {registrations} clients are left, the ceiling is {CEILING}; all {USED} clients in use are among them"
    );
    ensure!(u64::try_from(left)? <= CEILING, "the store contains more clients than its ceiling");
    Ok(())
}

async fn register(http: &reqwest::Client, url: &str, name: &str) -> anyhow::Result<Value> {
    let metadata = json!({ "redirect_uris": ["https://app.example/cb"], "token_endpoint_auth_method": "none", "client_name": name });
    let response = http.post(url).json(&metadata).send().await?;
    ensure!(
        response.status() == reqwest::StatusCode::CREATED,
        "{}: {}",
        response.status(),
        response.text().await?
    );
    Ok(response.json().await?)
}

/// Uses a client as a consent does, so that the flood must not displace it. `registered` is the response to its
/// registration.
async fn use_client(store: &dyn Store, registered: Value) -> anyhow::Result<Client> {
    let id: ClientId = serde_json::from_value(registered.get("client_id").cloned().unwrap_or_default())?;
    let now = SystemClock.now();
    let client = store.client(&id, now).await?.context("the client that registered")?;
    let redirect_uri = client.metadata.redirect_uris.first().context("a redirect URI")?.clone();
    let code: AuthorizationCode = serde_json::from_value(json!({
        "grant_id": GrantId::new([0; 32]), "client_id": id, "registration": client.registration, "redirect_uri": redirect_uri,
        "challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM", "resources": [], "scope": [], "subject": "usr_x",
        "authenticated_at": now, "expires_at": now.plus(Duration::from_secs(60)),
    }))?;
    let used = ClientUse {
        client: client.clone(),
        at: now,
        bounds: auth_service::domain::clock_watch::TimeBounds::exactly(now),
        is_time_of_day: true,
        boot: None,
        keep_until: now.plus(Duration::from_secs(86_400)),
        user: auth_service::domain::account::Subject::new([0; 32]),
        sole_ceiling: usize::MAX,
    };
    ensure!(
        store.add_code(id.as_str(), &TokenHash::of(id.as_str().as_bytes()), &code, &used).await?
            == Issuance::Issued,
        "the store refused the code"
    );
    Ok(client)
}

/// Registers copies of `template` directly in a store, without HTTP, JSON and checks. Returns the registrations per second.
async fn floor(
    directory: &Path,
    key: &StoreKey,
    template: &Client,
    registrations: usize,
) -> anyhow::Result<f64> {
    let store = EmbeddedStore::open(directory, key)?;
    let template = Client { last_used_at: None, users: None, fingerprint: None, ..template.clone() };
    let now = SystemClock.now();
    let terms = RegistrationTerms {
        now,
        unused_until: now.plus(Duration::from_secs(86_400)),
        ceiling: CEILING,
        unused_ceiling: CEILING,
    };
    let done = AtomicUsize::new(0);
    let started = Instant::now();
    let worker = async || -> anyhow::Result<()> {
        loop {
            let n = done.fetch_add(1, Ordering::Relaxed);
            if n >= registrations {
                return Ok(());
            }
            let id = ClientId::try_from(format!("client{n}"))?;
            store.register_client(&template, &[id], &terms).await?;
        }
    };
    for outcome in join_all((0..PARALLEL).map(|_| worker())).await {
        outcome?;
    }
    Ok(rate(registrations, started.elapsed()))
}

#[expect(clippy::cast_precision_loss, reason = "a figure for humans")]
fn rate(count: usize, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

fn size(directory: &Path) -> anyhow::Result<u64> {
    Ok(std::fs::metadata(directory.join("store.redb"))?.len())
}

/// Resident memory in bytes.
fn resident() -> anyhow::Result<u64> {
    let pages: u64 =
        std::fs::read_to_string("/proc/self/statm")?.split(' ').nth(1).context("statm")?.parse()?;
    Ok(pages * 4096)
}

fn megabytes(bytes: u64) -> String {
    format!("{} MiB", bytes / (1024 * 1024))
}
