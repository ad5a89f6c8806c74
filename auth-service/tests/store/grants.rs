//! Codes, grants and refresh tokens.

use std::time::Duration;

use auth_service::domain::clock::UnixTime;
use auth_service::store::{FoundCode, Redemption, Rotation};

use super::things::{
    DAY, GRACE, HOUR, NOW, account, client, code, grant, granted, hash, later, register, successor, usage,
};
use super::worlds::World;

pub(crate) async fn an_approval_makes_one_code(world: &World) {
    let client = register(world.store(), &client("a")).await;
    let person = account("ana");
    let approved = code(&client, &person.subject, NOW);
    let (of_client, of_code) = (client.clone(), approved.clone());
    let outcomes =
        world
            .at_once(32, move |n, store| {
                let (used, code) = (usage(&of_client, NOW), of_code.clone());
                async move {
                    store.add_code("the approval", &hash(&format!("code{n}")), &code, &used).await.unwrap()
                }
            })
            .await;
    assert_eq!(outcomes.iter().filter(|added| **added).count(), 1);
    let winner = outcomes.iter().position(|added| *added).unwrap();
    let found = world.store().find_code(&hash(&format!("code{winner}")), NOW).await.unwrap();
    let FoundCode::Live(found) = found else { panic!("{found:?}") };
    assert_eq!((found.grant_id, found.subject), (approved.grant_id, approved.subject));
    let used = usage(&client, NOW);
    let another = code(&client, &person.subject, NOW);
    assert!(!world.store().add_code("the approval", &hash("late"), &another, &used).await.unwrap());
    assert!(world.store().add_code("another approval", &hash("other"), &another, &used).await.unwrap());
}

pub(crate) async fn a_code_lives_for_its_time_and_is_looked_at_without_being_used(world: &World) {
    let client = register(world.store(), &client("a")).await;
    let used = usage(&client, NOW);
    let made = code(&client, &account("ana").subject, NOW);
    assert!(world.store().add_code("approval", &hash("code"), &made, &used).await.unwrap());
    for _ in 0..3 {
        assert!(matches!(world.store().find_code(&hash("code"), NOW).await.unwrap(), FoundCode::Live(_)));
    }
    assert!(matches!(world.store().find_code(&hash("other"), NOW).await.unwrap(), FoundCode::Unknown));
    assert!(matches!(
        world.store().find_code(&hash("code"), made.expires_at).await.unwrap(),
        FoundCode::Unknown
    ));
    let late = usage(&client, made.expires_at);
    let outcome =
        world.store().redeem_code(&hash("code"), &grant(&made, "refresh", NOW), &late).await.unwrap();
    assert!(matches!(outcome, Redemption::Unknown));
    let outcome =
        world.store().redeem_code(&hash("other"), &grant(&made, "refresh", NOW), &used).await.unwrap();
    assert!(matches!(outcome, Redemption::Unknown));
    assert!(world.store().grant(&made.grant_id, NOW).await.unwrap().is_none());
}

pub(crate) async fn a027_of_parallel_redemptions_one_succeeds(world: &World) {
    for round in 0..4 {
        let name = format!("code{round}");
        let client = register(world.store(), &client("a")).await;
        let used = usage(&client, NOW);
        let made = code(&client, &account("ana").subject, NOW);
        assert!(world.store().add_code(made.grant_id.as_str(), &hash(&name), &made, &used).await.unwrap());
        let (of_code, of_name) = (made.clone(), name.clone());
        let outcomes = world
            .at_once(32, move |n, store| {
                let (grant, used) = (grant(&of_code, &format!("{of_name} {n}"), NOW), used.clone());
                let name = of_name.clone();
                async move { store.redeem_code(&hash(&name), &grant, &used).await.unwrap() }
            })
            .await;
        let redeemed = outcomes.iter().filter(|outcome| matches!(outcome, Redemption::Redeemed)).count();
        let replayed = outcomes.iter().filter(|outcome| matches!(outcome, Redemption::Replayed)).count();
        assert_eq!((redeemed, replayed), (1, 31));
        // Who was late has shown that the code is in two hands.
        assert!(world.store().grant(&made.grant_id, NOW).await.unwrap().is_none());
    }
}

