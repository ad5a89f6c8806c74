//! Our cookies: `__Host-`, `Secure`, `HttpOnly`, `SameSite=Lax`. On plain-http loopback, where browsers take neither
//! the prefix nor `Secure`, they go without.

use actix_web::HttpRequest;
use actix_web::cookie::{Cookie, SameSite};

use crate::domain::opaque_token::{OpaqueToken, TokenKind};
use crate::domain::resource::Scheme;

/// A cookie of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OurCookie {
    /// A person has logged in.
    Session,
    /// A browser on its way to logging in.
    LoginAttempt,
}

/// The cookie of a browser in which a person has logged in before; its value is a sealed ticket.
pub mod device {
    use actix_web::HttpRequest;
    use actix_web::cookie::{Cookie, SameSite, time::Duration};

    use crate::domain::resource::Scheme;

    /// How long a browser is remembered.
    pub const LIFETIME: std::time::Duration = std::time::Duration::from_secs(365 * 86_400);

    const fn name(scheme: Scheme) -> &'static str {
        match scheme {
            Scheme::Https => "__Host-mcp_gate_device",
            Scheme::Http => "mcp_gate_device",
        }
    }

    /// The ticket in the request's cookie.
    pub fn read(request: &HttpRequest, scheme: Scheme) -> Option<String> {
        request.cookie(name(scheme)).map(|cookie| cookie.value().to_owned())
    }

    /// Sets the cookie.
    pub fn set(ticket: String, scheme: Scheme) -> Cookie<'static> {
        Cookie::build(name(scheme), ticket)
            .path("/")
            .secure(scheme == Scheme::Https)
            .http_only(true)
            .same_site(SameSite::Lax)
            .max_age(Duration::try_from(LIFETIME).unwrap_or(Duration::ZERO))
            .finish()
    }
}

impl OurCookie {
    const fn kind(self) -> TokenKind {
        match self {
            Self::Session => TokenKind::Session,
            Self::LoginAttempt => TokenKind::LoginAttempt,
        }
    }

    const fn name(self, scheme: Scheme) -> &'static str {
        match (self, scheme) {
            (Self::Session, Scheme::Https) => "__Host-mcp_gate_session",
            (Self::Session, Scheme::Http) => "mcp_gate_session",
            (Self::LoginAttempt, Scheme::Https) => "__Host-mcp_gate_login",
            (Self::LoginAttempt, Scheme::Http) => "mcp_gate_login",
        }
    }

    /// The token in the request's cookie; a cookie that comes twice counts as none, since one of the two was planted.
    pub fn read(self, request: &HttpRequest, scheme: Scheme) -> Option<OpaqueToken> {
        let cookies = request.cookies().ok()?;
        let mut values = cookies.iter().filter(|cookie| cookie.name() == self.name(scheme));
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        OpaqueToken::parse(self.kind(), value.value()).ok()
    }

    /// Sets the cookie for as long as the browser runs; how long it counts is for the store to say.
    pub fn set(self, token: &OpaqueToken, scheme: Scheme) -> Cookie<'static> {
        Cookie::build(self.name(scheme), token.expose().to_owned())
            .path("/")
            .secure(scheme == Scheme::Https)
            .http_only(true)
            .same_site(SameSite::Lax)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn a099_cookies_carry_every_guard() {
        let token = OpaqueToken::new(TokenKind::Session, [1; 32]);
        let text = OurCookie::Session.set(&token, Scheme::Https).to_string();
        for guard in ["__Host-", "; HttpOnly", "; SameSite=Lax", "; Secure", "; Path=/"] {
            assert!(text.contains(guard), "{guard} in {text}");
        }
        assert!(!text.contains("Domain"));
    }

    #[test]
    fn a_planted_second_cookie_counts_as_none() {
        let one = OurCookie::Session.set(&OpaqueToken::new(TokenKind::Session, [1; 32]), Scheme::Http);
        let two = OurCookie::Session.set(&OpaqueToken::new(TokenKind::Session, [2; 32]), Scheme::Http);
        let single = TestRequest::default().cookie(one.clone()).to_http_request();
        assert!(OurCookie::Session.read(&single, Scheme::Http).is_some());
        let header = format!("{}={}; {}={}", one.name(), one.value(), two.name(), two.value());
        let doubled = TestRequest::default().insert_header(("cookie", header)).to_http_request();
        assert!(OurCookie::Session.read(&doubled, Scheme::Http).is_none());
    }
}
