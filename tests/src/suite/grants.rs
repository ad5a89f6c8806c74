//! Checks of the codes, tokens and refresh tokens of a user who logs in.

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::client::{Clients, Issued, PublicClient, STATE};
use super::target::{Target, expect_error, parameter};
use super::{Report, skip};

pub(super) async fn check(target: &Target, clients: &Clients, report: &mut Report) {
    report
        .check("RFC 6749 §4.1.2", "the code is returned with the exact state", state(target, clients))
        .await;
    report.check("attack 14", "the code is returned with iss", iss(target, clients)).await;
    report
        .check(
            "RFC 6749 §5.1",
            "the token response has type and lifetime and is not cached",
            answer(target, clients),
        )
        .await;
    report
        .check(
            "RFC 9068 §2",
            "the access token is an at+jwt with the required claims",
            claims(target, clients),
        )
        .await;
    report.check("attack 60", "the access token is only for the resource", audience(target, clients)).await;
    report.check("attack 26", "a replayed code revokes its tokens", replay(target, clients)).await;
    report
        .check("attack 27", "only one of many concurrent redemptions succeeds", race(target, clients))
        .await;
    report.check("attack 28", "another client cannot redeem a code", other_client(target, clients)).await;
    report
        .check(
            "attack 29",
            "a code is bound to verifier, redirect URI and resource",
            binding(target, clients),
        )
        .await;
    report.check("attack 33", "a refresh widens neither scope nor resource", widening(target, clients)).await;
    report
        .check("OAuth 2.1 §4.3.1", "a public client's refresh token is replaced", rotation(target, clients))
        .await;
    report.check("attack 31", "reuse of an old refresh token ends the grant", reuse(target, clients)).await;
    report.check("attack 32", "many concurrent refreshes log no user out", parallel(target, clients)).await;
    report.check("attack 34", "another client cannot use a refresh token", stolen(target, clients)).await;
    report.check("attack 42", "a shortened or lengthened token is refused", altered(target, clients)).await;
    report.check("RFC 7009 §2.1", "a revoked refresh token is refused", revocation(target, clients)).await;
    report
        .check("attack 66", "another client cannot revoke a token", foreign_revocation(target, clients))
        .await;
}

async fn state(target: &Target, clients: &Clients) -> Result<()> {
    let pairs = clients.first()?.allowed(target).await?;
    ensure!(parameter(&pairs, "state") == Some(STATE), "state is {:?}", parameter(&pairs, "state"));
    Ok(())
}

async fn iss(target: &Target, clients: &Clients) -> Result<()> {
    let pairs = clients.first()?.allowed(target).await?;
    ensure!(parameter(&pairs, "iss") == Some(&target.issuer), "iss is {:?}", parameter(&pairs, "iss"));
    Ok(())
}

async fn answer(target: &Target, clients: &Clients) -> Result<()> {
    let issued = clients.first()?.tokens(target).await?;
    let body = issued.answer.json()?;
    let kind = body["token_type"].as_str().unwrap_or_default();
    ensure!(kind.eq_ignore_ascii_case("bearer"), "token_type is {kind:?}");
    let lifetime = body["expires_in"].as_u64().context("no expires_in")?;
    ensure!(lifetime <= 86_400, "an access token lives for {lifetime} s");
    let policy = issued.answer.header("cache-control");
    ensure!(policy.contains("no-store"), "Cache-Control {policy:?}");
    Ok(())
}

/// The header and the claims of a JWT.
fn read(token: &str) -> Result<[Value; 2]> {
    let parts: Vec<&str> = token.split('.').collect();
    let &[header, claims, _] = parts.as_slice() else { return skip("access tokens are not JWTs") };
    let part = |text: &str| -> Result<Value> { Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text)?)?) };
    Ok([part(header)?, part(claims)?])
}

async fn claims(target: &Target, clients: &Clients) -> Result<()> {
    let client = clients.first()?;
    let [header, claims] = read(&client.tokens(target).await?.access)?;
    ensure!(header["typ"] == "at+jwt" || header["typ"] == "application/at+jwt", "typ is {}", header["typ"]);
    let set = target.get(target.endpoint("jwks_uri")?).await?.json()?;
    let known = set["keys"].as_array().into_iter().flatten().find(|key| key["kid"] == header["kid"]);
    let key = known.with_context(|| format!("/jwks has no key {}", header["kid"]))?;
    ensure!(key["alg"].is_null() || key["alg"] == header["alg"], "alg {} with {key}", header["alg"]);
    ensure!(claims["iss"] == target.issuer.as_str(), "iss is {}", claims["iss"]);
    ensure!(claims["client_id"] == client.id.as_str(), "client_id is {}", claims["client_id"]);
    for name in ["sub", "jti"] {
        ensure!(claims[name].as_str().is_some_and(|text| !text.is_empty()), "{name} is {}", claims[name]);
    }
    for name in ["exp", "iat"] {
        ensure!(claims[name].is_u64(), "{name} is {}", claims[name]);
    }
    Ok(())
}

