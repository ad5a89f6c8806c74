//! Clients, accounts, codes and grants for the store tests.

use std::time::Duration;

use auth_service::domain::account::{Account, AccountKind, Group, StoredPassword, Subject, Username};
use auth_service::domain::client::{
    Client, ClientAuthMethod, ClientDisplay, ClientId, ClientMetadata, ClientOrigin, GrantType,
    RegistrationId,
};
use auth_service::domain::client_use::ClientUse;
use auth_service::domain::clock::{Random, UnixTime};
use auth_service::domain::clock_watch::TimeBounds;
use auth_service::domain::device::{DeviceAuthorization, DeviceState};
use auth_service::domain::grant::{AuthorizationCode, Grant, RefreshState};
use auth_service::domain::grant_id::GrantId;
use auth_service::domain::opaque_token::TokenHash;
use auth_service::domain::pkce::CodeChallenge;
use auth_service::domain::refresh_token::{HashedRefreshToken, Line, LineKey, RefreshToken};
use auth_service::keys::seal::SystemRandomSource;
use auth_service::keys::signing::KeyRing;
use auth_service::keys::tokens::{ACCESS_TOKEN_TYPE, AccessTokenClaims};
use auth_service::store::{Addition, Issuance, Registration, RegistrationTerms, Store, Successor};
use serde_json::{from_value, json};

/// The issuer of the tests' tokens.
pub(crate) const ISSUER: &str = "https://auth.example";
pub(crate) const NOW: UnixTime = UnixTime(1_800_000_000);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);
/// How long an unused client is kept.
pub(crate) const UNUSED: Duration = DAY;
/// How long a used client is kept after its last use.
pub(crate) const IDLE: Duration = Duration::from_secs(90 * 86_400);
/// The maximum number of clients of one account that only this account, or few other accounts, have used.
pub(crate) const SOLE_CEILING: usize = 3;
pub(crate) const GRACE: Duration = Duration::from_secs(120);

pub(crate) fn later(duration: Duration) -> UnixTime {
    NOW.plus(duration)
}

pub(crate) fn random() -> [u8; 32] {
    SystemRandomSource.bytes().unwrap()
}

pub(crate) fn hash(text: &str) -> TokenHash {
    TokenHash::of(text.as_bytes())
}

pub(crate) fn id(text: &str) -> ClientId {
    ClientId::try_from(text.to_owned()).unwrap()
}

/// A public client whose identifier and name are `name`.
pub(crate) fn client(name: &str) -> Client {
    Client {
        id: id(name),
        registration: RegistrationId::new(random()),
        origin: ClientOrigin::Registration,
        issued_at: NOW,
        last_used_at: None,
        users: None,
        further_users: Vec::new(),
        kept_until: None,
        disabled: false,
        fingerprint: Some(hash(name)),
        management: Some(TokenHash::of(&random())),
        secret: None,
        metadata: ClientMetadata {
            redirect_uris: vec![from_value(json!("https://app.example/cb")).unwrap()],
            auth_method: ClientAuthMethod::None,
            grant_types: vec![GrantType::AuthorizationCode, GrantType::RefreshToken],
            scope: None,
            application_type: None,
            dpop_bound_access_tokens: false,
            keys: None,
            display: ClientDisplay { client_name: Some(name.to_owned()), ..ClientDisplay::default() },
        },
        operator: None,
    }
}

/// A client with a metadata document at `url`.
pub(crate) fn document_client(url: &str) -> Client {
    Client { origin: ClientOrigin::MetadataDocument, fingerprint: None, management: None, ..client(url) }
}

pub(crate) fn terms(now: UnixTime, ceiling: u64) -> RegistrationTerms {
    RegistrationTerms { now, unused_until: now.plus(UNUSED), ceiling, unused_ceiling: ceiling }
}

/// Registers `client` under its own identifier.
pub(crate) async fn register(store: &dyn Store, client: &Client) -> Client {
    let terms = terms(client.issued_at, 100_000);
    match store.register_client(client, std::slice::from_ref(&client.id), &terms).await.unwrap() {
        Registration::Added(client) | Registration::Known(client) => client,
        Registration::Full => panic!("full"),
    }
}

pub(crate) fn usage(client: &Client, at: UnixTime) -> ClientUse {
    ClientUse { sole_ceiling: 100_000, ..usage_by(&Subject::new([0; 32]), client, at) }
}

/// A use by this account, which can have [`SOLE_CEILING`] clients that only it has used.
pub(crate) fn usage_by(user: &Subject, client: &Client, at: UnixTime) -> ClientUse {
    ClientUse {
        client: client.clone(),
        at,
        bounds: TimeBounds::exactly(at),
        is_time_of_day: false,
        boot: None,
        keep_until: at.plus(IDLE),
        user: user.clone(),
        sole_ceiling: SOLE_CEILING,
    }
}

