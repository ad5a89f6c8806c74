//! The operator's listener: `/health`, `/ready`, `/metrics`, `/version`.

use actix_web::{HttpResponse, web};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;

use crate::domain::clock_watch;
use crate::policy::Standing;
use crate::state::AppState;
use crate::store::StoreError;
use crate::upkeep::{Findings, LOST};

/// Alive: the process answers. Asks nobody else, so that a store outage does not restart the service.
pub async fn health() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok" }))
}

/// Can serve: the store answers. The keys were loaded before we listened. Says which part is not as it should be; without
/// news of changes everything works, and every check asks the store. A policy file that cannot be used is told and does
/// not make us unready: the last good one is in force, and with one file for all replicas a slip of the pen would
/// otherwise take every one of them away. So does a clock that has jumped: every replica may have it. One that is not that of
/// Redis is ours alone.
pub async fn ready(state: web::Data<AppState>) -> HttpResponse {
    let facts =
        if state.store.changes().is_live() { "cached" } else { "not cached: changes are not heard of" };
    let Standing { epoch, error } = state.policy.standing();
    let policy = match error {
        None => json!({ "epoch": epoch, "state": "current" }),
        Some(error) => json!({ "epoch": epoch, "state": "stale", "error": error }),
    };
    if state.is_stopping() {
        return HttpResponse::ServiceUnavailable().json(json!({ "status": "stopping" }));
    }
    let (is_ready, store, clock, dangers) = match standing(&state).await {
        Ok(Findings { is_lost: true, clock, dangers }) => {
            (false, LOST.to_owned(), clock.to_string(), dangers)
        }
        Ok(Findings { clock, dangers, .. }) => {
            let is_ready = !matches!(clock, clock_watch::Standing::Disagrees { .. });
            (is_ready, "ok".to_owned(), clock.to_string(), dangers)
        }
        Err(error) => {
            (false, error.to_string(), "not compared: the store does not work".to_owned(), Vec::new())
        }
    };
    let status = if is_ready { "ready" } else { "not ready" };
    let body = json!({
        "status": status, "store": store, "store_dangers": dangers, "clock": clock, "facts": facts, "policy": policy,
    });
    if is_ready { HttpResponse::Ok().json(body) } else { HttpResponse::ServiceUnavailable().json(body) }
}

async fn standing(state: &AppState) -> Result<Findings, StoreError> {
    let findings = state.findings().await?;
    state.store.ping().await?;
    Ok(findings)
}

/// Prometheus text format.
pub async fn metrics(handle: web::Data<PrometheusHandle>) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(handle.render())
}

/// Which release this is.
pub async fn version() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") }))
}