async fn audience(target: &Target, clients: &Clients) -> Result<()> {
    let Some(resource) = &target.options.resource else { return skip("--resource is not given") };
    let [_, claims] = read(&clients.first()?.tokens(target).await?.access)?;
    let aud = match &claims["aud"] {
        Value::Array(many) => many.clone(),
        one => vec![one.clone()],
    };
    ensure!(aud == [Value::from(resource.as_str())], "aud is {}", claims["aud"]);
    Ok(())
}

async fn replay(target: &Target, clients: &Clients) -> Result<()> {
    let client = clients.first()?;
    let code = client.code(target).await?;
    let issued = Issued::of(client.redeem(target, &code, &[]).await?)?;
    expect_error(&client.redeem(target, &code, &[]).await?, &[400], &["invalid_grant"])?;
    let after = client.refresh(target, issued.refresh()?, &[]).await?;
    expect_error(&after, &[400], &["invalid_grant"]).context("the tokens of the code are still valid")
}

async fn race(target: &Target, clients: &Clients) -> Result<()> {
    let client = clients.first()?;
    let code = client.code(target).await?;
    let mut tries = tokio::task::JoinSet::new();
    let url = target.endpoint("token_endpoint")?.to_owned();
    let resource = target.options.resource.clone().unwrap_or_default();
    for _ in 0..12 {
        let (http, url, code, client) = (target.http.clone(), url.clone(), code.clone(), client.clone());
        let resource = resource.clone();
        tries.spawn(async move {
            let mut form = vec![
                ("grant_type", "authorization_code"),
                ("client_id", &client.id),
                ("code", &code),
                ("redirect_uri", &client.redirect_uri),
                ("code_verifier", super::client::VERIFIER),
            ];
            if !resource.is_empty() {
                form.push(("resource", &resource));
            }
            http.post(url).form(&form).send().await.map(|response| response.status().as_u16())
        });
    }
    let statuses = tries.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let succeeded = statuses.iter().filter(|status| **status == 200).count();
    ensure!(succeeded == 1, "{succeeded} succeeded: {statuses:?}");
    Ok(())
}

async fn other_client(target: &Target, clients: &Clients) -> Result<()> {
    let (client, other) = (clients.first()?, clients.other()?);
    let code = client.code(target).await?;
    expect_error(&other.redeem(target, &code, &[]).await?, &[400], &["invalid_grant"])?;
    still_good(target, client, &code).await
}

/// Checks that a code is still valid. A client that cannot redeem a code must not be able to use it up (attack
/// 33).
async fn still_good(target: &Target, client: &PublicClient, code: &str) -> Result<()> {
    Issued::of(client.redeem(target, code, &[]).await?).context("the refusal used the code up").map(|_| ())
}

/// Parameters that replace valid ones.
type Replaced = &'static [(&'static str, &'static str)];

async fn binding(target: &Target, clients: &Clients) -> Result<()> {
    let client = clients.first()?;
    let code = client.code(target).await?;
    let wrong: [(Replaced, &[&str]); 5] = [
        (&[("code_verifier", "")], &["invalid_grant", "invalid_request"]),
        (&[("code_verifier", "another-code-verifier-0123456789-abcdefghijklmnop")], &["invalid_grant"]),
        (&[("code_verifier", "short")], &["invalid_grant", "invalid_request"]),
        (&[("redirect_uri", "https://evil.example/cb")], &["invalid_grant", "invalid_request"]),
        (&[("resource", "https://somebody-else.example/mcp")], &["invalid_target"]),
    ];
    for (replaced, codes) in wrong {
        let answer = client.redeem(target, &code, replaced).await?;
        expect_error(&answer, &[400], codes).with_context(|| format!("{replaced:?}"))?;
    }
    still_good(target, client, &code).await
}

async fn widening(target: &Target, clients: &Clients) -> Result<()> {
    let client = clients.first()?;
    let mut issued = client.tokens(target).await?;
    let wider = client.refresh(target, issued.refresh()?, &[("scope", "admin superuser")]).await?;
    if wider.status == 200 {
        // An issuer can ignore unknown scope names if its response contains the scope (RFC 6749 §3.3).
        let renewed = Issued::of(wider)?;
        let body = renewed.answer.json()?;
        let granted =
            body["scope"].as_str().context("the scope was reduced, but the response does not contain it")?;
        let is_wider = granted.split(' ').any(|name| matches!(name, "admin" | "superuser"));
        ensure!(!is_wider, "the scope is wider now: {granted}");
        issued = renewed;
    } else {
        expect_error(&wider, &[400], &["invalid_scope"])?;
    }
    let token = issued.refresh()?;
    let foreign = client.refresh(target, token, &[("resource", "https://somebody-else.example/mcp")]).await?;
    expect_error(&foreign, &[400], &["invalid_target"])?;
    Issued::of(client.refresh(target, token, &[]).await?).context("the refusal used the token up").map(|_| ())
}

