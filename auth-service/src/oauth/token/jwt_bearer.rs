//! The JWT bearer grant (RFC 7523 §2.1) for enterprise-managed authorization (MCP extension, SEP-990). In an
//! Identity Assertion JWT Authorization Grant (ID-JAG), an identity provider that the operator trusts asserts that
//! a user is allowed to use a resource here. The user is not asked for consent.
//!
//! The provider acts on behalf of users, so the use of its assertions is limited. The client must authenticate and
//! be allowed by the operator, an assertion can be used once, and the account must exist. The account is found by
//! a link between issuer, subject and account, which an operator has created. In email domains that the operator
//! has assigned to the issuer, the account is also found by a verified address, and the link is then created.
//! There is no refresh token, because the client can request a new assertion from the provider.

use serde::Deserialize;

use crate::config::TrustedIssuer;
use crate::domain::account::{Account, AccountKind};
use crate::domain::client::{Client, GrantType};
use crate::domain::clock::UnixTime;
use crate::domain::grant::Grant;
use crate::domain::grant_id::GrantId;
use crate::domain::opaque_token::TokenHash;
use crate::domain::resource::ResourceUri;
use crate::domain::scope::Scope;
use crate::oauth::client_assertion::{accepted_header, fitting_keys, signed_claims};
use crate::oauth::params::Params;
use crate::oauth::proof::ProofOfPossession;
use crate::oauth::requested_scope::within_limit;
use crate::ops::audit;
use crate::state::AppState;
use crate::store::{DirectGrant, Linking, OneTimeUse};

use super::{Part, TokenError, TokenResponse, issue};

/// The `typ` header of an ID-JAG.
const TYPE: &str = "oauth-id-jag+jwt";
/// Maximum lifetime of an assertion in seconds. An assertion can be used once, and its use is stored until it
/// expires.
const MAX_LIFETIME_SECONDS: u64 = 3600;
/// Tolerated difference between clocks, in seconds.
const LEEWAY: u64 = 30;

const MALFORMED: TokenError =
    TokenError::InvalidGrant("the assertion is not an ID-JAG with an accepted signature");
const NOT_OURS: TokenError =
    TokenError::InvalidGrant("the issuer of the assertion is not trusted here for this client");

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    /// The single audience, which must be this server. If there were several audiences, each of them could use the
    /// assertion at the others.
    aud: String,
    client_id: String,
    jti: String,
    exp: u64,
    iat: u64,
    nbf: Option<u64>,
    resource: Option<Resources>,
    scope: Option<String>,
    email: Option<String>,
    #[serde(default)]
    email_verified: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Resources {
    One(String),
    Many(Vec<String>),
}

pub(super) async fn assert(
    state: &AppState,
    client: &Client,
    params: &Params,
    proof: &ProofOfPossession,
) -> Result<TokenResponse, TokenError> {
    // The client must authenticate, so that an attacker who finds an assertion cannot use it.
    if client.is_public() {
        return Err(TokenError::UnauthorizedClient);
    }
    let assertion = params.one("assertion")?.ok_or(TokenError::Missing("assertion"))?;
    let claims = verified(assertion, client, state).await?;
    let issuer = issuer_of(&claims.iss, client, state).ok_or(NOT_OURS)?;
    check(&claims, client, state)?;
    let part = part(&claims, issuer, client, params, state)?.bound_to(proof.key());
    let account = account(&claims, issuer, state).await?;
    state.account_rate.admit_token(&account.subject).map_err(TokenError::AccountTooFast)?;
    proof.spend(state, &account.subject, client).await?;
    let now = state.now();
    // This is the last check, so that a refused request does not use up its assertion.
    let name =
        format!("id-jag/{}", TokenHash::of(format!("{}\n{}", claims.iss, claims.jti).as_bytes()).text());
    match state.store.remember_once(&name, UnixTime(claims.exp.saturating_add(LEEWAY + 1)), now).await? {
        OneTimeUse::First => {}
        OneTimeUse::Replayed => return Err(TokenError::InvalidGrant("the assertion has already been used")),
    }
    let grant = Grant {
        id: GrantId::new(state.random_bytes()?),
        subject: account.subject.clone(),
        client_id: client.id.clone(),
        registration: client.registration.clone(),
        resources: part.resources.clone(),
        scope: part.scope.clone(),
        authenticated_at: now,
        created_at: now,
        expires_at: now.plus(state.config.lifetimes.access_token),
        bound_to: None,
        refresh: None,
        parent: None,
    };
    let response = issue(state, &grant, &account, part, None, now)?;
    match state.store.add_grant(&grant, &state.client_use(client.clone(), &grant.subject)).await? {
        DirectGrant::Created => {}
        DirectGrant::ClientGone => {
            return Err(TokenError::InvalidGrant("the client has been removed or disabled"));
        }
    }
    let (grant_id, user, client_id) = (&grant.id, (&account).into(), &grant.client_id);
    audit::Event::AssertionAccepted { grant_id, user, client_id }.emit();
    Ok(response)
}

