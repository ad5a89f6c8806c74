//! The pages that a person sees: plain HTML and one style sheet, no script, nothing from elsewhere.

use std::ops::RangeInclusive;
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
    /// Who is signed in already.
    pub signed_in: Option<&'a str>,
    /// Where that user can go on without signing in again.
    pub way_on: Option<Link<'a>>,
    /// Whether that is because the client wants the user to sign in, or to choose an account.
    pub asked_again: bool,
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
    /// Where to go from here.
    pub way_on: Option<Link<'a>>,
}

/// A link to a page of ours.
#[derive(Debug, Clone, Copy)]
pub struct Link<'a> {
    /// What it says.
    pub text: &'a str,
    /// Where it leads.
    pub url: &'a str,
}

/// Says why a request cannot be answered, and leaves it to the user whether the client is told: nobody knows yet whether
/// the redirect URI is a place that the user wants to go to.
#[derive(Template)]
#[template(path = "refused.html")]
pub struct RefusedPage<'a> {
    /// What was wrong.
    pub description: &'a str,
    /// For the client's developer.
    pub code: CodeLink,
    /// Where the client is.
    pub redirect_host: &'a str,
    /// The redirect URI with the error.
    pub url: &'a str,
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

/// Where the answer to a form on the page may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormTarget {
    /// Nowhere but to pages of ours.
    Ourselves,
    /// Out of here, by a redirect to the client. Chromium applies `form-action` to every redirect that follows a form, also
    /// to those of the client's site, and blocks the one that is not listed, after the code was spent. Where a client sends
    /// its user next is not for us to know, so such a page has no `form-action` (ADR 17).
    MayLeave,
}

/// Renders a page with every header that keeps it from being framed, cached, or made to load anything.
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

/// A self-asserted name as it may be shown: one line of bounded length without what cannot be seen or changes the
/// direction of writing, which could make one name look like another.
pub fn displayable(name: &str) -> String {
    let visible = |c: &char| !c.is_control() && !INVISIBLE.iter().any(|range| range.contains(c));
    let one_line: String = name.chars().filter(visible).take(64).collect();
    one_line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Characters that take no room or show nothing: those with the property `Default_Ignorable_Code_Point` (Unicode 17,
/// DerivedCoreProperties.txt), line and paragraph separators, the marks of interlinear annotation, and two that are only
/// blank although they count as symbols.
const INVISIBLE: [RangeInclusive<char>; 19] = [
    '\u{ad}'..='\u{ad}',
    '\u{34f}'..='\u{34f}',
    '\u{61c}'..='\u{61c}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{200b}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    // The blank pattern of Braille, and a note head that is not drawn.
    '\u{2800}'..='\u{2800}',
    '\u{1d159}'..='\u{1d159}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{fff0}'..='\u{fffc}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e0fff}',
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a020_names_lose_what_makes_them_look_like_others() {
        assert_eq!(displayable("  Claude\u{202e}gpj \u{200b}\n Code "), "Claudegpj Code");
        assert_eq!(displayable("\u{feff}"), "");
        // Every default-ignorable character (Unicode 17, DerivedCoreProperties.txt), and those that are only blank.
        let ranges = [
            0xad..=0xad,
            0x34f..=0x34f,
            0x61c..=0x61c,
            0x115f..=0x1160,
            0x17b4..=0x17b5,
            0x180b..=0x180f,
            0x200b..=0x200f,
            0x202a..=0x202e,
            0x2060..=0x206f,
            0x3164..=0x3164,
            0xfe00..=0xfe0f,
            0xfeff..=0xfeff,
            0xffa0..=0xffa0,
            0xfff0..=0xfff8,
            0x1bca0..=0x1bca3,
            0x1d173..=0x1d17a,
            0xe0000..=0xe0fff,
            0x2028..=0x2029,
            0x2800..=0x2800,
            0xfff9..=0xfffc,
            0x1d159..=0x1d159,
        ];
        for c in ranges.into_iter().flatten().filter_map(char::from_u32) {
            assert_eq!(displayable(&format!("Clau{c}de")), "Claude", "U+{:04X}", u32::from(c));
            assert_eq!(displayable(&c.to_string()), "", "U+{:04X}", u32::from(c));
        }
        // What is written in other scripts stays.
        for name in ["Müller & Söhne", "クロード", "클로드", "Клод", "e\u{301}"] {
            assert_eq!(displayable(name), name);
        }
        assert_eq!(displayable(&"x".repeat(500)).len(), 64);
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
