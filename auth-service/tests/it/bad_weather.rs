//! Tests of a clock that is temporarily wrong, and of a Redis server that loses data.

use std::time::Duration;

use super::app::{ISSUER, PASSWORD, TestApp, Tokens, authorize_query};
use super::clock_jumps::is_not_challenged;
use super::operator::ask;
use super::store_away::ready;
use crate::chaos::{Chaos, Weather};
use auth_service::config::Config;
use auth_service::domain::clock::{Clock, UnixTime};
use auth_service::domain::clock_watch::TOLERANCE;
use auth_service::keys::seal::{StoreKey, SystemRandomSource};
use auth_service::keys::set::KeySet;
use auth_service::operator::{Command, Reply};
use auth_service::rotation;
use auth_service::store::embedded::EmbeddedStore;
use auth_service::store::{Installation, LOST, Replacement, SigningKeyStore};
use auth_service::upkeep::Upkeep;
use reqwest::StatusCode;
use serde_json::json;

const DAYS: Duration = Duration::from_secs(200 * 86_400);
const CHOSEN: &str = "a password of my own choice";

#[actix_web::test]
async fn a_clock_that_is_days_ahead_for_a_while_costs_nothing() {
    for app in TestApp::on_both_stores(&[]).await {
        let client = app.client().await;
        let tokens = app.tokens(&client).await;
        app.state.follow_keys().await;
        let kids = app.kids().await;

        app.set_clock_ahead(DAYS);
        app.wait(Duration::from_secs(5));
        app.state.follow_keys().await;
        assert_eq!(app.state.sweep().await.unwrap(), 0, "nothing is swept while the clock is wrong");
        assert_eq!(app.kids().await, kids, "no key is created or removed");
        let (status, body) = ready(&app).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        assert!(body["clock"].as_str().unwrap().contains("jumped 17280000 s ahead"), "{body}");
        assert_eq!(
            app.check_token(&tokens.access).await.status(),
            StatusCode::SERVICE_UNAVAILABLE,
            "the service cannot know whether it has expired"
        );

        // A replica that starts now compares its clock with the time recorded in the store.
        let other = app.replica(&[]).await;
        assert_eq!(other.state.sweep().await.unwrap(), 0);
        assert_eq!(other.kids().await, kids);

        app.set_clock_ahead(Duration::ZERO);
        app.state.follow_keys().await;
        assert_eq!(ready(&app).await.1["clock"], "ok");
        assert_eq!(app.kids().await, kids);
        assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::OK);
        let again = Tokens::of(app.refresh(&client, &tokens.refresh).await).await;
        assert_eq!(app.check_token(&again.access).await.status(), StatusCode::OK);
        assert_eq!(app.state.store.accounts().await.unwrap().len(), 1);
    }
}

#[actix_web::test]
async fn a_clock_that_stays_where_it_jumped_to_counts_after_an_hour() {
    let app = TestApp::start_on(false, &[]).await;
    let client = app.client().await;
    app.state.follow_keys().await;
    app.set_clock_ahead(DAYS);
    assert_eq!(app.state.sweep().await.unwrap(), 0);
    app.wait(Duration::from_secs(3599));
    assert_eq!(app.state.sweep().await.unwrap(), 0);
    app.wait(Duration::from_secs(1));
    assert!(app.state.sweep().await.unwrap() > 0, "expired entries are not swept");
    assert_eq!(ready(&app).await.1["clock"], "ok");
    assert!(app.state.store.clients(None, 10, app.state.now()).await.unwrap().is_empty(), "{client} is gone");
}

/// Simulates an hour with the clock ahead, and another hour with the clock right.
async fn after_a_clock_that_was_ahead(app: &TestApp) {
    app.state.follow_keys().await;
    for ahead in [DAYS, Duration::ZERO] {
        app.set_clock_ahead(ahead);
        app.state.findings().await.unwrap();
        app.wait(Duration::from_secs(3600));
        assert_eq!(ready(app).await.1["clock"], "ok");
    }
    let latest = app.state.time_bounds().latest;
    assert!(latest.since(app.state.now()) >= DAYS, "the store does not remember a trusted time");
}

