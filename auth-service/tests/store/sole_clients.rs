//! Tests of attack 45 by a user: how many clients one account can accumulate.

use auth_service::domain::account::Subject;
use auth_service::domain::client::{Client, ClientOrigin};
use auth_service::domain::clock::UnixTime;
use auth_service::store::{Addition, Change, DirectGrant, Registration, RegistrationTerms, Store};

use super::things::{
    HOUR, IDLE, NOW, SOLE_CEILING, account, client, code, grant, id, later, random, register, terms, usage_by,
};
use super::worlds::World;

/// Stores a grant, which also records the use of the client by this account.
async fn use_by(store: &dyn Store, user: &Subject, client: &Client, at: UnixTime) {
    let grant = grant(&code(client, user, at), &client.id.to_string(), at);
    assert_eq!(store.add_grant(&grant, &usage_by(user, client, at)).await.unwrap(), DirectGrant::Created);
}

async fn are_there(store: &dyn Store, names: &[&str]) -> Vec<bool> {
    let mut there = Vec::new();
    for name in names {
        there.push(store.client(&id(name), NOW).await.unwrap().is_some());
    }
    there
}

pub(crate) async fn a045_one_account_has_so_many_clients_and_its_least_used_makes_room(world: &World) {
    let store = world.store();
    let person = account("ana");
    assert_eq!(store.add_account(&person).await.unwrap(), Addition::Added);
    let [ana, bob] = [person.subject, Subject::new(random())];
    let operators = Client { origin: ClientOrigin::Operator, ..client("operators") };
    assert_eq!(store.add_client(&operators, NOW).await.unwrap(), Addition::Added);
    use_by(store, &ana, &operators, NOW).await;
    let bobs = register(store, &client("bobs")).await;
    use_by(store, &bob, &bobs, NOW).await;
    let mut clients = Vec::new();
    for name in ["a", "b", "c", "d"] {
        clients.push(register(store, &client(name)).await);
    }
    for client in &clients[..SOLE_CEILING] {
        use_by(store, &ana, client, NOW).await;
    }
    let held = grant(&code(&clients[1], &ana, NOW), "held", NOW);
    assert_eq!(
        store.add_grant(&held, &usage_by(&ana, &clients[1], NOW)).await.unwrap(),
        DirectGrant::Created
    );
    let opens = async || store.held_grant(&held.id, &held.client_id, &ana, NOW).await.unwrap().is_some();
    assert!(opens().await);
    use_by(store, &ana, &clients[0], later(HOUR)).await;
    assert_eq!(are_there(store, &["a", "b", "c", "d"]).await, [true; 4]);
    use_by(store, &ana, &clients[3], later(HOUR)).await;
    assert_eq!(
        are_there(store, &["a", "b", "c", "d", "bobs", "operators"]).await,
        [true, false, true, true, true, true]
    );
    // The grant of the deleted client is not valid, even when the same client registers again.
    register(store, &client("b")).await;
    assert!(!opens().await);
}

pub(crate) async fn a045_a_client_that_several_use_makes_room_for_none(world: &World) {
    let store = world.store();
    let ana = Subject::new(random());
    let shared = register(store, &client("shared")).await;
    use_by(store, &ana, &shared, NOW).await;
    for _ in 0..Client::FEW_USERS {
        use_by(store, &Subject::new(random()), &shared, NOW).await;
    }
    for n in 0..3 * SOLE_CEILING {
        let own = register(store, &client(&format!("own{n}"))).await;
        use_by(store, &ana, &own, later(HOUR)).await;
    }
    assert!(store.client(&shared.id, NOW).await.unwrap().is_some());
    assert_eq!(store.clients(None, 1000, NOW).await.unwrap().len(), 1 + SOLE_CEILING);
}

