//! Tests of attack 100 by a user: how many codes, logins and consents one account can accumulate.

use std::time::Duration;

use auth_service::domain::account::{LoginSession, Subject};
use auth_service::domain::client::Client;
use auth_service::domain::client_use::ClientUse;
use auth_service::domain::clock::UnixTime;
use auth_service::domain::clock_watch::TimeBounds;
use auth_service::domain::consent::Approval;
use auth_service::domain::grant::Grant;
use auth_service::store::{FoundCode, Issuance, Redemption, Rotation, Store};

use super::things::{
    DAY, GRACE, HOUR, NOW, client, code, grant, hash, held, later, random, register, successor, usage,
    usage_by,
};
use super::worlds::World;

/// Creates `many` codes for this account and client, one per second. The name of each code ends with its number.
async fn make_codes(store: &dyn Store, user: &Subject, client: &Client, name: &str, many: u64) {
    for n in 0..many {
        let at = UnixTime(NOW.0 + n);
        let code = code(client, user, at);
        let hash = hash(&format!("{name} {n}"));
        assert_eq!(
            store.add_code(code.grant_id.as_str(), &hash, &code, &usage(client, at)).await.unwrap(),
            Issuance::Issued
        );
    }
}

/// The numbers of the codes that can still be redeemed.
async fn live_codes(store: &dyn Store, name: &str, many: u64, at: UnixTime) -> Vec<u64> {
    let mut live = Vec::new();
    for n in 0..many {
        if let FoundCode::Live(_) = store.find_code(&hash(&format!("{name} {n}")), at).await.unwrap() {
            live.push(n);
        }
    }
    live
}

pub(crate) async fn a100_codes_that_nobody_redeems_have_a_ceiling_and_the_oldest_goes(world: &World) {
    let store = world.store();
    let [eve, ana] = [Subject::new(random()), Subject::new(random())];
    let [evil, honest] = [register(store, &client("evil")).await, register(store, &client("honest")).await];
    make_codes(store, &ana, &evil, "of ana", 1).await;
    make_codes(store, &eve, &honest, "of another client", 1).await;
    make_codes(store, &eve, &evil, "of eve", 50).await;
    let at = later(Duration::from_secs(50));
    assert_eq!(live_codes(store, "of eve", 50, at).await, (40..50).collect::<Vec<_>>());
    assert_eq!(live_codes(store, "of ana", 1, at).await, [0]);
    assert_eq!(live_codes(store, "of another client", 1, at).await, [0]);
    // All clients of one account share a maximum. When it is reached, the client with the most codes loses its
    // oldest code.
    for n in 0..9 {
        let more = register(store, &client(&format!("more{n}"))).await;
        make_codes(store, &eve, &more, &format!("more{n}"), 10).await;
    }
    let mut all = live_codes(store, "of eve", 50, later(Duration::from_secs(10))).await.len();
    for n in 0..9 {
        all += live_codes(store, &format!("more{n}"), 10, later(Duration::from_secs(10))).await.len();
    }
    assert!(all <= 20, "{all}");
    assert_eq!(live_codes(store, "of another client", 1, at).await, [0]);
}

pub(crate) async fn a026_a_replay_is_noticed_although_many_codes_were_made_since(world: &World) {
    let store = world.store();
    let (eve, client) = (Subject::new(random()), register(store, &client("a")).await);
    let made = code(&client, &eve, NOW);
    let used = usage(&client, NOW);
    assert_eq!(
        store.add_code(made.grant_id.as_str(), &hash("redeemed"), &made, &used).await.unwrap(),
        Issuance::Issued
    );
    let grant = grant(&made, "refresh", NOW);
    assert!(matches!(
        store.redeem_code(&hash("redeemed"), &grant, &used).await.unwrap(),
        Redemption::Redeemed { .. }
    ));
    make_codes(store, &eve, &client, "since", 50).await;
    let replayed = store.redeem_code(&hash("redeemed"), &grant, &usage(&client, later(HOUR / 2))).await;
    assert!(matches!(replayed.unwrap(), Redemption::Replayed));
    assert!(store.grant(&grant.id, NOW).await.unwrap().is_none());
}

fn session(user: &Subject, name: &str, at: UnixTime) -> LoginSession {
    LoginSession {
        id: hash(name),
        subject: user.clone(),
        logins_ended: 0,
        authenticated_at: at,
        expires_at: at.plus(DAY),
        asked_by: None,
    }
}

pub(crate) async fn a100_logins_of_one_account_have_a_ceiling_and_the_oldest_goes(world: &World) {
    let store = world.store();
    let [eve, ana] = [Subject::new(random()), Subject::new(random())];
    store.add_session(&session(&ana, "of ana", NOW)).await.unwrap();
    for n in 0..80 {
        store.add_session(&session(&eve, &format!("of eve {n}"), UnixTime(NOW.0 + n))).await.unwrap();
    }
    let mut live = Vec::new();
    for n in 0..80 {
        let found = store.session(&hash(&format!("of eve {n}")), later(HOUR)).await.unwrap();
        live.extend(found.map(|_| n));
    }
    assert_eq!(live, (30..80).collect::<Vec<_>>());
    assert!(store.session(&hash("of ana"), later(HOUR)).await.unwrap().is_some());
}

