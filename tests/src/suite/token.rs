//! Checks of the token endpoint and related endpoints that need no code.

use anyhow::{Context as _, Result, ensure};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};

use crate::gate::Answer;

use super::client::{Clients, VERIFIER};
use super::target::{Target, expect_error};
use super::{Report, skip};

pub(super) async fn check(target: &Target, clients: &Clients, report: &mut Report) {
    report.check("attack 39", "GET returns no token", get(target)).await;
    report.check("attack 38", "content types other than a form are refused", content_types(target)).await;
    report.check("RFC 6749 §5.2", "grant_type: missing and unknown", grant_types(target, clients)).await;
    report
        .check("RFC 6749 §5.2", "an unknown client results in invalid_client", unknown_client(target))
        .await;
    report.check("attack 35", "a malformed Basic header results in 401 and never 500", basic(target)).await;
    report
        .check(
            "attack 35",
            "two client authentication methods at once are refused",
            two_ways(target, clients),
        )
        .await;
    report
        .check("attack 36", "a public client that sends a secret is refused", public_secret(target, clients))
        .await;
    report.check("attack 11", "a repeated parameter is refused", doubled(target, clients)).await;
    report
        .check("RFC 6749 §5.2", "an unknown code results in invalid_grant", unknown_code(target, clients))
        .await;
    report
        .check("attack 37", "a client assertion without a signature is refused", assertion(target, clients))
        .await;
    report.check("attack 40", "a huge body and thousands of parameters are refused", huge(target)).await;
    report.check("attack 98", "errors are not cached", uncached(target, clients)).await;
    report.check("attack 96", "errors contain a code and no internals", plain_errors(target, clients)).await;
    report.check("RFC 7009 §2.2", "revoking an unknown token returns 200", revoke(target, clients)).await;
    report
        .check("attack 65", "introspection requires client authentication", introspect(target, clients))
        .await;
}

async fn get(target: &Target) -> Result<()> {
    let url = target.endpoint("token_endpoint")?;
    let answer = target.get(&format!("{url}?grant_type=authorization_code&code=x&client_id=x")).await?;
    ensure!((400..500).contains(&answer.status), "status {}", answer.status);
    Ok(())
}