pub(crate) async fn a045_two_accounts_that_use_the_same_clients_have_no_more_than_their_ceilings(
    world: &World,
) {
    let store = world.store();
    let both = [Subject::new(random()), Subject::new(random())];
    for n in 0..4 * SOLE_CEILING {
        let shared = register(store, &client(&format!("shared{n}"))).await;
        for account in &both {
            use_by(store, account, &shared, later(HOUR)).await;
        }
    }
    let left = store.clients(None, 1000, NOW).await.unwrap().len();
    assert!(left <= 2 * SOLE_CEILING, "{left}");
}

pub(crate) async fn a045_accounts_that_work_together_have_no_more_clients_than_their_ceilings(world: &World) {
    let store = world.store();
    let mut accounts: Vec<_> = (0..Client::FEW_USERS).map(|_| Subject::new(random())).collect();
    let ana = account("ana");
    assert_eq!(store.add_account(&ana).await.unwrap(), Addition::Added);
    accounts.push(ana.subject);
    // Every account uses each client. With the last account, a client has so many users that it is not counted
    // towards any of them.
    for n in 0..6 * SOLE_CEILING {
        let shared = register(store, &client(&format!("shared{n}"))).await;
        for account in accounts.iter().cycle().skip(n).take(accounts.len()) {
            use_by(store, account, &shared, later(HOUR)).await;
        }
    }
    // An account can have `SOLE_CEILING` clients, and can be the last user of the same number of other clients.
    let left = store.clients(None, 1000, NOW).await.unwrap().len();
    assert!(left <= 2 * accounts.len() * SOLE_CEILING, "{left}");
    for n in 0..40 * SOLE_CEILING {
        let shared = register(store, &client(&format!("more{n}"))).await;
        for account in &accounts {
            use_by(store, account, &shared, later(2 * HOUR)).await;
        }
    }
    let left = store.clients(None, 1000, NOW).await.unwrap().len();
    assert!(left <= 2 * accounts.len() * SOLE_CEILING, "{left}");
    // A client with many users is not deleted to make room. An account that can no longer be its last user can
    // still use it.
    let late = accounts.last().unwrap();
    let popular = register(store, &client("popular")).await;
    for _ in 0..Client::FEW_USERS {
        use_by(store, &Subject::new(random()), &popular, later(2 * HOUR)).await;
    }
    use_by(store, late, &popular, later(2 * HOUR)).await;
    let held = grant(&code(&popular, late, later(2 * HOUR)), "held", later(2 * HOUR));
    assert_eq!(
        store.add_grant(&held, &usage_by(late, &popular, later(2 * HOUR))).await.unwrap(),
        DirectGrant::Created
    );
    assert!(store.held_grant(&held.id, &held.client_id, late, later(2 * HOUR)).await.unwrap().is_some());
}

pub(crate) async fn a045_a_disabled_client_makes_no_room_and_does_not_expire(world: &World) {
    let store = world.store();
    let ana = Subject::new(random());
    let [used, unused] = [register(store, &client("used")).await, register(store, &client("unused")).await];
    use_by(store, &ana, &used, NOW).await;
    for client in [&used, &unused] {
        assert_eq!(store.set_client_disabled(&client.id, true).await.unwrap(), Change::Changed);
    }
    // Another party registers the client again. For a client that is not disabled, this would extend its
    // protection.
    let again = Client { kept_until: Some(later(10 * HOUR)), ..client("unused") };
    assert!(register(store, &again).await.disabled);
    for n in 0..3 * SOLE_CEILING {
        let own = register(store, &client(&format!("own{n}"))).await;
        use_by(store, &ana, &own, later(HOUR)).await;
    }
    for n in 0..5 {
        let at = later(11 * HOUR);
        let newcomer = Client { issued_at: at, ..client(&format!("newcomer{n}")) };
        let terms = RegistrationTerms { unused_ceiling: 2, ..terms(at, 100) };
        let outcome = store.register_client(&newcomer, std::slice::from_ref(&newcomer.id), &terms).await;
        assert!(matches!(outcome.unwrap(), Registration::Added(_)), "{n}");
    }
    let late = later(2 * IDLE);
    store.sweep(late).await.unwrap();
    for client in [&used, &unused] {
        assert!(store.client(&client.id, late).await.unwrap().unwrap().disabled);
        assert!(register(store, &Client { issued_at: late, ..client.clone() }).await.disabled);
    }
    // After the client has been enabled and used, it expires like any other client.
    assert_eq!(store.set_client_disabled(&used.id, false).await.unwrap(), Change::Changed);
    let enabled = store.client(&used.id, late).await.unwrap().unwrap();
    use_by(store, &ana, &enabled, late).await;
    assert!(store.client(&used.id, late.plus(IDLE.checked_sub(HOUR).unwrap())).await.unwrap().is_some());
    assert!(store.client(&used.id, late.plus(2 * IDLE)).await.unwrap().is_none());
    // A client that has never been used can be displaced again.
    assert_eq!(store.set_client_disabled(&unused.id, false).await.unwrap(), Change::Changed);
    let terms = RegistrationTerms { unused_ceiling: 1, ..terms(late, 100) };
    let newcomer = Client { issued_at: late, ..client("last") };
    let outcome = store.register_client(&newcomer, std::slice::from_ref(&newcomer.id), &terms).await;
    assert!(matches!(outcome.unwrap(), Registration::Added(_)));
    assert!(store.client(&unused.id, late).await.unwrap().is_none());
}