/// Returns the issuer, if the operator trusts it for this client.
fn issuer_of<'a>(iss: &str, client: &Client, state: &'a AppState) -> Option<&'a TrustedIssuer> {
    let issuer = state.config.trusted_issuers.iter().find(|issuer| issuer.issuer == iss)?;
    let listed = issuer.clients.contains(&client.id);
    let allowed = if issuer.clients.is_empty() { client.may_use(GrantType::JwtBearer) } else { listed };
    allowed.then_some(issuer)
}

/// Verifies the assertion with a key of the issuer that it names, and returns its claims.
async fn verified(assertion: &str, client: &Client, state: &AppState) -> Result<Claims, TokenError> {
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }
    if assertion.len() > 16_384 {
        return Err(MALFORMED);
    }
    let header = accepted_header(assertion).ok_or(MALFORMED)?;
    if !header.typ.as_deref().is_some_and(|typ| typ.eq_ignore_ascii_case(TYPE)) {
        return Err(MALFORMED);
    }
    // Before the signature is verified, only the issuer is read, to find it in the operator's list.
    let Issuer { iss } = jsonwebtoken::dangerous::insecure_decode_claims(assertion).map_err(|_| MALFORMED)?;
    let issuer = issuer_of(&iss, client, state).ok_or(NOT_OURS)?;
    for fresh in [false, true] {
        let documents = state.clients.documents();
        let set = documents.issuer_keys(&issuer.issuer, issuer.jwks_uri.as_deref(), fresh, state.now()).await;
        let set = set.map_err(|error| {
            tracing::error!(issuer = %issuer.issuer, %error, "the keys of a trusted issuer cannot be fetched");
            TokenError::Unavailable
        })?;
        let keys = fitting_keys(&set, header.kid.as_deref(), header.alg);
        if !keys.is_empty() {
            return signed_claims(assertion, &keys, header.alg).ok_or(MALFORMED);
        }
    }
    Err(MALFORMED)
}

fn check(claims: &Claims, client: &Client, state: &AppState) -> Result<(), TokenError> {
    if claims.aud != state.config.site.issuer.as_str() {
        return Err(TokenError::InvalidGrant("the assertion is for another authorization server"));
    }
    if claims.client_id != client.id.as_str() {
        return Err(TokenError::InvalidGrant("the assertion is for another client"));
    }
    if claims.sub.is_empty() || claims.jti.is_empty() || claims.jti.len() > 512 {
        return Err(MALFORMED);
    }
    let now = state.now().0;
    let soon = now + LEEWAY;
    let in_time = claims.exp.saturating_add(LEEWAY) > now
        && claims.exp <= soon + MAX_LIFETIME_SECONDS
        && claims.iat <= soon
        && claims.nbf.is_none_or(|at| at <= soon);
    if in_time {
        Ok(())
    } else {
        Err(TokenError::InvalidGrant(
            "the assertion has expired, is not valid yet, or is valid for more than an hour",
        ))
    }
}

