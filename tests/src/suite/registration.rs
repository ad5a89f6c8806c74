//! Checks of dynamic client registration (RFC 7591, RFC 7592).

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::gate::Answer;

use super::client::{REDIRECT_URI, metadata};
use super::target::{Target, expect_error};
use super::{Report, skip};

pub(super) async fn check(target: &Target, report: &mut Report) {
    report
        .check("RFC 7591 §3.2.1", "a registration returns 201 and is complete and not cached", answer(target))
        .await;
    report.check("RFC 7591 §3.2.1", "a client with a secret learns when it expires", secret(target)).await;
    report.check("attack 4", "script and data URIs are refused as redirect URIs", schemes(target)).await;
    report.check("attack 2", "no redirect URI has userinfo or a fragment", tricks(target)).await;
    report.check("attack 53", "plain http redirects are only for loopback", plain_http(target)).await;
    report.check("attack 46", "unknown members grant no authority", unknown(target)).await;
    report.check("attack 52", "an unverified software statement is not trusted", statement(target)).await;
    report.check("RFC 7591 §3.2.2", "invalid client metadata is refused", malformed(target)).await;
    report.check("attack 47", "a foreign token cannot manage a client", management(target)).await;
}

async fn register(target: &Target, metadata: &Value) -> Result<Answer> {
    let url = target.endpoint("registration_endpoint")?;
    if target.options.client_id.is_some() {
        return skip("registration is not tried when --client-id is given");
    }
    let answer = Answer::read(target.http.post(url).json(metadata).send().await?).await?;
    if answer.status == 401 {
        return skip("registration needs an initial access token");
    }
    Ok(answer)
}

fn with(name: &str, value: Value) -> Value {
    let mut changed = metadata("Issuer suite, refused");
    changed[name] = value;
    changed
}

async fn answer(target: &Target) -> Result<()> {
    let answer = register(target, &metadata("Issuer suite")).await?;
    ensure!(answer.status == 201, "status {}: {}", answer.status, answer.body);
    ensure!(answer.header("cache-control").contains("no-store"), "it can be cached");
    let body = answer.json()?;
    ensure!(body["client_id"].is_string(), "no client_id");
    ensure!(body["redirect_uris"] == json!([REDIRECT_URI]), "redirect_uris are {}", body["redirect_uris"]);
    let method = &body["token_endpoint_auth_method"];
    ensure!(method == "none", "token_endpoint_auth_method is {method}");
    ensure!(body.get("client_secret").is_none(), "a public client received a secret");
    Ok(())
}

async fn secret(target: &Target) -> Result<()> {
    let methods = target.list("token_endpoint_auth_methods_supported");
    let Some(method) = methods.into_iter().find(|method| method.starts_with("client_secret_")) else {
        return skip("no client has a secret");
    };
    let answer = register(target, &with("token_endpoint_auth_method", json!(method))).await?;
    ensure!(answer.status == 201, "status {}: {}", answer.status, answer.body);
    let body = answer.json()?;
    ensure!(
        body["client_secret"].as_str().is_some_and(|secret| secret.len() >= 22),
        "no secret, or a short one"
    );
    ensure!(body["client_secret_expires_at"].is_u64(), "no client_secret_expires_at");
    Ok(())
}

async fn all_refused(target: &Target, uris: &[&str]) -> Result<()> {
    for uri in uris {
        let answer = register(target, &with("redirect_uris", json!([uri]))).await?;
        expect_error(&answer, &[400], &["invalid_redirect_uri", "invalid_client_metadata"])
            .with_context(|| format!("redirect URI {uri}"))?;
    }
    Ok(())
}

async fn schemes(target: &Target) -> Result<()> {
    all_refused(
        target,
        &["javascript:alert(1)", "JavaScript:alert(1)", "data:text/html,x", "file:///etc/passwd"],
    )
    .await
}

async fn tricks(target: &Target) -> Result<()> {
    all_refused(target, &["https://good.example@evil.example/cb", "https://app.example/cb#x", "/cb", ""])
        .await
}

async fn plain_http(target: &Target) -> Result<()> {
    all_refused(target, &["http://app.example/cb", "http://localhost.evil.example/cb"]).await
}

async fn unknown(target: &Target) -> Result<()> {
    let mut asked = metadata("Issuer suite");
    for name in ["admin", "trusted", "skip_consent", "client_id"] {
        asked[name] = json!(true);
    }
    let answer = register(target, &asked).await?;
    ensure!(matches!(answer.status, 201 | 400), "status {}", answer.status);
    if answer.status == 201 {
        let body = answer.json()?;
        for name in ["admin", "trusted", "skip_consent"] {
            ensure!(body.get(name).is_none(), "{name} was stored");
        }
        ensure!(body["client_id"].is_string(), "the client chose its client_id");
    }
    Ok(())
}

async fn statement(target: &Target) -> Result<()> {
    // The statement is {"alg":"none"}.{"client_name":"Trusted"}.
    let statement = "eyJhbGciOiJub25lIn0.eyJjbGllbnRfbmFtZSI6IlRydXN0ZWQifQ.";
    let answer = register(target, &with("software_statement", json!(statement))).await?;
    if answer.status == 201 {
        // A server that does not trust the statement can ignore it (RFC 7591 §3.1.1).
        ensure!(answer.json()?["client_name"] != "Trusted", "its claims were accepted");
        return Ok(());
    }
    expect_error(
        &answer,
        &[400],
        &["invalid_software_statement", "unapproved_software_statement", "invalid_client_metadata"],
    )
}

async fn malformed(target: &Target) -> Result<()> {
    let wrong = [
        json!([]),
        json!({}),
        with("redirect_uris", json!([])),
        with("redirect_uris", json!("https://app.example/cb")),
        with("token_endpoint_auth_method", json!("magic")),
        with("grant_types", json!(["password"])),
    ];
    for metadata in wrong {
        let answer = register(target, &metadata).await?;
        ensure!((400..500).contains(&answer.status), "status {} for {metadata}", answer.status);
    }
    Ok(())
}

async fn management(target: &Target) -> Result<()> {
    let answer = register(target, &metadata("Issuer suite, managed")).await?;
    let body = answer.json()?;
    let Some(url) = body["registration_client_uri"].as_str() else {
        return skip("the server does not support client management (RFC 7592)");
    };
    for method in [reqwest::Method::GET, reqwest::Method::DELETE] {
        for token in [None, Some("wrong")] {
            let mut request = target.http.request(method.clone(), url);
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            let answer = Answer::read(request.send().await?).await?;
            ensure!(answer.status == 401, "{method} with {token:?}: status {}", answer.status);
        }
    }
    Ok(())
}
