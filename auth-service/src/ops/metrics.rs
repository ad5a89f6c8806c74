//! The metrics of this service: their names, types, help texts and labels. `docs/settings.md` has the same table.

use crate::forward_auth::outcome::Outcome;

use super::audit;

/// A metric in `/metrics`.
struct Metric {
    name: &'static str,
    kind: Kind,
    help: &'static str,
}

/// The type of a metric.
enum Kind {
    Counter,
    /// A counter for each value of a label.
    Counters(&'static str, &'static [&'static str]),
    Gauge,
    /// A gauge that has this value until it is set.
    GaugeFrom(f64),
}

const METRICS: [Metric; 19] = [
    Metric {
        name: "mcp_gate_checks_total",
        kind: Kind::Counters("outcome", Outcome::LABELS),
        help: "Checks by their result.",
    },
    Metric {
        name: "mcp_gate_token_requests_total",
        kind: Kind::Counters("result", &["issued", "refused"]),
        help: "Requests to the token endpoint by their result.",
    },
    Metric {
        name: "mcp_gate_audit_events_total",
        kind: Kind::Counters("event", audit::EVENTS),
        help: "Audit events, including those that were not logged.",
    },
    Metric {
        name: "mcp_gate_token_cache_lookups_total",
        kind: Kind::Counters("outcome", &["hit", "miss", "known_invalid", "uncached"]),
        help: "Access tokens that were looked up in the token cache, by the result.",
    },
    Metric {
        name: "mcp_gate_token_cache_channel_live",
        kind: Kind::Gauge,
        help: "Whether Redis reports changes to this replica, so that it can use its token cache.",
    },
    Metric {
        name: "mcp_gate_token_cache_channel_losses_total",
        kind: Kind::Counter,
        help: "How often this replica has lost the connection on which Redis reports changes.",
    },
    Metric {
        name: "mcp_gate_token_cache_changes_heard_total",
        kind: Kind::Counter,
        help: "Changes that Redis has reported to this replica.",
    },
    Metric {
        name: "mcp_gate_store_circuit_open",
        kind: Kind::Gauge,
        help: "Whether requests are refused because Redis does not answer.",
    },
    Metric {
        name: "mcp_gate_store_writes_failing",
        kind: Kind::Gauge,
        help: "Whether the embedded store cannot be written.",
    },
    Metric {
        name: "mcp_gate_store_changes_waiting",
        kind: Kind::Gauge,
        help: "Changes that are in force but that the embedded store could not write yet.",
    },
    Metric {
        name: "mcp_gate_clock_steady",
        kind: Kind::GaugeFrom(1.0),
        help: "Whether the clock is reliable.",
    },
    Metric {
        name: "mcp_gate_clock_difference_seconds",
        kind: Kind::Gauge,
        help: "Time by which the clock is ahead of the clock of Redis.",
    },
    Metric {
        name: "mcp_gate_policy_epoch",
        kind: Kind::Gauge,
        help: "Number of the policy that is in force.",
    },
    Metric {
        name: "mcp_gate_policy_stale",
        kind: Kind::Gauge,
        help: "Whether the policy file cannot be used, so that an earlier policy stays in force.",
    },
    Metric {
        name: "mcp_gate_policy_loads_total",
        kind: Kind::Counters("result", &["loaded", "refused"]),
        help: "Attempts to load a policy file by their result.",
    },
    Metric {
        name: "mcp_gate_edge_grpc_refused_total",
        kind: Kind::Counter,
        help: "Calls over gRPC that were refused because too many were in progress.",
    },
    Metric {
        name: "mcp_gate_edge_grpc_displaced_total",
        kind: Kind::Counter,
        help: "Connections without the edge secret that were closed to make room for another one.",
    },
    Metric {
        name: "mcp_gate_log_lines_left_out_total",
        kind: Kind::Counter,
        help: "Lines of the log that were dropped because of a rate limit, or because they could not be written.",
    },
    Metric {
        name: "mcp_gate_audit_lines_lost_total",
        kind: Kind::Counter,
        help: "Lines about audit events that were dropped because they could not be written.",
    },
];

/// Describes all metrics to the recorder. Counters begin at zero, because a rate cannot be computed for a counter that
/// appears with its first event. A gauge appears when its value is known.
pub fn register() {
    for Metric { name, kind, help } in METRICS {
        match kind {
            Kind::Counter => {
                metrics::describe_counter!(name, help);
                metrics::counter!(name).absolute(0);
            }
            Kind::Counters(label, values) => {
                metrics::describe_counter!(name, help);
                for value in values {
                    metrics::counter!(name, label => *value).absolute(0);
                }
            }
            Kind::Gauge => metrics::describe_gauge!(name, help),
            Kind::GaugeFrom(value) => {
                metrics::describe_gauge!(name, help);
                metrics::gauge!(name).set(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn every_metric_has_a_help_text_and_every_counter_begins_at_zero() {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            register();
            for Metric { name, kind, .. } in METRICS {
                if matches!(kind, Kind::Gauge) {
                    metrics::gauge!(name).set(0.0);
                }
            }
        });
        let text = recorder.handle().render();
        for Metric { name, kind, help } in METRICS {
            assert!(text.contains(&format!("# HELP {name} {help}\n")), "{name}: {text}");
            let samples: Vec<String> = match kind {
                Kind::Counter | Kind::Gauge => vec![format!("{name} 0")],
                Kind::GaugeFrom(value) => vec![format!("{name} {value}")],
                Kind::Counters(label, values) => {
                    values.iter().map(|value| format!("{name}{{{label}=\"{value}\"}} 0")).collect()
                }
            };
            for sample in samples {
                assert!(text.lines().any(|line| line == sample), "{sample}: {text}");
            }
        }
    }

    /// The content of all source files in this directory.
    fn sources(directory: &Path) -> String {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        entries
            .map(|path| if path.is_dir() { sources(&path) } else { fs::read_to_string(path).unwrap() })
            .collect()
    }

    #[test]
    fn the_table_has_every_metric_that_the_program_uses() {
        let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
        let places =
            ["counter!(\"", "gauge!(\"", "histogram!(\""].iter().flat_map(|used| sources.split(used).skip(1));
        let used: BTreeSet<_> = places.filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(used, METRICS.iter().map(|metric| metric.name).collect());
    }

    #[test]
    fn the_document_has_the_same_table() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/settings.md");
        let document = fs::read_to_string(file).unwrap();
        let rows: Vec<&str> = document.lines().filter(|line| line.starts_with("| `mcp_gate_")).collect();
        let expected = METRICS.map(|Metric { name, kind, help }| match kind {
            Kind::Counter => format!("| `{name}` | counter | {help} |"),
            Kind::Counters(label, _) => format!("| `{name}{{{label}}}` | counter | {help} |"),
            Kind::Gauge | Kind::GaugeFrom(_) => format!("| `{name}` | gauge | {help} |"),
        });
        assert_eq!(rows, expected);
    }
}