#[actix_web::test]
async fn a031_a_stolen_token_is_noticed_although_a_clock_was_ahead_for_an_hour() {
    for app in TestApp::on_both_stores(&[]).await {
        after_a_clock_that_was_ahead(&app).await;
        let client = app.client().await;
        let stolen = app.tokens(&client).await;
        let rotated = Tokens::of(app.refresh(&client, &stolen.refresh).await).await;
        app.wait(Duration::from_secs(300));
        assert_eq!(app.refresh(&client, &stolen.refresh).await.status(), StatusCode::BAD_REQUEST);
        assert_eq!(app.refresh(&client, &rotated.refresh).await.status(), StatusCode::BAD_REQUEST);
    }
}

#[actix_web::test]
async fn an_operator_forgets_a_time_that_was_ahead() {
    for app in TestApp::on_both_stores(&[]).await {
        let accept = |today: UnixTime| {
            let day = time::OffsetDateTime::from_unix_timestamp(today.0.try_into().unwrap()).unwrap().date();
            ask(&app, Command::AcceptClock { today: day.to_string() })
        };
        let refused = accept(app.state.now()).await;
        assert!(matches!(refused, Reply::Refused(_)), "there is no time to forget: {refused:?}");
        after_a_clock_that_was_ahead(&app).await;
        for wrong in [app.state.now().plus(DAYS), UnixTime(0)] {
            let refused = accept(wrong).await;
            assert!(matches!(&refused, Reply::Refused(why) if why.contains("another day")), "{refused:?}");
        }
        let done = accept(app.state.now()).await;
        // With Redis, the command also compares the clock of the test with the clock of the real Redis server.
        // They differ, so the command refuses.
        if app.state.store.own_time().await.unwrap().is_some() {
            assert!(matches!(&done, Reply::Refused(why) if why.contains("Redis")), "{done:?}");
            continue;
        }
        assert!(matches!(done, Reply::Done), "{done:?}");
        app.wait(Duration::from_secs(300));
        app.state.findings().await.unwrap();
        assert_eq!(app.state.time_bounds().latest, app.state.now());
        let mark = app.state.store.clock_mark().await.unwrap().unwrap();
        assert_eq!((mark.latest, mark.corrections), (app.state.now(), 1));
        let client = app.client().await;
        assert!(!app.tokens(&client).await.access.is_empty());
    }
}

struct At(UnixTime);

impl Clock for At {
    fn now(&self) -> UnixTime {
        self.0
    }
}

/// A store without a recorded time is either new or restored from a backup.
#[actix_web::test]
async fn a_store_that_remembers_no_time_believes_no_clock_at_once() {
    let data = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(data.path(), &StoreKey::new([7; 32])).unwrap();
    let (terms, now) = (
        Config::from_variables([
            ("ISSUER".to_owned(), ISSUER.to_owned()),
            ("PROTECTED_HOSTS".to_owned(), "mcp.example".to_owned()),
        ])
        .unwrap()
        .signing,
        UnixTime(1_800_000_000),
    );
    assert_eq!(
        store.replace_signing_keys(None, &KeySet::first(&terms, now).unwrap()).await.unwrap(),
        Replacement::Replaced
    );

    let clock = At(now.plus(DAYS));
    let upkeep = Upkeep::start(&store, &clock, &SystemRandomSource).await.unwrap();
    let findings = upkeep.look(&store, &clock).await.unwrap();
    assert!(findings.clock.to_string().contains("has no record of its last use"), "{}", findings.clock);
    assert_eq!(store.clock_mark().await.unwrap(), None, "the store must not remember a doubtful time");
}

#[actix_web::test]
async fn a_clock_that_is_set_back_makes_no_code_and_no_refresh_token_good_again() {
    for app in TestApp::on_both_stores(&[]).await {
        app.set_clock_ahead(Duration::from_secs(86_400));
        app.state.follow_keys().await;
        app.wait(Duration::from_secs(3600));
        app.state.follow_keys().await;
        assert_eq!(ready(&app).await.1["clock"], "ok", "the clock is not trusted after an hour");
        let client = app.client().await;
        let tokens = app.tokens(&client).await;
        let used = tokens.refresh.clone();
        let mut latest = tokens;
        for _ in 0..3 {
            latest = Tokens::of(app.refresh(&client, &latest.refresh).await).await;
        }
        app.set_clock_ahead(Duration::ZERO);
        app.wait(Duration::from_secs(61));
        app.state.follow_keys().await;
        assert_eq!(
            app.refresh(&client, &used).await.status(),
            StatusCode::BAD_REQUEST,
            "a used token is valid again"
        );
        assert!(ready(&app).await.1["clock"].as_str().unwrap().contains("behind"));
    }
}

