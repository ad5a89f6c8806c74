//! Tests of clients: registration, the maximum number, updates, uses and deletion.

use auth_service::domain::client::{Client, ClientId};
use auth_service::domain::client_use::ClientUse;
use auth_service::domain::clock::UnixTime;
use auth_service::domain::clock_watch::TimeBounds;
use auth_service::store::{
    Addition, Change, Deletion, DirectGrant, Issuance, ManagedChange, Registration, RegistrationTerms, Store,
};

use super::things::{
    DAY, HOUR, IDLE, NOW, UNUSED, account, client, code, document_client, grant, granted, hash, id, later,
    register, terms, usage, usage_by,
};
use super::worlds::World;

async fn names(store: &dyn Store) -> Vec<String> {
    store.clients(None, 1000, NOW).await.unwrap().into_iter().map(|client| client.id.to_string()).collect()
}

async fn use_it(store: &dyn Store, client: &Client, at: UnixTime) -> bool {
    let code = code(client, &account("anybody").subject, at);
    store
        .add_code(code.grant_id.as_str(), &hash(code.grant_id.as_str()), &code, &usage(client, at))
        .await
        .unwrap()
        == Issuance::Issued
}

pub(crate) async fn a_registered_client_is_there_until_its_time_is_over(world: &World) {
    let added = register(world.store(), &client("a")).await;
    let found = world.store().client(&added.id, NOW).await.unwrap().unwrap();
    assert_eq!((found.registration, found.metadata), (added.registration, added.metadata));
    assert!(world.store().client(&id("b"), NOW).await.unwrap().is_none());
    let last = UnixTime(later(UNUSED).0 - 1);
    assert!(world.store().client(&added.id, last).await.unwrap().is_some());
    assert!(world.store().client(&added.id, later(UNUSED)).await.unwrap().is_none());
    // The identifier of the expired client can be reused.
    let anew = Client { issued_at: later(UNUSED), ..client("a") };
    let again = world.store().register_client(&anew, &[id("a")], &terms(later(UNUSED), 10)).await.unwrap();
    assert!(matches!(again, Registration::Added(_)));
}

pub(crate) async fn a044_the_same_public_client_registers_once(world: &World) {
    let outcomes = world
        .at_once(32, |_, store| async move {
            store.register_client(&client("same"), &[id("one"), id("two")], &terms(NOW, 10)).await.unwrap()
        })
        .await;
    let added: Vec<_> = outcomes
        .iter()
        .filter_map(|outcome| match outcome {
            Registration::Added(client) => Some(client),
            _ => None,
        })
        .collect();
    assert_eq!(added.len(), 1);
    for outcome in &outcomes {
        if let Registration::Known(known) = outcome {
            assert_eq!((&known.id, &known.registration), (&added[0].id, &added[0].registration));
            assert!(
                known.management.is_none(),
                "a client that two parties registered can be managed by one of them"
            );
        }
    }
    assert!(world.store().client(&id("one"), NOW).await.unwrap().unwrap().management.is_none());
    assert_eq!(names(world.store()).await, ["one"]);
}

pub(crate) async fn another_client_under_the_first_identifier_makes_the_second_count(world: &World) {
    register(world.store(), &client("one")).await;
    let other = client("other");
    match world.store().register_client(&other, &[id("one"), id("two")], &terms(NOW, 10)).await.unwrap() {
        Registration::Added(added) => assert_eq!(added.id, id("two")),
        outcome => panic!("{outcome:?}"),
    }
    let confidential = Client { fingerprint: None, ..client("x") };
    let taken = world.store().register_client(&confidential, &[id("one"), id("two")], &terms(NOW, 10)).await;
    assert!(taken.is_err());
}

