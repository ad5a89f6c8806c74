//! Checks of the authorization endpoint that need no login.

use anyhow::{Context as _, Result, ensure};
use url::Url;

use crate::gate::Answer;

use super::client::{Clients, REDIRECT_URI, STATE, challenge};
use super::target::{Target, callback, parameter};
use super::{Report, skip};

pub(super) async fn check(target: &Target, clients: &Clients, report: &mut Report) {
    report
        .check("attack 1", "only exactly registered redirect URIs are accepted", foreign(target, clients))
        .await;
    report.check("attack 5", "an unknown client causes no redirect", unknown(target)).await;
    report.check("attack 6", "on loopback, only the port can vary", loopback(target, clients)).await;
    report.check("attack 11", "a repeated parameter is refused", doubled(target, clients)).await;
    report.check("attack 12", "only the code flow is supported", flows(target, clients)).await;
    report.check("attack 13", "no code without PKCE with S256", pkce(target, clients)).await;
    report.check("attack 14", "errors contain iss and the exact state", errors(target, clients)).await;
    report.check("RFC 8707 §2", "a foreign resource is refused", resource(target, clients)).await;
    report.check("attack 18", "pages cannot be framed", framing(target, clients)).await;
    report.check("attack 10", "pages send no referrer", referrer(target, clients)).await;
    report.check("attack 98", "pages are not cached", caching(target, clients)).await;
    report.check("attack 19", "parameters appear in pages only escaped", markup(target, clients)).await;
}

fn redirects_to(answer: &Answer, uri: &str) -> bool {
    answer.header("location").starts_with(uri)
}

async fn foreign(target: &Target, clients: &Clients) -> Result<()> {
    let client = clients.first()?;
    let good = &client.redirect_uri;
    let tries = [
        format!("{good}/more"),
        format!("{good}?x=1"),
        format!("{good}/../x"),
        format!("{good}%2f"),
        good.replace("://", "://evil@"),
        "https://evil.example/".to_owned(),
        "//evil.example/".to_owned(),
        good.trim_end_matches(|c| c != '/').to_owned(),
    ];
    for uri in &tries {
        let answer = client.ask(target, &[("redirect_uri", uri)]).await?;
        ensure!(answer.header("location").is_empty() || !redirects_to(&answer, uri), "redirected to {uri}");
        ensure!((400..500).contains(&answer.status), "status {} for {uri}", answer.status);
    }
    Ok(())
}

async fn unknown(target: &Target) -> Result<()> {
    let evil = "https://evil.example/cb";
    for id in ["nobody-knows-this-client", "", "' OR 1=1"] {
        let pairs = [("response_type", "code"), ("client_id", id), ("redirect_uri", evil), ("state", STATE)];
        let answer = target.authorize(&pairs).await?;
        ensure!(!redirects_to(&answer, evil), "redirected to {evil}");
        ensure!((400..500).contains(&answer.status), "status {} for {id:?}", answer.status);
    }
    Ok(())
}

async fn loopback(target: &Target, clients: &Clients) -> Result<()> {
    let client = clients.first()?;
    if client.redirect_uri != REDIRECT_URI {
        return skip("the client's redirect URI is another one");
    }
    let other_port = client.ask(target, &[("redirect_uri", "http://127.0.0.1:54321/issuer-suite")]).await?;
    if refused_without_resource(target, &other_port) {
        return skip(NO_RESOURCE);
    }
    ensure!(other_port.status < 400, "another port: status {}", other_port.status);
    for uri in [
        "http://127.0.0.1:9/other",
        "http://127.0.0.1:9/issuer-suite?x=1",
        "http://127.0.0.1@evil.example/issuer-suite",
        "http://2130706433:9/issuer-suite",
        "http://127.0.0.1.evil.example:9/issuer-suite",
        "https://127.0.0.1:9/issuer-suite",
        "http://[::ffff:127.0.0.1]:9/issuer-suite",
    ] {
        let answer = client.ask(target, &[("redirect_uri", uri)]).await?;
        ensure!((400..500).contains(&answer.status), "status {} for {uri}", answer.status);
    }
    Ok(())
}

/// The reason to skip checks that need a valid request.
const NO_RESOURCE: &str = "the request is refused on a page, and --resource is not given";

/// Whether the response can be an error page about the missing resource.
fn refused_without_resource(target: &Target, answer: &Answer) -> bool {
    target.options.resource.is_none() && (400..500).contains(&answer.status)
}

/// The error code in the redirect to the client, or `page` for an error page.
async fn error(target: &Target, clients: &Clients, replaced: &[(&str, &str)]) -> Result<String> {
    let client = clients.first()?;
    let answer = client.ask(target, replaced).await?;
    match callback(&answer, &client.redirect_uri) {
        Some(pairs) => {
            ensure!(parameter(&pairs, "code").is_none(), "a code was issued for {replaced:?}");
            Ok(parameter(&pairs, "error").context("no error in the redirect")?.to_owned())
        }
        None if (400..500).contains(&answer.status) => Ok("page".to_owned()),
        None => anyhow::bail!("status {} for {replaced:?}", answer.status),
    }
}