async fn rotation(target: &Target, clients: &Clients) -> Result<()> {
    let client = clients.first()?;
    let issued = client.tokens(target).await?;
    let renewed = Issued::of(client.refresh(target, issued.refresh()?, &[]).await?)?;
    ensure!(renewed.refresh()? != issued.refresh()?, "the refresh token was not replaced");
    ensure!(renewed.access != issued.access, "the access token was not replaced");
    Ok(())
}

async fn reuse(target: &Target, clients: &Clients) -> Result<()> {
    let client = clients.first()?;
    let first = client.tokens(target).await?;
    let second = Issued::of(client.refresh(target, first.refresh()?, &[]).await?)?;
    let third = Issued::of(client.refresh(target, second.refresh()?, &[]).await?)?;
    expect_error(&client.refresh(target, first.refresh()?, &[]).await?, &[400], &["invalid_grant"])?;
    let after = client.refresh(target, third.refresh()?, &[]).await?;
    expect_error(&after, &[400], &["invalid_grant"]).context("the thief's token is still valid")
}

async fn parallel(target: &Target, clients: &Clients) -> Result<()> {
    let client = clients.first()?;
    let issued = client.tokens(target).await?;
    let token = issued.refresh()?.to_owned();
    let url = target.endpoint("token_endpoint")?.to_owned();
    let mut tries = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (http, url, token, id) = (target.http.clone(), url.clone(), token.clone(), client.id.clone());
        tries.spawn(async move {
            let form = [("grant_type", "refresh_token"), ("client_id", &*id), ("refresh_token", &*token)];
            let response = http.post(url).form(&form).send().await?;
            crate::gate::Answer::read(response).await
        });
    }
    let answers = tries.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
    let mut successors = Vec::new();
    for answer in answers.into_iter().filter(|answer| answer.status == 200) {
        successors.push(Issued::of(answer)?.refresh()?.to_owned());
    }
    successors.sort();
    successors.dedup();
    let [successor] = successors.as_slice() else {
        anyhow::bail!("{} different successors of one token", successors.len())
    };
    Issued::of(client.refresh(target, successor, &[]).await?).context("the client is logged out").map(|_| ())
}

async fn stolen(target: &Target, clients: &Clients) -> Result<()> {
    let (client, other) = (clients.first()?, clients.other()?);
    let issued = client.tokens(target).await?;
    expect_error(&other.refresh(target, issued.refresh()?, &[]).await?, &[400], &["invalid_grant"])?;
    Issued::of(client.refresh(target, issued.refresh()?, &[]).await?)
        .context("the owner's token is no longer valid")
        .map(|_| ())
}

async fn altered(target: &Target, clients: &Clients) -> Result<()> {
    let client = clients.first()?;
    let issued = client.tokens(target).await?;
    let token = issued.refresh()?;
    let mut cut = token.to_owned();
    cut.pop();
    for bad in
        [cut, format!("{token}A"), format!(" {token}"), format!("{token}\u{0}"), token.to_ascii_uppercase()]
    {
        expect_error(
            &client.refresh(target, &bad, &[]).await?,
            &[400],
            &["invalid_grant", "invalid_request"],
        )?;
    }
    Issued::of(client.refresh(target, token, &[]).await?).map(|_| ())
}

async fn revocation(target: &Target, clients: &Clients) -> Result<()> {
    let client = clients.first()?;
    let url = target.endpoint("revocation_endpoint")?;
    let issued = client.tokens(target).await?;
    let answer = target.post(url, &[("token", issued.refresh()?), ("client_id", &client.id)]).await?;
    ensure!(answer.status == 200, "status {}", answer.status);
    expect_error(&client.refresh(target, issued.refresh()?, &[]).await?, &[400], &["invalid_grant"])
}

async fn foreign_revocation(target: &Target, clients: &Clients) -> Result<()> {
    let (client, other) = (clients.first()?, clients.other()?);
    let url = target.endpoint("revocation_endpoint")?;
    let issued = client.tokens(target).await?;
    target.post(url, &[("token", issued.refresh()?), ("client_id", &other.id)]).await?;
    Issued::of(client.refresh(target, issued.refresh()?, &[]).await?).context("it is revoked").map(|_| ())
}
