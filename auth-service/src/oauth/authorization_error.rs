//! The error response of the authorization endpoint, which the browser takes to the client.

use actix_web::HttpResponse;

use crate::domain::redirect_uri::RedirectUri;
use crate::state::AppState;

use super::authorization_request::Refusal;
use super::responses::see_other;

/// Redirects the browser to the client with an error response (RFC 6749 §4.1.2.1, RFC 9207 §2.1).
pub(super) fn refuse(
    state: &AppState,
    redirect_uri: &RedirectUri,
    client_state: Option<&str>,
    refusal: &Refusal,
) -> HttpResponse {
    see_other(&refusal_url(state, redirect_uri, client_state, refusal))
}

/// The URL of that redirect.
pub(super) fn refusal_url(
    state: &AppState,
    redirect_uri: &RedirectUri,
    client_state: Option<&str>,
    refusal: &Refusal,
) -> String {
    let issuer = &state.config.site.issuer;
    let (description, uri) = (refusal.to_string(), refusal.code().uri(issuer));
    let mut pairs =
        vec![("error", refusal.code().as_str()), ("error_description", &description), ("error_uri", &uri)];
    pairs.extend(client_state.map(|value| ("state", value)));
    pairs.push(("iss", issuer.as_str()));
    redirect_uri.with_query(&pairs)
}
