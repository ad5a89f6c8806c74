//! The pages that a person sees: plain HTML and one style sheet, no script, nothing from elsewhere.

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
use crate::domain::redirect_uri::RedirectUri;

const STYLE: &str = include_str!("../templates/style.css");
static STYLE_HASH: LazyLock<String> = LazyLock::new(|| STANDARD.encode(Sha256::digest(STYLE)));

/// Asks for user name and password.
#[derive(Template)]
#[template(path = "login.html")]
pub struct LoginPage<'a> {
    /// Where the form goes.
    pub action: &'a str,
    /// Form ticket.
    pub ticket: &'a str,
    /// What was typed before.
    pub username: &'a str,
    /// What was wrong with it.
    pub problem: Option<&'a str>,
}

/// Asks for a password of one's own.
#[derive(Template)]
#[template(path = "new_password.html")]
pub struct NewPasswordPage<'a> {
    /// Where the form goes.
    pub action: &'a str,
    /// Form ticket.
    pub ticket: &'a str,
    /// Who is choosing.
    pub username: &'a str,
    /// Fewest characters.
    pub shortest: usize,
    /// What was wrong with the last choice.
    pub problem: Option<&'a str>,
}

/// Asks whether a client may act for the person.
#[derive(Template)]
#[template(path = "consent.html")]
pub struct ConsentPage<'a> {
    /// Where the form goes.
    pub action: &'a str,
    /// Form ticket.
    pub ticket: &'a str,
    /// Who is asked.
    pub username: &'a str,
    /// What the client calls itself: a claim, shown as one.
    pub client_name: &'a str,
    /// Where the answer goes: the one thing about a client that cannot be made up.
    pub redirect_host: &'a str,
    /// Whether that is a program on the person's own machine, and so any program.
    pub loopback: bool,
    /// Services that the client will reach.
    pub resources: &'a [String],
    /// What it will be allowed there, and was not before.
    pub scopes: &'a [String],
    /// What the person has allowed it before.
    pub known_scopes: &'a [String],
}

/// Says that the person may not use what a client wants to use for them, before anything is allowed.
#[derive(Template)]
#[template(path = "barred.html")]
pub struct BarredPage<'a> {
    /// Where the form goes, which tells the client.
    pub action: &'a str,
    /// Form ticket.
    pub ticket: &'a str,
    /// Who is signed in.
    pub username: &'a str,
    /// Services that this person may not use.
    pub resources: &'a [String],
}

/// Asks for the code that a device shows.
#[derive(Template)]
#[template(path = "device_code.html")]
pub struct DeviceCodePage<'a> {
    /// Where the form goes.
    pub action: &'a str,
    /// Form ticket.
    pub ticket: &'a str,
    /// Who is asked.
    pub username: &'a str,
    /// What was typed before, or came with a link.
    pub user_code: &'a str,
    /// What was wrong with it.
    pub problem: Option<&'a str>,
}

/// Asks whether a device may act for the person.
#[derive(Template)]
#[template(path = "device_consent.html")]
pub struct DeviceConsentPage<'a> {
    /// Where the form goes.
    pub action: &'a str,
    /// Form ticket.
    pub ticket: &'a str,
    /// Who is asked.
    pub username: &'a str,
    /// What the device shows, too.
    pub user_code: &'a str,
    /// What the client calls itself: a claim, shown as one.
    pub client_name: &'a str,
    /// How long ago the device asked.
    pub minutes: u64,
    /// From where; empty when unknown.
    pub asked_from: &'a str,
    /// Whether the person's browser is there, too.
    pub same_address: bool,
    /// Services that the client will reach.
    pub resources: &'a [String],
    /// What the client may do there.
    pub scopes: &'a [String],
}

/// Says that something went wrong, or went right and is over.
#[derive(Template)]
#[template(path = "message.html")]
pub struct MessagePage<'a> {
    /// What happened.
    pub title: &'a str,
    /// Why, and what to do.
    pub text: &'a str,
    /// For the client's developer.
    pub code: Option<CodeLink>,
}

/// An OAuth error code, and where it is explained.
#[derive(Debug, Clone)]
pub struct CodeLink {
    /// The code.
    pub code: ErrorCode,
    /// `error_uri`.
    pub uri: String,
}

impl CodeLink {
    /// The code as `issuer` explains it.
    pub fn new(code: ErrorCode, issuer: &Issuer) -> Self {
        Self { code, uri: code.uri(issuer) }
    }
}

/// A text of this repository.
#[derive(Template)]
#[template(path = "document.html")]
pub struct DocumentPage<'a> {
    /// What it is about.
    pub title: &'a str,
    /// The rest of it, as HTML. Only ever made from files that are compiled in.
    pub html: &'a str,
}

/// Where a form on the page may lead, beyond ourselves.
#[derive(Debug, Clone, Copy)]
pub enum FormTarget<'a> {
    /// Nowhere else.
    Ourselves,
    /// To the client, by the redirect that answers the form: browsers apply `form-action` to it too.
    Client(&'a RedirectUri),
}

/// Renders a page with every header that keeps it from being framed, cached, or made to load anything.
pub fn page(status: StatusCode, template: &impl Template, target: FormTarget<'_>) -> HttpResponse {
    let Ok(body) = template.render() else {
        return HttpResponse::InternalServerError().finish();
    };
    let form_action = match target {
        FormTarget::Ourselves => "'self'".to_owned(),
        FormTarget::Client(uri) => format!("'self' {}", form_action_source(uri)),
    };
    HttpResponseBuilder::new(status)
        .content_type(ContentType::html())
        .insert_header((
            CONTENT_SECURITY_POLICY,
            format!(
                "default-src 'none'; style-src 'sha256-{}'; form-action {form_action}; frame-ancestors 'none'; base-uri 'none'",
                *STYLE_HASH
            ),
        ))
        .insert_header((X_FRAME_OPTIONS, "DENY"))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .insert_header((CACHE_CONTROL, "no-store"))
        .body(body)
}

fn form_action_source(uri: &RedirectUri) -> String {
    let origin = uri.origin();
    // The grammar of CSP sources has no IPv6 literals.
    if origin.contains('[') { "http:".to_owned() } else { origin }
}

/// A self-asserted name as it may be shown: one line of bounded length without invisible, control or direction
/// characters, which could make one name look like another.
pub fn displayable(name: &str) -> String {
    let visible = |c: &char| {
        !c.is_control()
            && !matches!(*c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
    };
    let one_line: String = name.chars().filter(visible).take(64).collect();
    one_line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a020_names_lose_what_makes_them_look_like_others() {
        assert_eq!(displayable("  Claude\u{202e}gpj \u{200b}\n Code "), "Claudegpj Code");
        assert_eq!(displayable("\u{feff}"), "");
        assert_eq!(displayable(&"x".repeat(500)).len(), 64);
    }

    #[test]
    fn a018_a019_pages_cannot_be_framed_scripted_or_cached() {
        let hostile = "<script>alert(1)</script>\"'><img src=x onerror=y>";
        let template = MessagePage { title: hostile, text: hostile, code: None };
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