/// The scope and resources that the assertion, the issuer, the client and the request all allow.
fn part(
    claims: &Claims,
    issuer: &TrustedIssuer,
    client: &Client,
    params: &Params,
    state: &AppState,
) -> Result<Part, TokenError> {
    let parse =
        |text: &str| state.config.site.protected_hosts.parse(text).map_err(|_| TokenError::InvalidTarget);
    let asserted: Vec<&str> = match &claims.resource {
        Some(Resources::One(text)) => vec![text],
        Some(Resources::Many(texts)) => texts.iter().map(String::as_str).collect(),
        None => Vec::new(),
    };
    let asserted = asserted.into_iter().map(parse).collect::<Result<Vec<ResourceUri>, _>>()?;
    let asked = params.many("resource").into_iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    let within =
        |resource: &ResourceUri| asserted.is_empty() || asserted.iter().any(|own| own.includes(resource));
    if !asked.iter().all(within) {
        return Err(TokenError::InvalidTarget);
    }
    let resources = if asked.is_empty() { asserted } else { asked };
    if resources.is_empty() {
        return Err(TokenError::InvalidTarget);
    }
    let scope = scope(claims, issuer, client, params, state)?;
    Ok(Part { scope, resources, bound_to: None })
}

/// The part of the requested scope that the assertion, the issuer and the operator allow. It can be smaller than
/// the requested scope, because the provider decides for each user. The response contains the granted scope (RFC
/// 6749 §3.3).
fn scope(
    claims: &Claims,
    issuer: &TrustedIssuer,
    client: &Client,
    params: &Params,
    state: &AppState,
) -> Result<Scope, TokenError> {
    let parse = |text: &str| text.parse::<Scope>().map_err(|_| TokenError::InvalidScope);
    let exists = state.catalogue();
    let asserted = claims.scope.as_deref().map(parse).transpose()?;
    let asked = params.one("scope")?.map(parse).transpose()?;
    if let Some(asked) = &asked {
        within_limit(asked.within(&exists), client)?;
    }
    let silent = asserted.is_none() && asked.is_none();
    let limits = [asserted, asked, issuer.scope.clone(), client.scope_limit().cloned()];
    let scope = limits.into_iter().flatten().fold(exists, |scope, limit| scope.meet(&limit));
    let usual = client.registered_scope().filter(|_| silent).map(|usual| scope.meet(usual));
    match usual.filter(|usual| !usual.is_empty()).unwrap_or(scope) {
        nothing if nothing.is_empty() => {
            Err(TokenError::InvalidGrant("the assertion allows no scope that can be granted here"))
        }
        scope => Ok(scope),
    }
}

/// Finds the account that the assertion names. It never creates an account.
async fn account(claims: &Claims, issuer: &TrustedIssuer, state: &AppState) -> Result<Account, TokenError> {
    const NOBODY: TokenError =
        TokenError::InvalidGrant("the user named in the assertion has no account here");
    let found = match state.store.linked_account(&claims.iss, &claims.sub).await? {
        Some(subject) => state.store.account(&subject).await?,
        None => by_address(claims, issuer, state).await?,
    };
    found.filter(|account| account.kind == AccountKind::Person && !account.disabled).ok_or(NOBODY)
}

/// Finds the only account with the verified address, and links it to the subject. The operator must have assigned
/// the domain of the address to the issuer. The account must not be linked to another subject of the issuer: if an
/// address is reassigned to a new person, that person must not get access to the previous person's account.
async fn by_address(
    claims: &Claims,
    issuer: &TrustedIssuer,
    state: &AppState,
) -> Result<Option<Account>, TokenError> {
    let Some(email) = claims.email.as_deref().filter(|_| claims.email_verified) else { return Ok(None) };
    let Some((local, domain)) = email.split_once('@') else { return Ok(None) };
    let domain = domain.to_ascii_lowercase();
    if local.is_empty() || !email.is_ascii() || !issuer.email_domains.contains(&domain) {
        return Ok(None);
    }
    let same = |account: &Account| {
        account.kind == AccountKind::Person
            && account.email.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(email))
    };
    let mut found = state.store.accounts().await?.into_iter().filter(same);
    let (Some(account), None) = (found.next(), found.next()) else { return Ok(None) };
    match state.store.link_account(&claims.iss, &claims.sub, &account.subject).await? {
        Linking::Linked => Ok(Some(account)),
        Linking::OtherLink => Ok(None),
    }
}
