//! `auth-service client add`: builds the description of a client from the arguments.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use auth_service::domain::account::{Group, Username};
use auth_service::domain::client::{ClientKeys, GrantType, OperatorTerms};
use auth_service::domain::redirect_uri::RedirectUri;
use auth_service::domain::resource::ResourceUri;
use auth_service::operator::{Credentials, NewClient};
use contract::files::read_setting;

use super::arguments::unreadable;

#[derive(Args)]
pub(crate) struct AddClient {
    /// Name of the client for users and policy: letters, digits and . _ - +
    name: String,
    /// A grant type that the client can use; can be given several times. With `client-credentials`, the client
    /// gets its own account.
    #[arg(long = "grant", value_name = "GRANT")]
    grants: Vec<Grant>,
    /// A resource that the client can use for itself, without a user: the URL of an MCP service. Can be given
    /// several times; the first is the default.
    #[arg(long = "resource", value_name = "URL")]
    resources: Vec<String>,
    /// A resource that the client serves. It can introspect all tokens for this resource. Can be given several
    /// times.
    #[arg(long = "serves", value_name = "URL")]
    serves: Vec<String>,
    /// A group of the client when it acts for itself; can be given several times.
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// The scopes that the client can be granted, for example "mcp:read". The default is all scopes.
    #[arg(long)]
    scope: Option<String>,
    /// A redirect URI for its authorization codes; can be given several times.
    #[arg(long = "redirect-uri", value_name = "URI")]
    redirect_uris: Vec<String>,
    /// The client has no credentials, because it runs on the machines of its users.
    #[arg(long, conflicts_with_all = ["jwks", "jwks_uri"])]
    public: bool,
    /// File with the client's public keys (a JWK set). The client authenticates with signed assertions, and
    /// has no secret.
    #[arg(long, value_name = "FILE", conflicts_with = "jwks_uri")]
    jwks: Option<PathBuf>,
    /// The https URL of the client's public keys. Unlike the keys in a file, the client can rotate these keys.
    #[arg(long, value_name = "URL")]
    jwks_uri: Option<String>,
    /// The client must push its authorization requests (RFC 9126).
    #[arg(long)]
    require_pushed_requests: bool,
}

/// The grant types, with their names on the command line.
#[derive(Clone, Copy, ValueEnum)]
enum Grant {
    /// A user signs in with a browser.
    AuthorizationCode,
    /// The client stays connected after a user has signed in.
    RefreshToken,
    /// The client acts for itself, without a user.
    ClientCredentials,
    /// A user signs in with a browser on another device.
    DeviceCode,
    /// The client acts for the user who called it.
    TokenExchange,
    /// The client sends an assertion from an issuer in `TRUSTED_ISSUERS`.
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
                .with_context(|| format!("{:?} is not a valid name", self.name))?,
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

fn key_set(file: &Path) -> anyhow::Result<serde_json::Value> {
    let text = read_setting(file).map_err(|error| unreadable(file, &error))?;
    let set: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))?;
    let keys = set.get("keys").and_then(serde_json::Value::as_array);
    let Some(keys) = keys.filter(|keys| !keys.is_empty()) else {
        bail!("{} is not a JWK set with at least one key", file.display());
    };
    if keys.iter().any(|key| ["d", "k", "p", "q"].iter().any(|secret| key.get(secret).is_some())) {
        bail!("{} contains a private key; provide only the public keys", file.display());
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn a_pipe_in_place_of_the_key_set_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("keys.json");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let error = format!("{:#}", key_set(&pipe).unwrap_err());
        assert!(error.contains("it is not a regular file"), "{error}");
    }
}
