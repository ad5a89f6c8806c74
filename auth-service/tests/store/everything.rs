//! Fills a store with one record of every kind, and checks that all of them exist. Exports, imports and new keys
//! must not lose any record.

use auth_service::domain::account::{Account, LoginSession, StoredPassword, Subject};
use auth_service::domain::client::{Client, ClientOrigin, RegistrationId};
use auth_service::domain::clock::UnixTime;
use auth_service::domain::consent::Approval;
use auth_service::domain::device::{DeviceAuthorization, DeviceState, UserCode};
use auth_service::domain::grant::{AuthorizationCode, Grant};
use auth_service::domain::grant_id::GrantId;
use auth_service::domain::pushed_request::{PushedPool, PushedRequest};
use auth_service::domain::refresh_token::HashedRefreshToken;
use auth_service::keys::set::KeySet;
use auth_service::rotation;
use auth_service::store::{
    Addition, Admission, Decision, Deletion, DirectGrant, FoundCode, Issuance, Linking, OneTimeUse,
    Redemption, Rotation, Store,
};

use super::keys::TERMS;
use super::things::{
    DAY, GRACE, HOUR, NOW, account, asked_for_device, client, code, document_client, grant, hash, held,
    later, register, successor, usage, usage_by,
};

const ISSUER: &str = "https://idp.example";

fn person() -> Account {
    let password =
        StoredPassword { phc: "$argon2id$v=19$m=1,t=1,p=1$c2FsdA$kept".to_owned(), one_time: true };
    Account { subject: Subject::new([1; 32]), password, ..account("josephine@people.example") }
}

fn public() -> Client {
    let client = client("Quarterly-planner");
    Client { registration: RegistrationId::new([2; 32]), management: Some(hash("management")), ..client }
}

fn unused() -> Client {
    Client { registration: RegistrationId::new([3; 32]), ..client("Never-used") }
}

fn operators() -> Client {
    Client {
        registration: RegistrationId::new([4; 32]),
        origin: ClientOrigin::Operator,
        fingerprint: None,
        management: None,
        ..client("Nightly-report")
    }
}

fn document() -> Client {
    Client {
        registration: RegistrationId::new([5; 32]),
        ..document_client("https://app.example/client.json")
    }
}

fn code_of(grant: u8, by: &Client) -> AuthorizationCode {
    AuthorizationCode { grant_id: GrantId::new([grant; 32]), ..code(by, &person().subject, NOW) }
}

/// An approval that is covered by the stored consent.
fn approval() -> Approval {
    let AuthorizationCode { redirect_uri, scope, resources, .. } = code_of(10, &public());
    Approval { redirect_uri, scope, resources }
}

fn refreshed() -> Grant {
    grant(&code_of(10, &public()), "first", NOW)
}

fn device() -> DeviceAuthorization {
    DeviceAuthorization { metadata: None, ..asked_for_device(&public(), GrantId::new([12; 32])) }
}

fn user_code() -> UserCode {
    UserCode::parse("BCDFGHJK").unwrap()
}

fn pushed() -> PushedRequest {
    PushedRequest {
        client_id: public().id,
        registration: public().registration,
        metadata: None,
        grant_id: GrantId::new([13; 32]),
        query: "scope=mcp".to_owned(),
        pool: PushedPool::default(),
        counts_for: Vec::new(),
        expires_at: later(HOUR),
    }
}

fn session() -> LoginSession {
    LoginSession {
        id: hash("cookie"),
        subject: person().subject,
        logins_ended: 0,
        authenticated_at: NOW,
        expires_at: later(HOUR),
        asked_by: Some(hash("the query")),
    }
}

fn of_document() -> Grant {
    grant(&code_of(14, &document()), "of document", NOW)
}

