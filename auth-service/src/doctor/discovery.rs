//! Checks the documents through which a client finds the login (RFC 9728, RFC 8414).

use serde_json::Value;

use super::Notes;
use super::challenge::Challenge;
use super::network::Target;

const RESOURCE: &str = "/.well-known/oauth-protected-resource";
const SERVER: &str = "/.well-known/oauth-authorization-server";
const OPENID: &str = "/.well-known/openid-configuration";

/// Checks the metadata of the resource, in both standard places and at the URL in the challenge. Returns the
/// issuer.
pub(super) async fn resource(
    target: &Target,
    challenge: Option<&Challenge>,
    notes: &mut Notes<'_>,
) -> Option<String> {
    let path_form = format!("{}{RESOURCE}{}", target.origin, target.path);
    let root_form = format!("{}{RESOURCE}", target.origin);
    let mut places = vec![(path_form, target.url.clone())];
    if !target.path.is_empty() {
        places.push((root_form, target.origin.clone()));
    }
    if let Some(named) = challenge.and_then(|challenge| challenge.metadata.clone())
        && places.iter().all(|(url, _)| *url != named)
    {
        places.insert(0, (named, target.url.clone()));
    }
    let mut issuer = None;
    for (url, expected) in places {
        let Some(document) = fetch(target, &url, "resource metadata", notes).await else { continue };
        let resource = document.get("resource").and_then(Value::as_str).unwrap_or_default();
        if resource.trim_end_matches('/') == expected {
            notes.fine("resource metadata", format!("{url} describes {resource}"));
        } else {
            notes.problem(
                "resource metadata",
                format!("{url} describes {resource:?}, not {expected}"),
                "clients refuse metadata about another resource (RFC 9728 §3.3)",
                "make the edge forward the Host that the client used, and add the host with its port to PROTECTED_HOSTS",
            );
        }
        let servers = document.get("authorization_servers").and_then(Value::as_array);
        match servers.and_then(|servers| servers.first()).and_then(Value::as_str) {
            Some(server) => issuer = issuer.or_else(|| Some(server.to_owned())),
            None => notes.problem(
                "resource metadata",
                format!("{url} does not name an authorization server"),
                "clients do not know where to log in",
                "route this path to PUBLIC_LISTEN of auth-service and not to another service",
            ),
        }
    }
    issuer
}

/// Checks the metadata of the authorization server, in all places that clients try.
pub(super) async fn server(target: &Target, issuer: &str, notes: &mut Notes<'_>) -> Option<Value> {
    let url = url::Url::parse(issuer).ok()?;
    let (origin, path) = (url.origin().ascii_serialization(), url.path().trim_end_matches('/').to_owned());
    let mut places = vec![format!("{origin}{SERVER}{path}"), format!("{origin}{OPENID}{path}")];
    if !path.is_empty() {
        places.push(format!("{issuer}{OPENID}"));
    }
    let mut found: Option<Value> = None;
    for url in places {
        let Some(document) = fetch(target, &url, "server metadata", notes).await else { continue };
        let named = document.get("issuer").and_then(Value::as_str).unwrap_or_default();
        if named == issuer {
            notes.fine("server metadata", format!("{url} belongs to {issuer}"));
            found = found.or(Some(document));
        } else {
            notes.problem(
                "server metadata",
                format!("{url} names the issuer {named:?}, but the resource metadata names {issuer}"),
                "clients refuse the server: the two must be equal, byte for byte (RFC 8414 §3.3)",
                "set ISSUER to the one public URL of auth-service, the same on every replica",
            );
        }
    }
    let document = found?;
    judge_server(&document, issuer, notes);
    keys(target, &document, notes).await;
    Some(document)
}

fn judge_server(document: &Value, issuer: &str, notes: &mut Notes<'_>) {
    for name in ["authorization_endpoint", "token_endpoint", "jwks_uri"] {
        let endpoint = document.get(name).and_then(Value::as_str).unwrap_or_default();
        let is_safe = endpoint.starts_with("https://") || issuer.starts_with("http://");
        if endpoint.is_empty() || !is_safe {
            notes.problem(
                "server metadata",
                format!("{name} is {endpoint:?}"),
                "clients cannot log in, or codes can be read on the network",
                "set ISSUER to an https URL; these URLs are derived from it",
            );
        }
    }
    let methods = document.get("code_challenge_methods_supported").and_then(Value::as_array);
    if !methods.is_some_and(|methods| methods.iter().any(|method| method == "S256")) {
        notes.problem(
            "server metadata",
            "code_challenge_methods_supported does not have S256",
            "MCP clients must refuse the server (MCP authorization, \"Authorization Code Protection\")",
            "route the document to auth-service, and not to another authorization server",
        );
    }
}

async fn keys(target: &Target, document: &Value, notes: &mut Notes<'_>) {
    let Some(url) = document.get("jwks_uri").and_then(Value::as_str) else { return };
    let Some(keys) = fetch(target, url, "keys", notes).await else { return };
    match keys.get("keys").and_then(Value::as_array) {
        Some(list) if !list.is_empty() && list.iter().all(|key| key.get("d").is_none()) => {
            notes.fine(
                "keys",
                format!("{url} has {} public key{}", list.len(), if list.len() == 1 { "" } else { "s" }),
            );
        }
        _ => notes.problem(
            "keys",
            format!("{url} is not a set of public keys"),
            "no signature of auth-service can be verified",
            "route this path to PUBLIC_LISTEN of auth-service",
        ),
    }
}

/// Fetches a document that everyone must be able to read.
async fn fetch(target: &Target, url: &str, check: &'static str, notes: &mut Notes<'_>) -> Option<Value> {
    let response = match target.http.get(url).header("origin", "https://mcp-gate-doctor.example").send().await
    {
        Ok(response) if response.status() == 200 => response,
        Ok(response) if response.status() == 429 => {
            notes.limited(check, url);
            return None;
        }
        answered => {
            let what = match answered {
                Ok(response) => format!("{url} returns {}", response.status().as_u16()),
                Err(error) => format!("{url} gives no response: {}", error.without_url()),
            };
            notes.problem(
                check,
                what,
                "clients cannot find the login",
                "route this path at the edge to PUBLIC_LISTEN of auth-service, without the check",
            );
            return None;
        }
    };
    let headers = response.headers();
    if !headers.contains_key("access-control-allow-origin") {
        notes.warning(
            check,
            format!("{url} has no CORS headers"),
            "clients that run in a browser cannot read it",
            "make the edge forward the Access-Control-Allow-Origin header of auth-service",
        );
    }
    let document = response.json::<Value>().await.ok();
    if document.is_none() {
        notes.problem(
            check,
            format!("{url} is not JSON"),
            "clients cannot find the login",
            "route this path at the edge to PUBLIC_LISTEN of auth-service",
        );
    }
    document
}
