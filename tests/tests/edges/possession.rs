//! Tests of tokens that are bound to a key (RFC 9449), through every edge. The proof must reach the check but not
//! the service, and the client must receive the nonce, even if it is a web page.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData as _, SigningKey as _};
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tests::browser::Person;
use tests::setup::ACCOUNT;
use tests::{Answer, Edge, Setup};

use crate::tools::{CALL, MODERN, under_policy};
use crate::world::{World, arrived};

each_edge!(
    a_bound_token_works_with_a_proof_and_the_nonce_that_the_check_asks_for,
    a_bound_token_that_lacks_a_scope_is_told_so_in_its_scheme,
    a_check_that_takes_half_a_second_is_made_once_and_passes,
);

/// A client's Ed25519 key.
struct Key(KeyPair);

impl Key {
    fn new() -> Self {
        Self(KeyPair::generate_for(&PKCS_ED25519).unwrap())
    }

    /// A proof for one request. The claims in `more` are added to the default claims or replace them.
    #[expect(clippy::disallowed_methods, reason = "a client uses the wall clock")]
    fn proof(&self, method: &str, url: &str, more: &Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let mut claims =
            json!({ "jti": format!("{}", now.as_nanos()), "htm": method, "htu": url, "iat": now.as_secs() });
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let x = URL_SAFE_NO_PAD.encode(self.0.der_bytes());
        let header = json!({
            "typ": "dpop+jwt", "alg": "EdDSA", "jwk": { "kty": "OKP", "crv": "Ed25519", "x": x },
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = self.0.sign(signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The nonce in a response, which must contain exactly one.
#[track_caller]
fn nonce(answer: &Answer) -> String {
    let named: Vec<_> = answer.headers.get_all("dpop-nonce").iter().collect();
    let [nonce] = named[..] else { panic!("{} nonces: {answer:?}", named.len()) };
    nonce.to_str().unwrap().to_owned()
}

/// A token for the MCP endpoint that is bound to the key.
async fn bound(world: &World, key: &Key) -> String {
    let stack = &world.stack;
    let client = stack.register_as("holds a key").await.unwrap();
    let code = stack.code(&client, &Person::new(ACCOUNT.0, ACCOUNT.1), &stack.mcp_url).await.unwrap();
    let redeem = async |more: Value| {
        let proof = key.proof("POST", &stack.endpoint("token"), &more);
        stack.redeem_proving(&client, &code, &stack.mcp_url, &proof).await.unwrap()
    };
    let asked = redeem(json!({})).await;
    assert_eq!(asked.json().unwrap()["error"], "use_dpop_nonce", "{asked:?}");
    let answer = redeem(json!({ "nonce": nonce(&asked) })).await;
    let tokens = answer.json().unwrap();
    assert_eq!(tokens["token_type"], "DPoP", "{answer:?}");
    tokens["access_token"].as_str().unwrap().to_owned()
}

pub(crate) async fn a_bound_token_works_with_a_proof_and_the_nonce_that_the_check_asks_for(edge: Edge) {
    let world = World::of(Setup::as_shipped().through(edge).auth_setting("DPOP", "nonce")).await;
    let key = Key::new();
    let token = bound(&world, &key).await;
    let ath = URL_SAFE_NO_PAD.encode(Sha256::digest(&token));
    let call = async |scheme: &str, proof: &str| {
        let authorization = format!("{scheme} {token}");
        let headers =
            [("authorization", authorization.as_str()), ("dpop", proof), ("origin", "http://localhost:6274")];
        world.ask(Method::POST, &headers).await
    };

    let first = key.proof("POST", &world.stack.mcp_url, &json!({ "ath": ath }));
    let asked = call("DPoP", &first).await;
    assert_eq!(asked.status, 401, "{asked:?}");
    assert!(asked.challenge().starts_with("DPoP error=\"use_dpop_nonce\""), "{asked:?}");
    // A client that is a web page can also read the header.
    let exposed = asked.header("access-control-expose-headers").to_lowercase();
    assert!(exposed.split(", ").any(|name| name == "dpop-nonce"), "{asked:?}");

    let with_nonce = || json!({ "ath": ath, "nonce": nonce(&asked) });
    let proof = key.proof("POST", &world.stack.mcp_url, &with_nonce());
    // A thief has only the token, or the token and a different key.
    let foreign = Key::new().proof("POST", &world.stack.mcp_url, &with_nonce());
    for (scheme, proof) in [("Bearer", proof.as_str()), ("DPoP", foreign.as_str())] {
        let answer = call(scheme, proof).await;
        assert_eq!(answer.status, 401, "{scheme}: {answer:?}");
        assert!(answer.challenge().starts_with("DPoP error="), "{scheme}: {answer:?}");
    }
    world.assert_nothing_passed("a token without its key");

    let answer = call("DPoP", &proof).await;
    assert_eq!(answer.status, 200, "{answer:?}\n{}", world.stack.logs());
    assert_eq!(arrived(&answer.body, "x-auth-username"), [ACCOUNT.0]);
    assert!(arrived(&answer.body, "dpop").is_empty(), "{answer:?}");
    world.upstream.take_heads();
    assert_eq!(call("DPoP", &proof).await.status, 401, "a proof can be used only once");
    world.assert_nothing_passed("a proof that was used before");
}

/// An edge that repeats a slow check would use a proof twice.
pub(crate) async fn a_check_that_takes_half_a_second_is_made_once_and_passes(edge: Edge) {
    let world = World::of(Setup::as_shipped().through(edge).auth_setting("DPOP", "nonce")).await;
    let key = Key::new();
    let token = bound(&world, &key).await;
    let ath = URL_SAFE_NO_PAD.encode(Sha256::digest(&token));
    let first = key.proof("POST", &world.stack.mcp_url, &json!({ "ath": ath }));
    let bound = format!("DPoP {token}");
    let asked = world.ask(Method::POST, &[("authorization", &bound), ("dpop", &first)]).await;
    for pause in [80, 500].map(Duration::from_millis) {
        let proof = key.proof("POST", &world.stack.mcp_url, &json!({ "ath": ath, "nonce": nonce(&asked) }));
        let bearer = world.bearer();
        for headers in
            [&[("authorization", bearer.as_str())][..], &[("authorization", &bound), ("dpop", &proof)]]
        {
            world.stack.signal_auth_service(Signal::STOP);
            let go_on = async {
                tokio::time::sleep(pause).await;
                world.stack.signal_auth_service(Signal::CONT);
            };
            let (answer, ()) = tokio::join!(world.ask(Method::POST, headers), go_on);
            assert_eq!(answer.status, 200, "{pause:?}, {} headers: {answer:?}", headers.len());
        }
    }
}

pub(crate) async fn a_bound_token_that_lacks_a_scope_is_told_so_in_its_scheme(edge: Edge) {
    let (setup, _policy) = under_policy(edge);
    let world = World::of(setup.auth_setting("DPOP", "nonce")).await;
    let key = Key::new();
    let token = bound(&world, &key).await;
    let ath = URL_SAFE_NO_PAD.encode(Sha256::digest(&token));
    let authorization = format!("DPoP {token}");
    let call = async |tool: &str, claims: Value| {
        let proof = key.proof("POST", &world.stack.mcp_url, &claims);
        let headers =
            [("authorization", authorization.as_str()), ("dpop", &proof), MODERN, CALL, ("Mcp-Name", tool)];
        world.ask(Method::POST, &headers).await
    };
    let asked = call("read_all", json!({ "ath": ath })).await;
    let proven = || json!({ "ath": ath, "nonce": nonce(&asked) });

    let refused = call("delete_all", proven()).await;
    assert_eq!(refused.status, 403, "{refused:?}");
    let challenge = refused.challenge();
    assert!(challenge.starts_with("DPoP error=\"insufficient_scope\""), "{challenge}");
    for part in ["algs=\"", "resource_metadata=\"", "notes:write"] {
        assert!(challenge.contains(part), "{part} in {challenge}");
    }
    world.assert_nothing_passed("a tool beyond the scope of a bound token");
    assert_eq!(call("read_all", proven()).await.status, 200, "{}", world.stack.logs());
}