pub(crate) async fn a045_who_gives_up_a_client_takes_it_from_nobody_else(world: &World) {
    let store = world.store();
    let [ana, bob] = [Subject::new(random()), Subject::new(random())];
    let shared = register(store, &client("shared")).await;
    use_by(store, &ana, &shared, NOW).await;
    use_by(store, &bob, &shared, NOW).await;
    for n in 0..2 * SOLE_CEILING {
        let own = register(store, &client(&format!("own{n}"))).await;
        use_by(store, &ana, &own, later(HOUR)).await;
    }
    assert!(store.client(&shared.id, NOW).await.unwrap().is_some(), "the client is still used by bob");
    for n in 0..SOLE_CEILING {
        let own = register(store, &client(&format!("bobs{n}"))).await;
        use_by(store, &bob, &own, later(HOUR)).await;
    }
    assert!(store.client(&shared.id, NOW).await.unwrap().is_none(), "both users have given up the client");
}

pub(crate) async fn a045_clients_used_at_once_stay_below_the_ceiling_of_their_account(world: &World) {
    world
        .at_once(16, |n, store| async move {
            let own = register(store.as_ref(), &client(&format!("own{n}"))).await;
            use_by(store.as_ref(), &Subject::new([9; 32]), &own, NOW).await;
        })
        .await;
    assert_eq!(world.store().clients(None, 1000, NOW).await.unwrap().len(), SOLE_CEILING);
}

pub(crate) async fn a045_a_client_that_somebody_registers_again_makes_no_room_while_they_sign_in(
    world: &World,
) {
    let store = world.store();
    let [ana, bob] = [Subject::new(random()), Subject::new(random())];
    let sought = register(store, &client("sought")).await;
    use_by(store, &ana, &sought, NOW).await;
    let asked = Client { kept_until: Some(later(HOUR * 3)), ..client("sought") };
    let again = register(store, &asked).await;
    assert_eq!(again.id, sought.id);
    for n in 0..2 * SOLE_CEILING {
        let own = register(store, &client(&format!("own{n}"))).await;
        use_by(store, &ana, &own, later(HOUR)).await;
    }
    assert!(store.client(&sought.id, NOW).await.unwrap().is_some(), "a user could be signing in");
    let own = register(store, &client("later")).await;
    use_by(store, &ana, &own, later(HOUR * 4)).await;
    assert!(store.client(&sought.id, NOW).await.unwrap().is_none(), "no user has signed in with the client");
    assert_eq!(store.clients(None, 1000, NOW).await.unwrap().len(), SOLE_CEILING);
    let again = register(store, &asked).await;
    use_by(store, &bob, &again, later(HOUR * 4)).await;
}
