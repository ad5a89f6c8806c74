//! Checks of the MCP server behind the issuer, and of how it treats tokens.

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::header::AUTHORIZATION;

use crate::gate::Answer;

use super::client::Clients;
use super::target::Target;
use super::{Report, skip};

pub(super) async fn check(target: &Target, clients: &Clients, report: &mut Report) {
    report.check("RFC 9728 §5.1", "without a token: 401 and where to log in", challenge(target)).await;
    report.check("RFC 6750 §2.1", "a token of this issuer is accepted", good(target, clients)).await;
    report.check("attack 67", "a token in the query is ignored", query(target, clients)).await;
    report.check("attack 54", "alg none and a changed claim are refused", forged(target, clients)).await;
    report.check("attack 59", "a refresh token is not an access token", refresh_token(target, clients)).await;
    report
        .check("attack 66", "an access token is invalid after its grant is revoked", revoked(target, clients))
        .await;
    report
        .check(
            "attack 26",
            "an access token is invalid after its code is replayed",
            replayed(target, clients),
        )
        .await;
    report.check("RFC 6750 §3.1", "two Authorization headers are refused", doubled(target, clients)).await;
}

/// The response from the MCP server to a call with these `Authorization` headers.
async fn call(target: &Target, authorizations: &[&str], query: &str) -> Result<Answer> {
    let Some(resource) = &target.options.resource else { return skip("--resource is not given") };
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let mut request = target
        .http
        .post(format!("{resource}{query}"))
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .body(body);
    for value in authorizations {
        request = request.header(AUTHORIZATION, *value);
    }
    Answer::read(request.send().await?).await
}

fn refused(answer: &Answer) -> Result<()> {
    ensure!(answer.status == 401, "status {}: {}", answer.status, answer.body);
    ensure!(!answer.challenge().is_empty(), "401 without WWW-Authenticate");
    Ok(())
}

async fn challenge(target: &Target) -> Result<()> {
    let answer = call(target, &[], "").await?;
    refused(&answer)?;
    ensure!(answer.challenge().contains("resource_metadata="), "{}", answer.challenge());
    Ok(())
}

async fn good(target: &Target, clients: &Clients) -> Result<()> {
    let access = clients.first()?.tokens(target).await?.access;
    let answer = call(target, &[&format!("Bearer {access}")], "").await?;
    ensure!(!matches!(answer.status, 401 | 403 | 500..), "status {}: {}", answer.status, answer.body);
    Ok(())
}

async fn query(target: &Target, clients: &Clients) -> Result<()> {
    let access = clients.first()?.tokens(target).await?.access;
    refused(&call(target, &[], &format!("?access_token={access}")).await?)
}

async fn forged(target: &Target, clients: &Clients) -> Result<()> {
    let access = clients.first()?.tokens(target).await?.access;
    let parts: Vec<&str> = access.split('.').collect();
    let &[header, claims, signature] = parts.as_slice() else { return skip("access tokens are not JWTs") };
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"at+jwt"}"#);
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(claims)?)?;
    let changed = URL_SAFE_NO_PAD.encode(text.replacen("\"sub\":\"", "\"sub\":\"x", 1));
    for token in [
        format!("{none}.{claims}."),
        format!("{none}.{claims}.{signature}"),
        format!("{header}.{changed}.{signature}"),
        format!("{header}.{claims}."),
        format!("{header}.{claims}"),
        format!("{access}."),
    ] {
        refused(&call(target, &[&format!("Bearer {token}")], "").await?)?;
    }
    Ok(())
}

async fn refresh_token(target: &Target, clients: &Clients) -> Result<()> {
    let issued = clients.first()?.tokens(target).await?;
    refused(&call(target, &[&format!("Bearer {}", issued.refresh()?)], "").await?)
}

async fn revoked(target: &Target, clients: &Clients) -> Result<()> {
    let client = clients.first()?;
    let url = target.endpoint("revocation_endpoint")?;
    let issued = client.tokens(target).await?;
    let bearer = format!("Bearer {}", issued.access);
    ensure!(call(target, &[&bearer], "").await?.status != 401, "it was not accepted before either");
    target.post(url, &[("token", issued.refresh()?), ("client_id", &client.id)]).await?;
    refused_soon(target, &bearer).await
}

async fn replayed(target: &Target, clients: &Clients) -> Result<()> {
    let client = clients.first()?;
    let code = client.code(target).await?;
    let issued = super::client::Issued::of(client.redeem(target, &code, &[]).await?)?;
    client.redeem(target, &code, &[]).await?;
    refused_soon(target, &format!("Bearer {}", issued.access)).await
}

/// Checks that the token is refused after a second. No cache may keep it valid for longer.
async fn refused_soon(target: &Target, bearer: &str) -> Result<()> {
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    refused(&call(target, &[bearer], "").await?)
}

async fn doubled(target: &Target, clients: &Clients) -> Result<()> {
    let access = clients.first()?.tokens(target).await?.access;
    let bearer = format!("Bearer {access}");
    let answer = call(target, &[&bearer, "Bearer x"], "").await?;
    ensure!(matches!(answer.status, 400 | 401), "status {}", answer.status);
    Ok(())
}