/// How many of these logins and grants are still valid.
async fn count_live(store: &dyn Store, names: &[String], grants: &[Grant]) -> (usize, usize) {
    let (mut logins, mut live) = (0, 0);
    for name in names {
        logins += usize::from(store.session(&hash(name), later(HOUR)).await.unwrap().is_some());
    }
    for grant in grants {
        live += usize::from(store.grant(&grant.id, later(HOUR)).await.unwrap().is_some());
    }
    (logins, live)
}

pub(crate) async fn a100_what_was_made_while_the_clock_was_ahead_goes_before_what_is_made_later(
    world: &World,
) {
    let store = world.store();
    let eve = Subject::new(random());
    let client = register(store, &client("shared")).await;
    let ahead = later(DAY * 365);
    for n in 0..30 {
        store.add_session(&session(&eve, &format!("ahead {n}"), UnixTime(ahead.0 + n))).await.unwrap();
        make_grant(store, &eve, &client, &format!("ahead {n}"), UnixTime(ahead.0 + n)).await;
    }
    let (mut names, mut grants) = (Vec::new(), Vec::new());
    for n in 0..100 {
        let at = UnixTime(NOW.0 + n);
        grants.push(make_grant(store, &eve, &client, &format!("right {n}"), at).await.0);
        if n >= 50 {
            names.push(format!("right {n}"));
            store.add_session(&session(&eve, &format!("right {n}"), at)).await.unwrap();
        }
    }
    assert_eq!(count_live(store, &names, &grants).await, (50, 100));
}

/// Logins that look expired only because the clock has jumped are not deleted. They must still count after the
/// clock has been corrected.
pub(crate) async fn a100_a_clock_that_is_ahead_makes_no_room_for_more(world: &World) {
    let store = world.store();
    let eve = Subject::new(random());
    let mut names = Vec::new();
    let mut add = async |name: String, at: UnixTime| {
        store.add_session(&session(&eve, &name, at)).await.unwrap();
        names.push(name);
    };
    for n in 0..50 {
        add(format!("before {n}"), UnixTime(NOW.0 + n)).await;
    }
    add("ahead".to_owned(), later(DAY * 365)).await;
    for n in 0..30 {
        add(format!("after {n}"), UnixTime(NOW.0 + 100 + n)).await;
    }
    let (live, _) = count_live(store, &names, &[]).await;
    assert!((49..=50).contains(&live), "{live}");
}

pub(crate) async fn a100_consents_of_one_account_have_a_ceiling_and_the_oldest_goes(world: &World) {
    let store = world.store();
    let [eve, ana] = [Subject::new(random()), Subject::new(random())];
    let consent_to = async |user: &Subject, client: &Client, at: UnixTime| {
        let made = code(client, user, at);
        let approval =
            Approval { redirect_uri: made.redirect_uri, scope: made.scope, resources: made.resources };
        store.add_consent(&approval, &usage_by(user, client, at), at.plus(DAY)).await.unwrap();
    };
    let known = async |user: &Subject, client: &Client| {
        store.consent(user, &client.id, later(HOUR)).await.unwrap().is_some()
    };
    let clients: Vec<_> = (0..220).map(|n| client(&format!("c{n}"))).collect();
    consent_to(&ana, &clients[0], NOW).await;
    for (client, n) in clients.iter().zip(0..) {
        consent_to(&eve, client, UnixTime(NOW.0 + n)).await;
        // A renewed consent counts as the newest.
        consent_to(&eve, &clients[1], UnixTime(NOW.0 + n)).await;
    }
    assert!(known(&ana, &clients[0]).await);
    assert!(!known(&eve, &clients[0]).await && known(&eve, &clients[1]).await);
    let mut live = 0;
    for client in &clients {
        live += usize::from(known(&eve, client).await);
    }
    assert_eq!(live, 200);
}

