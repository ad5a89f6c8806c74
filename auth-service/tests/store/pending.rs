//! Tests of device authorizations, pushed requests, remembered consents, and clients that the operator has added.

use std::time::Duration;

use auth_service::domain::account::Subject;
use auth_service::domain::client::{Client, ClientOrigin};
use auth_service::domain::clock::UnixTime;
use auth_service::domain::consent::Approval;
use auth_service::domain::device::{DeviceAuthorization, DeviceState, Poll, UserCode};
use auth_service::domain::grant::{AuthorizationCode, Grant};
use auth_service::domain::grant_id::GrantId;
use auth_service::domain::pushed_request::{PushedPool, PushedRequest};
use auth_service::store::{
    Addition, Admission, Change, Decision, Deletion, DirectGrant, Linking, Redemption, Registration,
};

use super::things::{
    DAY, HOUR, NOW, account, asked_for_device, client, code, grant, granted, hash, held, later, random,
    register, terms, usage, usage_by,
};
use super::worlds::World;

fn asked(client: &Client) -> DeviceAuthorization {
    asked_for_device(client, GrantId::new(random()))
}

fn user_code(letter: char) -> UserCode {
    UserCode::parse(&letter.to_string().repeat(8)).unwrap()
}

fn allowed(subject: &Subject) -> DeviceState {
    DeviceState::Allowed { subject: subject.clone(), authenticated_at: NOW }
}

fn device_grant(asked: &DeviceAuthorization, subject: &Subject, client: &Client, refresh: &str) -> Grant {
    let of_code = code(client, subject, NOW);
    Grant { id: asked.grant_id.clone(), ..grant(&of_code, refresh, NOW) }
}

pub(crate) async fn a_device_waits_for_a_person_and_gets_one_grant(world: &World) {
    let client = register(world.store(), &client("tv")).await;
    let person = account("ana");
    let device = asked(&client);
    assert_eq!(
        world.store().add_device(&hash("device"), &user_code('B'), &device).await.unwrap(),
        Addition::Added
    );
    // A second device must get a different user code.
    assert_eq!(
        world.store().add_device(&hash("other"), &user_code('B'), &asked(&client)).await.unwrap(),
        Addition::Taken
    );
    assert!(world.store().device_of_user(&user_code('C'), NOW).await.unwrap().is_none());
    assert_eq!(world.store().poll_device(&hash("device"), NOW).await.unwrap(), Poll::Pending);
    assert_eq!(world.store().poll_device(&hash("never"), NOW).await.unwrap(), Poll::Unknown);
    let grant = device_grant(&device, &person.subject, &client, "refresh");
    let used = usage(&client, NOW);
    let early = world.store().redeem_device(&hash("device"), &grant, &used).await.unwrap();
    assert!(matches!(early, Redemption::Unknown), "no user has allowed the device");
    let (found, shown) = world.store().device_of_user(&user_code('B'), NOW).await.unwrap().unwrap();
    assert!(found == hash("device") && shown.grant_id == device.grant_id);
    let yes = allowed(&person.subject);
    assert_eq!(world.store().decide_device(&found, &yes, NOW).await.unwrap(), Decision::Stored);
    assert_eq!(
        world.store().decide_device(&found, &DeviceState::Denied, NOW).await.unwrap(),
        Decision::TooLate
    );
    assert!(world.store().device_of_user(&user_code('B'), NOW).await.unwrap().is_none(), "it was decided");
    let soon = later(Duration::from_secs(10));
    assert!(matches!(world.store().poll_device(&hash("device"), soon).await.unwrap(), Poll::Allowed(_)));
    let redeemed = world.store().redeem_device(&hash("device"), &grant, &used).await.unwrap();
    assert!(matches!(redeemed, Redemption::Redeemed { .. }));
    assert!(world.store().grant_of_refresh(&held(&grant, 0, "refresh"), NOW).await.unwrap().is_some());
}