pub(crate) async fn a026_a_replayed_code_ends_the_grant_that_it_made(world: &World) {
    let client = register(world.store(), &client("a")).await;
    let used = usage(&client, NOW);
    for (name, look) in [("looked at", true), ("redeemed", false)] {
        let made = code(&client, &account("ana").subject, NOW);
        let grant = grant(&made, name, NOW);
        assert!(world.store().add_code(name, &hash(name), &made, &used).await.unwrap());
        let outcome = world.store().redeem_code(&hash(name), &grant, &used).await.unwrap();
        assert!(matches!(outcome, Redemption::Redeemed));
        assert!(world.store().grant_of_refresh(&hash(name), NOW).await.unwrap().is_some());
        // Long after the code itself has ended.
        if look {
            let found = world.store().find_code(&hash(name), later(HOUR)).await.unwrap();
            assert!(matches!(found, FoundCode::Replayed(id) if id == grant.id));
        } else {
            let late = usage(&client, later(HOUR));
            let outcome = world.store().redeem_code(&hash(name), &grant, &late).await.unwrap();
            assert!(matches!(outcome, Redemption::Replayed));
        }
        assert!(world.store().grant(&grant.id, NOW).await.unwrap().is_none());
        assert!(world.store().grant_of_refresh(&hash(name), NOW).await.unwrap().is_none());
    }
}

pub(crate) async fn a_code_of_a_client_that_is_gone_makes_no_grant(world: &World) {
    let client = register(world.store(), &client("a")).await;
    let used = usage(&client, NOW);
    let made = code(&client, &account("ana").subject, NOW);
    assert!(world.store().add_code("approval", &hash("code"), &made, &used).await.unwrap());
    assert!(world.store().delete_client(&client.id).await.unwrap());
    let outcome =
        world.store().redeem_code(&hash("code"), &grant(&made, "refresh", NOW), &used).await.unwrap();
    assert!(matches!(outcome, Redemption::Unknown));
    assert!(world.store().grant(&made.grant_id, NOW).await.unwrap().is_none());
}

pub(crate) async fn a_grant_lives_until_its_end_or_its_revocation(world: &World) {
    let (_, person, grant) = granted(world.store(), "a", "refresh").await;
    let last = UnixTime(grant.expires_at.0 - 1);
    assert!(world.store().grant(&grant.id, last).await.unwrap().is_some());
    assert!(world.store().grant(&grant.id, grant.expires_at).await.unwrap().is_none());
    assert!(
        world
            .store()
            .held_grant(&grant.id, &grant.client_id, &grant.subject, grant.expires_at)
            .await
            .unwrap()
            .is_none()
    );
    assert!(world.store().grant_of_refresh(&hash("refresh"), last).await.unwrap().is_some());
    assert!(world.store().grant_of_refresh(&hash("refresh"), grant.expires_at).await.unwrap().is_none());
    let (held, account) =
        world.store().held_grant(&grant.id, &grant.client_id, &grant.subject, NOW).await.unwrap().unwrap();
    assert_eq!((held.id, account.subject), (grant.id.clone(), person.subject));
    world.store().revoke_grant(&grant.id).await.unwrap();
    world.store().revoke_grant(&grant.id).await.unwrap();
    assert!(world.store().grant(&grant.id, NOW).await.unwrap().is_none());
    assert!(world.store().grant_of_refresh(&hash("refresh"), NOW).await.unwrap().is_none());
}

pub(crate) async fn a_refresh_token_rotates_and_a_lost_answer_is_repeated(world: &World) {
    let (client, _, grant) = granted(world.store(), "a", "one").await;
    let rotate = |token: &'static str, next: &'static str, at: UnixTime| {
        let used = usage(&client, at);
        async move {
            world.store().rotate_refresh(&hash(token), &successor(next, at), &used, GRACE).await.unwrap()
        }
    };
    let Rotation::Rotated(rotated) = rotate("one", "two", later(HOUR)).await else { panic!("not rotated") };
    assert_eq!(rotated.expires_at, later(HOUR + DAY * 30));
    let of_new = world.store().grant_of_refresh(&hash("two"), later(DAY * 30)).await.unwrap();
    assert_eq!(of_new.unwrap().id, grant.id, "the grant lives on");
    match rotate("one", "three", later(HOUR + GRACE)).await {
        Rotation::Repeated { sealed_successor, .. } => assert_eq!(sealed_successor, b"two"),
        outcome => panic!("{outcome:?}"),
    }
    assert!(matches!(rotate("three", "x", later(HOUR)).await, Rotation::Unknown), "it was never handed out");
    assert!(matches!(rotate("never", "x", later(HOUR)).await, Rotation::Unknown));
    assert!(matches!(rotate("two", "four", later(HOUR * 2)).await, Rotation::Rotated(_)));
    assert!(matches!(rotate("four", "five", later(DAY * 60)).await, Rotation::Unknown), "the grant is over");
}