async fn content_types(target: &Target) -> Result<()> {
    let url = target.endpoint("token_endpoint")?;
    let bodies = [
        ("application/json", r#"{"grant_type":"authorization_code","code":"x","client_id":"x"}"#),
        ("multipart/form-data; boundary=x", "--x--"),
        ("text/plain", "grant_type=authorization_code"),
        ("", "grant_type=authorization_code"),
    ];
    for (kind, body) in bodies {
        let mut request = target.http.post(url).body(body);
        if !kind.is_empty() {
            request = request.header(CONTENT_TYPE, kind);
        }
        let answer = Answer::read(request.send().await?).await?;
        ensure!((400..500).contains(&answer.status), "status {} for {kind:?}", answer.status);
    }
    Ok(())
}

async fn grant_types(target: &Target, clients: &Clients) -> Result<()> {
    let id = clients.first()?.id.as_str();
    expect_error(&target.token(&[("client_id", id)]).await?, &[400], &["invalid_request"])?;
    for unknown in ["password", "implicit", "nonsense", "AUTHORIZATION_CODE"] {
        let answer = target.token(&[("client_id", id), ("grant_type", unknown)]).await?;
        expect_error(&answer, &[400], &["unsupported_grant_type", "unauthorized_client"])
            .with_context(|| format!("grant_type={unknown}"))?;
    }
    Ok(())
}

async fn unknown_client(target: &Target) -> Result<()> {
    let form =
        [("grant_type", "authorization_code"), ("code", "x"), ("client_id", "nobody-knows-this-client")];
    expect_error(&target.token(&form).await?, &[400, 401], &["invalid_client"])
}

async fn basic(target: &Target) -> Result<()> {
    let url = target.endpoint("token_endpoint")?;
    for value in
        ["Basic", "Basic ", "Basic !!!", "Basic eA==", "Basic Og==", "Basic /////w==", "Basic JTolOg=="]
    {
        let form = [("grant_type", "authorization_code"), ("code", "x")];
        let answer =
            Answer::read(target.http.post(url).header(AUTHORIZATION, value).form(&form).send().await?)
                .await?;
        ensure!(matches!(answer.status, 400 | 401), "status {} for {value:?}", answer.status);
        if answer.status == 401 {
            ensure!(!answer.challenge().is_empty(), "401 without WWW-Authenticate for {value:?}");
        }
    }
    Ok(())
}

async fn two_ways(target: &Target, clients: &Clients) -> Result<()> {
    let id = clients.first()?.id.as_str();
    let url = target.endpoint("token_endpoint")?;
    let form =
        [("grant_type", "authorization_code"), ("code", "x"), ("client_id", id), ("client_secret", "b")];
    let answer =
        Answer::read(target.http.post(url).basic_auth(id, Some("a")).form(&form).send().await?).await?;
    expect_error(&answer, &[400, 401], &["invalid_request", "invalid_client"])
}

async fn public_secret(target: &Target, clients: &Clients) -> Result<()> {
    let id = clients.first()?.id.as_str();
    if target.options.client_id.is_some() {
        return skip("it is not known whether the given client is public");
    }
    let form =
        [("grant_type", "authorization_code"), ("code", "x"), ("client_id", id), ("client_secret", "b")];
    expect_error(&target.token(&form).await?, &[400, 401], &["invalid_client"])
}

async fn doubled(target: &Target, clients: &Clients) -> Result<()> {
    let id = clients.first()?.id.as_str();
    for (name, value) in [("code", "y"), ("grant_type", "refresh_token"), ("code_verifier", VERIFIER)] {
        let form = [
            ("grant_type", "authorization_code"),
            ("client_id", id),
            ("code", "x"),
            ("code_verifier", VERIFIER),
            (name, value),
        ];
        expect_error(&target.token(&form).await?, &[400], &["invalid_request"])
            .with_context(|| format!("two {name}"))?;
    }
    Ok(())
}

async fn unknown_code(target: &Target, clients: &Clients) -> Result<()> {
    let client = clients.first()?;
    for code in ["x", "mgc_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "%00"] {
        expect_error(&client.redeem(target, code, &[]).await?, &[400], &["invalid_grant"])?;
    }
    Ok(())
}

async fn assertion(target: &Target, clients: &Clients) -> Result<()> {
    let id = clients.first()?.id.as_str();
    // The assertion is {"alg":"none"}.{"iss":"x","sub":"x"}.
    let form = [
        ("grant_type", "authorization_code"),
        ("code", "x"),
        ("client_id", id),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ("client_assertion", "eyJhbGciOiJub25lIn0.eyJpc3MiOiJ4Iiwic3ViIjoieCJ9."),
    ];
    expect_error(&target.token(&form).await?, &[400, 401], &["invalid_client", "invalid_request"])
}

async fn huge(target: &Target) -> Result<()> {
    let url = target.endpoint("token_endpoint")?;
    let many = "p=x&".repeat(10_000);
    for body in ["x".repeat(4 << 20), many] {
        let request =
            target.http.post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body);
        // A server can also close the connection while the body is being sent.
        if let Ok(response) = request.send().await {
            let status = response.status().as_u16();
            ensure!((400..500).contains(&status), "status {status}");
        }
    }
    let alive = target.token(&[]).await?;
    ensure!((400..500).contains(&alive.status), "afterwards: status {}", alive.status);
    Ok(())
}

async fn uncached(target: &Target, clients: &Clients) -> Result<()> {
    let answer = clients.first()?.redeem(target, "x", &[]).await?;
    ensure!(answer.header("cache-control").contains("no-store"), "{:?}", answer.header("cache-control"));
    Ok(())
}

async fn plain_errors(target: &Target, clients: &Clients) -> Result<()> {
    let answer = clients.first()?.redeem(target, "'\"<script>\u{0}", &[]).await?;
    let body = answer.json()?;
    for name in ["error", "error_description"] {
        let text = body[name].as_str().unwrap_or_default();
        // RFC 6749 §5.2 allows %x20-21 / %x23-5B / %x5D-7E.
        let plain = text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\');
        ensure!(plain, "{name} has characters that it must not have: {text:?}");
    }
    for word in ["panicked", "stack backtrace", "Traceback", ".rs:", "SELECT ", "redis"] {
        ensure!(!answer.body.contains(word), "{word:?} in {}", answer.body);
    }
    Ok(())
}

async fn revoke(target: &Target, clients: &Clients) -> Result<()> {
    let url = target.endpoint("revocation_endpoint")?;
    let id = clients.first()?.id.as_str();
    let answer = target.post(url, &[("token", "nobody-knows-this-token"), ("client_id", id)]).await?;
    ensure!(answer.status == 200, "status {}: {}", answer.status, answer.body);
    let without = target.post(url, &[("client_id", id)]).await?;
    ensure!(without.status == 400, "without a token: status {}", without.status);
    Ok(())
}

async fn introspect(target: &Target, clients: &Clients) -> Result<()> {
    let url = target.endpoint("introspection_endpoint")?;
    let id = clients.first()?.id.as_str();
    for form in [vec![("token", "x")], vec![("token", "x"), ("client_id", id)]] {
        let answer = target.post(url, &form).await?;
        let open = answer.status == 200 && answer.body.contains("\"active\"");
        ensure!(!open, "it responds without client authentication: {}", answer.body);
        ensure!((400..500).contains(&answer.status), "status {}", answer.status);
    }
    Ok(())
}
