//! `client add`: turns the arguments into the description of a client.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use auth_service::domain::account::{Group, Username};
use auth_service::domain::client::{ClientKeys, GrantType, OperatorTerms};
use auth_service::domain::redirect_uri::RedirectUri;
use auth_service::domain::resource::ResourceUri;
use auth_service::operator::{Credentials, NewClient};

#[derive(Args)]
pub(crate) struct AddClient {
    /// What people and policy know it by: letters, digits and . _ - +
    name: String,
    /// What it may ask for tokens with; may be given several times. `client-credentials` makes it an account of its own.
    #[arg(long = "grant", value_name = "GRANT")]
    grants: Vec<Grant>,
    /// A resource that it may use for itself, without a person: the URL of an MCP service. May be given several times;
    /// the first is the default.
    #[arg(long = "resource", value_name = "URL")]
    resources: Vec<String>,
    /// A resource that it is the server of: it may introspect the tokens of everybody who comes there. May be given
    /// several times.
    #[arg(long = "serves", value_name = "URL")]
    serves: Vec<String>,
    /// A group that it is in when it acts for itself; may be given several times.
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// The most that it may be granted, for example "mcp:read"; everything, when left out.
    #[arg(long)]
    scope: Option<String>,
    /// Where its authorization codes may go; may be given several times.
    #[arg(long = "redirect-uri", value_name = "URI")]
    redirect_uris: Vec<String>,
    /// It has no credentials: an application on people's own machines.
    #[arg(long, conflicts_with_all = ["jwks", "jwks_uri"])]
    public: bool,
    /// File with its public keys (a JWK set): it authenticates by signed assertions, and there is no secret.
    #[arg(long, value_name = "FILE", conflicts_with = "jwks_uri")]
    jwks: Option<PathBuf>,
    /// https URL of its public keys: the same, with keys that it can rotate.
    #[arg(long, value_name = "URL")]
    jwks_uri: Option<String>,
    /// It has to push its authorization requests.
    #[arg(long)]
    require_pushed_requests: bool,
}

/// Grants under the names that operators type.
#[derive(Clone, Copy, ValueEnum)]
enum Grant {
    /// A person in a browser.
    AuthorizationCode,
    /// Stays connected after that.
    RefreshToken,
    /// For itself, without a person.
    ClientCredentials,
    /// A person in another browser.
    DeviceCode,
    /// On behalf of whom it serves.
    TokenExchange,
    /// An assertion of an issuer in `TRUSTED_ISSUERS`.
    JwtBearer,
}

impl From<Grant> for GrantType {
    fn from(grant: Grant) -> Self {
        match grant {
            Grant::AuthorizationCode => Self::AuthorizationCode,
            Grant::RefreshToken => Self::RefreshToken,
            Grant::ClientCredentials => Self::ClientCredentials,
            Grant::DeviceCode => Self::DeviceCode,
            Grant::TokenExchange => Self::TokenExchange,
            Grant::JwtBearer => Self::JwtBearer,
        }
    }
}

impl AddClient {
    pub(crate) fn read(self) -> anyhow::Result<NewClient> {
        let credentials = match (self.public, self.jwks, self.jwks_uri) {
            (true, _, _) => Credentials::None,
            (false, Some(file), _) => Credentials::Keys(ClientKeys::Inline(key_set(&file)?)),
            (false, None, Some(uri)) if uri.starts_with("https://") => {
                Credentials::Keys(ClientKeys::Uri(uri))
            }
            (false, None, Some(uri)) => bail!("--jwks-uri must be an https URL, not {uri}"),
            (false, None, None) => Credentials::Secret,
        };
        let mut grant_types: Vec<GrantType> = self.grants.into_iter().map(GrantType::from).collect();
        grant_types.sort_unstable();
        grant_types.dedup();
        Ok(NewClient {
            name: Username::try_from(self.name.clone())
                .with_context(|| format!("{:?} cannot be a name", self.name))?,
            credentials,
            grant_types,
            redirect_uris: each(self.redirect_uris, RedirectUri::try_from)?,
            scope: self.scope.map(|scope| scope.parse()).transpose()?,
            groups: each(self.groups, Group::try_from)?,
            terms: OperatorTerms {
                resources: each(self.resources, |url| ResourceUri::well_formed(&url))?,
                serves: each(self.serves, |url| ResourceUri::well_formed(&url))?,
                pushes_requests: self.require_pushed_requests,
            },
        })
    }
}

fn each<T, E>(texts: Vec<String>, parse: impl Fn(String) -> Result<T, E>) -> anyhow::Result<Vec<T>>
where
    E: std::error::Error + Send + Sync + 'static,
{
    texts
        .into_iter()
        .map(|text| parse(text.clone()).with_context(|| format!("{text:?} cannot be used")))
        .collect()
}

fn key_set(file: &PathBuf) -> anyhow::Result<serde_json::Value> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let set: serde_json::Value =
        serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", file.display()))?;
    let keys = set.get("keys").and_then(serde_json::Value::as_array);
    let Some(keys) = keys.filter(|keys| !keys.is_empty()) else {
        bail!("{} is not a JWK set with at least one key", file.display());
    };
    if keys.iter().any(|key| ["d", "k", "p", "q"].iter().any(|secret| key.get(secret).is_some())) {
        bail!("{} holds a private key; give the public half only", file.display());
    }
    Ok(set)
}