/// The clock of a machine can be behind because it starts with the date of its disk image.
#[actix_web::test]
async fn a_refresh_while_the_clock_is_behind_costs_nobody_their_grant() {
    for app in TestApp::on_both_stores(&[]).await {
        let client = app.client().await;
        let tokens = app.tokens(&client).await;
        app.state.follow_keys().await;

        app.set_clock_behind(DAYS * 2);
        app.wait(Duration::from_secs(5));
        let meanwhile = Tokens::of(app.refresh(&client, &tokens.refresh).await).await;
        assert!(!meanwhile.refresh.is_empty());

        app.set_clock_ahead(Duration::ZERO);
        app.state.follow_keys().await;
        app.state.sweep().await.unwrap();
        let after = app.refresh(&client, &meanwhile.refresh).await;
        assert_eq!(after.status(), StatusCode::OK, "{:?}", after.text().await);
        assert!(app.client_is_known(&client).await);
    }
}

#[actix_web::test]
async fn who_gets_a_password_while_the_clock_is_ahead_can_log_in_when_it_is_right() {
    for app in TestApp::on_both_stores(&[]).await {
        app.state.follow_keys().await;
        let client = app.client().await;
        app.set_clock_ahead(DAYS);
        app.account("bob", true).await;
        let mut browser = app.browser();
        let page = browser.open("/login").await;
        let page = browser.submit(&page, &[("username", "bob"), ("password", PASSWORD)]).await;
        browser.submit(&page, &[("new_password", CHOSEN), ("new_password_repeat", CHOSEN)]).await;

        app.set_clock_ahead(Duration::ZERO);
        let mut browser = app.browser();
        let page = browser.open("/login").await;
        browser.submit(&page, &[("username", "bob"), ("password", CHOSEN)]).await;
        assert!(!browser.allow(&authorize_query(&client, &[])).await.is_empty());
    }
}

#[actix_web::test]
async fn what_is_made_while_the_clock_is_ahead_does_not_outlive_its_time() {
    for app in TestApp::on_both_stores(&[]).await {
        app.state.follow_keys().await;
        app.set_clock_ahead(DAYS);
        let client = app.client().await;
        let mut browser = app.browser_of("ana").await;
        let code = browser.allow(&authorize_query(&client, &[])).await;
        let tokens = Tokens::of(app.redeem(&client, &code).await).await;
        assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::OK);

        for ahead in [Duration::ZERO, DAYS / 2] {
            app.set_clock_ahead(ahead);
            app.state.follow_keys().await;
            let page = browser.follow(&format!("/authorize?{}", authorize_query(&client, &[]))).await;
            assert!(page.body.contains("name=\"password\""), "the login is still valid: {}", page.body);
            assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::UNAUTHORIZED);
        }

        app.set_clock_ahead(Duration::ZERO);
        app.state.sweep().await.unwrap();
        let after = app.refresh(&client, &tokens.refresh).await;
        assert_eq!(after.status(), StatusCode::OK, "the user must not need to connect again");
        app.wait(app.state.config.lifetimes.refresh_token);
        let latest = Tokens::of(after).await;
        assert_eq!(app.refresh(&client, &latest.refresh).await.status(), StatusCode::BAD_REQUEST);
    }
}

#[actix_web::test]
async fn a_grant_that_was_made_ahead_and_is_not_used_ends_in_its_time() {
    let app = TestApp::start_on(false, &[]).await;
    app.state.follow_keys().await;
    app.set_clock_ahead(DAYS);
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    app.set_clock_ahead(Duration::ZERO);
    app.state.sweep().await.unwrap();
    app.wait(app.state.config.lifetimes.refresh_token + TOLERANCE);
    assert_eq!(app.refresh(&client, &tokens.refresh).await.status(), StatusCode::BAD_REQUEST);
}