pub(crate) async fn a_client_is_found_under_a_later_identifier_although_an_earlier_one_is_free(
    world: &World,
) {
    register(world.store(), &client("one")).await;
    let ids = [id("one"), id("two")];
    let first = world.store().register_client(&client("other"), &ids, &terms(NOW, 10)).await.unwrap();
    assert!(matches!(first, Registration::Added(_)));
    assert_eq!(world.store().delete_client(&id("one")).await.unwrap(), Deletion::Deleted);
    for _ in 0..2 {
        match world.store().register_client(&client("other"), &ids, &terms(NOW, 10)).await.unwrap() {
            Registration::Known(known) => assert_eq!(known.id, id("two")),
            outcome => panic!("{outcome:?}"),
        }
    }
}

pub(crate) async fn a044_a_client_that_was_changed_keeps_nobody_from_sharing_what_it_was(world: &World) {
    let store = world.store();
    let times = std::cell::Cell::new(0);
    // The service proposes two identifiers. The first is derived from the metadata, and the second is random.
    let register = async || {
        times.set(times.get() + 1);
        let ids = [id("follows"), id(&format!("random{}", times.get()))];
        store.register_client(&client("popular"), &ids, &terms(NOW, 20)).await.unwrap()
    };
    let added = async || match register().await {
        Registration::Added(client) => client,
        outcome => panic!("{outcome:?}"),
    };
    let known = async || match register().await {
        Registration::Known(client) => client.id,
        outcome => panic!("{outcome:?}"),
    };
    let change = async |client: &Client, to: &str| {
        let fingerprint = Some(hash(to));
        let updated = Client { fingerprint, management: fingerprint, ..client.clone() };
        assert_eq!(
            store.update_client(&client.management.unwrap(), &updated).await.unwrap(),
            ManagedChange::Made
        );
    };
    let squatter = added().await;
    change(&squatter, "other").await;
    let first = added().await;
    assert_eq!((&squatter.id, &first.id), (&id("follows"), &id("random2")));
    assert_eq!([known().await, known().await], [first.id.clone(), first.id.clone()]);
    let proposed = [id("follows"), id("anew")];
    let found = async || {
        let found = store.registered_client(&client("popular"), &proposed, NOW).await.unwrap();
        found.map(|client| client.id)
    };
    assert_eq!(found().await, Some(first.id.clone()));
    // The first identifier becomes free again, but the client keeps the second one.
    assert_eq!(
        store.delete_client_managed_by(&hash("other"), &squatter.id).await.unwrap(),
        ManagedChange::Made
    );
    assert_eq!(known().await, first.id);
    // When a client is deleted or its metadata changes, a search for its old metadata no longer finds it.
    assert_eq!(store.delete_client(&first.id).await.unwrap(), Deletion::Deleted);
    assert_eq!(found().await, None);
    change(&added().await, "another").await;
    let second = added().await;
    assert_eq!(found().await, Some(second.id.clone()));
    change(&second, "a third").await;
    assert_eq!(found().await, None);
}

pub(crate) async fn a045_the_oldest_that_nobody_used_makes_room(world: &World) {
    for (name, age) in [("third", 3), ("first", 1), ("used", 0), ("second", 2)] {
        let client = Client { issued_at: NOW.plus(HOUR * age), ..client(name) };
        register(world.store(), &client).await;
        if name == "used" {
            assert!(use_it(world.store(), &client, NOW).await);
        }
    }
    let now = later(HOUR * 4);
    for (newcomer, ceiling, left) in [
        ("a", 4, vec!["a", "second", "third", "used"]),
        ("b", 4, vec!["a", "b", "third", "used"]),
        // The maximum has been lowered.
        ("c", 2, vec!["c", "used"]),
    ] {
        let client = Client { issued_at: now, ..client(newcomer) };
        let outcome = world.store().register_client(&client, &[id(newcomer)], &terms(now, ceiling)).await;
        assert!(matches!(outcome.unwrap(), Registration::Added(_)), "{newcomer}");
        assert_eq!(names(world.store()).await, left);
    }
    assert!(use_it(world.store(), &world.store().client(&id("c"), now).await.unwrap().unwrap(), now).await);
    let outcome = world.store().register_client(&client("d"), &[id("d")], &terms(now, 2)).await.unwrap();
    assert!(matches!(outcome, Registration::Full));
    assert!(world.store().client(&id("d"), NOW).await.unwrap().is_none());
    assert_eq!(names(world.store()).await, ["c", "used"]);
    // The maximum has been lowered by more than the number of unused clients.
    let unused = Client { issued_at: now, ..client("unused") };
    assert!(matches!(
        world.store().register_client(&unused, &[id("unused")], &terms(now, 3)).await.unwrap(),
        Registration::Added(_)
    ));
    let outcome = world.store().register_client(&client("d"), &[id("d")], &terms(now, 2)).await.unwrap();
    assert!(matches!(outcome, Registration::Full));
    assert_eq!(names(world.store()).await, ["c", "unused", "used"]);
}

