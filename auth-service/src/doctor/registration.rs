//! Checks whether a client can register itself (RFC 7591), and delete its registration (RFC 7592).

use reqwest::Response;
use serde_json::{Value, json};

use super::Notes;
use super::network::Target;

/// The redirect URI of the client that the doctor registers.
const REDIRECT_URI: &str = "http://127.0.0.1/mcp-gate-doctor";
/// Maximum number of characters of a response that are reported. The response can come from any program.
const MAX_REASON: usize = 300;

/// Registers a client with a secret, which is discarded, and deletes the client.
pub(super) async fn examine(target: &Target, server: &Value, notes: &mut Notes<'_>) {
    let Some(endpoint) = server.get("registration_endpoint").and_then(Value::as_str) else {
        return notes.warning(
            "registration",
            "the server has no registration endpoint",
            "clients that are not registered and have no metadata document cannot connect",
            "set REGISTRATION=open or token, unless this is intended",
        );
    };
    let metadata = json!({
        "client_name": "mcp-gate doctor (probe, deleted immediately)",
        "redirect_uris": [REDIRECT_URI],
        "grant_types": ["authorization_code"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "client_secret_basic",
    });
    let Ok(response) = target.http.post(endpoint).json(&metadata).send().await else {
        return failed(notes, format!("{endpoint} gives no response"));
    };
    let status = response.status().as_u16();
    if status != 201 {
        return refused(status, &Refusal::read(response).await, notes);
    }
    let client: Value = response.json().await.unwrap_or_default();
    let text = |name: &str| client.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (uri, token) = (text("registration_client_uri"), text("registration_access_token"));
    let deleted = target.http.delete(&uri).bearer_auth(token).send().await;
    if deleted.is_ok_and(|deleted| deleted.status() == 204) {
        notes.fine("registration", "a client was registered and deleted again");
    } else {
        notes.warning(
            "registration",
            format!("the probe registered but could not be deleted at {uri:?}"),
            "a client that is never used is kept for CLIENT_UNUSED_TTL",
            "route the whole path below /register to PUBLIC_LISTEN, for GET, PUT and DELETE too",
        );
    }
}

/// Why a registration was refused (RFC 7591 §3.2.2).
struct Refusal {
    /// The error code, which is empty if the response has none.
    code: String,
    /// The description of the error or, if the response has none, the beginning of its text.
    reason: String,
}

impl Refusal {
    async fn read(response: Response) -> Self {
        let body = response.text().await.unwrap_or_default();
        let error: Value = serde_json::from_str(&body).unwrap_or_default();
        let member = |name: &str| error.get(name).and_then(Value::as_str);
        let code = member("error").unwrap_or_default().to_owned();
        let whole = member("error_description").unwrap_or(&body);
        let reason = whole.chars().take(MAX_REASON).collect();
        Self { code, reason }
    }

    /// Appends the reason to `what`, if the response has one.
    fn after(&self, what: impl std::fmt::Display) -> String {
        if self.reason.is_empty() { what.to_string() } else { format!("{what}: {}", self.reason) }
    }
}

fn refused(status: u16, refusal: &Refusal, notes: &mut Notes<'_>) {
    match status {
        // The server works, but allows no redirect URI on this machine. Whether other clients can register depends on
        // their redirect URIs.
        400 if refusal.code == "invalid_redirect_uri" => notes.unexamined(
            "registration",
            refusal.after(format_args!("the doctor cannot register, because the server does not allow {REDIRECT_URI}")),
            "connect with a client whose host REGISTRATION_REDIRECT_HOSTS allows; to let the doctor and other \
             programs on users' machines register, add localhost to it",
        ),
        401 | 403 => notes.fine(
            "registration",
            refusal.after("only clients that the operator allows can register (REGISTRATION)"),
        ),
        429 => notes.warning(
            "registration",
            refusal.after("the server accepts no registration at the moment"),
            "new clients must wait",
            "try again in a minute; if this continues, see REGISTRATION_RATE",
        ),
        503 => notes.problem(
            "registration",
            refusal.after("a registration returns the status 503"),
            "new clients cannot connect until this is fixed",
            "read the response of /ready on OPS_LISTEN, or run the doctor where auth-service runs",
        ),
        status => failed(notes, refusal.after(format_args!("a registration returns the status {status}"))),
    }
}

fn failed(notes: &mut Notes<'_>, what: String) {
    notes.problem(
        "registration",
        what,
        "clients cannot connect with the URL alone",
        "route /register to PUBLIC_LISTEN of auth-service; REGISTRATION_REDIRECT_HOSTS must allow what clients register",
    );
}
