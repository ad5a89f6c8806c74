//! Compares the life cycle of grants with a simple model, on both stores. Random stories contain authorizations,
//! redemptions, refreshes, replays, exchanges, revocations and disabled accounts and clients, in any order and at
//! any time. After each step, every token must give exactly the access that the model predicts.

mod model;
mod world;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::app::TestApp;
use model::Model;
use world::World;

/// The number of stories on each store, unless `LIFE_CYCLE_STORIES` is set. A story has fewer than `STEPS` steps.
const STORIES: usize = 24;
const STEPS: usize = 60;

/// A step of a story. Its numbers are indices, modulo the number of existing objects.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Wait(u64),
    /// The user is sent to the authorization endpoint. The request is for the whole scope or for a part of it.
    Authorize {
        client: usize,
        all: bool,
    },
    /// A code is redeemed with a correct or wrong client and verifier, and with or without a proof by one of the
    /// keys.
    Redeem {
        code: usize,
        client: usize,
        verifier: bool,
        key: Option<usize>,
    },
    Refresh {
        token: usize,
        client: usize,
        key: Option<usize>,
    },
    Revoke {
        refresh: bool,
        token: usize,
        client: usize,
    },
    StartDevice,
    Decide {
        device: usize,
        yes: bool,
    },
    Poll {
        device: usize,
        right_client: bool,
    },
    Machine,
    Exchange(usize),
    SwitchClient {
        client: usize,
        off: bool,
    },
    SwitchPerson {
        off: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    // An index below a million selects any of the objects, and a larger one selects one of the latest.
    let which = || prop_oneof![2 => 0_usize..1000, 3 => 1_000_000_usize..1_000_003];
    // Number 0 stands for the correct client, which is selected most often.
    let client = || prop_oneof![5 => Just(0_usize), 1 => Just(1_usize)];
    let key = || prop_oneof![4 => Just(None), 2 => Just(Some(0)), 1 => Just(Some(1))];
    let times = prop::sample::select(vec![1, 6, 20, 61, 119, 121, 600, 3601, 40_000, 31 * 86_400]);
    prop_oneof![
        6 => times.prop_map(Step::Wait),
        5 => (0_usize..2, any::<bool>()).prop_map(|(client, all)| Step::Authorize { client, all }),
        7 => (which(), client(), prop::bool::weighted(0.85), key())
            .prop_map(|(code, client, verifier, key)| Step::Redeem { code, client, verifier, key }),
        8 => (which(), client(), key()).prop_map(|(token, client, key)| Step::Refresh { token, client, key }),
        2 => (any::<bool>(), which(), client())
            .prop_map(|(refresh, token, client)| Step::Revoke { refresh, token, client }),
        2 => Just(Step::StartDevice),
        2 => (which(), prop::bool::weighted(0.8)).prop_map(|(device, yes)| Step::Decide { device, yes }),
        4 => (which(), prop::bool::weighted(0.9))
            .prop_map(|(device, right_client)| Step::Poll { device, right_client }),
        1 => Just(Step::Machine),
        3 => which().prop_map(Step::Exchange),
        1 => (0_usize..2, any::<bool>()).prop_map(|(client, off)| Step::SwitchClient { client, off }),
        1 => any::<bool>().prop_map(|off| Step::SwitchPerson { off }),
    ]
}

const SETTINGS: [(&str, &str); 3] = [
    ("ADDITIONAL_GRANTS", "client_credentials, device_code, token_exchange"),
    ("TRUSTED_PROXIES", "127.0.0.0/8"),
    ("REFRESH_TOKEN_TTL", "30d"),
];

async fn stories(app: &TestApp) {
    let mut runner = TestRunner::new(ProptestConfig::default());
    let parties = world::Parties::enter(app).await;
    let (mut opened, mut refused) = (0, 0);
    let wanted = std::env::var("LIFE_CYCLE_STORIES").ok().and_then(|text| text.parse().ok());
    let stories = wanted.unwrap_or(STORIES);
    for story in 0..stories {
        let steps = vec(step(), STEPS / 2..STEPS).new_tree(&mut runner).unwrap().current();
        let mut world = World::new(app, &parties, story).await;
        let mut model = Model::new(app.state.now().0);
        for (n, step) in steps.iter().enumerate() {
            // The steps so far are printed if a check fails.
            let steps_so_far = format!("{:#?}", &steps[..=n]);
            world.take(step, &mut model).await.unwrap_or_else(|wrong| panic!("{wrong}\n{steps_so_far}"));
            let [yes, no] =
                world.look(&mut model).await.unwrap_or_else(|wrong| panic!("{wrong}\n{steps_so_far}"));
            (opened, refused) = (opened + yes, refused + no);
        }
        parties.switch_all_on(app).await;
    }
    // Stories in which no call passes would prove nothing. About fifteen calls pass in a long story. The limit is
    // lower, because some short stories start with a wait of a month.
    println!("{stories} stories, {opened} calls passed, {refused} were refused");
    assert!(opened > stories * 4 && refused > stories * 4, "{opened} calls passed, {refused} were refused");
}

#[actix_web::test]
async fn grants_live_as_the_model_says_on_the_embedded_store() {
    stories(&TestApp::start_on(false, &SETTINGS).await).await;
}

#[actix_web::test]
async fn grants_live_as_the_model_says_on_redis() {
    if crate::redis_server::RedisServer::start(&["--appendonly", "no"]).is_some() {
        stories(&TestApp::start_on(true, &SETTINGS).await).await;
    }
}