pub(crate) async fn a043_a_device_code_that_comes_again_ends_its_grant(world: &World) {
    for (name, polled) in [("polled", true), ("redeemed", false)] {
        let client = register(world.store(), &client(name)).await;
        let person = account("ana");
        let device = asked(&client);
        let letter = if polled { 'D' } else { 'F' };
        assert_eq!(
            world.store().add_device(&hash(name), &user_code(letter), &device).await.unwrap(),
            Addition::Added
        );
        assert_eq!(
            world.store().decide_device(&hash(name), &allowed(&person.subject), NOW).await.unwrap(),
            Decision::Stored
        );
        let grant = device_grant(&device, &person.subject, &client, name);
        let used = usage(&client, NOW);
        world.store().redeem_device(&hash(name), &grant, &used).await.unwrap();
        assert!(world.store().grant(&grant.id, NOW).await.unwrap().is_some());
        // The device code itself expired long ago.
        if polled {
            let poll = world.store().poll_device(&hash(name), later(HOUR)).await.unwrap();
            assert_eq!(poll, Poll::Redeemed(grant.id.clone()));
        } else {
            let again = world.store().redeem_device(&hash(name), &grant, &used).await.unwrap();
            assert!(matches!(again, Redemption::Replayed));
        }
        assert!(world.store().grant(&grant.id, NOW).await.unwrap().is_none());
    }
}

pub(crate) async fn a043_of_parallel_redemptions_of_a_device_code_one_succeeds(world: &World) {
    let client = register(world.store(), &client("tv")).await;
    let person = account("ana");
    let device = asked(&client);
    assert_eq!(
        world.store().add_device(&hash("device"), &user_code('G'), &device).await.unwrap(),
        Addition::Added
    );
    assert_eq!(
        world.store().decide_device(&hash("device"), &allowed(&person.subject), NOW).await.unwrap(),
        Decision::Stored
    );
    let outcomes = world
        .at_once(16, move |n, store| {
            let grant = device_grant(&device, &person.subject, &client, &format!("refresh {n}"));
            let used = usage(&client, NOW);
            async move { store.redeem_device(&hash("device"), &grant, &used).await.unwrap() }
        })
        .await;
    assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Redemption::Redeemed { .. })).count(), 1);
}

pub(crate) async fn a_device_that_asks_too_fast_is_slowed_down_by_every_replica(world: &World) {
    let client = register(world.store(), &client("tv")).await;
    assert_eq!(
        world.store().add_device(&hash("device"), &user_code('H'), &asked(&client)).await.unwrap(),
        Addition::Added
    );
    let at = |seconds| later(Duration::from_secs(seconds));
    for (seconds, expected) in
        [(0, Poll::Pending), (2, Poll::TooFast), (8, Poll::TooFast), (23, Poll::Pending)]
    {
        assert_eq!(world.store().poll_device(&hash("device"), at(seconds)).await.unwrap(), expected);
    }
    assert_eq!(world.store().device(&hash("device"), at(30)).await.unwrap().unwrap().interval, 15);
    assert_eq!(world.store().poll_device(&hash("device"), at(600)).await.unwrap(), Poll::Unknown);
    assert_eq!(
        world.store().decide_device(&hash("device"), &DeviceState::Denied, at(600)).await.unwrap(),
        Decision::TooLate
    );
    // The user code can be reused.
    let later_device = DeviceAuthorization { asked_at: at(600), expires_at: at(1200), ..asked(&client) };
    assert_eq!(
        world.store().add_device(&hash("second"), &user_code('H'), &later_device).await.unwrap(),
        Addition::Added
    );
}