pub(crate) async fn a045_clients_that_nobody_used_have_a_ceiling_of_their_own(world: &World) {
    let used = register(world.store(), &client("used")).await;
    assert!(use_it(world.store(), &used, NOW).await);
    for n in 0..12 {
        let at = later(HOUR * n);
        let newcomer = Client { issued_at: at, ..client(&format!("unused{n:02}")) };
        let terms = RegistrationTerms { unused_ceiling: 3, ..terms(at, 100) };
        let outcome = world
            .store()
            .register_client(&newcomer, std::slice::from_ref(&newcomer.id), &terms)
            .await
            .unwrap();
        assert!(matches!(outcome, Registration::Added(_)));
    }
    assert_eq!(names(world.store()).await, ["unused09", "unused10", "unused11", "used"]);
}

pub(crate) async fn a045_a_client_that_is_kept_makes_no_room(world: &World) {
    let add = async |name: &str, at: UnixTime, kept: Option<u64>| {
        let kept_until = kept.map(|minutes| at.plus(HOUR / 60 * u32::try_from(minutes).unwrap()));
        let client = Client { issued_at: at, kept_until, ..client(name) };
        let ids = [client.id.clone()];
        world.store().register_client(&client, &ids, &terms(at, 3)).await.unwrap()
    };
    let minute = |n: u32| NOW.plus(HOUR / 60 * n);
    assert!(matches!(add("newcomer", NOW, Some(30)).await, Registration::Added(_)));
    for n in 0..9 {
        assert!(matches!(add(&format!("flood{n}"), minute(1), None).await, Registration::Added(_)), "{n}");
    }
    assert_eq!(names(world.store()).await, ["flood7", "flood8", "newcomer"]);
    // A client from the flood that registers again with `kept_until` is not deleted either.
    assert!(matches!(add("flood7", minute(2), Some(30)).await, Registration::Known(_)));
    assert!(matches!(add("other", minute(2), Some(30)).await, Registration::Added(_)));
    assert_eq!(names(world.store()).await, ["flood7", "newcomer", "other"]);
    // While all clients must be kept, none is deleted and none is added.
    for n in 2..30 {
        assert!(matches!(add("late", minute(n), Some(30)).await, Registration::Full), "{n}");
    }
    assert!(world.store().client(&id("late"), NOW).await.unwrap().is_none());
    assert_eq!(names(world.store()).await, ["flood7", "newcomer", "other"]);
    assert!(matches!(add("late", minute(30), Some(30)).await, Registration::Added(_)));
    assert_eq!(names(world.store()).await, ["flood7", "late", "other"]);
    // A used client is no longer in the index of unused clients.
    let late = world.store().client(&id("late"), minute(31)).await.unwrap().unwrap();
    assert!(use_it(world.store(), &late, minute(31)).await);
    for n in 32..40 {
        assert!(matches!(add(&format!("next{n}"), minute(n), None).await, Registration::Added(_)), "{n}");
    }
    assert_eq!(names(world.store()).await, ["late", "next38", "next39"]);
}