#[actix_web::test]
async fn a031_a_used_refresh_token_stays_used_when_the_clock_is_set_back() {
    for app in TestApp::on_both_stores(&[("REFRESH_GRACE", "5s")]).await {
        app.state.follow_keys().await;
        let client = app.client().await;
        let used = app.tokens(&client).await;
        app.refresh(&client, &used.refresh).await;
        app.wait(Duration::from_secs(6));
        app.set_clock_behind(DAYS);
        assert_ne!(app.refresh(&client, &used.refresh).await.status(), StatusCode::OK);
    }
}

#[actix_web::test]
async fn a_lost_answer_is_repeated_although_the_clock_was_wrong_when_it_was_given() {
    for (store, app) in ["embedded", "redis"].iter().zip(TestApp::on_both_stores(&[]).await) {
        app.state.follow_keys().await;
        for ahead in [false, true] {
            let client = app.client().await;
            let tokens = app.tokens(&client).await;
            if ahead {
                app.set_clock_ahead(DAYS / 4);
            } else {
                app.set_clock_behind(DAYS);
            }
            let lost = Tokens::of(app.refresh(&client, &tokens.refresh).await).await;
            app.set_clock_ahead(Duration::ZERO);
            app.wait(Duration::from_secs(1));
            let again = app.refresh(&client, &tokens.refresh).await;
            if ahead && *store == "redis" {
                // The time of the first refresh is not reliable, so the service can neither repeat the response
                // nor revoke the grant. (In this test, the clock of Redis is not used. The embedded store also
                // has the time since the machine started.)
                assert_eq!(again.status(), StatusCode::SERVICE_UNAVAILABLE);
            } else {
                assert_eq!(Tokens::of(again).await.refresh, lost.refresh);
            }
            assert_eq!(app.refresh(&client, &lost.refresh).await.status(), StatusCode::OK);
        }
    }
}

#[actix_web::test]
async fn replicas_say_that_redis_has_lost_everything_and_agree_again_when_it_is_begun_anew() {
    let Some(app) = TestApp::start_on_redis().await else { return };
    let other = app.replica(&[]).await;
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    let before = app.kids().await;
    assert_eq!(other.check_token(&tokens.access).await.status(), StatusCode::OK);

    app.tell_store("FLUSHALL");
    // Requests are refused both before and after a replica has noticed the loss. `other` gets no request at first,
    // because it accepts tokens from its cache until its next check of the store, which runs every five seconds.
    refuses_nothing_for_good(&app, &client, &tokens).await;
    for replica in [&app, &other] {
        let (status, body) = ready(replica).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
        assert_eq!(body["store"], LOST);
        replica.state.follow_keys().await;
        refuses_nothing_for_good(replica, &client, &tokens).await;
        // A registration that is accepted now would be lost when the backup is restored.
        let refused = replica.register(&json!({ "redirect_uris": ["https://new.example/cb"] })).await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.text().await.unwrap().contains("has lost its data"));
        assert_eq!(replica.browser().open("/login").await.status, StatusCode::OK);
    }
    assert!(app.state.store.clients(None, 10, app.state.now()).await.unwrap().is_empty());
    assert!(
        app.state.store.signing_keys().await.is_err(),
        "a replica that knew the lost store has created a new one"
    );

    // A replica that is restarted creates a new store, and the other replicas switch to that store.
    let restarted = app.replica(&[]).await;
    let fresh = restarted.kids().await;
    assert_ne!(fresh, before);
    for replica in [&app, &other] {
        replica.state.follow_keys().await;
        assert_eq!(replica.kids().await, fresh, "replicas sign and verify with the same keys");
        assert_eq!(ready(replica).await.0, StatusCode::OK);
        assert_eq!(replica.check_token(&tokens.access).await.status(), StatusCode::UNAUTHORIZED);
    }
    let client = app.client().await;
    app.person("somebody").await;
    assert!(!client.is_empty());
}