pub(crate) async fn a_pushed_request_is_there_until_it_is_answered_or_over(world: &World) {
    let client = register(world.store(), &client("a")).await;
    let request = PushedRequest {
        client_id: client.id.clone(),
        registration: client.registration.clone(),
        pool: PushedPool::Strangers,
        counts_for: vec!["a network".to_owned()],
        metadata: Some(client.metadata.digest()),
        grant_id: GrantId::new(random()),
        query: "response_type=code".to_owned(),
        expires_at: later(HOUR),
    };
    for name in ["one", "two"] {
        assert_eq!(
            world.store().push_request(&hash(name), &request, NOW, NOW).await.unwrap(),
            Admission::Admitted
        );
    }
    assert_eq!(world.store().pushed_request(&hash("one"), NOW).await.unwrap().unwrap(), request);
    assert!(world.store().pushed_request(&hash("three"), NOW).await.unwrap().is_none());
    world.store().forget_pushed_request(&hash("one")).await.unwrap();
    assert!(world.store().pushed_request(&hash("one"), NOW).await.unwrap().is_none());
    assert!(world.store().pushed_request(&hash("two"), later(HOUR)).await.unwrap().is_none());
}

/// A request from `client` in the pool for clients that have authenticated.
fn request_of(client: &str, counts_for: &[&str], at: UnixTime) -> PushedRequest {
    let client = super::things::client(&client.replace(' ', "-"));
    PushedRequest {
        client_id: client.id.clone(),
        registration: client.registration.clone(),
        pool: PushedPool::Proven,
        counts_for: counts_for.iter().map(|&name| name.to_owned()).collect(),
        metadata: Some(client.metadata.digest()),
        grant_id: GrantId::new(random()),
        query: "response_type=code".to_owned(),
        expires_at: at.plus(HOUR),
    }
}

/// Two accounts have their own clients and clients that they share. They push more requests than the pool can
/// store.
pub(crate) async fn a044_two_accounts_that_fill_a_room_displace_their_own_requests_only(world: &World) {
    let push = async |name: &str, request: &PushedRequest, at: UnixTime| {
        world.store().push_request(&hash(name), request, at, at).await.unwrap() == Admission::Admitted
    };
    let waits = async |name: &str, at: UnixTime| {
        world.store().pushed_request(&hash(name), at).await.unwrap().is_some()
    };
    let at = |second: u64| UnixTime(NOW.0 + second);
    let places = u64::try_from(PushedPool::Proven.places()).unwrap();
    assert!(push("of ana", &request_of("of ana", &["ana"], at(0)), at(0)).await);
    assert!(push("of ana and eve", &request_of("of both", &["ana", "eve"], at(0)), at(0)).await);
    for n in 0..places + 100 {
        let (client, counts_for): (_, &[&str]) = match n % 3 {
            0 => ("eve's", &["eve"]),
            1 => ("mallory's", &["mallory"]),
            _ => ("shared", &["eve", "mallory"]),
        };
        let request = request_of(&format!("{client} {}", n % 7), counts_for, at(1 + n / 100));
        assert!(push(&format!("flood {n}"), &request, at(1 + n / 100)).await, "{n}");
    }
    let after = at(60);
    for name in ["of ana", "of ana and eve"] {
        assert!(waits(name, after).await, "{name}");
    }
    // The requests of another user's client are still accepted, and each of them waits.
    for n in 0..20 {
        let name = format!("late {n}");
        let request = request_of("of bob", &["bob"], after);
        assert!(push(&name, &request, after).await && waits(&name, after).await, "{n}");
    }
    let mut waiting = 22;
    for n in 0..places + 100 {
        waiting += u64::from(waits(&format!("flood {n}"), after).await);
    }
    assert!((places - 200..=places).contains(&waiting), "{waiting}");
    // A request that has been answered or has expired frees its slot.
    world.store().forget_pushed_request(&hash("of ana")).await.unwrap();
    assert!(!waits("of ana", after).await);
    let over = at(7200);
    for n in 0..50 {
        assert!(push(&format!("after {n}"), &request_of("eve's 1", &["eve"], over), over).await);
    }
    for n in 0..50 {
        assert!(waits(&format!("after {n}"), over).await, "{n}");
    }
}