pub(crate) async fn a045_a_client_that_was_registered_twice_and_is_used_makes_no_room(world: &World) {
    let at = NOW.plus(HOUR / 12);
    register(world.store(), &client("wanted")).await;
    // The new `kept_until` is only a little later, so the store does not write it.
    let again = Client { kept_until: Some(at), ..client("wanted") };
    register(world.store(), &again).await;
    let wanted = world.store().client(&id("wanted"), NOW).await.unwrap().unwrap();
    assert!(use_it(world.store(), &wanted, at).await);
    for n in 0..4 {
        let at = later(HOUR * (n + 1));
        let newcomer = Client { issued_at: at, ..client(&format!("newcomer{n}")) };
        world
            .store()
            .register_client(&newcomer, std::slice::from_ref(&newcomer.id), &terms(at, 3))
            .await
            .unwrap();
    }
    assert_eq!(names(world.store()).await, ["newcomer2", "newcomer3", "wanted"]);
}

pub(crate) async fn a045_a_used_client_is_never_evicted_whatever_comes_at_once(world: &World) {
    let mut wanted = Vec::new();
    for n in 0..16 {
        wanted.push(register(world.store(), &client(&format!("wanted{n:02}"))).await);
    }
    // Half of the callers register clients up to the maximum, while the other half use the clients that would be
    // deleted.
    let clients = wanted.clone();
    let outcomes = world
        .at_once(32, move |n, store| {
            let wanted = clients[n / 2].clone();
            async move {
                if n % 2 == 0 {
                    return (n, use_it(&*store, &wanted, NOW).await);
                }
                let newcomer = Client { issued_at: later(HOUR), ..client(&format!("flood{n:02}")) };
                let ids = [newcomer.id.clone()];
                let outcome = store.register_client(&newcomer, &ids, &terms(later(HOUR), 20)).await.unwrap();
                (n, matches!(outcome, Registration::Added(_)))
            }
        })
        .await;
    let listed = names(world.store()).await;
    for (n, used) in outcomes.into_iter().filter(|(n, _)| n % 2 == 0) {
        let name = &wanted[n / 2].id;
        let there = world.store().client(name, NOW).await.unwrap();
        assert_eq!(used, there.is_some_and(|client| client.last_used_at.is_some()), "{name}");
        assert_eq!(used, listed.contains(&name.to_string()), "{name}");
    }
    assert!(listed.len() <= 20, "{listed:?}");
}

pub(crate) async fn the_holder_of_the_management_token_updates_a_client(world: &World) {
    let added = register(world.store(), &client("a")).await;
    let mut updated =
        Client { management: Some(hash("next")), fingerprint: Some(hash("other")), ..added.clone() };
    updated.metadata.display.client_name = Some("renamed".to_owned());
    updated.disabled = true;
    assert_eq!(
        world.store().update_client(&hash("wrong"), &updated).await.unwrap(),
        ManagedChange::TokenInvalid
    );
    assert_eq!(
        world.store().update_client(&added.management.unwrap(), &updated).await.unwrap(),
        ManagedChange::Made
    );
    let found = world.store().client(&added.id, NOW).await.unwrap().unwrap();
    assert_eq!(found.metadata.display.client_name.as_deref(), Some("renamed"));
    assert!(!found.disabled, "the update must not disable the client");
    assert_eq!(
        world.store().update_client(&added.management.unwrap(), &updated).await.unwrap(),
        ManagedChange::TokenInvalid
    );
    // The update does not change the expiry of the client.
    assert!(world.store().client(&added.id, later(UNUSED)).await.unwrap().is_none());
    assert_eq!(
        world.store().update_client(&hash("any"), &client("nobody")).await.unwrap(),
        ManagedChange::TokenInvalid
    );
}

pub(crate) async fn a047_a_client_that_two_have_registered_is_deleted_by_neither(world: &World) {
    let store = world.store();
    let added = register(store, &client("a")).await;
    let token = added.management.unwrap();
    assert_eq!(
        store.delete_client_managed_by(&hash("wrong"), &added.id).await.unwrap(),
        ManagedChange::TokenInvalid
    );
    // The first party requests the deletion after a second party has registered the same client.
    register(store, &client("a")).await;
    assert_eq!(store.delete_client_managed_by(&token, &added.id).await.unwrap(), ManagedChange::TokenInvalid);
    assert!(store.client(&added.id, NOW).await.unwrap().is_some());
    let own = register(store, &client("b")).await;
    assert_eq!(
        store.delete_client_managed_by(&own.management.unwrap(), &own.id).await.unwrap(),
        ManagedChange::Made
    );
    assert_eq!(
        store.delete_client_managed_by(&own.management.unwrap(), &own.id).await.unwrap(),
        ManagedChange::TokenInvalid
    );
    assert!(store.client(&own.id, NOW).await.unwrap().is_none());
}

