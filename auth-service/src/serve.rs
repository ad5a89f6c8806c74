//! Running the service.

use std::sync::Arc;
use std::time::Duration;

use actix_web::web::Data;
use anyhow::Context;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::signal::unix::{SignalKind, signal};

use auth_service::app;
use auth_service::config::{Config, Storage};
use auth_service::domain::clock::{Clock, SystemClock};
use auth_service::keys::seal::{StoreKey, SystemRandomSource};
use auth_service::ops::telemetry;
use auth_service::state::AppState;
use auth_service::store::Store;
use auth_service::store::embedded::{self, EmbeddedStore, OpenError};

/// How often expired rows are swept.
const SWEEP_EVERY: Duration = Duration::from_secs(300);

/// Opens the embedded store with its key.
pub(crate) fn open_store(storage: &Storage) -> Result<(EmbeddedStore, StoreKey), OpenError> {
    let key = match &storage.key {
        Some(key) => key.clone(),
        None => embedded::store_key(&storage.data_dir, &SystemRandomSource)?,
    };
    Ok((EmbeddedStore::open(&storage.data_dir, &key)?, key))
}

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn run() -> anyhow::Result<()> {
    let config = Config::from_variables(std::env::vars())?;
    telemetry::start(&config.observability);
    let metrics = PrometheusBuilder::new().install_recorder().context("metrics cannot be recorded")?;
    let (store, key) = open_store(&config.storage)?;
    let store: Arc<dyn Store> = Arc::new(store);
    let listeners = config.listeners;
    tracing::info!(issuer = %config.site.issuer, data_dir = %config.storage.data_dir.display(), "starting");
    let state =
        AppState::new(config, Arc::clone(&store), &key, Arc::new(SystemClock), Arc::new(SystemRandomSource))
            .await?;
    let servers = app::listen(listeners, &Data::new(state), metrics)?;
    let (public, edge, ops) = (servers.public.handle(), servers.edge.handle(), servers.ops.handle());
    let [public_at, edge_at, ops_at] = servers.addresses;
    tracing::info!(public = %public_at, edge = %edge_at, ops = %ops_at, "listening");

    let sweeper = tokio::spawn(sweep_forever(store));
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be awaited")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be awaited")?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: no new connections, requests in flight are finished");
        // The edge listener goes last of the two, so that requests on their way keep being answered for.
        public.stop(true).await;
        edge.stop(true).await;
        ops.stop(true).await;
    };
    let served = tokio::try_join!(servers.public, servers.edge, servers.ops, async {
        stop.await;
        Ok(())
    });
    sweeper.abort();
    served.context("a listener failed")?;
    tracing::info!("stopped");
    Ok(())
}

async fn sweep_forever(store: Arc<dyn Store>) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    loop {
        ticks.tick().await;
        match store.sweep(SystemClock.now()).await {
            Ok(removed) => tracing::debug!(removed, "swept expired rows"),
            Err(error) => tracing::error!(%error, "expired rows could not be swept"),
        }
    }
}
