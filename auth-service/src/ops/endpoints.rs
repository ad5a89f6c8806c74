//! The operator's listener: `/health`, `/ready`, `/metrics`, `/version`.

use actix_web::{HttpResponse, web};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;

use crate::policy::Standing;
use crate::state::AppState;

/// Alive: the process answers. Asks nobody else, so that a store outage does not restart the service.
pub async fn health() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok" }))
}

/// Can serve: the store answers. The keys were loaded before we listened. Says which part is not as it should be; without
/// news of changes everything works, and every check asks the store. A policy file that cannot be used is told and does
/// not make us unready: the last good one is in force, and with one file for all replicas a slip of the pen would
/// otherwise take every one of them away.
pub async fn ready(state: web::Data<AppState>) -> HttpResponse {
    let facts =
        if state.store.changes().is_live() { "cached" } else { "not cached: changes are not heard of" };
    let Standing { epoch, error } = state.policy.standing();
    let policy = match error {
        None => json!({ "epoch": epoch, "state": "current" }),
        Some(error) => json!({ "epoch": epoch, "state": "stale", "error": error }),
    };
    match state.store.ping().await {
        Ok(()) => HttpResponse::Ok()
            .json(json!({ "status": "ready", "store": "ok", "facts": facts, "policy": policy })),
        Err(error) => HttpResponse::ServiceUnavailable().json(
            json!({ "status": "not ready", "store": error.to_string(), "facts": facts, "policy": policy }),
        ),
    }
}

/// Prometheus text format.
pub async fn metrics(handle: web::Data<PrometheusHandle>) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(handle.render())
}

/// Which release this is.
pub async fn version() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") }))
}