/// Puts one record of each kind into an empty store. Returns its signing keys.
pub(crate) async fn fill(store: &dyn Store) -> KeySet {
    assert_eq!(store.add_account(&person()).await.unwrap(), Addition::Added);
    for client in [public(), unused()] {
        register(store, &client).await;
    }
    assert_eq!(store.add_client(&operators(), NOW).await.unwrap(), Addition::Added);
    store.add_session(&session()).await.unwrap();
    let used = usage(&public(), NOW);
    for (grant, name) in [(10, "used"), (11, "waiting")] {
        let code = code_of(grant, &public());
        assert_eq!(
            store.add_code(&format!("approval of {name}"), &hash(name), &code, &used).await.unwrap(),
            Issuance::Issued
        );
    }
    store.redeem_code(&hash("used"), &refreshed(), &used).await.unwrap();
    let (first, second) = (held(&refreshed(), 0, "first"), successor(&refreshed(), 1, "second", NOW));
    let rotated = store.rotate_refresh(&first, &second, &used, GRACE).await.unwrap();
    assert!(matches!(rotated, Rotation::Rotated(_)));
    assert_eq!(
        store.add_grant(&of_document(), &usage(&document(), NOW)).await.unwrap(),
        DirectGrant::Created
    );
    assert_eq!(store.add_device(&hash("device"), &user_code(), &device()).await.unwrap(), Addition::Added);
    assert_eq!(store.push_request(&hash("handle"), &pushed(), NOW, NOW).await.unwrap(), Admission::Admitted);
    let used = usage_by(&person().subject, &public(), NOW);
    store.add_consent(&approval(), &used, later(DAY)).await.unwrap();
    assert_eq!(store.link_account(ISSUER, "jo-1", &person().subject).await.unwrap(), Linking::Linked);
    assert_eq!(store.remember_once("jti of josephine", later(HOUR), NOW).await.unwrap(), OneTimeUse::First);
    rotation::up_to_date(store, &TERMS, NOW).await.unwrap()
}

/// Asserts that all records of [`fill`] exist and work as before. `at` is at most a minute after the call of
/// [`fill`].
pub(crate) async fn is_there(store: &dyn Store, keys: &KeySet, at: UnixTime) {
    is_there_to_read(store, keys, at).await;
    let used = usage(&public(), at);
    // The store still remembers values that can be used only once.
    assert!(matches!(store.find_code(&hash("waiting"), at).await.unwrap(), FoundCode::Live(_)));
    assert_eq!(store.remember_once("jti of josephine", later(HOUR), at).await.unwrap(), OneTimeUse::Replayed);
    let again = code_of(15, &public());
    assert_eq!(
        store.add_code("approval of waiting", &hash("another"), &again, &used).await.unwrap(),
        Issuance::AnsweredBefore
    );
    assert_eq!(
        store.add_code("approval of another", &hash("another"), &again, &used).await.unwrap(),
        Issuance::Issued
    );
    assert_eq!(
        store.add_account(&Account { subject: Subject::new([9; 32]), ..person() }).await.unwrap(),
        Addition::Taken
    );
    assert_eq!(
        store.link_account(ISSUER, "somebody else", &person().subject).await.unwrap(),
        Linking::OtherLink
    );
    let granted = grant(&code_of(11, &public()), "of waiting", at);
    let redeemed = store.redeem_code(&hash("waiting"), &granted, &used).await.unwrap();
    assert!(matches!(redeemed, Redemption::Redeemed { .. }));
    assert!(store.grant_of_refresh(&held(&granted, 0, "of waiting"), at).await.unwrap().is_some());
    // A refresh whose response was lost is repeated, the next token rotates, and the reuse of an old token revokes
    // the grant.
    let token = |number, name| held(&refreshed(), number, name);
    let rotate = |token: HashedRefreshToken, number, next: &str| {
        let (next, used) = (successor(&refreshed(), number, next, at), &used);
        async move { store.rotate_refresh(&token, &next, used, GRACE).await.unwrap() }
    };
    let repeated = rotate(token(0, "first"), 1, "lost").await;
    assert!(matches!(repeated, Rotation::Repeated { .. }), "{repeated:?}");
    let rotated = rotate(token(1, "second"), 2, "third").await;
    assert!(matches!(rotated, Rotation::Rotated(_)), "{rotated:?}");
    let reused = rotate(token(0, "first"), 1, "late").await;
    assert!(matches!(reused, Rotation::Reused(_)), "{reused:?}");
    assert!(store.grant(&refreshed().id, at).await.unwrap().is_none());
    assert!(matches!(store.find_code(&hash("used"), at).await.unwrap(), FoundCode::Used(_)));
    // The device flow can be continued.
    let (code, _) = store.device_of_user(&user_code(), at).await.unwrap().unwrap();
    let yes = DeviceState::Allowed { subject: person().subject, authenticated_at: at };
    assert_eq!(code, hash("device"));
    assert_eq!(store.decide_device(&code, &yes, at).await.unwrap(), Decision::Stored);
    // The expiry times are unchanged.
    assert!(store.session(&hash("cookie"), later(HOUR)).await.unwrap().is_none());
    assert!(store.client(&unused().id, later(DAY)).await.unwrap().is_none());
    assert!(store.client(&operators().id, later(DAY * 1000)).await.unwrap().is_some());
    assert_eq!(store.clients(None, 10, at).await.unwrap().len(), 4);
    assert_eq!(store.unlink_account(ISSUER, &person().subject).await.unwrap(), Deletion::Deleted);
    assert_eq!(store.remove_account(&person().subject).await.unwrap(), Deletion::Deleted);
    assert!(store.account_named(&person().username).await.unwrap().is_none());
    assert!(store.sweep(later(DAY * 400)).await.unwrap() > 0);
    assert_eq!(store.clients(None, 10, at).await.unwrap().len(), 1, "only the operator's client is left");
}

