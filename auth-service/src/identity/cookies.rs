//! Our cookies: `__Host-`, `Secure`, `HttpOnly`, `SameSite=Lax`. On plain-http loopback, where browsers take neither
//! the prefix nor `Secure`, they go without, and only to the pages that need them.

use actix_web::HttpRequest;
use actix_web::cookie::time::Duration;
use actix_web::cookie::{Cookie, SameSite};

use crate::domain::issuer::Issuer;
use crate::domain::opaque_token::{OpaqueToken, TokenKind};
use crate::domain::resource::Scheme;

/// The pages for who has logged in.
const PAGES: &[&str] = &["/authorize", "/consent", "/device", "/login"];
const LOGIN_PAGES: &[&str] = &["/login"];

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
    use actix_web::cookie::{Cookie, time::Duration};

    use crate::domain::issuer::Issuer;
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

    /// What sets the cookie.
    pub fn set(ticket: &str, issuer: &Issuer) -> Vec<Cookie<'static>> {
        let lifetime = Duration::try_from(LIFETIME).unwrap_or(Duration::ZERO);
        super::guarded((name(issuer.scheme()), ticket), Some(lifetime), super::LOGIN_PAGES, issuer)
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

    /// What sets the cookie for as long as the browser runs; how long it counts is for the store to say.
    pub fn set(self, token: &OpaqueToken, issuer: &Issuer) -> Vec<Cookie<'static>> {
        let pages = match self {
            Self::Session => PAGES,
            Self::LoginAttempt => LOGIN_PAGES,
        };
        guarded((self.name(issuer.scheme()), token.expose()), None, pages, issuer)
    }
}

/// A cookie with every guard. `__Host-` wants one for all paths. Without that there is one for each page: browsers send a
/// cookie to every port of a host (RFC 6265 §8.5), so the callback of a client on this machine would get it too. The one for all
/// paths that an earlier release set is taken away, or the browser would send two.
fn guarded(
    (name, value): (&'static str, &str),
    max_age: Option<Duration>,
    pages: &[&str],
    issuer: &Issuer,
) -> Vec<Cookie<'static>> {
    let secure = issuer.scheme() == Scheme::Https;
    let cookie = |path: String| {
        let mut cookie = Cookie::build(name, value.to_owned()).path(path).secure(secure).http_only(true);
        if let Some(max_age) = max_age {
            cookie = cookie.max_age(max_age);
        }
        cookie.same_site(SameSite::Lax).finish()
    };
    let mut for_all_paths = cookie("/".to_owned());
    if secure {
        return vec![for_all_paths];
    }
    for_all_paths.make_removal();
    let for_pages = pages.iter().map(|page| cookie(format!("{}{page}", issuer.path())));
    std::iter::once(for_all_paths).chain(for_pages).collect()
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn a099_cookies_carry_every_guard() {
        let token = OpaqueToken::new(TokenKind::Session, [1; 32]);
        let set = OurCookie::Session.set(&token, &Issuer::parse("https://auth.example").unwrap());
        assert_eq!(set.len(), 1);
        let text = set[0].to_string();
        for guard in ["__Host-", "; HttpOnly", "; SameSite=Lax", "; Secure", "; Path=/"] {
            assert!(text.contains(guard), "{guard} in {text}");
        }
        assert!(!text.contains("Domain"));
    }

    #[test]
    fn a099_on_http_a_callback_on_another_port_gets_no_cookie() {
        let token = OpaqueToken::new(TokenKind::Session, [1; 32]);
        for (issuer, base) in [("http://localhost:9", ""), ("http://127.0.0.1:9/tenant", "/tenant")] {
            let issuer = Issuer::parse(issuer).unwrap();
            for (set, pages) in [
                (OurCookie::Session.set(&token, &issuer), PAGES),
                (OurCookie::LoginAttempt.set(&token, &issuer), LOGIN_PAGES),
                (device::set("ticket", &issuer), LOGIN_PAGES),
            ] {
                // What an earlier release has set for all paths is taken away.
                let (before, set) = set.split_first().unwrap();
                assert_eq!((before.path(), before.value()), (Some("/"), ""));
                assert_eq!(before.max_age(), Some(Duration::ZERO));
                let paths: Vec<_> = set.iter().map(|cookie| cookie.path().unwrap().to_owned()).collect();
                let expected: Vec<_> = pages.iter().map(|page| format!("{base}{page}")).collect();
                assert_eq!(paths, expected);
                assert!(
                    set.iter().all(|cookie| cookie.http_only() == Some(true) && !cookie.value().is_empty())
                );
            }
        }
    }

    #[test]
    fn a_planted_second_cookie_counts_as_none() {
        let issuer = Issuer::parse("http://localhost:9").unwrap();
        let last = |n| {
            OurCookie::Session.set(&OpaqueToken::new(TokenKind::Session, [n; 32]), &issuer).pop().unwrap()
        };
        let (one, two) = (last(1), last(2));
        let single = TestRequest::default().cookie(one.clone()).to_http_request();
        assert!(OurCookie::Session.read(&single, Scheme::Http).is_some());
        let header = format!("{}={}; {}={}", one.name(), one.value(), two.name(), two.value());
        let doubled = TestRequest::default().insert_header(("cookie", header)).to_http_request();
        assert!(OurCookie::Session.read(&doubled, Scheme::Http).is_none());
    }
}
