//! Endpoints for the operator on a separate listener: health, readiness and metrics.

use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;

use actix_web::{HttpResponse, web};

use crate::log;
use crate::metrics::Metrics;

/// Returns the reason why a new session could not be served now, or `Ok` if it could.
pub type Ready =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), &'static str>> + Send>> + Send + Sync>;

/// Adds the operator's endpoints to a server. None of them starts a child.
pub fn routes(metrics: Arc<Metrics>, ready: Ready) -> impl FnOnce(&mut web::ServiceConfig) {
    move |service| {
        service.app_data(web::Data::from(metrics)).app_data(web::Data::new(ready));
        service.route("/health", web::get().to(health));
        service.route("/ready", web::get().to(is_ready));
        service.route("/metrics", web::get().to(print_metrics));
    }
}

async fn health() -> HttpResponse {
    HttpResponse::Ok().body("alive\n")
}

async fn is_ready(ready: web::Data<Ready>) -> HttpResponse {
    match ready().await {
        Ok(()) => HttpResponse::Ok().body("ready\n"),
        Err(why) => HttpResponse::ServiceUnavailable().body(format!("not ready: {why}\n")),
    }
}

async fn print_metrics(metrics: web::Data<Metrics>) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(print(&metrics))
}

/// Prints the metrics in the text format of Prometheus.
fn print(metrics: &Metrics) -> String {
    let mut out = String::new();
    for (name, kind, help, value) in metrics.all() {
        let help = help.trim();
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            "# HELP stdio_wrapper_{name} {help}\n# TYPE stdio_wrapper_{name} {kind}\nstdio_wrapper_{name} {value}\n"
        );
    }
    let left_out = log::left_out();
    let _ = write!(
        out,
        "# HELP stdio_wrapper_log_lines_left_out_total Lines of the log that were dropped, because standard error was not read, or because a library wrote too many.\n# TYPE stdio_wrapper_log_lines_left_out_total counter\nstdio_wrapper_log_lines_left_out_total {left_out}\n"
    );
    if let Some(bytes) = resident_bytes() {
        let _ = write!(
            out,
            "# HELP process_resident_memory_bytes Resident memory of the wrapper, without its children.\n# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes {bytes}\n"
        );
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        let count = entries.count();
        let _ = write!(
            out,
            "# HELP process_open_fds Open file descriptors.\n# TYPE process_open_fds gauge\nprocess_open_fds {count}\n"
        );
    }
    out
}

fn resident_bytes() -> Option<u64> {
    // The name of the program, which does not have to be UTF-8, is part of the text.
    let status = std::fs::read("/proc/self/status").ok()?;
    let status = String::from_utf8_lossy(&status);
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_printed_with_kind_and_help() {
        let metrics = Metrics::default();
        metrics.sessions.add();
        let text = print(&metrics);
        assert!(text.contains("# HELP stdio_wrapper_sessions Number of open sessions.\n# TYPE stdio_wrapper_sessions gauge\nstdio_wrapper_sessions 1\n"), "{text}");
    }

    #[test]
    fn the_document_has_every_metric_with_its_help_text() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/stdio-wrapper.md");
        let document = std::fs::read_to_string(file).unwrap();
        let is_metric =
            |row: &&str| row.ends_with(". |") && (row.contains("| counter |") || row.contains("| gauge |"));
        let rows: Vec<&str> = document.lines().filter(is_metric).collect();
        let text = print(&Metrics::default());
        let mut expected = Vec::new();
        for metric in text.split("# HELP ").skip(1) {
            let (help, rest) = metric.split_once("\n# TYPE ").unwrap();
            let (name, help) = help.split_once(' ').unwrap();
            let kind = rest.lines().next().and_then(|line| line.rsplit(' ').next()).unwrap();
            expected.push(format!("| `{name}` | {kind} | {help} |"));
        }
        assert_eq!(rows, expected);
    }
}
