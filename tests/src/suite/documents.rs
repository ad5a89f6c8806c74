//! Checks of the metadata (RFC 8414, `OpenID` Connect Discovery, RFC 9728), the key set, and CORS.

use std::future::ready;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use url::Url;

use crate::gate::Answer;

use super::target::{Target, well_known};
use super::{Report, skip};

pub(super) async fn check(target: &Target, report: &mut Report) {
    report.check("RFC 8414 §3.2", "metadata is JSON at the well-known URL", form(target)).await;
    report.check("RFC 8414 §3.3", "issuer is identical to the requested one", ready(issuer(target))).await;
    report.check("RFC 8414 §2", "endpoints use TLS or are on loopback", ready(endpoints(target))).await;
    report.check("RFC 8414 §2", "response_types_supported has code", ready(code_flow(target))).await;
    report.check("attack 13", "S256 is announced and plain is not", ready(challenge_methods(target))).await;
    report.check("RFC 9207 §3", "iss in authorization responses is announced", ready(iss(target))).await;
    report
        .check(
            "attack 37",
            "no symmetric or empty signature is accepted from clients",
            ready(algorithms(target)),
        )
        .await;
    report.check("OIDC Discovery §4", "the OpenID document has the same issuer", openid(target)).await;
    report.check("attack 25", "the issuer does not follow the Host header", host_header(target)).await;
    report
        .check("attack 97", "pages of any origin can read metadata, without credentials", cors(target))
        .await;
    report.check("RFC 7517 §5", "every key has an identifier and no private part", keys(target)).await;
    report.check("RFC 9728 §3.3", "the resource's metadata names it and the issuer", resource(target)).await;
}

async fn form(target: &Target) -> Result<()> {
    let answer = target.get(&well_known(&target.issuer, "oauth-authorization-server")?).await?;
    ensure!(answer.status == 200, "status {}", answer.status);
    let kind = answer.header("content-type");
    ensure!(kind.starts_with("application/json"), "Content-Type {kind:?}");
    answer.json().map(|_| ())
}

fn issuer(target: &Target) -> Result<()> {
    ensure!(target.text("issuer") == Some(&target.issuer), "issuer is {}", target.metadata["issuer"]);
    Ok(())
}

fn is_protected(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| {
        let host = url.host_str().unwrap_or_default();
        url.scheme() == "https" || matches!(host, "localhost" | "127.0.0.1" | "[::1]")
    })
}

fn endpoints(target: &Target) -> Result<()> {
    for name in ["authorization_endpoint", "token_endpoint"] {
        ensure!(target.text(name).is_some(), "no {name}");
    }
    for (name, value) in target.metadata.as_object().context("no object")? {
        if name.ends_with("_endpoint") || name.ends_with("_uri") {
            let url = value.as_str().unwrap_or_default();
            ensure!(is_protected(url), "{name} is {value}");
        }
    }
    Ok(())
}

fn code_flow(target: &Target) -> Result<()> {
    let types = target.list("response_types_supported");
    ensure!(types.contains(&"code"), "response_types_supported is {types:?}");
    ensure!(!types.iter().any(|kind| kind.contains("token")), "implicit or hybrid flows: {types:?}");
    Ok(())
}

fn challenge_methods(target: &Target) -> Result<()> {
    let methods = target.list("code_challenge_methods_supported");
    ensure!(methods.contains(&"S256") && !methods.contains(&"plain"), "{methods:?}");
    Ok(())
}

fn iss(target: &Target) -> Result<()> {
    let said = &target.metadata["authorization_response_iss_parameter_supported"];
    ensure!(*said == Value::Bool(true), "authorization_response_iss_parameter_supported is {said}");
    Ok(())
}

fn algorithms(target: &Target) -> Result<()> {
    let members = target.metadata.as_object().context("no object")?;
    for name in members.keys().filter(|name| name.contains("_alg_values_supported")) {
        let bad = |algorithm: &&str| algorithm.eq_ignore_ascii_case("none") || algorithm.starts_with("HS");
        ensure!(!target.list(name).iter().any(bad), "{name}: {:?}", target.list(name));
    }
    Ok(())
}

async fn openid(target: &Target) -> Result<()> {
    let urls = [
        well_known(&target.issuer, "openid-configuration")?,
        format!("{}/.well-known/openid-configuration", target.issuer),
    ];
    let mut found = false;
    for url in urls {
        let answer = target.get(&url).await?;
        if answer.status == 200 {
            found = true;
            let said = answer.json()?["issuer"].clone();
            ensure!(said == target.issuer.as_str(), "{url} says {said}");
        }
    }
    if found { Ok(()) } else { skip("there is no OpenID document") }
}

async fn host_header(target: &Target) -> Result<()> {
    let url = well_known(&target.issuer, "oauth-authorization-server")?;
    for name in ["x-forwarded-host", "x-host", "forwarded"] {
        let value = if name == "forwarded" { "host=evil.example" } else { "evil.example" };
        let answer = Answer::read(target.http.get(&url).header(name, value).send().await?).await?;
        ensure!(!answer.body.contains("evil.example"), "{name} appears in the metadata: {}", answer.body);
    }
    Ok(())
}

fn not_for_credentials(answer: &Answer, origin: &str) -> Result<()> {
    let allowed = answer.header("access-control-allow-origin");
    ensure!(allowed == "*" || allowed == origin, "Access-Control-Allow-Origin is {allowed:?}");
    let with = answer.header("access-control-allow-credentials");
    ensure!(with.is_empty(), "Access-Control-Allow-Credentials is {with:?}");
    Ok(())
}

async fn cors(target: &Target) -> Result<()> {
    let origin = "https://inspector.example";
    let url = well_known(&target.issuer, "oauth-authorization-server")?;
    let answer = Answer::read(target.http.get(&url).header("origin", origin).send().await?).await?;
    not_for_credentials(&answer, origin)?;
    let preflight = target
        .http
        .request(reqwest::Method::OPTIONS, target.endpoint("token_endpoint")?)
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type,authorization");
    let answer = Answer::read(preflight.send().await?).await?;
    ensure!((200..300).contains(&answer.status), "preflight of the token endpoint: {}", answer.status);
    not_for_credentials(&answer, origin)
}

async fn keys(target: &Target) -> Result<()> {
    let answer = target.get(target.endpoint("jwks_uri")?).await?;
    ensure!(answer.status == 200, "status {}", answer.status);
    let set = answer.json()?;
    let keys = set["keys"].as_array().context("no keys")?;
    ensure!(!keys.is_empty(), "the set is empty");
    for key in keys {
        ensure!(key["kid"].is_string() && key["kty"].is_string(), "no kid or kty: {key}");
        ensure!(key["kty"] != "oct", "a symmetric key is published");
        for private in ["d", "p", "q", "dp", "dq", "qi", "k"] {
            ensure!(key.get(private).is_none(), "key {} contains the private part {private}", key["kid"]);
        }
    }
    Ok(())
}

async fn resource(target: &Target) -> Result<()> {
    let Some(resource) = &target.options.resource else { return skip("--resource is not given") };
    let answer = target.get(&well_known(resource, "oauth-protected-resource")?).await?;
    ensure!(answer.status == 200, "status {}", answer.status);
    let document = answer.json()?;
    ensure!(document["resource"] == resource.as_str(), "resource is {}", document["resource"]);
    let servers = document["authorization_servers"].as_array().context("no authorization_servers")?;
    ensure!(servers.iter().any(|server| *server == target.issuer.as_str()), "servers are {servers:?}");
    Ok(())
}
