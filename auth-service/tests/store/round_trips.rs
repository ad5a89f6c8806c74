//! Counts round trips to Redis. A slow proxy reveals which commands are sent together and which wait for a
//! response.

use std::time::Duration;

use auth_service::domain::clock::UnixTime;
use auth_service::domain::device::{DeviceState, UserCode};
use auth_service::domain::grant::Grant;
use auth_service::domain::opaque_token::TokenHash;
use auth_service::keys::seal::SystemRandomSource;
use auth_service::store::redis::{RedisAddress, RedisStore};
use auth_service::store::{
    Addition, ClientStore, CodeStore, Decision, DeviceStore, GrantStore, Issuance, Redemption, Rotation,
    Store, transfer,
};

use super::things::{
    DAY, GRACE, NOW, account, asked_for_device, client, code, grant, granted, hash, held, register,
    successor, usage,
};
use super::worlds::{World, key};
use crate::chaos::{Chaos, Weather};
use crate::redis_server::RedisServer;

/// Counts the round trips of a call. No other call may run at the same time.
async fn counted<T>(way: &Chaos, call: impl Future<Output = T>) -> (usize, T) {
    let before = way.round_trips();
    let answer = call.await;
    (way.round_trips() - before, answer)
}

pub(crate) async fn allowed_device(store: &dyn Store, name: &str, letter: char) -> (TokenHash, Grant) {
    let client = store.client(&super::things::id("a"), NOW).await.unwrap().unwrap();
    let of_code = code(&client, &account("ana").subject, NOW);
    let asked = asked_for_device(&client, of_code.grant_id.clone());
    let user_code = UserCode::parse(&letter.to_string().repeat(8)).unwrap();
    assert_eq!(store.add_device(&hash(name), &user_code, &asked).await.unwrap(), Addition::Added);
    let yes = DeviceState::Allowed { subject: of_code.subject.clone(), authenticated_at: NOW };
    assert_eq!(store.decide_device(&hash(name), &yes, NOW).await.unwrap(), Decision::Stored);
    (hash(name), grant(&of_code, name, NOW))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_check_is_one_round_trip_and_redeeming_or_refreshing_at_most_three() {
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    // Without `CLIENT TRACKING`, Redis does not report changes, so each call below also has to check the age of
    // the data.
    let mut admin = super::resp::Resp::connect(server.port);
    admin.ask(&[b"ACL", b"SETUSER", b"default", b"-client|tracking"]);
    let way = Chaos::before(server.port).await;
    let address = RedisAddress::parse(&way.url()).unwrap();
    let store = RedisStore::connect(&address, &key()).await.unwrap();
    let (_, _, warm) = granted(&store, "warm", "token 0").await;
    let (_, person, granted) = granted(&store, "a", "token 0").await;
    let client = store.client(&granted.client_id, NOW).await.unwrap().unwrap();
    let used = usage(&client, NOW);
    // These calls load the scripts into Redis, and record the use of the client, which is recorded only once an
    // hour.
    let next = successor(&warm, 1, "token 1", NOW);
    store.rotate_refresh(&held(&warm, 0, "token 0"), &next, &used, GRACE).await.unwrap();
    let (device, of_device) = allowed_device(&store, "warm", 'B').await;
    store.redeem_device(&device, &of_device, &used).await.unwrap();
    store.revoke_grant(&of_device.id).await.unwrap();
    let (device, of_device) = allowed_device(&store, "device", 'C').await;
    let made = code(&client, &person.subject, NOW);
    assert_eq!(store.add_code("approval", &hash("code"), &made, &used).await.unwrap(), Issuance::Issued);
    // The delay is so long that all commands that belong together are sent before the first response arrives.
    way.turn(Weather::Delay(Duration::from_millis(20)));

    let (trips, found) = counted(&way, store.held_grant(&granted.id, &client.id, &person.subject, NOW)).await;
    assert!(found.unwrap().is_some());
    assert_eq!(trips, 1, "the principal of a token");

    let (trips, outcome) =
        counted(&way, store.redeem_code(&hash("code"), &grant(&made, "of code", NOW), &used)).await;
    assert!(matches!(outcome.unwrap(), Redemption::Redeemed { .. }));
    assert_eq!(trips, 3, "redeeming a code");

    let (trips, outcome) = counted(&way, store.redeem_device(&device, &of_device, &used)).await;
    assert!(matches!(outcome.unwrap(), Redemption::Redeemed { .. }));
    assert_eq!(trips, 3, "redeeming a device code");

    for number in 0..3 {
        let (last, next) = (format!("token {number}"), format!("token {}", number + 1));
        let token = held(&granted, number, &last);
        let next = successor(&granted, number + 1, &next, NOW);
        let (trips, found) = counted(&way, store.grant_of_refresh(&token, NOW)).await;
        assert!(found.unwrap().is_some());
        assert_eq!(trips, 1, "finding the grant of a refresh token");
        let (trips, outcome) = counted(&way, store.rotate_refresh(&token, &next, &used, GRACE)).await;
        assert!(matches!(outcome.unwrap(), Rotation::Rotated(_)));
        assert_eq!(trips, 2, "refreshing");
    }

    let (trips, done) = counted(&way, store.revoke_grant(&granted.id)).await;
    done.unwrap();
    assert_eq!(trips, 2, "revoking");
}

/// The number of records in the store.
async fn size(store: &dyn Store, now: UnixTime) -> u64 {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("dump");
    transfer::export(store, &file, &key(), (now, &SystemRandomSource), |_| {}).await.unwrap().total()
}

async fn refresh_a_hundred_times(world: &World) {
    let (_, _, grant) = granted(world.store(), "a", "token 0").await;
    let client = register(world.store(), &client("a")).await;
    let (before, mut at) = (size(world.store(), NOW).await, NOW);
    for number in 0..100 {
        at = at.plus(DAY);
        let token = held(&grant, number, &format!("token {number}"));
        let next = successor(&grant, number + 1, &format!("token {}", number + 1), at);
        let rotated = world.store().rotate_refresh(&token, &next, &usage(&client, at), GRACE).await.unwrap();
        assert!(matches!(rotated, Rotation::Rotated(_)));
    }
    // The code of the grant has expired by then.
    assert!(size(world.store(), at).await <= before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_grant_takes_no_more_room_however_often_it_is_refreshed() {
    refresh_a_hundred_times(&World::embedded()).await;
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let world = World::at(&server.url()).await;
    refresh_a_hundred_times(&world).await;
    // Pointers are not exported, so the keys are counted as well. They belong to the store, a client, an account,
    // a code and a grant.
    let keys = super::resp::Resp::connect(server.port).keys().len();
    assert!(keys < 16, "{keys} keys");
}
