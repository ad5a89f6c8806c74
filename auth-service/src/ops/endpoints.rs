//! The endpoints of the operators' listener: `/health`, `/ready`, `/metrics`, `/version`.

use actix_web::{HttpResponse, web};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;

use crate::domain::clock_watch;
use crate::policy::PolicyStatus;
use crate::state::AppState;
use crate::store::LOST;
use crate::upkeep::Findings;

use super::telemetry;

/// What `/ready` reports for the clock while the store is unavailable.
const NO_CLOCK: &str = "not compared: the store is unavailable";

/// `/health`: whether the process responds. It does not use the store, so that an outage of the store does not
/// restart the service.
pub async fn health() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok" }))
}

/// `/ready`: whether the service can work, and the state of its parts. It can work if the store is available,
/// because the keys are loaded before the listener is opened. If the store does not report changes to this
/// replica, the service works, but every check queries the store.
///
/// A policy file that cannot be used is reported, but does not make the service unready. The last good policy is
/// in force, and if all replicas share the file, a typing error would make all of them unready. The same applies
/// to a clock that has jumped, because all replicas can be affected. A difference from the clock of Redis is a
/// fault of this replica alone, and makes it unready. A log that is not read is only reported, because everything
/// else works.
pub async fn ready(state: web::Data<AppState>) -> HttpResponse {
    let token_cache = if state.store.changes().is_live() {
        "cached"
    } else {
        "not cached: changes in the store are not reported to this replica"
    };
    let PolicyStatus { epoch, error } = state.policy.status();
    let policy = match error {
        None => json!({ "epoch": epoch, "state": "current" }),
        Some(error) => json!({ "epoch": epoch, "state": "stale", "error": error }),
    };
    if state.is_stopping() {
        return HttpResponse::ServiceUnavailable().json(json!({ "status": "stopping" }));
    }
    let (is_ready, store, clock, dangers) = match state.findings().await {
        Ok(Findings { is_lost: true, clock, dangers, .. }) => {
            (false, LOST.to_owned(), clock.to_string(), dangers)
        }
        Ok(Findings { clock, dangers, .. }) => match state.store.ping().await {
            Ok(()) => {
                let is_ready = !matches!(clock, clock_watch::ClockState::Disagrees { .. });
                (is_ready, "ok".to_owned(), clock.to_string(), dangers)
            }
            Err(error) => (false, error.to_string(), NO_CLOCK.to_owned(), dangers),
        },
        Err(error) => (false, error.to_string(), NO_CLOCK.to_owned(), Vec::new()),
    };
    let status = if is_ready { "ready" } else { "not ready" };
    let body = json!({
        "status": status, "store": store, "store_dangers": dangers, "clock": clock, "token_cache": token_cache, "policy": policy,
        "log": telemetry::log_status(),
    });
    if is_ready { HttpResponse::Ok().json(body) } else { HttpResponse::ServiceUnavailable().json(body) }
}

/// `/metrics`: the metrics in the text format of Prometheus.
pub async fn metrics(handle: web::Data<PrometheusHandle>) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(handle.render())
}

/// `/version`: the name and release of this program.
pub async fn version() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") }))
}