/// Asserts that no response makes a client delete its registration or its tokens, because both become valid again
/// when the backup is restored.
async fn refuses_nothing_for_good(app: &TestApp, client: &str, tokens: &Tokens) {
    is_not_challenged(&app.check_token(&tokens.access).await);
    let page = app.browser().open(&format!("/authorize?{}", authorize_query(client, &[]))).await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
    let answer = app.refresh(client, &tokens.refresh).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let answer = app.redeem(client, "unknown").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[actix_web::test]
async fn a_redis_that_comes_back_without_its_data_is_not_believed_until_it_has_them_again() {
    let Some(mut app) = TestApp::start_on_redis().await else { return };
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    app.kill_store();
    let data = app.files_of_store();
    app.replace_files_of_store(&tempfile::tempdir().unwrap());
    app.run_store();
    until_store_answers(&app).await;
    refuses_nothing_for_good(&app, &client, &tokens).await;
    assert_eq!(ready(&app).await.1["store"], LOST);
    refuses_nothing_for_good(&app, &client, &tokens).await;

    restart_store_with(&mut app, &data).await;
    assert_eq!(ready(&app).await.0, StatusCode::OK);
    assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::OK);
    assert_eq!(app.refresh(&client, &tokens.refresh).await.status(), StatusCode::OK);
}

#[actix_web::test]
async fn operators_commands_begin_no_store_in_a_redis_that_was_emptied() {
    let Some(app) = TestApp::start_on_redis().await else { return };
    let command = |words: &'static [&'static str]| {
        let url = app.url_of_store();
        async move {
            let done = tokio::process::Command::new(env!("CARGO_BIN_EXE_auth-service"))
                .args(words)
                .env_clear()
                .env("REDIS_URL", url)
                .env("STORE_KEY", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=")
                .output()
                .await
                .unwrap();
            let said =
                String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
            (done.status.success(), said)
        }
    };
    let (listed, said) = command(&["keys", "list"]).await;
    assert!(listed && said.contains(&app.kids().await[0]), "{said}");

    app.tell_store("FLUSHALL");
    let (status, _) = ready(&app).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    for words in [
        &["keys", "list"][..],
        &["keys", "rotate"],
        &["user", "list"],
        &["user", "add", "zed"],
        &["client", "list"],
        &["store", "export", "/nowhere/dump"],
    ] {
        let (done, said) = command(words).await;
        assert!(!done && said.contains("Restore a backup"), "{words:?}: {said}");
    }
    assert_eq!(app.rows_of_store(), 0, "something was written");
    assert_eq!(ready(&app).await.1["store"], LOST);
    // With `--new-store`, the operator confirms that the store is empty because it is new.
    let (done, said) = command(&["user", "add", "zed", "--new-store"]).await;
    assert!(done && said.contains("password:"), "{said}");
}

