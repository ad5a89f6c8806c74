//! The pages for users. They consist of plain HTML and one style sheet, without scripts or content from other
//! servers.

use std::sync::LazyLock;

use actix_web::http::StatusCode;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, ContentType, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use actix_web::{HttpResponse, HttpResponseBuilder};
use askama::Template;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::domain::error_code::ErrorCode;
use crate::domain::issuer::Issuer;
use crate::domain::visible::is_visible;

const STYLE: &str = include_str!("../templates/style.css");
static STYLE_HASH: LazyLock<String> = LazyLock::new(|| STANDARD.encode(Sha256::digest(STYLE)));

/// Asks the user for a user name and password.
#[derive(Template)]
#[template(path = "login.html")]
pub struct LoginPage<'a> {
    /// The URL to which the form is sent.
    pub action: &'a str,
    /// The token that binds the form to the browser.
    pub form_token: &'a str,
    /// The user name from the last attempt, to prefill the form.
    pub username: &'a str,
    /// The problem with the last attempt.
    pub problem: Option<&'a str>,
    /// The user who is already logged in.
    pub signed_in: Option<&'a str>,
    /// A link that lets this user continue without another login.
    pub way_on: Option<Link<'a>>,
    /// Whether the page is shown because the client requested a new login or an account choice (`prompt`).
    pub asked_again: bool,
}

/// Asks the user to choose a new password.
#[derive(Template)]
#[template(path = "new_password.html")]
pub struct NewPasswordPage<'a> {
    /// The URL to which the form is sent.
    pub action: &'a str,
    /// The token that binds the form to the browser.
    pub form_token: &'a str,
    /// The user who chooses a password.
    pub username: &'a str,
    /// The minimum number of characters.
    pub shortest: usize,
    /// The problem with the last choice.
    pub problem: Option<&'a str>,
}

/// Asks the user whether a client is allowed to act for them.
#[derive(Template)]
#[template(path = "consent.html")]
pub struct ConsentPage<'a> {
    /// The URL to which the form is sent.
    pub action: &'a str,
    /// The token that binds the form to the browser.
    pub form_token: &'a str,
    /// The user who is logged in.
    pub username: &'a str,
    /// The name that the client gave itself. The page shows it as an unverified claim.
    pub client_name: &'a str,
    /// The host to which the response is sent. It is the only information about a client that cannot be forged.
    pub redirect_host: &'a str,
    /// Whether the response is sent to the user's own machine, where any program could receive it.
    pub loopback: bool,
    /// The services that the client will reach.
    pub resources: &'a [String],
    /// Descriptions of the scopes that the client newly requests.
    pub scopes: &'a [String],
    /// Descriptions of the scopes that the user has already allowed.
    pub known_scopes: &'a [String],
}

/// Informs a user that the requested services are not available to them, so there is nothing to allow.
#[derive(Template)]
#[template(path = "barred.html")]
pub struct BarredPage<'a> {
    /// The URL to which the form is sent. The form denies the request, so that the client receives an error.
    pub action: &'a str,
    /// The token that binds the form to the browser.
    pub form_token: &'a str,
    /// The user who is logged in.
    pub username: &'a str,
    /// The services that this user is not allowed to use.
    pub resources: &'a [String],
}

/// Asks the user for the code that a device shows.
#[derive(Template)]
#[template(path = "device_code.html")]
pub struct DeviceCodePage<'a> {
    /// The URL to which the form is sent.
    pub action: &'a str,
    /// The token that binds the form to the browser.
    pub form_token: &'a str,
    /// The user who is logged in.
    pub username: &'a str,
    /// The code from the last attempt or from the link, to prefill the form.
    pub user_code: &'a str,
    /// The problem with the last attempt.
    pub problem: Option<&'a str>,
}

/// Asks the user whether a device is allowed to act for them.
#[derive(Template)]
#[template(path = "device_consent.html")]
pub struct DeviceConsentPage<'a> {
    /// The URL to which the form is sent.
    pub action: &'a str,
    /// The token that binds the form to the browser.
    pub form_token: &'a str,
    /// The user who is logged in.
    pub username: &'a str,
    /// The code, which the device shows as well.
    pub user_code: &'a str,
    /// The name that the client gave itself. The page shows it as an unverified claim.
    pub client_name: &'a str,
    /// The number of minutes since the device made its request.
    pub minutes: u64,
    /// The address from which the device made its request. It is empty if unknown.
    pub asked_from: &'a str,
    /// Whether the user's browser has the same address.
    pub same_address: bool,
    /// The services that the client will reach.
    pub resources: &'a [String],
    /// Descriptions of what the client will be allowed to do there.
    pub scopes: &'a [String],
}

/// Shows a message about an error or about the end of a flow.
#[derive(Template)]
#[template(path = "message.html")]
pub struct MessagePage<'a> {
    /// A short description of what happened.
    pub title: &'a str,
    /// The reason, and what the user can do.
    pub text: &'a str,
    /// The OAuth error code, for the developer of the client.
    pub code: Option<CodeLink>,
    /// A link with which the user can continue.
    pub way_on: Option<Link<'a>>,
}