pub(crate) async fn a031_a_refresh_token_that_is_used_up_ends_the_grant(world: &World) {
    for (name, wait, next) in [("late", HOUR, None), ("used", Duration::ZERO, Some("three"))] {
        let (client, _, grant) = granted(world.store(), name, &format!("{name} one")).await;
        let rotate = |token: &str, next: &str, at: UnixTime| {
            let (token, next, used) =
                (hash(&format!("{name} {token}")), format!("{name} {next}"), usage(&client, at));
            async move { world.store().rotate_refresh(&token, &successor(&next, at), &used, GRACE).await.unwrap() }
        };
        assert!(matches!(rotate("one", "two", NOW).await, Rotation::Rotated(_)));
        if let Some(next) = next {
            assert!(matches!(rotate("two", next, NOW).await, Rotation::Rotated(_)));
        }
        let outcome = rotate("one", "x", later(wait)).await;
        assert!(matches!(outcome, Rotation::Reused(id) if id == grant.id));
        assert!(world.store().grant(&grant.id, NOW).await.unwrap().is_none());
        assert!(matches!(rotate("two", "x", later(wait)).await, Rotation::Unknown));
    }
}

pub(crate) async fn a032_parallel_refreshes_leave_one_live_branch(world: &World) {
    let (client, _, grant) = granted(world.store(), "a", "one").await;
    let outcomes = world
        .at_once(32, move |n, store| {
            let used = usage(&client, NOW);
            async move {
                let next = successor(&format!("next{n}"), NOW);
                store.rotate_refresh(&hash("one"), &next, &used, GRACE).await.unwrap()
            }
        })
        .await;
    let rotated: Vec<usize> = outcomes
        .iter()
        .enumerate()
        .filter(|(_, outcome)| matches!(outcome, Rotation::Rotated(_)))
        .map(|(n, _)| n)
        .collect();
    assert_eq!(rotated.len(), 1);
    let live = format!("next{}", rotated[0]);
    for outcome in &outcomes {
        match outcome {
            Rotation::Rotated(_) => {}
            Rotation::Repeated { sealed_successor, .. } => assert_eq!(sealed_successor, live.as_bytes()),
            other => panic!("{other:?}"),
        }
    }
    let found = world.store().grant(&grant.id, NOW).await.unwrap().unwrap();
    assert!(found.refresh.unwrap().current == hash(&live));
    assert!(world.store().grant_of_refresh(&hash(&live), NOW).await.unwrap().is_some());
}

pub(crate) async fn a066_a_revoked_grant_stays_revoked_whatever_comes_at_once(world: &World) {
    for round in 0..8 {
        let name = format!("client{round}");
        let (client, _, grant) = granted(world.store(), &name, &format!("{name} token")).await;
        let (id, of_name) = (grant.id.clone(), name.clone());
        world
            .at_once(8, move |n, store| {
                let (id, used, name) = (id.clone(), usage(&client, NOW), of_name.clone());
                async move {
                    if n == 4 {
                        return store.revoke_grant(&id).await.unwrap();
                    }
                    let next = successor(&format!("{name} next{n}"), NOW);
                    store.rotate_refresh(&hash(&format!("{name} token")), &next, &used, GRACE).await.unwrap();
                }
            })
            .await;
        assert!(world.store().grant(&grant.id, NOW).await.unwrap().is_none());
        assert!(
            world
                .store()
                .held_grant(&grant.id, &grant.client_id, &grant.subject, NOW)
                .await
                .unwrap()
                .is_none()
        );
    }
}
