//! Tests that a thief who has the whole database finds no secret and no name in it.

use auth_service::domain::account::LoginSession;
use auth_service::domain::client::{Client, ClientSecret};
use auth_service::domain::opaque_token::{OpaqueToken, TokenKind};
use auth_service::keys::seal::{StoreKey, SystemRandomSource};
use auth_service::rotation;
use auth_service::store::embedded::EmbeddedStore;
use auth_service::store::redis::{RedisAddress, RedisStore};
use auth_service::store::{
    AccountStore, Addition, Issuance, OneTimeUse, Store, StoreError, Successor, transfer,
};

use super::resp::{Reply, Resp};
use super::things::{
    GRACE, HOUR, NOW, account, client, code, document_client, grant, id, later, password, random,
    refresh_token, register, successor, terms, usage,
};
use super::worlds::key;
use crate::redis_server::RedisServer;

async fn store(server: &RedisServer) -> RedisStore {
    RedisStore::connect(&RedisAddress::parse(&server.url()).unwrap(), &key()).await.unwrap()
}

/// Stores one record of each kind, and returns the strings that a thief must not find.
async fn fill(store: &dyn Store) -> Vec<String> {
    let token = |kind| OpaqueToken::new(kind, random());
    let (secret, management) = (token(TokenKind::ClientSecret), token(TokenKind::RegistrationAccess));
    let registered = Client {
        secret: Some(ClientSecret { hash: secret.hash(), expires_at: None }),
        management: Some(management.hash()),
        ..client("Quarterly-planner")
    };
    let ids = [id("mcp_planner")];
    store.register_client(&registered, &ids, &terms(NOW, 10)).await.unwrap();
    let client = store.client(&ids[0], NOW).await.unwrap().unwrap();
    register(store, &super::things::client("another")).await;
    let person = account("josephine@people.example");
    assert_eq!(store.add_account(&person).await.unwrap(), Addition::Added);
    store.replace_password(&person.subject, &person.password, &password("argonsecret")).await.unwrap();
    let cookie = token(TokenKind::Session);
    let session = LoginSession {
        id: cookie.hash(),
        subject: person.subject.clone(),
        logins_ended: 0,
        authenticated_at: NOW,
        expires_at: later(HOUR),
        asked_by: None,
    };
    store.add_session(&session).await.unwrap();
    let made = code(&client, &person.subject, NOW);
    let first = token(TokenKind::AuthorizationCode);
    let (refresh, next) =
        (refresh_token(&made.grant_id, 0, "refresh"), refresh_token(&made.grant_id, 1, "next"));
    let used = usage(&client, NOW);
    assert_eq!(
        store.add_code("approval of josephine", &first.hash(), &made, &used).await.unwrap(),
        Issuance::Issued
    );
    let granted = grant(&made, "refresh", NOW);
    store.redeem_code(&first.hash(), &granted, &used).await.unwrap();
    let after = Successor { sealed: next.expose().into(), ..successor(&granted, 1, "next", NOW) };
    store.rotate_refresh(&refresh.presented(), &after, &used, GRACE).await.unwrap();
    let document = document_client("https://app.example/client.json");
    let of_document = code(&document, &person.subject, NOW);
    store
        .add_code("other", &token(TokenKind::AuthorizationCode).hash(), &of_document, &usage(&document, NOW))
        .await
        .unwrap();
    let keys = rotation::up_to_date(store, &super::keys::TERMS, NOW).await.unwrap();
    assert_eq!(store.remember_once("jti of josephine", later(HOUR), NOW).await.unwrap(), OneTimeUse::First);
    let private = serde_json::to_value(&keys.keys()[0]).unwrap()["pkcs8"].as_str().unwrap().to_owned();
    let mut secrets: Vec<String> =
        [&secret, &management, &cookie, &first].map(|token| token.expose().to_owned()).into();
    secrets.extend([&refresh, &next].map(|token| token.expose().to_owned()));
    secrets.push(private);
    for text in [
        "josephine",
        "people.example",
        "Quarterly",
        "argon",
        "mcp.example",
        "app.example/cb",
        "staff",
        "jti of",
    ] {
        secrets.push(text.to_owned());
    }
    secrets
}

#[tokio::test]
async fn a094_a_dump_of_redis_tells_no_secret_and_no_name() {
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let secrets = fill(&store(&server).await).await;
    let mut thief = Resp::connect(server.port);
    let keys = thief.keys();
    assert!(keys.len() > 15, "{}", keys.len());
    for name in keys {
        let dump = thief.ask(&[b"DUMP", &name]).bytes();
        for secret in &secrets {
            let found = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            let shown = String::from_utf8_lossy(&name);
            assert!(!found(&name) && !found(&dump), "{secret} in {shown}");
        }
    }
}

/// The file of the embedded store, its dump, and the files next to it contain no secret and no name.
#[tokio::test(flavor = "multi_thread")]
async fn a094_the_files_of_the_embedded_store_tell_no_secret_and_no_name() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(directory.path(), &key()).unwrap();
    let secrets = fill(&store).await;
    let dump = directory.path().join("dump");
    transfer::export(&store, &dump, &key(), (NOW, &SystemRandomSource), |_| {}).await.unwrap();
    drop(store);
    for file in ["store.redb", "dump"] {
        let bytes = std::fs::read(directory.path().join(file)).unwrap();
        assert!(bytes.len() > 4000);
        for secret in &secrets {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} in {file}");
        }
    }
}

#[tokio::test]
async fn every_key_ends_unless_its_value_is_for_ever() {
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    fill(&store(&server).await).await;
    let mut redis = Resp::connect(server.port);
    for name in redis.keys() {
        let Reply::Number(milliseconds) = redis.ask(&[b"PTTL", &name]) else { panic!("no number") };
        let name = String::from_utf8(name).unwrap();
        let for_ever = ["{clients}:", "{accounts}:", "{keys}:", "{meta}:", "{s:", "{n:"];
        let ends = !for_ever.iter().any(|part| name.contains(part));
        assert_eq!(milliseconds > 0, ends, "{name}");
        // The clock of the tests differs from the clock of Redis by years. A lifetime is computed with the test
        // clock, and Redis counts it down.
        assert!(milliseconds < 91 * 86_400_000, "{name}");
        assert!(name.starts_with("mcp-gate:{"), "{name}");
    }
}

#[tokio::test]
async fn another_store_key_reads_nothing_and_another_name_no_value() {
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let right = store(&server).await;
    let (one, two) = (account("one"), account("two"));
    for person in [&one, &two] {
        assert_eq!(right.add_account(person).await.unwrap(), Addition::Added);
    }
    let address = RedisAddress::parse(&server.url()).unwrap();
    let wrong = RedisStore::connect(&address, &StoreKey::new([8; 32])).await;
    assert!(matches!(wrong, Err(StoreError::Unreadable)));
    // An attacker with write access to Redis cannot replace one account with another.
    let mut thief = Resp::connect(server.port);
    let accounts: Vec<_> = thief.keys().into_iter().filter(|name| name.ends_with(b"}:account")).collect();
    let [first, second] = accounts.as_slice() else { panic!("two accounts") };
    let value = thief.ask(&[b"GET", first]).bytes();
    assert_eq!(thief.ask(&[b"SET", second, &value]), Reply::Text("OK".to_owned()));
    let (a, b) = (right.account(&one.subject).await, right.account(&two.subject).await);
    assert!(matches!((&a, &b), (Ok(_), Err(StoreError::Unreadable)) | (Err(StoreError::Unreadable), Ok(_))));
}
