//! Checks whether a client can register itself (RFC 7591), and delete its registration (RFC 7592).

use serde_json::{Value, json};

use super::Notes;
use super::network::Target;

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
        "redirect_uris": ["http://127.0.0.1/mcp-gate-doctor"],
        "grant_types": ["authorization_code"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "client_secret_basic",
    });
    let Ok(response) = target.http.post(endpoint).json(&metadata).send().await else {
        return failed(notes, format!("{endpoint} gives no response"));
    };
    match response.status().as_u16() {
        201 => {}
        401 | 403 => {
            return notes
                .fine("registration", "only clients that the operator allows can register (REGISTRATION)");
        }
        429 => {
            return notes.warning(
                "registration",
                "the server accepts no registration at the moment",
                "new clients must wait",
                "try again in a minute; if this continues, see REGISTRATION_RATE",
            );
        }
        503 => {
            return notes.problem(
                "registration",
                format!(
                    "a registration returns the status 503: {}",
                    response.text().await.unwrap_or_default()
                ),
                "new clients cannot connect until this is fixed",
                "read the response of /ready on OPS_LISTEN, or run the doctor where auth-service runs",
            );
        }
        status => return failed(notes, format!("a registration returns the status {status}")),
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

fn failed(notes: &mut Notes<'_>, what: String) {
    notes.problem(
        "registration",
        what,
        "clients cannot connect with the URL alone",
        "route /register to PUBLIC_LISTEN of auth-service; REGISTRATION_REDIRECT_HOSTS must allow what clients register",
    );
}
