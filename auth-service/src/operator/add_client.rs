//! Adds a client that does not register itself, such as a client that acts for itself or a resource server.

use serde::{Deserialize, Serialize};

use crate::domain::account::{Account, AccountKind, Group, StoredPassword, Username};
use crate::domain::client::{
    Client, ClientAuthMethod, ClientDisplay, ClientId, ClientKeys, ClientMetadata, ClientOrigin,
    ClientSecret, GrantType, OperatorTerms, RegistrationId,
};
use crate::domain::opaque_token::{OpaqueToken, TokenKind};
use crate::domain::redirect_uri::RedirectUri;
use crate::domain::scope::Scope;
use crate::ops::audit;
use crate::store::Addition;

use super::{CommandError, Reply, Tools, account_exists};

/// The operator's description of a new client.
#[derive(Debug, Serialize, Deserialize)]
pub struct NewClient {
    /// The name that users see and to which policy rules refer.
    pub name: Username,
    /// How the client authenticates.
    pub credentials: Credentials,
    /// The grant types that the client can use.
    pub grant_types: Vec<GrantType>,
    /// The URIs to which authorization codes can be sent.
    pub redirect_uris: Vec<RedirectUri>,
    /// The scopes that the client can be granted. `None` means all scopes.
    pub scope: Option<Scope>,
    /// The groups of the client when it acts for itself.
    pub groups: Vec<Group>,
    /// The properties that only an operator can set.
    pub terms: OperatorTerms,
}

/// How a new client authenticates.
#[derive(Debug, Serialize, Deserialize)]
pub enum Credentials {
    /// The client does not authenticate: it is a public client.
    None,
    /// The client authenticates with a secret, which is created here.
    Secret,
    /// The client authenticates with assertions signed with these keys.
    Keys(ClientKeys),
}

/// Returns the first problem with the description. It is called before anything is stored.
fn problem(new: &NewClient) -> Option<&'static str> {
    let has = |grant_type| new.grant_types.contains(&grant_type);
    let without_person = has(GrantType::ClientCredentials) || has(GrantType::TokenExchange);
    let public = matches!(new.credentials, Credentials::None);
    if new.grant_types.is_empty() && new.terms.serves.is_empty() {
        Some("the client has neither a grant nor a resource: add --grant or --serves")
    } else if new.redirect_uris.iter().any(|uri| uri.could_be_answer().is_some()) {
        Some(
            "the query of a redirect URI must not contain code, state, iss or another parameter of the response, nor ; or control characters",
        )
    } else if has(GrantType::AuthorizationCode) && new.redirect_uris.is_empty() {
        Some("the authorization code grant needs a redirect URI")
    } else if public && (without_person || has(GrantType::JwtBearer) || !new.terms.serves.is_empty()) {
        Some(
            "a public client cannot authenticate; it can use only authorization codes, device codes and refresh tokens",
        )
    } else if without_person && new.terms.resources.is_empty() {
        Some("add --resource for each resource that the client can use for itself")
    } else {
        None
    }
}

pub(super) async fn add_client(new: NewClient, tools: &Tools<'_>) -> Result<Reply, CommandError> {
    if let Some(problem) = problem(&new) {
        return Ok(Reply::Refused(problem.to_owned()));
    }
    let id = ClientId::issued(tools.random.bytes()?);
    if new.grant_types.contains(&GrantType::ClientCredentials) {
        match tools.store.add_account(&machine(&id, &new, tools)).await? {
            Addition::Added => {}
            Addition::Taken => return Ok(account_exists(&new.name)),
        }
    }
    let (auth_method, keys, secret) = match new.credentials {
        Credentials::None => (ClientAuthMethod::None, None, None),
        Credentials::Keys(keys) => (ClientAuthMethod::PrivateKeyJwt, Some(keys), None),
        Credentials::Secret => {
            let secret = OpaqueToken::new(TokenKind::ClientSecret, tools.random.bytes()?);
            (ClientAuthMethod::ClientSecretBasic, None, Some(secret))
        }
    };
    let client = Client {
        id,
        registration: RegistrationId::new(tools.random.bytes()?),
        origin: ClientOrigin::Operator,
        issued_at: tools.now,
        last_used_at: None,
        users: None,
        further_users: Vec::new(),
        kept_until: None,
        disabled: false,
        fingerprint: None,
        management: None,
        secret: secret.as_ref().map(|secret| ClientSecret { hash: secret.hash(), expires_at: None }),
        metadata: ClientMetadata {
            redirect_uris: new.redirect_uris,
            auth_method,
            grant_types: new.grant_types,
            scope: new.scope,
            application_type: None,
            dpop_bound_access_tokens: false,
            keys,
            display: ClientDisplay { client_name: Some(new.name.into()), ..ClientDisplay::default() },
        },
        operator: Some(new.terms),
    };
    match tools.store.add_client(&client, tools.now).await? {
        Addition::Added => {}
        Addition::Taken => {
            let reason = "another client has just got this identifier; try again";
            return Ok(Reply::Refused(reason.to_owned()));
        }
    }
    audit::Event::ClientAdded { client_id: &client.id }.emit();
    Ok(Reply::ClientAdded { id: client.id, secret: secret.map(|secret| secret.expose().to_owned()) })
}

fn machine(id: &ClientId, new: &NewClient, tools: &Tools<'_>) -> Account {
    Account {
        subject: id.subject(),
        kind: AccountKind::Machine,
        username: new.name.clone(),
        email: None,
        groups: new.groups.clone(),
        password: StoredPassword::none(),
        logins_ended: 0,
        disabled: false,
        created_at: tools.now,
    }
}