pub(crate) fn account(name: &str) -> Account {
    Account {
        subject: Subject::new(random()),
        kind: AccountKind::Person,
        username: Username::try_from(name.to_owned()).unwrap(),
        email: Some(format!("{name}@people.example")),
        groups: vec![Group::try_from("staff".to_owned()).unwrap()],
        password: password("first"),
        logins_ended: 0,
        disabled: false,
        created_at: NOW,
    }
}

pub(crate) fn password(text: &str) -> StoredPassword {
    StoredPassword { phc: format!("$argon2id$v=19$m=1,t=1,p=1$c2FsdA${text}"), one_time: false }
}

/// An authorization code for `client` and this account, which is valid for 60 seconds.
pub(crate) fn code(client: &Client, subject: &Subject, at: UnixTime) -> AuthorizationCode {
    AuthorizationCode {
        grant_id: GrantId::new(random()),
        client_id: client.id.clone(),
        registration: client.registration.clone(),
        redirect_uri: from_value(json!("https://app.example/cb")).unwrap(),
        challenge: CodeChallenge::parse("E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM").unwrap(),
        bound_to: None,
        resources: vec![from_value(json!("https://mcp.example/mcp")).unwrap()],
        scope: "mcp".parse().unwrap(),
        subject: subject.clone(),
        authenticated_at: at,
        expires_at: at.plus(Duration::from_secs(60)),
    }
}

/// The grant for `code`, whose first refresh token has the name `refresh`.
pub(crate) fn grant(code: &AuthorizationCode, refresh: &str, at: UnixTime) -> Grant {
    Grant {
        id: code.grant_id.clone(),
        subject: code.subject.clone(),
        client_id: code.client_id.clone(),
        registration: code.registration.clone(),
        resources: code.resources.clone(),
        scope: code.scope.clone(),
        authenticated_at: code.authenticated_at,
        created_at: at,
        expires_at: at.plus(DAY * 30),
        bound_to: None,
        refresh: Some(RefreshState {
            current: refresh_token(&code.grant_id, 0, refresh).hash(),
            replaced: None,
            line: line(0),
        }),
        parent: None,
    }
}

fn line(number: u32) -> Line {
    Line { key: LineKey::new([9; 32]), number }
}

/// The refresh token with this name, at position `number` in the grant's sequence of tokens.
pub(crate) fn refresh_token(grant: &GrantId, number: u32, name: &str) -> RefreshToken {
    RefreshToken::new(grant, &line(number), *hash(name).bytes())
}

/// The same token as [`refresh_token`], in the form that the store gets.
pub(crate) fn held(grant: &Grant, number: u32, name: &str) -> HashedRefreshToken {
    refresh_token(&grant.id, number, name).presented()
}

/// The refresh token with this name, as the successor of another token.
pub(crate) fn successor(grant: &Grant, number: u32, name: &str, at: UnixTime) -> Successor {
    Successor {
        hash: refresh_token(&grant.id, number, name).hash(),
        line: line(number),
        sealed: name.as_bytes().to_vec(),
        expires_at: at.plus(DAY * 30),
    }
}

/// A client, an account, and a grant between them whose refresh token has the name `refresh`.
pub(crate) async fn granted(store: &dyn Store, name: &str, refresh: &str) -> (Client, Account, Grant) {
    let client = register(store, &client(name)).await;
    let account = account(&format!("{name}-person"));
    assert_eq!(store.add_account(&account).await.unwrap(), Addition::Added);
    let code = code(&client, &account.subject, NOW);
    let used = usage(&client, NOW);
    let secret = hash(&format!("{name} {refresh}"));
    assert_eq!(
        store.add_code(code.grant_id.as_str(), &secret, &code, &used).await.unwrap(),
        Issuance::Issued
    );
    let grant = grant(&code, refresh, NOW);
    store.redeem_code(&secret, &grant, &used).await.unwrap();
    assert!(store.grant(&grant.id, NOW).await.unwrap().is_some());
    (client, account, grant)
}

/// An access token of this grant, which is valid for an hour.
pub(crate) fn access_token(keys: &KeyRing, grant: &Grant, at: UnixTime) -> String {
    let claims = AccessTokenClaims {
        iss: ISSUER.to_owned(),
        sub: grant.subject.clone(),
        aud: grant.resources.clone(),
        client_id: grant.client_id.clone(),
        scope: grant.scope.clone(),
        exp: at.plus(HOUR),
        iat: at,
        jti: TokenHash::of(&random()).text(),
        gid: grant.id.clone(),
        groups: vec![],
        cnf: None,
        act: None,
    };
    keys.sign(ACCESS_TOKEN_TYPE, &claims).unwrap()
}

/// A pending request from a device, which is valid for ten minutes.
pub(crate) fn asked_for_device(client: &Client, grant_id: GrantId) -> DeviceAuthorization {
    DeviceAuthorization {
        grant_id,
        client_id: client.id.clone(),
        registration: client.registration.clone(),
        metadata: Some(client.metadata.digest()),
        resources: vec![],
        scope: "mcp".parse().unwrap(),
        asked_at: NOW,
        asked_from: None,
        expires_at: later(Duration::from_secs(600)),
        interval: 5,
        polled_at: None,
        state: DeviceState::Pending,
    }
}
