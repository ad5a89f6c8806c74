//! Tests of signing keys. All replicas share one set of keys, regardless of which replica changes it.

use std::time::Duration;

use auth_service::keys::algorithm::SigningAlgorithm;
use auth_service::keys::set::{KeyState, RotationTerms, state};
use auth_service::rotation;
use auth_service::store::Replacement;

use super::things::{DAY, NOW, later};
use super::worlds::World;

pub(crate) const TERMS: RotationTerms = RotationTerms {
    algorithm: SigningAlgorithm::EdDsa,
    period: Some(Duration::from_secs(90 * 86_400)),
    lead: Duration::from_secs(600),
};

pub(crate) async fn replicas_that_start_at_once_agree_on_a_signing_key(world: &World) {
    let sets = world
        .at_once(16, |_, store| async move {
            rotation::up_to_date(store.as_ref(), &TERMS, NOW).await.unwrap().keys()[0].kid.clone()
        })
        .await;
    assert!(sets.iter().all(|kid| *kid == sets[0]));
}

pub(crate) async fn of_many_rotations_at_once_one_is_done(world: &World) {
    let first = rotation::up_to_date(world.store(), &TERMS, NOW).await.unwrap();
    // The keys are rotated by the operator's command.
    let outcomes = world
        .at_once(16, |_, store| async move {
            let step = |set: &auth_service::keys::set::KeySet| set.rotated(&TERMS, NOW);
            rotation::change(store.as_ref(), &TERMS, NOW, step).await.unwrap().is_ok()
        })
        .await;
    assert_eq!(outcomes.iter().filter(|done| **done).count(), 1);
    let set = world.store().signing_keys().await.unwrap().unwrap();
    assert_eq!(set.keys().len(), 2);
    assert_eq!(set.keys()[0].kid, first.keys()[0].kid);
    // The keys are rotated by the schedule. All replicas notice at the same time that a rotation is due.
    let due = later(DAY * 90);
    let kids = world
        .at_once(16, |_, store| async move {
            let set = rotation::up_to_date(store.as_ref(), &TERMS, due).await.unwrap();
            set.keys().iter().map(|key| key.kid.clone()).collect::<Vec<_>>()
        })
        .await;
    assert!(kids.iter().all(|seen| *seen == kids[0]), "{kids:?}");
    let set = world.store().signing_keys().await.unwrap().unwrap();
    let states: Vec<_> = set.keys().iter().map(|key| state(key, due)).collect();
    assert_eq!(states, [KeyState::Current, KeyState::Next], "the first key was deleted");
}

pub(crate) async fn a_revoked_key_is_gone_for_every_replica(world: &World) {
    let first = rotation::up_to_date(world.store(), &TERMS, NOW).await.unwrap();
    let kid = first.keys()[0].kid.clone();
    let step = |set: &auth_service::keys::set::KeySet| set.without(&kid, &TERMS, NOW);
    rotation::change(world.store(), &TERMS, NOW, step).await.unwrap().unwrap();
    for _ in 0..3 {
        let set = rotation::up_to_date(world.store(), &TERMS, NOW).await.unwrap();
        assert!(set.keys().iter().all(|key| key.kid != kid));
        assert!(set.current(NOW).is_some());
    }
    // A key set that was read before the revocation cannot be written afterwards.
    assert_eq!(
        world.store().replace_signing_keys(Some(first.revision()), &first).await.unwrap(),
        Replacement::Outdated
    );
    assert_eq!(world.store().replace_signing_keys(None, &first).await.unwrap(), Replacement::Outdated);
}