/// A link to another page of this service.
#[derive(Debug, Clone, Copy)]
pub struct Link<'a> {
    /// The text of the link.
    pub text: &'a str,
    /// The target of the link.
    pub url: &'a str,
}

/// Explains why a request cannot be answered. The user decides whether the error is sent to the client, because
/// the user might not trust the redirect URI.
#[derive(Template)]
#[template(path = "refused.html")]
pub struct RefusedPage<'a> {
    /// A description of the error.
    pub description: &'a str,
    /// The OAuth error code, for the developer of the client.
    pub code: CodeLink,
    /// The host of the redirect URI.
    pub redirect_host: &'a str,
    /// The redirect URI with the error parameters.
    pub url: &'a str,
}

/// An OAuth error code and the URL of its explanation.
#[derive(Debug, Clone)]
pub struct CodeLink {
    /// The OAuth error code.
    pub code: ErrorCode,
    /// The value of `error_uri`.
    pub uri: String,
}

impl CodeLink {
    /// Links to the explanation of the code on the pages of `issuer`.
    pub fn new(code: ErrorCode, issuer: &Issuer) -> Self {
        Self { code, uri: code.uri(issuer) }
    }
}

/// A document of this repository as a page.
#[derive(Template)]
#[template(path = "document.html")]
pub struct DocumentPage<'a> {
    /// The title of the document.
    pub title: &'a str,
    /// The text below the title, as HTML. It must come only from files that are compiled in.
    pub html: &'a str,
}

/// Where the response to a form on the page can redirect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormTarget {
    /// Only to pages of this service.
    Ourselves,
    /// To the client. Chromium applies `form-action` to every redirect that follows a form, including redirects by
    /// the client's site, and could block such a redirect after the code has been used. This server cannot know
    /// where a client redirects its user, so the page has no `form-action` (ADR 17).
    MayLeave,
}

/// Renders a page, with headers that prevent framing, caching, and the loading of external content.
pub fn page(status: StatusCode, template: &impl Template, target: FormTarget) -> HttpResponse {
    let Ok(body) = template.render() else {
        return HttpResponse::InternalServerError().finish();
    };
    let form_action = match target {
        FormTarget::Ourselves => "form-action 'self'; ",
        FormTarget::MayLeave => "",
    };
    HttpResponseBuilder::new(status)
        .content_type(ContentType::html())
        .insert_header((
            CONTENT_SECURITY_POLICY,
            format!(
                "default-src 'none'; style-src 'sha256-{}'; {form_action}frame-ancestors 'none'; base-uri 'none'",
                *STYLE_HASH
            ),
        ))
        .insert_header((X_FRAME_OPTIONS, "DENY"))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .insert_header((CACHE_CONTROL, "no-store"))
        .body(body)
}

/// Maximum number of characters of a name that is shown.
const MAX_NAME: usize = 64;

/// Makes a self-asserted name safe to show: one line of at most 64 characters, without invisible characters and
/// without characters that change the writing direction. Both could make one name look like another. A longer name ends
/// with `…`, so that users see that it continues.
pub fn displayable(name: &str) -> String {
    let shown: String = name.chars().filter(|letter| is_visible(*letter)).collect();
    let one_line = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    if one_line.chars().count() <= MAX_NAME {
        return one_line;
    }
    let beginning: String = one_line.chars().take(MAX_NAME - 1).collect();
    format!("{}…", beginning.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a020_names_lose_what_makes_them_look_like_others() {
        assert_eq!(displayable("  Claude\u{202e}gpj \u{200b}\n Code "), "Claudegpj Code");
        assert_eq!(displayable("\u{feff}"), "");
        assert_eq!(displayable(&"é".repeat(64)), "é".repeat(64));
        assert_eq!(displayable(&"é".repeat(65)), format!("{}…", "é".repeat(63)));
        // Names in other scripts stay unchanged.
        for name in ["Müller & Söhne", "クロード", "클로드", "Клод", "e\u{301}"] {
            assert_eq!(displayable(name), name);
        }
        assert_eq!(displayable(&"x".repeat(500)).chars().count(), 64);
    }

    #[test]
    fn a018_a019_pages_cannot_be_framed_scripted_or_cached() {
        let hostile = "<script>alert(1)</script>\"'><img src=x onerror=y>";
        let template = MessagePage { title: hostile, text: hostile, code: None, way_on: None };
        let response = page(StatusCode::BAD_REQUEST, &template, FormTarget::Ourselves);
        let header = |name| response.headers().get(name).unwrap().to_str().unwrap().to_owned();
        assert!(header(CONTENT_SECURITY_POLICY).contains("frame-ancestors 'none'"));
        assert!(header(CONTENT_SECURITY_POLICY).starts_with("default-src 'none'"));
        assert_eq!(header(X_FRAME_OPTIONS), "DENY");
        assert_eq!(header(CACHE_CONTROL), "no-store");
        assert_eq!(header(REFERRER_POLICY), "no-referrer");
        let body = template.render().unwrap();
        assert!(!body.contains("<script>alert") && !body.contains("<img"), "{body}");
    }
}