async fn doubled(target: &Target, clients: &Clients) -> Result<()> {
    let client = clients.first()?;
    for (name, value) in [
        ("client_id", "other"),
        ("redirect_uri", "https://evil.example/"),
        ("state", "x"),
        ("scope", "x"),
        ("code_challenge", "x"),
        ("response_type", "token"),
    ] {
        let mut pairs = client.request(target, &[("scope", "")]);
        pairs.push((name.to_owned(), value.to_owned()));
        if name == "scope" {
            pairs.push((name.to_owned(), value.to_owned()));
        }
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let answer = target.authorize(&pairs).await?;
        ensure!(!redirects_to(&answer, "https://evil.example/"), "redirected to the second {name}");
        let refused = match callback(&answer, &client.redirect_uri) {
            Some(pairs) => parameter(&pairs, "error") == Some("invalid_request"),
            None => (400..500).contains(&answer.status),
        };
        ensure!(refused, "two {name}: status {} {}", answer.status, answer.header("location"));
    }
    Ok(())
}

async fn flows(target: &Target, clients: &Clients) -> Result<()> {
    for kind in ["token", "id_token", "code token", "none", "nonsense"] {
        let code = error(target, clients, &[("response_type", kind)]).await?;
        ensure!(
            ["unsupported_response_type", "invalid_request", "unauthorized_client", "page"]
                .contains(&code.as_str()),
            "response_type={kind}: {code}"
        );
    }
    for mode in ["fragment", "form_post", "web_message"] {
        let announced = target.list("response_modes_supported");
        if !announced.contains(&mode) {
            error(target, clients, &[("response_mode", mode)]).await?;
        }
    }
    Ok(())
}

async fn pkce(target: &Target, clients: &Clients) -> Result<()> {
    let challenge = challenge();
    let cases: [&[(&str, &str)]; 5] = [
        &[("code_challenge", ""), ("code_challenge_method", "")],
        &[("code_challenge_method", "plain")],
        // Without a method, the default is plain (RFC 7636 §4.3).
        &[("code_challenge_method", "")],
        &[("code_challenge_method", "S512")],
        &[("code_challenge", "")],
    ];
    for replaced in cases {
        let code = error(target, clients, replaced).await?;
        ensure!(code == "invalid_request" || code == "page", "{replaced:?}: {code}");
    }
    ensure!(!challenge.is_empty());
    Ok(())
}

async fn errors(target: &Target, clients: &Clients) -> Result<()> {
    let client = clients.first()?;
    let wrong = [("response_type", "token")];
    let mut answer = client.ask(target, &wrong).await?;
    if callback(&answer, &client.redirect_uri).is_none() && (400..500).contains(&answer.status) {
        // The error is first shown on a page. An issuer must not redirect to a client that the user has not
        // allowed (OAuth 2.1 §7.12.2).
        client.allowed(target).await?;
        answer = client.ask_in_browser(target, &wrong).await?;
    }
    let Some(pairs) = callback(&answer, &client.redirect_uri) else {
        if (400..500).contains(&answer.status) {
            return skip("errors are shown on a page");
        }
        anyhow::bail!("no redirect: status {}", answer.status)
    };
    ensure!(parameter(&pairs, "state") == Some(STATE), "state is {:?}", parameter(&pairs, "state"));
    ensure!(parameter(&pairs, "iss") == Some(&target.issuer), "iss is {:?}", parameter(&pairs, "iss"));
    Ok(())
}

async fn resource(target: &Target, clients: &Clients) -> Result<()> {
    for uri in ["https://somebody-else.example/mcp", "not a URI", "https://x.example/mcp#fragment"] {
        let code = error(target, clients, &[("resource", uri)]).await?;
        ensure!(code == "invalid_target" || code == "page", "resource={uri}: {code}");
    }
    Ok(())
}

/// The page that a user sees first, which is usually the login.
async fn first_page(target: &Target, clients: &Clients) -> Result<Answer> {
    let client = clients.first()?;
    let mut answer = client.ask(target, &[]).await?;
    if refused_without_resource(target, &answer) {
        return skip(NO_RESOURCE);
    }
    let mut url = Url::parse(target.endpoint("authorization_endpoint")?)?;
    for _ in 0..5 {
        let location = answer.header("location").to_owned();
        if location.is_empty() {
            ensure!(answer.status == 200, "status {}: {}", answer.status, answer.body);
            return Ok(answer);
        }
        let next = url.join(&location)?;
        if next.origin() != url.origin() {
            return skip("the login is somewhere else");
        }
        url = next;
        answer =
            Answer::read(target.http.get(url.clone()).header("accept", "text/html").send().await?).await?;
    }
    anyhow::bail!("more than five redirects")
}

async fn framing(target: &Target, clients: &Clients) -> Result<()> {
    let page = first_page(target, clients).await?;
    let policy = page.header("content-security-policy");
    let old = page.header("x-frame-options");
    ensure!(
        policy.contains("frame-ancestors 'none'") || old.eq_ignore_ascii_case("deny"),
        "Content-Security-Policy {policy:?}, X-Frame-Options {old:?}"
    );
    Ok(())
}

async fn referrer(target: &Target, clients: &Clients) -> Result<()> {
    let page = first_page(target, clients).await?;
    let policy = page.header("referrer-policy");
    ensure!(["no-referrer", "same-origin"].contains(&policy), "Referrer-Policy {policy:?}");
    Ok(())
}

async fn caching(target: &Target, clients: &Clients) -> Result<()> {
    let page = first_page(target, clients).await?;
    let policy = page.header("cache-control");
    ensure!(policy.contains("no-store"), "Cache-Control {policy:?}");
    Ok(())
}

async fn markup(target: &Target, clients: &Clients) -> Result<()> {
    const SCRIPT: &str = "<script>alert(1)</script>";
    let client = clients.first()?;
    for name in ["client_id", "redirect_uri", "scope", "state", "resource"] {
        let answer = client.ask(target, &[(name, SCRIPT)]).await?;
        ensure!(!answer.body.contains(SCRIPT), "{name} is shown without escaping");
    }
    Ok(())
}
