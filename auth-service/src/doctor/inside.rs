//! Checks that are possible only on the machine of the service: its settings, its store, and who can reach
//! its listeners.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use reqwest::Response;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::config::{Config, Storage};
use crate::operator::socket;
use crate::store::embedded::{self, readable_key_file};

use super::Notes;
use super::network::Target;

/// Reports the settings without which the service cannot be examined from inside.
pub(super) fn note_unset(unset: &[&'static str], notes: &mut Notes<'_>) {
    if !unset.is_empty() {
        notes.unexamined(
            "settings",
            format!(
                "the environment of this command has no {}, so the settings, the store and the internal listeners were not examined",
                unset.join(" and no ")
            ),
            "on the machine of the service, run the doctor with the service's own environment (in the stack: docker compose exec auth-service /auth-service doctor URL); elsewhere, use --outside-only",
        );
    }
}

/// Compares the settings with what was observed from outside.
pub(super) async fn examine(
    target: &Target,
    settings: &Config,
    issuer: Option<&str>,
    addresses: &[IpAddr],
    notes: &mut Notes<'_>,
) {
    let site = &settings.site;
    if site.protected_hosts.parse(&target.url).is_err() {
        notes.problem(
            "settings",
            format!("PROTECTED_HOSTS does not name {}", target.origin),
            "every request there is refused",
            "add the host, with its port unless it is the default port",
        );
    }
    if issuer.is_some_and(|issuer| issuer != site.issuer.as_str()) {
        notes.problem(
            "settings",
            format!("ISSUER here is {}, and from outside it is {}", site.issuer, issuer.unwrap_or_default()),
            "the edge uses another auth-service, or the settings of this shell differ from those of the service",
            "run the doctor with the service's own environment, and compare the two",
        );
    }
    if settings.trusted_edge.secret.is_none() {
        notes.warning(
            "settings",
            "EDGE_SECRET is not set",
            "any program in a trusted network can send checks for requests that it has made up",
            "set EDGE_SECRET here and at the edge; `openssl rand -hex 32` makes a good one",
        );
    }
    note_data_dir(&settings.storage, settings.listeners.ops, target.patience, notes).await;
    if let Some(path) = readable_key_file(&settings.storage.data_dir) {
        notes.warning(
            "settings",
            format!("{} can be read by users other than its owner", path.display()),
            "with it, anyone who gets a copy of the store or of a backup can decrypt everything in it",
            "set its mode to 0600; if anyone might have read it, replace the key (`auth-service store rekey`)",
        );
    }
    let mut closed = true;
    for (name, listener) in [
        ("EDGE_LISTEN", Some(settings.listeners.edge)),
        ("EDGE_GRPC_LISTEN", settings.listeners.edge_grpc),
        ("OPS_LISTEN", Some(settings.listeners.ops)),
    ] {
        let Some(listener) = listener else { continue };
        closed &= !reachable(name, listener, addresses, target.patience / 4, notes).await;
    }
    if closed {
        notes.fine("listeners", "the internal listeners are not reachable at the service's addresses");
    }
}

/// Reports a `DATA_DIR` that is not the one of the running service. With such a setting, the key file that is examined
/// is the wrong one, and operator commands change a store that nobody uses.
async fn note_data_dir(storage: &Storage, ops: SocketAddr, patience: Duration, notes: &mut Notes<'_>) {
    if storage.redis.is_some() {
        return;
    }
    let directory = std::path::absolute(&storage.data_dir).unwrap_or_else(|_| storage.data_dir.clone());
    let what = match embedded::exists(&directory) {
        Ok(false) => format!("there is no store in {} (DATA_DIR)", directory.display()),
        // Whether it runs at all is examined elsewhere.
        Ok(true) if socket::is_served(&directory).await || ask(ops, patience).await.is_none() => return,
        Ok(true) => format!(
            "auth-service responds on OPS_LISTEN, but it does not use the store in {} (DATA_DIR)",
            directory.display()
        ),
        Err(error) => {
            return notes.unexamined(
                "settings",
                format!("whether there is a store in DATA_DIR is unknown: {error}"),
                "run the doctor as the user that the service runs as, with the service's own environment",
            );
        }
    };
    notes.problem(
        "settings",
        what,
        "the settings of this shell differ from those of the service, so its key file was not examined, and commands such as `auth-service user` would not change its accounts",
        "set DATA_DIR to the directory in which the service keeps its state (or REDIS_URL, if it uses Redis), and run the doctor again",
    );
}

/// Requests `/ready`, which queries the store, and judges the response.
pub(super) async fn readiness(ops: SocketAddr, patience: Duration, notes: &mut Notes<'_>) {
    match ask(ops, patience).await {
        Some(response) => judge(response, notes).await,
        None => notes.problem(
            "store",
            format!("auth-service does not respond on OPS_LISTEN ({})", reachable_form(ops)),
            "it is not running here, or the settings of this shell differ from its own",
            "start it, or run the doctor with the service's own environment",
        ),
    }
}

/// The address at which a listener is reached from this machine.
pub(super) fn reachable_form(listener: SocketAddr) -> SocketAddr {
    match listener.ip() {
        ip if ip.is_unspecified() && ip.is_ipv4() => SocketAddr::from(([127, 0, 0, 1], listener.port())),
        ip if ip.is_unspecified() => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, listener.port())),
        _ => listener,
    }
}