/// Like [`is_there`], but changes nothing in the store.
pub(crate) async fn is_there_to_read(store: &dyn Store, keys: &KeySet, at: UnixTime) {
    let found = store.account_named(&person().username).await.unwrap().unwrap();
    assert!(found.subject == person().subject && found.password == person().password);
    assert_eq!(store.accounts().await.unwrap().len(), 1);
    for client in [public(), unused(), operators(), document()] {
        let found = store.client(&client.id, at).await.unwrap().unwrap();
        assert!(found.registration == client.registration && found.origin == client.origin);
    }
    assert_eq!(store.session(&hash("cookie"), at).await.unwrap().unwrap().subject, person().subject);
    let token = |number, name| held(&refreshed(), number, name);
    let held_grant = store.grant_of_refresh(&token(1, "second"), at).await.unwrap().unwrap();
    assert_eq!(held_grant.id, refreshed().id);
    assert!(
        store
            .held_grant(&held_grant.id, &held_grant.client_id, &held_grant.subject, at)
            .await
            .unwrap()
            .is_some()
    );
    assert_eq!(store.grant_of_refresh(&token(0, "first"), at).await.unwrap().unwrap().id, held_grant.id);
    let of_document = held(&of_document(), 0, "of document");
    let of_document = store.grant_of_refresh(&of_document, at).await.unwrap().unwrap();
    assert_eq!(of_document.id, GrantId::new([14; 32]));
    assert_eq!(store.device(&hash("device"), at).await.unwrap().unwrap(), device());
    assert_eq!(store.pushed_request(&hash("handle"), at).await.unwrap().unwrap(), pushed());
    let consent = store.consent(&person().subject, &public().id, at).await.unwrap().unwrap();
    assert!(consent.is_to(&public()) && consent.covers(&approval()));
    assert_eq!(store.linked_account(ISSUER, "jo-1").await.unwrap().unwrap(), person().subject);
    let kids = |set: &KeySet| set.keys().iter().map(|key| key.kid.clone()).collect::<Vec<_>>();
    assert_eq!(kids(&store.signing_keys().await.unwrap().unwrap()), kids(keys));
}
