//! Tests of signing keys: how two replicas with a shared store publish, rotate and revoke them.

use std::time::Duration;

use auth_service::keys::seal::SystemRandomSource;
use auth_service::keys::set::KeyState;
use auth_service::operator::{self, Command, KeyRow, Reply, Tools};
use reqwest::StatusCode;
use reqwest::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use serde_json::Value;

use super::app::{RESOURCE, TestApp, Tokens};

/// How often each replica looks for key changes in the store.
const LOOK: Duration = Duration::from_secs(5);

impl TestApp {
    async fn operate(&self, command: Command) -> Reply {
        let tools = Tools {
            store: self.state.store.as_ref(),
            passwords: &self.state.passwords,
            random: &SystemRandomSource,
            rotation: self.state.config.signing,
            now: self.state.now(),
            progress: &|_| {},
        };
        operator::run(command, &tools).await.unwrap()
    }

    async fn key_rows(&self) -> Vec<KeyRow> {
        rows(self.operate(Command::ListKeys).await)
    }

    async fn jwks(&self) -> Value {
        self.http.get(format!("{}/jwks", self.public)).send().await.unwrap().json().await.unwrap()
    }

    pub(crate) async fn kids(&self) -> Vec<String> {
        let set = self.jwks().await;
        set["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    }
}

fn rows(reply: Reply) -> Vec<KeyRow> {
    match reply {
        Reply::Keys(rows) => rows,
        other => panic!("{other:?}"),
    }
}

fn kid_of(token: &str) -> String {
    jsonwebtoken::decode_header(token).unwrap().kid.unwrap()
}

#[actix_web::test]
async fn the_key_set_is_cacheable_for_less_than_a_new_key_waits() {
    let app = TestApp::start().await;
    let url = format!("{}/jwks", app.public);
    let first = app.http.get(&url).send().await.unwrap();
    assert_eq!(first.headers()[CACHE_CONTROL], "public, max-age=297");
    assert_eq!(first.headers()["content-type"], "application/json");
    let tag = first.headers()[ETAG].to_str().unwrap().to_owned();
    for said in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
        let again = app.http.get(&url).header(IF_NONE_MATCH, said).send().await.unwrap();
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(again.headers()[ETAG], tag.as_str());
        assert!(again.bytes().await.unwrap().is_empty());
    }
    app.operate(Command::RotateKeys).await;
    app.state.follow_keys().await;
    let changed = app.http.get(&url).header(IF_NONE_MATCH, &tag).send().await.unwrap();
    assert_eq!(changed.status(), StatusCode::OK);
    assert_ne!(changed.headers()[ETAG], tag.as_str());

    let brief = TestApp::start_with(&[("SIGNING_KEY_LEAD", "25s")]).await;
    let answer = brief.http.get(format!("{}/jwks", brief.public)).send().await.unwrap();
    assert_eq!(answer.headers()[CACHE_CONTROL], "public, max-age=10");
}

#[actix_web::test]
async fn a_rotation_goes_unnoticed_on_both_replicas() {
    let one = TestApp::start().await;
    let two = one.replica(&[]).await;
    let replicas = [&one, &two];
    let client = one.client().await;
    let mut tokens = one.tokens(&client).await;
    let before = kid_of(&tokens.access);
    let reply = rows(one.operate(Command::RotateKeys).await);
    assert_eq!([reply[0].state, reply[1].state], [KeyState::Current, KeyState::Next]);
    let next = reply[1].kid.clone();
    // The two replicas look for changes at different times. A replica must never refuse a valid token. A token must
    // not be signed with a key that has been in /jwks for less time than a response of /jwks can be cached.
    let mut first_seen = [None; 2];
    let mut live: Vec<String> = vec![tokens.access.clone()];
    for second in 0..640_u64 {
        if second % LOOK.as_secs() == 0 {
            one.state.follow_keys().await;
        }
        if second % LOOK.as_secs() == 3 {
            two.state.follow_keys().await;
        }
        for (seen, replica) in first_seen.iter_mut().zip(replicas) {
            if seen.is_none() && !(10..=590).contains(&second) && replica.kids().await.contains(&next) {
                *seen = Some(second);
            }
        }
        if second % 37 == 0 || (595..606).contains(&second) {
            let issuer = replicas[usize::try_from(second % 2).unwrap()];
            tokens = Tokens::of(issuer.refresh(&client, &tokens.refresh).await).await;
            let signed_by_next = kid_of(&tokens.access) == next;
            assert_eq!(signed_by_next, second >= 600, "at {second}");
            live.push(tokens.access.clone());
            for token in &live {
                for replica in replicas {
                    assert_eq!(replica.check_token(token).await.status(), StatusCode::OK, "at {second}");
                }
            }
        }
        one.wait(Duration::from_secs(1));
    }
    for seen in first_seen {
        assert!(seen.unwrap() + 297 < 600, "{first_seen:?}");
    }
    // The retired key is deleted once no token that it has signed can still be valid.
    assert!(one.kids().await.contains(&before));
    one.wait(Duration::from_secs(86_400 + 300));
    for replica in replicas {
        replica.state.follow_keys().await;
        assert_eq!(replica.kids().await, std::slice::from_ref(&next));
    }
}

#[actix_web::test]
async fn keys_rotate_by_themselves_and_to_another_algorithm() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    let first = app.state.take_rotated().unwrap();
    assert_eq!((first.current.as_str(), first.keys), (&*kid_of(&tokens.access), 1));
    app.wait(Duration::from_secs(90 * 86_400 - 600));
    app.state.follow_keys().await;
    let states: Vec<_> = app.key_rows().await.iter().map(|row| row.state).collect();
    assert_eq!(states, [KeyState::Current, KeyState::Next]);
    let rotated = app.state.take_rotated().unwrap();
    assert!(rotated.current == first.current && rotated.newest != first.newest && rotated.keys == 2);
    assert_eq!(app.state.take_rotated(), None, "a rotation is reported twice");
    app.wait(Duration::from_secs(600));

