//! The cookies of this server: `__Host-`, `Secure`, `HttpOnly`, `SameSite=Lax`. On loopback with plain HTTP,
//! browsers accept neither the prefix nor `Secure`. There, the cookies have neither, and are sent only to the
//! pages that need them.

use actix_web::HttpRequest;
use actix_web::cookie::time::Duration;
use actix_web::cookie::{Cookie, SameSite};

use crate::domain::issuer::Issuer;
use crate::domain::opaque_token::{OpaqueToken, TokenKind};
use crate::domain::resource::Scheme;

/// Paths of the pages for users who are logged in.
const PAGES: &[&str] = &["/authorize", "/consent", "/device", "/login"];
const LOGIN_PAGES: &[&str] = &["/login"];

/// A cookie of this server that contains a random token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OurCookie {
    /// The login session of a user.
    Session,
    /// The browser to which a login form was shown.
    LoginAttempt,
}

/// The cookie of a browser in which a user has already logged in. Its value is a sealed form token.
pub mod device {
    use actix_web::HttpRequest;
    use actix_web::cookie::{Cookie, time::Duration};

    use crate::domain::issuer::Issuer;

    /// How long a browser is remembered after a login.
    pub const LIFETIME: std::time::Duration = std::time::Duration::from_secs(365 * 86_400);

    const NAME: &str = "mcp_gate_device";

    /// The form token in the request's cookie, if there is one.
    pub fn read(request: &HttpRequest, issuer: &Issuer) -> Option<String> {
        request.cookie(&super::name_of(NAME, issuer)).map(|cookie| cookie.value().to_owned())
    }

    /// Builds the cookies that store the form token, one for each path.
    pub fn set(form_token: &str, issuer: &Issuer) -> Vec<Cookie<'static>> {
        let lifetime = Duration::try_from(LIFETIME).unwrap_or(Duration::ZERO);
        super::guarded((super::name_of(NAME, issuer), form_token), Some(lifetime), super::LOGIN_PAGES, issuer)
    }
}

impl OurCookie {
    const fn kind(self) -> TokenKind {
        match self {
            Self::Session => TokenKind::Session,
            Self::LoginAttempt => TokenKind::LoginAttempt,
        }
    }

    fn name(self, issuer: &Issuer) -> String {
        let name = match self {
            Self::Session => "mcp_gate_session",
            Self::LoginAttempt => "mcp_gate_login",
        };
        name_of(name, issuer)
    }

    /// The token in the request's cookie. If the cookie occurs twice, the result is `None`, because an attacker
    /// might have set one of them.
    pub fn read(self, request: &HttpRequest, issuer: &Issuer) -> Option<OpaqueToken> {
        let name = self.name(issuer);
        let cookies = request.cookies().ok()?;
        let mut values = cookies.iter().filter(|cookie| cookie.name() == name);
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        OpaqueToken::parse(self.kind(), value.value()).ok()
    }

    /// Builds the cookies that store the token until the browser is closed. The store determines how long the
    /// token is valid.
    pub fn set(self, token: &OpaqueToken, issuer: &Issuer) -> Vec<Cookie<'static>> {
        let pages = match self {
            Self::Session => PAGES,
            Self::LoginAttempt => LOGIN_PAGES,
        };
        guarded((self.name(issuer), token.expose()), None, pages, issuer)
    }
}

/// The name of a cookie. The prefix `__Host-` prevents other hosts from setting it. On loopback, the name includes
/// the port, because another instance of this server might use a different port, and browsers do not separate the
/// cookies of different ports (RFC 6265 §8.5).
fn name_of(name: &str, issuer: &Issuer) -> String {
    let guard = if issuer.scheme() == Scheme::Https { "__Host-" } else { "" };
    match issuer.port().filter(|_| issuer.is_loopback()) {
        Some(port) => format!("{guard}{name}_{port}"),
        None => format!("{guard}{name}"),
    }
}

/// Builds a cookie with all protections. With `__Host-`, it must be valid for all paths. Without the prefix, there
/// is one cookie for each page. Browsers send a cookie to every port of a host (RFC 6265 §8.5), so a cookie for
/// all paths would also be sent to the callback of a client on this machine.
fn guarded(
    (name, value): (String, &str),
    max_age: Option<Duration>,
    pages: &[&str],
    issuer: &Issuer,
) -> Vec<Cookie<'static>> {
    let secure = issuer.scheme() == Scheme::Https;
    let cookie = |path: String| {
        let mut cookie =
            Cookie::build(name.clone(), value.to_owned()).path(path).secure(secure).http_only(true);
        if let Some(max_age) = max_age {
            cookie = cookie.max_age(max_age);
        }
        cookie.same_site(SameSite::Lax).finish()
    };
    if secure {
        return vec![cookie("/".to_owned())];
    }
    pages.iter().map(|page| cookie(format!("{}{page}", issuer.path()))).collect()
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
                (device::set("form_token", &issuer), LOGIN_PAGES),
            ] {
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
    fn services_on_two_ports_of_this_machine_leave_each_others_cookies_alone() {
        let token = OpaqueToken::new(TokenKind::Session, [1; 32]);
        let [one, two] =
            ["http://localhost:18781", "http://localhost:18782"].map(|text| Issuer::parse(text).unwrap());
        let set = OurCookie::Session.set(&token, &one).pop().unwrap();
        assert_eq!(set.name(), "mcp_gate_session_18781");
        let request = TestRequest::default().cookie(set).to_http_request();
        assert!(OurCookie::Session.read(&request, &one).is_some());
        assert!(OurCookie::Session.read(&request, &two).is_none());
        let elsewhere = Issuer::parse("https://auth.example:8443").unwrap();
        assert_eq!(OurCookie::Session.set(&token, &elsewhere)[0].name(), "__Host-mcp_gate_session");
    }

    #[test]
    fn a_planted_second_cookie_counts_as_none() {
        let issuer = Issuer::parse("http://localhost:9").unwrap();
        let last = |n| {
            OurCookie::Session.set(&OpaqueToken::new(TokenKind::Session, [n; 32]), &issuer).pop().unwrap()
        };
        let (one, two) = (last(1), last(2));
        let single = TestRequest::default().cookie(one.clone()).to_http_request();
        assert!(OurCookie::Session.read(&single, &issuer).is_some());
        let header = format!("{}={}; {}={}", one.name(), one.value(), two.name(), two.value());
        let doubled = TestRequest::default().insert_header(("cookie", header)).to_http_request();
        assert!(OurCookie::Session.read(&doubled, &issuer).is_none());
    }
}