pub(crate) async fn a_client_that_is_switched_off_is_not_used(world: &World) {
    let (client, _, grant) = granted(world.store(), "a", "refresh").await;
    assert!(
        world.store().held_grant(&grant.id, &grant.client_id, &grant.subject, NOW).await.unwrap().is_some()
    );
    assert_eq!(world.store().set_client_disabled(&client.id, true).await.unwrap(), Change::Changed);
    assert!(
        world.store().held_grant(&grant.id, &grant.client_id, &grant.subject, NOW).await.unwrap().is_none()
    );
    assert!(!use_it(world.store(), &client, NOW).await);
    assert_eq!(world.store().set_client_disabled(&client.id, false).await.unwrap(), Change::Changed);
    assert!(
        world.store().held_grant(&grant.id, &grant.client_id, &grant.subject, NOW).await.unwrap().is_some()
    );
    assert!(use_it(world.store(), &client, NOW).await);
    assert_eq!(world.store().set_client_disabled(&id("nobody"), true).await.unwrap(), Change::Missing);
}

pub(crate) async fn deletion_ends_grants_and_coming_back_does_not_revive_them(world: &World) {
    let (gone, _, grant) = granted(world.store(), "a", "refresh").await;
    assert_eq!(world.store().delete_client(&gone.id).await.unwrap(), Deletion::Deleted);
    assert_eq!(world.store().delete_client(&gone.id).await.unwrap(), Deletion::Missing);
    assert!(world.store().client(&gone.id, NOW).await.unwrap().is_none());
    assert!(names(world.store()).await.is_empty());
    assert!(
        world.store().held_grant(&grant.id, &grant.client_id, &grant.subject, NOW).await.unwrap().is_none()
    );
    assert!(!use_it(world.store(), &gone, NOW).await, "a caller that read the client before can use it");
    register(world.store(), &client("a")).await;
    assert!(
        world.store().held_grant(&grant.id, &grant.client_id, &grant.subject, NOW).await.unwrap().is_none()
    );
    assert!(!use_it(world.store(), &gone, NOW).await, "the identifier belongs to another registration");
}

pub(crate) async fn a_use_keeps_a_client_and_comes_once_an_hour(world: &World) {
    let added = register(world.store(), &client("a")).await;
    assert!(use_it(world.store(), &added, NOW).await);
    let found = |at| async move { world.store().client(&id("a"), at).await.unwrap() };
    assert!(found(UnixTime(later(IDLE).0 - 1)).await.is_some());
    assert!(found(later(IDLE)).await.is_none());
    assert!(use_it(world.store(), &added, later(HOUR / 2)).await);
    assert_eq!(found(NOW).await.unwrap().last_used_at, Some(NOW));
    assert!(use_it(world.store(), &added, later(HOUR)).await);
    assert_eq!(found(NOW).await.unwrap().last_used_at, Some(later(HOUR)));
    assert!(found(later(IDLE)).await.is_some());
    assert!(!use_it(world.store(), &added, later(HOUR + IDLE)).await, "an expired client can be used");
}

pub(crate) async fn a_client_of_a_document_is_remembered_from_its_first_use(world: &World) {
    let first = document_client("https://app.example/client.json");
    assert!(use_it(world.store(), &first, NOW).await);
    let found = world.store().client(&first.id, NOW).await.unwrap().unwrap();
    assert_eq!((found.last_used_at, &found.registration), (Some(NOW), &first.registration));
    let mut next = document_client("https://app.example/client.json");
    next.metadata.display.client_name = Some("renamed".to_owned());
    assert!(use_it(world.store(), &next, later(HOUR)).await);
    let found = world.store().client(&first.id, NOW).await.unwrap().unwrap();
    assert_eq!(found.registration, first.registration, "the client's grants are invalid");
    assert_eq!(found.metadata.display.client_name.as_deref(), Some("renamed"));
    assert_eq!(names(world.store()).await, ["https://app.example/client.json"]);
    assert_eq!(world.store().delete_client(&first.id).await.unwrap(), Deletion::Deleted);
    let at_once = world.at_once(32, |_, store| async move {
        let client = document_client("https://app.example/client.json");
        use_it(&*store, &client, NOW).await
    });
    assert_eq!(at_once.await.into_iter().filter(|used| *used).count(), 32);
}

