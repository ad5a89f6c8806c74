//! Tests of authorization codes, grants and refresh tokens.

use std::time::Duration;

use auth_service::domain::clock::UnixTime;
use auth_service::domain::grant::Grant;
use auth_service::domain::refresh_token::{Line, LineKey, RefreshToken};
use auth_service::store::{Change, Deletion, Denial, DirectGrant, FoundCode, Issuance, Redemption, Rotation};

use super::things::{
    DAY, GRACE, HOUR, NOW, account, client, code, grant, grant as grant_of, granted, hash, held, later,
    refresh_token, register, successor, usage,
};
use super::worlds::World;

pub(crate) async fn an_approval_makes_one_code(world: &World) {
    let client = register(world.store(), &client("a")).await;
    let person = account("ana");
    let approved = code(&client, &person.subject, NOW);
    let (of_client, of_code) = (client.clone(), approved.clone());
    let outcomes = world
        .at_once(32, move |n, store| {
            let (used, code) = (usage(&of_client, NOW), of_code.clone());
            async move {
                store.add_code("the approval", &hash(&format!("code{n}")), &code, &used).await.unwrap()
                    == Issuance::Issued
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
    assert_eq!(
        world.store().add_code("the approval", &hash("late"), &another, &used).await.unwrap(),
        Issuance::AnsweredBefore
    );
    assert_eq!(
        world.store().add_code("another approval", &hash("other"), &another, &used).await.unwrap(),
        Issuance::Issued
    );
    assert_eq!(world.store().set_client_disabled(&client.id, true).await.unwrap(), Change::Changed);
    let disabled = world.store().add_code("third approval", &hash("third"), &another, &used).await.unwrap();
    assert_eq!(disabled, Issuance::ClientGone);
    assert_eq!(world.store().delete_client(&client.id).await.unwrap(), Deletion::Deleted);
    let deleted = world.store().add_code("third approval", &hash("third"), &another, &used).await.unwrap();
    assert_eq!(deleted, Issuance::ClientGone);
    let answered = world.store().add_code("the approval", &hash("late"), &another, &used).await.unwrap();
    assert_eq!(answered, Issuance::AnsweredBefore);
}

pub(crate) async fn an_approval_is_allowed_or_denied_and_never_both(world: &World) {
    let client = register(world.store(), &client("a")).await;
    let (used, until) = (usage(&client, NOW), later(HOUR));
    let made = code(&client, &account("ana").subject, NOW);
    assert_eq!(world.store().deny("denied", until, NOW).await.unwrap(), Denial::Denied);
    assert_eq!(world.store().deny("denied", until, NOW).await.unwrap(), Denial::Denied);
    assert_eq!(
        world.store().add_code("denied", &hash("late"), &made, &used).await.unwrap(),
        Issuance::AnsweredBefore
    );
    assert!(matches!(world.store().find_code(&hash("late"), NOW).await.unwrap(), FoundCode::Unknown));
    assert_eq!(
        world.store().add_code("allowed", &hash("code"), &made, &used).await.unwrap(),
        Issuance::Issued
    );
    assert_eq!(world.store().deny("allowed", until, NOW).await.unwrap(), Denial::CodeIssued);
    assert!(matches!(world.store().find_code(&hash("code"), NOW).await.unwrap(), FoundCode::Live(_)));
    // Among many concurrent decisions, all accepted ones are the same.
    let (of_client, of_code) = (client.clone(), made.clone());
    let taken = world
        .at_once(32, move |n, store| {
            let (used, code) = (usage(&of_client, NOW), of_code.clone());
            async move {
                if n % 2 == 0 {
                    ("denied", store.deny("both", until, NOW).await.unwrap() == Denial::Denied)
                } else {
                    let name = hash(&format!("both{n}"));
                    (
                        "allowed",
                        store.add_code("both", &name, &code, &used).await.unwrap() == Issuance::Issued,
                    )
                }
            }
        })
        .await;
    let count = |what| taken.iter().filter(|(answer, taken)| *answer == what && *taken).count();
    assert!(matches!((count("denied"), count("allowed")), (16, 0) | (0, 1)), "{taken:?}");
}

pub(crate) async fn a_code_lives_for_its_time_and_is_looked_at_without_being_used(world: &World) {
    let client = register(world.store(), &client("a")).await;
    let used = usage(&client, NOW);
    let made = code(&client, &account("ana").subject, NOW);
    assert_eq!(
        world.store().add_code("approval", &hash("code"), &made, &used).await.unwrap(),
        Issuance::Issued
    );
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
        assert_eq!(
            world.store().add_code(made.grant_id.as_str(), &hash(&name), &made, &used).await.unwrap(),
            Issuance::Issued
        );
        let (of_code, of_name) = (made.clone(), name.clone());
        let outcomes = world
            .at_once(32, move |n, store| {
                let (grant, used) = (grant(&of_code, &format!("{of_name} {n}"), NOW), used.clone());
                let name = of_name.clone();
                async move { store.redeem_code(&hash(&name), &grant, &used).await.unwrap() }
            })
            .await;
        let redeemed =
            outcomes.iter().filter(|outcome| matches!(outcome, Redemption::Redeemed { .. })).count();
        let replayed = outcomes.iter().filter(|outcome| matches!(outcome, Redemption::Replayed)).count();
        assert_eq!((redeemed, replayed), (1, 31));
        // Every later redemption shows that two parties have the code, so the store revokes the grant.
        assert!(world.store().grant(&made.grant_id, NOW).await.unwrap().is_none());
    }
}

pub(crate) async fn a026_a_replayed_code_ends_the_grant_that_it_made(world: &World) {
    let client = register(world.store(), &client("a")).await;
    let used = usage(&client, NOW);
    let made = code(&client, &account("ana").subject, NOW);
    let grant = grant(&made, "first", NOW);
    assert_eq!(
        world.store().add_code("approval", &hash("code"), &made, &used).await.unwrap(),
        Issuance::Issued
    );
    let outcome = world.store().redeem_code(&hash("code"), &grant, &used).await.unwrap();
    assert!(matches!(outcome, Redemption::Redeemed { .. }));
    let token = held(&grant, 0, "first");
    assert!(world.store().grant_of_refresh(&token, NOW).await.unwrap().is_some());
    // The code itself expired long ago. Looking up the code does not revoke the grant.
    let found = world.store().find_code(&hash("code"), later(HOUR)).await.unwrap();
    assert!(matches!(found, FoundCode::Used(code) if code.grant_id == grant.id));
    assert!(world.store().grant_of_refresh(&token, NOW).await.unwrap().is_some());
    let late = usage(&client, later(HOUR));
    let outcome = world.store().redeem_code(&hash("code"), &grant, &late).await.unwrap();
    assert!(matches!(outcome, Redemption::Replayed));
    assert!(world.store().grant(&grant.id, NOW).await.unwrap().is_none());
    assert!(world.store().grant_of_refresh(&token, NOW).await.unwrap().is_none());
}

pub(crate) async fn a_code_of_a_client_that_is_gone_makes_no_grant(world: &World) {
    let client = register(world.store(), &client("a")).await;
    let used = usage(&client, NOW);
    let made = code(&client, &account("ana").subject, NOW);
    assert_eq!(
        world.store().add_code("approval", &hash("code"), &made, &used).await.unwrap(),
        Issuance::Issued
    );
    assert_eq!(world.store().delete_client(&client.id).await.unwrap(), Deletion::Deleted);
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
    assert!(world.store().grant_of_refresh(&held(&grant, 0, "refresh"), last).await.unwrap().is_some());
    assert!(
        world
            .store()
            .grant_of_refresh(&held(&grant, 0, "refresh"), grant.expires_at)
            .await
            .unwrap()
            .is_none()
    );
    let (found, account) =
        world.store().held_grant(&grant.id, &grant.client_id, &grant.subject, NOW).await.unwrap().unwrap();
    assert_eq!((found.id, account.subject), (grant.id.clone(), person.subject));
    world.store().revoke_grant(&grant.id).await.unwrap();
    world.store().revoke_grant(&grant.id).await.unwrap();
    assert!(world.store().grant(&grant.id, NOW).await.unwrap().is_none());
    assert!(world.store().grant_of_refresh(&held(&grant, 0, "refresh"), NOW).await.unwrap().is_none());
}

pub(crate) async fn a_refresh_token_rotates_and_a_lost_answer_is_repeated(world: &World) {
    let (client, _, grant) = granted(world.store(), "a", "one").await;
    let rotate = |token: (u32, &str), next: &str, at: UnixTime| {
        let (presented, used) = (held(&grant, token.0, token.1), usage(&client, at));
        let next = successor(&grant, token.0 + 1, next, at);
        async move { world.store().rotate_refresh(&presented, &next, &used, GRACE).await.unwrap() }
    };
    let Rotation::Rotated(rotated) = rotate((0, "one"), "two", later(HOUR)).await else {
        panic!("not rotated")
    };
    assert_eq!(rotated.expires_at, later(HOUR + DAY * 30));
    let of_new = world.store().grant_of_refresh(&held(&grant, 1, "two"), later(DAY * 30)).await.unwrap();
    assert_eq!(of_new.unwrap().id, grant.id, "the refresh did not prolong the grant");
    match rotate((0, "one"), "three", later(HOUR + GRACE)).await {
        Rotation::Repeated { sealed_successor, .. } => assert_eq!(sealed_successor, b"two"),
        outcome => panic!("{outcome:?}"),
    }
    assert!(matches!(rotate((1, "two"), "four", later(HOUR * 2)).await, Rotation::Rotated(_)));
    let late = rotate((2, "four"), "five", later(DAY * 60)).await;
    assert!(matches!(late, Rotation::Unknown), "the grant has not expired");
}

pub(crate) async fn a031_a_refresh_token_that_is_used_up_ends_the_grant(world: &World) {
    for (name, wait, next) in [("late", HOUR, None), ("used", Duration::ZERO, Some("three"))] {
        let (client, _, grant) = granted(world.store(), name, "one").await;
        let rotate = |token: (u32, &str), next: &str, at: UnixTime| {
            let (presented, used) = (held(&grant, token.0, token.1), usage(&client, at));
            let next = successor(&grant, token.0 + 1, next, at);
            async move { world.store().rotate_refresh(&presented, &next, &used, GRACE).await.unwrap() }
        };
        assert!(matches!(rotate((0, "one"), "two", NOW).await, Rotation::Rotated(_)));
        if let Some(next) = next {
            assert!(matches!(rotate((1, "two"), next, NOW).await, Rotation::Rotated(_)));
        }
        let outcome = rotate((0, "one"), "x", later(wait)).await;
        assert!(matches!(outcome, Rotation::Reused(id) if id == grant.id));
        assert!(world.store().grant(&grant.id, NOW).await.unwrap().is_none());
        assert!(matches!(rotate((1, "two"), "x", later(wait)).await, Rotation::Unknown));
    }
}

/// A grant recognizes all refresh tokens that it has issued, however old they are, without storing them.
pub(crate) async fn a031_every_token_of_a_long_line_is_known_when_it_comes_again(world: &World) {
    for again in [0, 1, 17, 38] {
        let (client, _, grant) = granted(world.store(), &format!("client{again}"), "token 0").await;
        let mut at = NOW;
        for number in 0..40 {
            at = at.plus(DAY);
            let (presented, used) = (held(&grant, number, &format!("token {number}")), usage(&client, at));
            let next = successor(&grant, number + 1, &format!("token {}", number + 1), at);
            let rotated = world.store().rotate_refresh(&presented, &next, &used, GRACE).await.unwrap();
            assert!(matches!(rotated, Rotation::Rotated(_)));
        }
        let (old, used) = (held(&grant, again, &format!("token {again}")), usage(&client, at));
        assert!(
            world.store().grant_of_refresh(&old, at).await.unwrap().is_some(),
            "the token belongs to the grant"
        );
        let next = successor(&grant, again + 1, "x", at);
        let outcome = world.store().rotate_refresh(&old, &next, &used, GRACE).await.unwrap();
        assert!(matches!(outcome, Rotation::Reused(id) if id == grant.id));
        assert!(world.store().grant(&grant.id, at).await.unwrap().is_none());
    }
}

/// Every access token contains the identifier of its grant. A forged refresh token with that identifier must not
/// cause the grant to be revoked.
pub(crate) async fn a031_a_token_that_only_names_a_grant_is_unknown_and_ends_nothing(world: &World) {
    let (client, person, grant) = granted(world.store(), "a", "one").await;
    let used = usage(&client, NOW);
    let next = successor(&grant, 1, "two", NOW);
    let rotated = world.store().rotate_refresh(&held(&grant, 0, "one"), &next, &used, GRACE).await.unwrap();
    assert!(matches!(rotated, Rotation::Rotated(_)));
    let of_other_key = |number| {
        let line = Line { key: LineKey::new([1; 32]), number };
        RefreshToken::new(&grant.id, &line, [1; 32]).presented()
    };
    // This token represents one that was issued after the backup from which the store has been restored. It is
    // genuine, but this store has no record of it.
    let of_the_future = held(&grant, 2, "three");
    for foreign in [of_other_key(0), of_other_key(1), of_other_key(2), of_the_future] {
        assert!(world.store().grant_of_refresh(&foreign, NOW).await.unwrap().is_none());
        let next = successor(&grant, 3, "x", NOW);
        let outcome = world.store().rotate_refresh(&foreign, &next, &used, GRACE).await.unwrap();
        assert!(matches!(outcome, Rotation::Unknown), "{outcome:?}");
    }
    // A grant without refresh tokens recognizes no refresh token as its own.
    let without = Grant { refresh: None, ..grant_of(&code(&client, &person.subject, NOW), "none", NOW) };
    assert_eq!(world.store().add_grant(&without, &used).await.unwrap(), DirectGrant::Created);
    let named = held(&without, 0, "none");
    assert!(world.store().grant_of_refresh(&named, NOW).await.unwrap().is_none());
    let outcome = world.store().rotate_refresh(&named, &successor(&without, 1, "x", NOW), &used, GRACE).await;
    assert!(matches!(outcome.unwrap(), Rotation::Unknown));
    for grant in [&grant.id, &without.id] {
        assert!(world.store().grant(grant, NOW).await.unwrap().is_some());
    }
}

pub(crate) async fn a032_parallel_refreshes_leave_one_live_branch(world: &World) {
    let (client, _, grant) = granted(world.store(), "a", "one").await;
    let granted = grant.clone();
    let outcomes = world
        .at_once(32, move |n, store| {
            let (used, one) = (usage(&client, NOW), held(&granted, 0, "one"));
            let next = successor(&granted, 1, &format!("next{n}"), NOW);
            async move { store.rotate_refresh(&one, &next, &used, GRACE).await.unwrap() }
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
    assert!(found.refresh.unwrap().current == refresh_token(&grant.id, 1, &live).hash());
    assert!(world.store().grant_of_refresh(&held(&grant, 1, &live), NOW).await.unwrap().is_some());
}

pub(crate) async fn a066_a_revoked_grant_stays_revoked_whatever_comes_at_once(world: &World) {
    for round in 0..8 {
        let name = format!("client{round}");
        let (client, _, grant) = granted(world.store(), &name, "token").await;
        let granted = grant.clone();
        world
            .at_once(8, move |n, store| {
                let (grant, used) = (granted.clone(), usage(&client, NOW));
                async move {
                    if n == 4 {
                        return store.revoke_grant(&grant.id).await.unwrap();
                    }
                    let next = successor(&grant, 1, &format!("next{n}"), NOW);
                    let token = held(&grant, 0, "token");
                    store.rotate_refresh(&token, &next, &used, GRACE).await.unwrap();
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