/// The response from `/ready`, if there is one.
pub(super) async fn ask(ops: SocketAddr, patience: Duration) -> Option<Response> {
    let client = reqwest::Client::builder().no_proxy().timeout(patience).build().ok()?;
    client.get(format!("http://{}/ready", reachable_form(ops))).send().await.ok()
}

/// Judges the response from `/ready`. A service that responds has loaded its keys.
pub(super) async fn judge(response: Response, notes: &mut Notes<'_>) {
    let is_ready = response.status() == 200;
    let body: Value = response.json().await.unwrap_or_default();
    if is_ready {
        notes.fine("store", "the store responds, and the keys are loaded");
        note_dangers(body.get("store_dangers").and_then(Value::as_array), notes);
        note_clock(body.get("clock").and_then(Value::as_str), notes);
        note_policy(body.get("policy"), notes);
        note_log(body.get("log").and_then(Value::as_str), notes);
    } else {
        notes.problem(
            "store",
            format!("auth-service is not ready: {body}"),
            "logins, registrations and refreshes are refused, and possibly checks",
            "fix what it reports about the store and the clock; docs/state.md lists the causes: a full disk, a Redis that is unreachable or full, a wrong clock, lost data",
        );
    }
}

/// Reports the clock state from `/ready`. The clock of the service can differ from the clock of the doctor.
fn note_clock(clock: Option<&str>, notes: &mut Notes<'_>) {
    if let Some(clock) = clock.filter(|clock| *clock != "ok" && !clock.starts_with("not compared yet")) {
        notes.problem(
            "clock",
            format!("the clock of auth-service is not reliable: {clock}"),
            "tokens and assertions are treated as expired or not yet valid, and wrappers refuse every call",
            "run NTP on the machine of auth-service; see \"When the clock is wrong\" in docs/state.md",
        );
    }
}

/// Reports the risks to the stored data that `/ready` lists.
fn note_dangers(dangers: Option<&Vec<Value>>, notes: &mut Notes<'_>) {
    for danger in dangers.into_iter().flatten().filter_map(Value::as_str) {
        notes.warning(
            "store",
            format!("the stored data is at risk: {danger}"),
            "acknowledged changes can be lost, including revocations",
            "see \"When the disk is full\" and \"When Redis fails or loses data\" in docs/state.md",
        );
    }
}

/// Reports a policy file that cannot be used, according to `/ready`.
fn note_policy(policy: Option<&Value>, notes: &mut Notes<'_>) {
    if let Some(error) = policy.and_then(|policy| policy.get("error")).and_then(Value::as_str) {
        notes.warning(
            "policy",
            format!("the policy file cannot be used: {error}"),
            "the last usable policy is in force, not the one in the file",
            "correct POLICY_FILE: `auth-service policy check` shows all problems with their lines; the service then loads it automatically",
        );
    }
}

/// Reports lines that are missing from the log, according to `/ready`.
fn note_log(log: Option<&str>, notes: &mut Notes<'_>) {
    if let Some(log) = log
        && log != "ok"
    {
        notes.warning(
            "log",
            format!("log lines were dropped: {log}"),
            "audit events might be missing from the log; mcp_gate_audit_events_total still counts them",
            "check what reads the standard error of the service (the log driver of the container, journald), and whether its disk is full",
        );
    }
}

/// Whether an internal listener is reachable at one of the service's public addresses.
async fn reachable(
    name: &'static str,
    listener: SocketAddr,
    addresses: &[IpAddr],
    patience: Duration,
    notes: &mut Notes<'_>,
) -> bool {
    // A listener on loopback cannot be reached from other machines, even if a connection from this one
    // succeeds.
    if listener.ip().is_loopback() {
        return false;
    }
    for address in addresses {
        let tried = TcpStream::connect((*address, listener.port()));
        if matches!(tokio::time::timeout(patience, tried).await, Ok(Ok(_))) {
            notes.problem(
                "listeners",
                format!("{name} is reachable at {address}:{}", listener.port()),
                "strangers can send checks for requests that they have made up, or read metrics",
                "bind it to an address that only the edge can reach, or close the port in the firewall",
            );
            return true;
        }
    }
    false
}