pub(crate) async fn a044_a_full_room_of_those_who_have_one_place_each_takes_no_more(world: &World) {
    let places = PushedPool::Strangers.places();
    let request = |n: usize| PushedRequest {
        pool: PushedPool::Strangers,
        ..request_of("new", &[&format!("network {n}")], NOW)
    };
    let push = async |name: &str, request: &PushedRequest| {
        world.store().push_request(&hash(name), request, NOW, NOW).await.unwrap() == Admission::Admitted
    };
    for n in 0..places {
        assert!(push(&n.to_string(), &request(n)).await, "{n}");
    }
    assert!(!push("one too many", &request(places)).await);
    assert!(world.store().pushed_request(&hash("0"), NOW).await.unwrap().is_some());
    // The other pool still has free slots.
    assert!(push("proven", &request_of("used", &["ana"], NOW)).await);
    world.store().forget_pushed_request(&hash("0")).await.unwrap();
    assert!(push("next", &request(places)).await);
    assert!(!push("one too many", &request(places + 1)).await);
}

pub(crate) async fn a044_devices_that_wait_have_a_ceiling(world: &World) {
    let client = register(world.store(), &client("tv")).await;
    for (n, letter) in ['B', 'C', 'D', 'F'].into_iter().enumerate() {
        let device = asked(&client);
        let code = hash(&n.to_string());
        let reserved = world.store().reserve_device(&code, device.expires_at, NOW, 3).await.unwrap();
        assert_eq!(reserved, if n < 3 { Admission::Admitted } else { Admission::Full });
        if reserved == Admission::Admitted {
            assert_eq!(
                world.store().add_device(&code, &user_code(letter), &device).await.unwrap(),
                Addition::Added
            );
        }
    }
    let over = later(Duration::from_secs(600));
    assert_eq!(
        world.store().reserve_device(&hash("5"), later(HOUR), over, 3).await.unwrap(),
        Admission::Admitted
    );
}

pub(crate) async fn a043_a_device_that_nobody_answers_goes_soon_and_one_that_was_allowed_is_remembered(
    world: &World,
) {
    let client = register(world.store(), &client("tv")).await;
    let (ignored, wanted) = (asked(&client), asked(&client));
    assert_eq!(
        world.store().add_device(&hash("ignored"), &user_code('B'), &ignored).await.unwrap(),
        Addition::Added
    );
    assert_eq!(
        world.store().add_device(&hash("wanted"), &user_code('C'), &wanted).await.unwrap(),
        Addition::Added
    );
    let yes = allowed(&account("ana").subject);
    assert_eq!(world.store().decide_device(&hash("wanted"), &yes, NOW).await.unwrap(), Decision::Stored);
    let soon = later(Duration::from_secs(660));
    assert!(
        world.store().device(&hash("ignored"), soon).await.unwrap().is_some(),
        "the device code was forgotten before a late poll"
    );
    assert!(world.store().device(&hash("ignored"), later(HOUR)).await.unwrap().is_none());
    // A redeemed device code is remembered after its expiry, so that a replay is detected.
    let grant = device_grant(&wanted, &account("ana").subject, &client, "refresh");
    let redeemed = world.store().redeem_device(&hash("wanted"), &grant, &usage(&client, NOW)).await.unwrap();
    assert!(matches!(redeemed, Redemption::Redeemed { .. }));
    assert!(world.store().device(&hash("wanted"), later(HOUR)).await.unwrap().is_some());
    assert!(world.store().device(&hash("wanted"), later(HOUR * 2)).await.unwrap().is_none());
}