pub(crate) async fn clients_are_listed_in_pages(world: &World) {
    let mut all: Vec<String> = (0..7).map(|n| format!("client{n}")).collect();
    all.extend(["https://app.example/a?b=[c]*", "(odd", "-"].map(str::to_owned));
    for name in &all {
        register(world.store(), &client(name)).await;
    }
    all.sort();
    let mut seen = Vec::new();
    let mut after: Option<ClientId> = None;
    loop {
        let page = world.store().clients(after.as_ref(), 3, NOW).await.unwrap();
        assert!(page.len() <= 3);
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        seen.extend(page.into_iter().map(|client| client.id.to_string()));
    }
    assert_eq!(seen, all);
    assert!(world.store().clients(None, 3, later(UNUSED)).await.unwrap().is_empty());
}

pub(crate) async fn sweeping_removes_clients_whose_time_is_over(world: &World) {
    let used = register(world.store(), &client("used")).await;
    assert!(use_it(world.store(), &used, NOW).await);
    for n in 0..5 {
        register(world.store(), &client(&format!("unused{n}"))).await;
    }
    assert_eq!(world.store().sweep(NOW).await.unwrap(), 0);
    // By then, the rows of codes have expired as well. The embedded store deletes and counts them, whereas Redis
    // deletes them on its own.
    assert!(world.store().sweep(later(UNUSED)).await.unwrap() >= 5);
    assert_eq!(names(world.store()).await, ["used"]);
    let newcomer = Client { issued_at: later(UNUSED), ..client("new") };
    let full =
        world.store().register_client(&newcomer, &[id("new")], &terms(later(UNUSED), 1)).await.unwrap();
    assert!(matches!(full, Registration::Full));
    assert!(world.store().sweep(later(IDLE + DAY)).await.unwrap() >= 1);
    assert!(names(world.store()).await.is_empty());
    let now = later(IDLE + DAY);
    let newcomer = Client { issued_at: now, registration: used.registration, ..client("new") };
    let added = world.store().register_client(&newcomer, &[id("new")], &terms(now, 1)).await.unwrap();
    assert!(matches!(added, Registration::Added(_)));
    assert_eq!(world.store().sweep(now).await.unwrap(), 0);
}

pub(crate) async fn a_clock_that_is_behind_shortens_nothing_although_the_store_knows_no_time(world: &World) {
    let store = world.store();
    let person = account("ana");
    assert_eq!(store.add_account(&person).await.unwrap(), Addition::Added);
    let client = register(store, &client("a")).await;
    let first = grant(&code(&client, &person.subject, NOW), "first", NOW);
    assert_eq!(
        store.add_grant(&first, &usage_by(&person.subject, &client, NOW)).await.unwrap(),
        DirectGrant::Created
    );
    let wrong = UnixTime(NOW.0 - 10 * 365 * 86_400);
    let bounds = TimeBounds { is_steady: false, ..TimeBounds::exactly(wrong) };
    let second = grant(&code(&client, &person.subject, NOW), "second", NOW);
    let used = ClientUse { bounds, ..usage_by(&person.subject, &client, wrong) };
    assert_eq!(store.add_grant(&second, &used).await.unwrap(), DirectGrant::Created);
    for grant in [first, second] {
        assert!(store.client(&client.id, NOW).await.unwrap().is_some());
        assert!(store.held_grant(&grant.id, &client.id, &person.subject, NOW).await.unwrap().is_some());
    }
}
