//! Tests of accounts, login sessions, and names that can be used only once.

use auth_service::domain::account::{Account, LoginSession, Username};
use auth_service::store::{Addition, Change, OneTimeUse};

use super::things::{DAY, HOUR, NOW, account, hash, later, password};
use super::worlds::World;

pub(crate) async fn an_account_is_found_by_name_and_by_subject(world: &World) {
    let (ana, bo) = (account("ana"), account("bo"));
    assert_eq!(world.store().add_account(&bo).await.unwrap(), Addition::Added);
    assert_eq!(world.store().add_account(&ana).await.unwrap(), Addition::Added);
    let by_name = world.store().account_named(&ana.username).await.unwrap().unwrap();
    let by_subject = world.store().account(&ana.subject).await.unwrap().unwrap();
    assert_eq!((&by_name.subject, &by_subject.email), (&ana.subject, &ana.email));
    let other = Username::try_from("nobody".to_owned()).unwrap();
    assert!(world.store().account_named(&other).await.unwrap().is_none());
    assert!(world.store().account(&account("nobody").subject).await.unwrap().is_none());
    let all = world.store().accounts().await.unwrap();
    assert_eq!(all.iter().map(|account| account.username.as_str()).collect::<Vec<_>>(), ["ana", "bo"]);
}

pub(crate) async fn of_many_with_one_name_one_gets_it(world: &World) {
    let outcomes = world
        .at_once(32, |n, store| async move {
            let account = Account { email: Some(format!("{n}@people.example")), ..account("ana") };
            (store.add_account(&account).await.unwrap(), account)
        })
        .await;
    let winners: Vec<_> =
        outcomes.iter().filter(|(added, _)| *added == Addition::Added).map(|(_, account)| account).collect();
    assert_eq!(winners.len(), 1);
    let found = world.store().account_named(&winners[0].username).await.unwrap().unwrap();
    assert_eq!((&found.subject, &found.email), (&winners[0].subject, &winners[0].email));
    assert_eq!(world.store().accounts().await.unwrap().len(), 1);
    assert_eq!(world.store().add_account(winners[0]).await.unwrap(), Addition::Taken);
    assert!(world.store().account(&found.subject).await.unwrap().is_some());
}

pub(crate) async fn a_password_is_replaced_by_who_knows_the_old_one(world: &World) {
    let ana = account("ana");
    assert_eq!(world.store().add_account(&ana).await.unwrap(), Addition::Added);
    let (subject, old) = (ana.subject.clone(), ana.password.clone());
    let outcomes = world
        .at_once(32, move |n, store| {
            let (subject, old) = (subject.clone(), old.clone());
            let new = password(&format!("new{n}"));
            async move { store.replace_password(&subject, &old, &new).await.unwrap().is_some() }
        })
        .await;
    let winner = outcomes.iter().position(|replaced| *replaced).unwrap();
    assert_eq!(outcomes.iter().filter(|replaced| **replaced).count(), 1);
    let found = world.store().account(&ana.subject).await.unwrap().unwrap();
    assert!(found.password == password(&format!("new{winner}")));
    assert_eq!(found.logins_ended, 1);
    assert_eq!(world.store().set_account_disabled(&ana.subject, true).await.unwrap(), Change::Changed);
    assert_eq!(world.store().set_account_disabled(&ana.subject, false).await.unwrap(), Change::Changed);
    assert_eq!(world.store().account(&ana.subject).await.unwrap().unwrap().logins_ended, 2);
    let nobody = account("nobody");
    let replaced = world.store().replace_password(&nobody.subject, &nobody.password, &password("x")).await;
    assert!(replaced.unwrap().is_none());
}

pub(crate) async fn a_login_lasts_until_its_end_or_the_logout(world: &World) {
    let session = |name: &str| LoginSession {
        id: hash(name),
        subject: account("ana").subject,
        logins_ended: 0,
        authenticated_at: NOW,
        expires_at: later(HOUR),
        asked_by: None,
    };
    for name in ["a", "b"] {
        world.store().add_session(&session(name)).await.unwrap();
    }
    assert!(world.store().session(&hash("a"), later(HOUR / 2)).await.unwrap().is_some());
    assert!(world.store().session(&hash("a"), later(HOUR)).await.unwrap().is_none());
    world.store().end_session(&hash("a")).await.unwrap();
    world.store().end_session(&hash("never")).await.unwrap();
    assert!(world.store().session(&hash("a"), NOW).await.unwrap().is_none());
    assert!(world.store().session(&hash("b"), NOW).await.unwrap().is_some());
}

pub(crate) async fn a_name_comes_once_until_its_time_is_over(world: &World) {
    let outcomes = world
        .at_once(32, |_, store| async move { store.remember_once("jti", later(HOUR), NOW).await.unwrap() })
        .await;
    assert_eq!(outcomes.iter().filter(|once| **once == OneTimeUse::First).count(), 1);
    assert_eq!(
        world.store().remember_once("jti", later(DAY), later(HOUR / 2)).await.unwrap(),
        OneTimeUse::Replayed
    );
    assert_eq!(world.store().remember_once("jti *", later(HOUR), NOW).await.unwrap(), OneTimeUse::First);
    let again = world
        .at_once(32, |_, store| async move {
            store.remember_once("jti", later(HOUR * 2), later(HOUR)).await.unwrap()
        })
        .await;
    assert_eq!(again.iter().filter(|once| **once == OneTimeUse::First).count(), 1);
    assert_eq!(
        world.store().remember_once("jti", later(DAY), later(HOUR)).await.unwrap(),
        OneTimeUse::Replayed
    );
}

pub(crate) async fn a_store_that_works_answers(world: &World) {
    world.store().ping().await.unwrap();
}