/// Creates a grant whose refresh token has the name `name`. Returns it, and the grants that were deleted to make
/// room for it.
async fn make_grant(
    store: &dyn Store,
    person: &Subject,
    client: &Client,
    name: &str,
    at: UnixTime,
) -> (Grant, Vec<Grant>) {
    // While the clock is ahead, the correct time could still be `NOW`.
    let bounds = TimeBounds { earliest: NOW, is_steady: at < later(DAY), ..TimeBounds::exactly(at) };
    let (code, used) = (code(client, person, at), ClientUse { bounds, ..usage(client, at) });
    assert_eq!(
        store.add_code(code.grant_id.as_str(), &hash(name), &code, &used).await.unwrap(),
        Issuance::Issued
    );
    let grant = grant(&code, name, at);
    match store.redeem_code(&hash(name), &grant, &used).await.unwrap() {
        Redemption::Redeemed { displaced } => (grant, displaced),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn a100_grants_of_one_account_have_a_ceiling_and_the_least_used_goes(world: &World) {
    let store = world.store();
    let [eve, ana] = [Subject::new(random()), Subject::new(random())];
    let [evil, honest] = [register(store, &client("evil")).await, register(store, &client("honest")).await];
    let (of_ana, _) = make_grant(store, &ana, &evil, "of ana", NOW).await;
    let (of_honest, _) = make_grant(store, &eve, &honest, "of honest", NOW).await;
    let (refreshed, _) = make_grant(store, &eve, &evil, "refreshed 0", NOW).await;
    let mut made = vec![];
    let mut gone = vec![];
    for n in 1..120 {
        let at = UnixTime(NOW.0 + n);
        if n == 50 {
            let next = successor(&refreshed, 1, "refreshed 1", at);
            let token = held(&refreshed, 0, "refreshed 0");
            let rotated = store.rotate_refresh(&token, &next, &usage(&evil, at), GRACE).await.unwrap();
            assert!(matches!(rotated, Rotation::Rotated(_)));
        }
        let (grant, displaced) = make_grant(store, &eve, &evil, &format!("grant {n}"), at).await;
        made.push(grant.id);
        gone.extend(displaced.into_iter().map(|grant| grant.id));
    }
    assert_eq!(gone, made[..20]);
    for (n, id) in made.iter().enumerate() {
        assert_eq!(store.grant(id, later(HOUR)).await.unwrap().is_some(), n >= 20, "{n}");
    }
    for grant in [&of_ana, &of_honest, &refreshed] {
        assert!(store.grant(&grant.id, later(HOUR)).await.unwrap().is_some());
    }
}

/// The limit also applies to concurrent logins, and none of them fails.
pub(crate) async fn a100_what_one_account_makes_at_once_stays_within_its_ceilings(world: &World) {
    let eve = Subject::new([9; 32]);
    let user = eve.clone();
    world
        .at_once(120, move |n, store| {
            let user = user.clone();
            async move {
                let session = session(&user, &format!("at once {n}"), UnixTime(NOW.0 + n as u64));
                store.add_session(&session).await.unwrap();
            }
        })
        .await;
    // On a busy machine, some sessions can remain above the limit. The next login removes them.
    let last = session(&eve, "at once 120", UnixTime(NOW.0 + 120));
    world.store().add_session(&last).await.unwrap();
    let mut live = 0;
    for n in 0..=120 {
        let found = world.store().session(&hash(&format!("at once {n}")), later(HOUR)).await.unwrap();
        live += usize::from(found.is_some());
    }
    assert!((1..=50).contains(&live), "{live}");
}

/// Revoked grants and ended logins do not count, so a client that is used and revoked all day displaces nothing.
pub(crate) async fn a100_what_was_revoked_signed_out_or_forgotten_does_not_count(world: &World) {
    let store = world.store();
    let ana = Subject::new(random());
    let client = register(store, &client("shared")).await;
    let (laptop, _) = make_grant(store, &ana, &client, "laptop", NOW).await;
    store.add_session(&session(&ana, "browser", NOW)).await.unwrap();
    for n in 1..120 {
        let at = UnixTime(NOW.0 + n);
        let (grant, displaced) = make_grant(store, &ana, &client, &format!("build {n}"), at).await;
        assert!(displaced.is_empty(), "{n}");
        store.revoke_grant(&grant.id).await.unwrap();
        let session = session(&ana, &format!("build {n}"), at);
        store.add_session(&session).await.unwrap();
        store.end_session(&session.id).await.unwrap();
    }
    assert!(store.grant(&laptop.id, later(HOUR)).await.unwrap().is_some());
    assert!(store.session(&hash("browser"), later(HOUR)).await.unwrap().is_some());
}

pub(crate) async fn a100_a_redeemed_code_leaves_its_place_to_one_that_waits(world: &World) {
    let store = world.store();
    let ana = Subject::new(random());
    let client = register(store, &client("shared")).await;
    make_codes(store, &ana, &client, "waits", 1).await;
    for n in 1..30 {
        make_grant(store, &ana, &client, &format!("redeemed {n}"), UnixTime(NOW.0 + n)).await;
    }
    assert_eq!(live_codes(store, "waits", 1, later(Duration::from_secs(30))).await, [0]);
}

pub(crate) async fn a100_what_has_expired_does_not_count(world: &World) {
    let store = world.store();
    let ana = Subject::new(random());
    store.add_session(&session(&ana, "browser", NOW)).await.unwrap();
    for n in 1..120 {
        let at = UnixTime(NOW.0 + n * 2);
        let short =
            LoginSession { expires_at: UnixTime(at.0 + 1), ..session(&ana, &format!("short {n}"), at) };
        store.add_session(&short).await.unwrap();
    }
    assert!(store.session(&hash("browser"), later(HOUR)).await.unwrap().is_some());
}