    for algorithm in ["ES256", "RS256"] {
        let changed = app.replica(&[("SIGNING_ALGORITHM", algorithm)]).await;
        app.wait(Duration::from_secs(600));
        changed.state.follow_keys().await;
        let client = changed.client().await;
        let tokens = changed.tokens(&client).await;
        let header = jsonwebtoken::decode_header(&tokens.access).unwrap();
        assert_eq!(format!("{:?}", header.alg), algorithm);
        assert_eq!(changed.check_token(&tokens.access).await.status(), StatusCode::OK);
        let answer = changed.check_token(&tokens.access).await;
        let assertion = answer.headers()["x-auth-assertion"].to_str().unwrap().to_owned();
        assert_eq!(kid_of(&assertion), kid_of(&tokens.access));
        // Verifies the token with the published keys, like any other verifier.
        let set: jsonwebtoken::jwk::JwkSet = serde_json::from_value(changed.jwks().await).unwrap();
        let jwk = set.find(&kid_of(&tokens.access)).unwrap();
        let mut validation = jsonwebtoken::Validation::new(header.alg);
        validation.set_audience(&[RESOURCE]);
        validation.validate_exp = false;
        let key = jsonwebtoken::DecodingKey::from_jwk(jwk).unwrap();
        assert!(jsonwebtoken::decode::<Value>(&tokens.access, &key, &validation).is_ok());
    }
    assert_ne!(app.check_token(&tokens.access).await.status(), StatusCode::OK, "the token has expired");
}

#[actix_web::test]
async fn a_revoked_key_opens_nothing_and_the_client_goes_on_with_its_refresh_token() {
    let one = TestApp::start().await;
    let two = one.replica(&[]).await;
    let client = one.client().await;
    let tokens = one.tokens(&client).await;
    for replica in [&one, &two] {
        assert_eq!(replica.check_token(&tokens.access).await.status(), StatusCode::OK);
    }
    let kid = kid_of(&tokens.access);
    let left = rows(one.operate(Command::RevokeKey { kid: kid.clone() }).await);
    assert!(left.iter().all(|row| row.kid != kid) && left[0].state == KeyState::Current);
    for replica in [&one, &two] {
        replica.state.follow_keys().await;
        assert_eq!(replica.check_token(&tokens.access).await.status(), StatusCode::UNAUTHORIZED);
        assert!(!replica.kids().await.contains(&kid));
    }
    let renewed = Tokens::of(two.refresh(&client, &tokens.refresh).await).await;
    for replica in [&one, &two] {
        assert_eq!(replica.check_token(&renewed.access).await.status(), StatusCode::OK);
    }
    assert!(matches!(one.operate(Command::RevokeKey { kid }).await, Reply::Refused(_)));
}

#[actix_web::test]
async fn a064_an_unknown_key_id_triggers_no_work() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let token = app.tokens(&client).await.access;
    let [_, claims, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!() };
    let before = app.kids().await;
    let checks = (0..200).map(|n| {
        let header =
            format!(r#"{{"alg":"EdDSA","typ":"at+jwt","kid":"unheard-of-{n}","jku":"{}/jwks"}}"#, app.public);
        let header = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, header);
        let forged = format!("{header}.{claims}.{signature}");
        let app = &app;
        async move { app.check_token(&forged).await.status() }
    });
    let statuses = futures_util::future::join_all(checks).await;
    assert!(statuses.iter().all(|status| *status == StatusCode::UNAUTHORIZED));
    assert_eq!(app.kids().await, before);
    assert_eq!(app.check_token(&token).await.status(), StatusCode::OK);
}