/// Redis loses only the row with the signing keys, before the replicas have noticed that a key was revoked.
#[actix_web::test]
async fn a_revoked_signing_key_does_not_come_back_when_the_keys_are_lost() {
    let Some(app) = TestApp::start_on_redis().await else { return };
    let other = app.replica(&[]).await;
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    let revoked = app.kids().await.remove(0);
    app.wait(Duration::from_secs(2));
    // This does the same as `auth-service keys revoke` in a separate process. Neither replica reads the keys
    // between that revocation and the loss.
    let (store, terms, now) = (app.state.store.as_ref(), app.state.config.signing, app.state.now());
    let stale = store.signing_keys().await.unwrap().unwrap();
    let changed = rotation::change(store, &terms, now, |set| set.without(&revoked, &terms, now)).await;
    assert!(changed.unwrap().unwrap().keys().iter().all(|key| key.kid != revoked));
    app.tell_store("RENAME mcp-gate:{keys}:signing lost");
    assert!(store.signing_keys().await.unwrap().is_none());
    other.state.follow_keys().await;
    app.state.follow_keys().await;
    for replica in [&app, &other] {
        assert!(!replica.kids().await.contains(&revoked));
        assert_eq!(replica.check_token(&tokens.access).await.status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(app.kids().await, other.kids().await);
    // A process that still has the lost key set cannot replace the new one, because their revisions differ.
    assert_eq!(
        store.replace_signing_keys(Some(stale.revision()), &stale).await.unwrap(),
        Replacement::Outdated
    );
    for replica in [&app, &other] {
        let (_, body) = ready(replica).await;
        assert!(body["store_dangers"].to_string().contains("the signing keys were missing"), "{body}");
    }
    // Clients get new access tokens with their refresh tokens.
    let answer = app.refresh(&client, &tokens.refresh).await;
    assert_eq!(answer.status(), StatusCode::OK);
}

/// Every replica reports the loss of the old keys, regardless of which process creates the new ones.
#[actix_web::test]
async fn signing_keys_that_a_start_or_a_command_replaces_are_told_by_all() {
    for by_command in [false, true] {
        let Some(app) = TestApp::start_on_redis().await else { return };
        let other = app.replica(&[]).await;
        for replica in [&app, &other] {
            replica.state.follow_keys().await;
            assert!(!ready(replica).await.1["store_dangers"].to_string().contains("signing keys"));
        }
        app.tell_store("DEL mcp-gate:{keys}:signing");
        let (store, terms, now) = (app.state.store.as_ref(), app.state.config.signing, app.state.now());
        let started = if by_command {
            // This does the same as `auth-service keys list` in a separate process.
            rotation::known(store, &terms, now).await.unwrap();
            None
        } else {
            Some(app.replica(&[]).await)
        };
        for replica in [&app, &other].into_iter().chain(&started) {
            replica.state.follow_keys().await;
            let (_, body) = ready(replica).await;
            let told = body["store_dangers"].to_string();
            assert!(told.contains("the signing keys were missing"), "{by_command}: {told}");
        }
        // Restarting a replica within the hour does not clear the report either.
        let restarted = app.replica(&[]).await;
        assert!(
            ready(&restarted).await.1["store_dangers"].to_string().contains("the signing keys were missing")
        );
        app.wait(Duration::from_secs(3601));
        let (_, body) = ready(&app).await;
        assert!(!body["store_dangers"].to_string().contains("the signing keys were missing"), "{body}");
    }
}

/// Redis is started with earlier files, as after a snapshot has been restored. Promoting a Redis replica that
/// lacks the last writes has the same effect.
#[actix_web::test]
async fn a_redis_that_comes_back_older_opens_nothing_that_was_revoked() {
    let Some(mut app) = TestApp::start_on_redis().await else { return };
    let client = app.client().await;
    let (revoked, kept) = (app.tokens(&client).await, app.tokens(&client).await);
    let earlier = app.files_of_store();
    let answer = app.http.post(format!("{}/revoke", app.public));
    let answer = answer.form(&[("token", &revoked.refresh), ("client_id", &client)]).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let stolen = app.kids().await.remove(0);
    let reply = ask(&app, Command::RevokeKey { kid: stolen.clone() }).await;
    assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
    app.state.follow_keys().await;
    let latest = app.tokens(&client).await;
    let later = app.files_of_store();
    assert_eq!(app.check_token(&kept.access).await.status(), StatusCode::UNAUTHORIZED);

    restart_store_with(&mut app, &earlier).await;
    for token in [&revoked.access, &kept.access, &latest.access] {
        assert!(!app.check_token(token).await.status().is_success());
    }
    let (status, body) = ready(&app).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body["store"].as_str().unwrap().contains("returned with older data than before"), "{body}");
    app.state.follow_keys().await;
    assert!(!app.kids().await.contains(&stolen), "a revoked key became valid again");
    for token in [&revoked, &kept, &latest] {
        assert!(!app.check_token(&token.access).await.status().is_success());
        assert_eq!(
            app.refresh(&client, &token.refresh).await.status(),
            StatusCode::SERVICE_UNAVAILABLE,
            "a token was issued"
        );
    }

    // Redis is started with its latest files.
    restart_store_with(&mut app, &later).await;
    assert_eq!(ready(&app).await.0, StatusCode::OK);
    assert_eq!(app.check_token(&latest.access).await.status(), StatusCode::OK);
    assert_eq!(app.check_token(&revoked.access).await.status(), StatusCode::UNAUTHORIZED);
}

/// Kills Redis, and starts it again with these files.
async fn restart_store_with(app: &mut TestApp, files: &tempfile::TempDir) {
    app.kill_store();
    app.replace_files_of_store(files);
    app.run_store();
    until_store_answers(app).await;
}

/// Waits until the app is connected to Redis again.
async fn until_store_answers(app: &TestApp) {
    for _ in 0..600 {
        match app.state.store.identity().await {
            Ok(_) => return,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    panic!("the connection was not restored");
}

#[actix_web::test]
async fn a_redis_that_evicts_or_keeps_no_log_is_told() {
    let Some(app) = TestApp::start_on_redis().await else { return };
    app.tell_store("CONFIG SET appendonly no");
    let (status, body) = ready(&app.replica(&[]).await).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert!(body["store_dangers"][0].as_str().unwrap().contains("appendonly yes"), "{body}");
    app.tell_store("CONFIG SET maxmemory 100mb");
    app.tell_store("CONFIG SET maxmemory-policy allkeys-lru");
    let restarted = app.replica(&[]).await;
    let (_, body) = ready(&restarted).await;
    assert!(body["store_dangers"][0].as_str().unwrap().contains("Set maxmemory-policy noeviction"), "{body}");
}

/// Waits until a check of this token returns one of these statuses.
async fn until_checked(app: &TestApp, token: &str, wanted: &[StatusCode]) -> StatusCode {
    for _ in 0..6000 {
        let status = app.check_token(token).await.status();
        if wanted.contains(&status) {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no check returned one of {wanted:?}");
}

/// Waits until the service caches tokens.
async fn until_cached(app: &TestApp) {
    for _ in 0..6000 {
        if app.state.store.changes().is_live() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the store does not report changes");
}

/// The connections stay open, so only the number and the history show that Redis is older.
#[actix_web::test]
async fn a066_a_number_history_or_identity_that_is_lost_in_place_opens_nothing_that_is_cached() {
    let older = "returned with older data than before";
    for (damage, words) in [
        ("SET mcp-gate:{meta}:taken-away 0", older),
        ("RENAME mcp-gate:{meta}:taken-away lost", older),
        ("RENAME mcp-gate:{meta}:history lost", older),
        ("RENAME mcp-gate:{meta}:identity lost", LOST),
    ] {
        // The clock of the tests does not move, so cached principals do not expire.
        let Some(app) = TestApp::start_on_redis().await else { return };
        let client = app.client().await;
        let (revoked, kept) = (app.tokens(&client).await, app.tokens(&client).await);
        let answer = app.http.post(format!("{}/revoke", app.public));
        let answer =
            answer.form(&[("token", &revoked.refresh), ("client_id", &client)]).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        until_cached(&app).await;
        for _ in 0..3 {
            assert_eq!(app.check_token(&kept.access).await.status(), StatusCode::OK);
        }
        app.tell_store(damage);
        until_checked(&app, &kept.access, &[StatusCode::SERVICE_UNAVAILABLE]).await;
        let (status, told) = ready(&app).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{damage}");
        assert!(told["store"].as_str().unwrap().contains(words), "{told}");
    }
}

#[actix_web::test]
async fn a_key_that_is_revoked_counts_nowhere_although_no_replica_looks_for_it() {
    let Some(app) = TestApp::start_on_redis().await else { return };
    let other = app.replica(&[]).await;
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    until_cached(&other).await;
    for _ in 0..3 {
        assert_eq!(other.check_token(&tokens.access).await.status(), StatusCode::OK);
    }
    let revoked = app.kids().await.remove(0);
    ask(&app, Command::RevokeKey { kid: revoked.clone() }).await;
    until_checked(&other, &tokens.access, &[StatusCode::UNAUTHORIZED]).await;
    let again = Tokens::of(other.refresh(&client, &tokens.refresh).await).await;
    assert_eq!(app.check_token(&again.access).await.status(), StatusCode::OK);
}

#[actix_web::test]
async fn a_replica_that_was_cut_off_while_a_key_was_revoked_never_believes_that_key_again() {
    let Some(app) = TestApp::start_on_redis().await else { return };
    let between = Chaos::before(app.port_of_store()).await;
    let away = app.replica_at(&between.url()).await;
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    assert_eq!(away.check_token(&tokens.access).await.status(), StatusCode::OK);
    between.turn(Weather::Cut);
    until_checked(&away, &tokens.access, &[StatusCode::SERVICE_UNAVAILABLE]).await;
    let revoked = app.kids().await.remove(0);
    ask(&app, Command::RevokeKey { kid: revoked.clone() }).await;
    between.turn(Weather::Fair);
    let back = [StatusCode::OK, StatusCode::UNAUTHORIZED];
    assert_eq!(until_checked(&away, &tokens.access, &back).await, StatusCode::UNAUTHORIZED);
    // New tokens are not signed with that key either.
    let again = Tokens::of(away.refresh(&client, &tokens.refresh).await).await;
    assert_ne!(jsonwebtoken::decode_header(&again.access).unwrap().kid.unwrap(), revoked);
    assert_eq!(app.check_token(&again.access).await.status(), StatusCode::OK);
}

#[actix_web::test]
async fn people_are_told_that_only_the_operator_can_end_the_loss_of_the_store() {
    const TOLD: &str = "This service cannot be used until its operator has repaired it. Tell the operator. Afterwards, go \
                        back to the application and connect it again.";
    let Some(app) = TestApp::start_on_redis().await else { return };
    let client = app.client().await;
    let query = format!("/authorize?{}", authorize_query(&client, &[]));
    let mut browser = app.browser();
    let form = browser.follow(&query).await;
    let mut signed_in = app.browser_of("ana").await;
    let question = signed_in.follow(&query).await;
    app.tell_store("FLUSHALL");
    for page in [
        browser.submit(&form, &[("username", "ana"), ("password", PASSWORD)]).await,
        browser.open(&query).await,
        signed_in.submit(&question, &[("decision", "allow")]).await,
    ] {
        assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(page.body.contains(TOLD), "{}", page.body);
    }
}

/// The old row can come back through an operator, or through a cluster node that lost its last write. The next
/// change to the row, whether by an operator or by the schedule, must not make the old keys valid.
#[actix_web::test]
async fn a066_a_row_of_signing_keys_that_is_put_back_opens_no_revoked_key_and_is_told() {
    for rotates in [false, true] {
        let Some(app) = TestApp::start_on_redis().await else { return };
        let other = app.replica(&[]).await;
        let client = app.client().await;
        let tokens = app.tokens(&client).await;
        app.tell_store("COPY mcp-gate:{keys}:signing mcp-gate:{keys}:before");
        let revoked = app.kids().await.remove(0);
        ask(&app, Command::RevokeKey { kid: revoked.clone() }).await;
        for replica in [&app, &other] {
            replica.state.follow_keys().await;
        }
        app.tell_store("RENAME mcp-gate:{keys}:before mcp-gate:{keys}:signing");
        if rotates {
            // This does the same as `auth-service keys rotate` in a separate process.
            let (store, terms, now) = (app.state.store.as_ref(), app.state.config.signing, app.state.now());
            rotation::change(store, &terms, now, |set| set.rotated(&terms, now)).await.unwrap().unwrap();
        }
        for replica in [&app, &other] {
            for _ in 0..2 {
                assert_eq!(replica.check_token(&tokens.access).await.status(), StatusCode::UNAUTHORIZED);
                replica.state.follow_keys().await;
            }
            assert!(!replica.kids().await.contains(&revoked));
            let (_, told) = ready(replica).await;
            assert!(told["store_dangers"].to_string().contains("an old row of them was put back"), "{told}");
        }
        // A process that starts afterwards also detects the old row, and all processes have the same keys.
        let restarted = app.replica(&[]).await;
        assert_eq!(restarted.check_token(&tokens.access).await.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(restarted.kids().await, app.kids().await);
        assert_eq!(other.kids().await, app.kids().await);
        let answer = other.refresh(&client, &tokens.refresh).await;
        assert_eq!(answer.status(), StatusCode::OK);
    }
}

/// The replica's own copy of the keys is newer than what the store has recorded.
#[actix_web::test]
async fn a066_a_replica_rotates_no_row_of_signing_keys_that_is_older_than_its_own() {
    let Some(app) = TestApp::start_on_redis().await else { return };
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    for name in ["{keys}:signing mcp-gate:{keys}:before", "{meta}:keys mcp-gate:{meta}:before"] {
        app.tell_store(&format!("COPY mcp-gate:{name}"));
    }
    let revoked = app.kids().await.remove(0);
    ask(&app, Command::RevokeKey { kid: revoked.clone() }).await;
    app.state.follow_keys().await;
    for name in ["{keys}:before mcp-gate:{keys}:signing", "{meta}:before mcp-gate:{meta}:keys"] {
        app.tell_store(&format!("RENAME mcp-gate:{name}"));
    }
    // The rotation of the restored key is now due.
    app.wait(Duration::from_secs(400 * 86_400));
    for _ in 0..3 {
        app.state.follow_keys().await;
        assert!(!app.kids().await.contains(&revoked));
        assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::UNAUTHORIZED);
    }
}