pub(crate) async fn a_consent_grows_and_is_forgotten_whole(world: &World) {
    let client = register(world.store(), &client("a")).await;
    let (ana, eve) = (account("ana").subject, account("eve").subject);
    let resources = code(&client, &ana, NOW).resources;
    let redirect_uri = code(&client, &ana, NOW).redirect_uri;
    let asks = |scope: &str| Approval {
        redirect_uri: redirect_uri.clone(),
        scope: scope.parse().unwrap(),
        resources: resources.clone(),
    };
    let allow = async |scope: &str| {
        world.store().add_consent(&asks(scope), &usage_by(&ana, &client, NOW), later(DAY)).await.unwrap();
    };
    allow("mcp:read").await;
    allow("mcp:write").await;
    let known = world.store().consent(&ana, &client.id, NOW).await.unwrap().unwrap();
    assert!(known.covers(&asks("mcp:read mcp:write")) && known.is_to(&client));
    assert!(world.store().consent(&eve, &client.id, NOW).await.unwrap().is_none());
    assert!(world.store().consent(&ana, &client.id, later(DAY)).await.unwrap().is_none());
    // A consent for a new registration with the same identifier replaces the old consent.
    let again = Client { registration: super::things::client("b").registration, ..client.clone() };
    world.store().add_consent(&asks("mcp:x"), &usage_by(&ana, &again, NOW), later(DAY)).await.unwrap();
    let known = world.store().consent(&ana, &client.id, NOW).await.unwrap().unwrap();
    assert!(!known.is_to(&client) && !known.covers(&asks("mcp:read")));
    // The same registration with a new client name also replaces the old consent (a016).
    let mut renamed = again.clone();
    renamed.metadata.display.client_name = Some("renamed".to_owned());
    world.store().add_consent(&asks("mcp:y"), &usage_by(&ana, &renamed, NOW), later(DAY)).await.unwrap();
    let known = world.store().consent(&ana, &client.id, NOW).await.unwrap().unwrap();
    assert!(known.is_to(&renamed) && !known.covers(&asks("mcp:x")) && known.covers(&asks("mcp:y")));
    world.store().forget_consent(&ana, &client.id).await.unwrap();
    assert!(world.store().consent(&ana, &client.id, NOW).await.unwrap().is_none());
}

pub(crate) async fn consents_given_at_once_all_count(world: &World) {
    let client = register(world.store(), &client("a")).await;
    let ana = account("ana").subject;
    let AuthorizationCode { redirect_uri, resources, scope, .. } = code(&client, &ana, NOW);
    let approval = Approval { redirect_uri, scope, resources };
    let all = Approval { scope: "s0 s1 s2 s3 s4 s5 s6 s7".parse().unwrap(), ..approval.clone() };
    let (of_client, of_ana) = (client.clone(), ana.clone());
    world
        .at_once(8, move |n, store| {
            let (client, ana) = (of_client.clone(), of_ana.clone());
            let approval = Approval { scope: format!("s{n}").parse().unwrap(), ..approval.clone() };
            async move {
                store.add_consent(&approval, &usage_by(&ana, &client, NOW), later(DAY)).await.unwrap();
            }
        })
        .await;
    let known = world.store().consent(&ana, &client.id, NOW).await.unwrap().unwrap();
    assert!(known.covers(&all));
}

pub(crate) async fn a_client_of_the_operator_stays_and_makes_no_room(world: &World) {
    let own =
        Client { origin: ClientOrigin::Operator, fingerprint: None, management: None, ..client("machine") };
    assert_eq!(world.store().add_client(&own, NOW).await.unwrap(), Addition::Added);
    assert_eq!(world.store().add_client(&own, NOW).await.unwrap(), Addition::Taken, "the name is taken");
    // The maximum number of clients is reached. The operator's client is the oldest unused one, but is not
    // deleted.
    let newcomer = Client { issued_at: later(HOUR), ..client("newcomer") };
    let ids = [newcomer.id.clone()];
    let outcome = world.store().register_client(&newcomer, &ids, &terms(later(HOUR), 1)).await.unwrap();
    assert!(matches!(outcome, Registration::Full), "{outcome:?}");
    // It is not deleted a long time after its last use either.
    let grant = Grant { refresh: None, ..grant(&code(&own, &own.id.subject(), NOW), "", NOW) };
    assert_eq!(world.store().add_grant(&grant, &usage(&own, NOW)).await.unwrap(), DirectGrant::Created);
    assert!(world.store().grant(&grant.id, NOW).await.unwrap().is_some());
    let far = later(DAY * 10_000);
    assert!(world.store().client(&own.id, far).await.unwrap().is_some());
    world.store().sweep(far).await.unwrap();
    assert!(world.store().client(&own.id, far).await.unwrap().is_some());
    assert_eq!(world.store().delete_client(&own.id).await.unwrap(), Deletion::Deleted);
    assert_eq!(
        world.store().add_grant(&grant, &usage(&own, NOW)).await.unwrap(),
        DirectGrant::ClientGone,
        "the client was deleted"
    );
}

pub(crate) async fn an_account_that_is_removed_leaves_its_name(world: &World) {
    let (first, second) = (account("bot"), account("bot"));
    assert_eq!(world.store().add_account(&first).await.unwrap(), Addition::Added);
    assert_eq!(world.store().remove_account(&first.subject).await.unwrap(), Deletion::Deleted);
    assert_eq!(world.store().remove_account(&first.subject).await.unwrap(), Deletion::Missing);
    assert!(world.store().account(&first.subject).await.unwrap().is_none());
    assert!(world.store().accounts().await.unwrap().is_empty());
    assert_eq!(world.store().add_account(&second).await.unwrap(), Addition::Added);
    assert_eq!(world.store().account_named(&second.username).await.unwrap().unwrap().subject, second.subject);
}

pub(crate) async fn a_grant_on_behalf_of_another_ends_with_it(world: &World) {
    for parent_ends_by in ["revocation", "client", "time"] {
        let name = format!("of {parent_ends_by}").replace(' ', "-");
        let (parent_client, person, parent) = granted(world.store(), &name, &name).await;
        let service = register(world.store(), &client(&format!("service-{name}"))).await;
        let child = Grant {
            parent: Some(parent.id.clone()),
            refresh: None,
            expires_at: later(DAY * 60),
            ..grant(&code(&service, &person.subject, NOW), "", NOW)
        };
        assert_eq!(
            world.store().add_grant(&child, &usage(&service, NOW)).await.unwrap(),
            DirectGrant::Created
        );
        assert!(
            world
                .store()
                .held_grant(&child.id, &child.client_id, &child.subject, NOW)
                .await
                .unwrap()
                .is_some()
        );
        let mut now = NOW;
        match parent_ends_by {
            "revocation" => world.store().revoke_grant(&parent.id).await.unwrap(),
            "client" => assert_eq!(
                world.store().set_client_disabled(&parent_client.id, true).await.unwrap(),
                Change::Changed
            ),
            _ => now = parent.expires_at,
        }
        assert!(
            world
                .store()
                .held_grant(&child.id, &child.client_id, &child.subject, now)
                .await
                .unwrap()
                .is_none(),
            "{parent_ends_by}"
        );
    }
}

pub(crate) async fn one_person_of_an_issuer_is_one_account(world: &World) {
    let (ana, bob) = (account("ana").subject, account("bob").subject);
    let issuer = "https://idp.example";
    assert!(world.store().linked_account(issuer, "7").await.unwrap().is_none());
    assert_eq!(world.store().link_account(issuer, "7", &ana).await.unwrap(), Linking::Linked);
    assert_eq!(
        world.store().link_account(issuer, "7", &ana).await.unwrap(),
        Linking::Linked,
        "the same link is refused"
    );
    assert_eq!(world.store().link_account(issuer, "7", &bob).await.unwrap(), Linking::OtherLink);
    assert_eq!(world.store().link_account(issuer, "8", &ana).await.unwrap(), Linking::OtherLink);
    assert_eq!(
        world.store().link_account("https://other.example", "8", &ana).await.unwrap(),
        Linking::Linked
    );
    assert_eq!(
        world.store().link_account(issuer, "9", &bob).await.unwrap(),
        Linking::Linked,
        "a refusal leaves nothing behind"
    );
    assert_eq!(world.store().linked_account(issuer, "7").await.unwrap(), Some(ana.clone()));
    assert_eq!(world.store().unlink_account(issuer, &ana).await.unwrap(), Deletion::Deleted);
    assert_eq!(world.store().unlink_account(issuer, &ana).await.unwrap(), Deletion::Missing);
    assert!(world.store().linked_account(issuer, "7").await.unwrap().is_none());
    assert_eq!(world.store().link_account(issuer, "8", &ana).await.unwrap(), Linking::Linked);
}
