//! Tests that auth-service survives floods of strangers and of one account.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use tests::browser::{Person, authorize_in, browser};
use tests::container::Container;
use tests::control_group::ControlGroup;
use tests::flood::{Flood, Kind};
use tests::next_door::{Comparison, Side, is_for_a_table};
use tests::oauth::REDIRECT_URI;
use tests::setup::ACCOUNT;
use tests::upstream::Upstream;
use tests::{Answer, Gate, Registration, Setup, Stack, Tier, say};

use crate::honest::Honest;
use crate::redis_server::RedisServer;
use crate::{Memory, ONE_AT_A_TIME};

/// The number of addresses that the strangers use.
const ADDRESSES: u8 = 100;

/// The number of requests that strangers send at the same time.
const AT_ONCE: usize = 500;

#[tokio::test]
async fn a100_strangers_do_not_end_auth_service_with_a_store_of_its_own() {
    strangers("a store of its own", Setup::as_shipped()).await;
}

#[tokio::test]
async fn a100_strangers_do_not_end_auth_service_on_redis() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    let setup = Setup::as_shipped()
        .auth_setting("REDIS_URL", &redis.url())
        .auth_setting("STORE_KEY", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=");
    strangers("Redis", setup).await;
}

/// A stack with an edge for the honest user. Its auth-service runs with the limits of its container.
async fn bounded(setup: Setup, upstream: &Upstream) -> Stack {
    setup
        .in_front_of(upstream.port)
        .auth_setting("TOKEN_CACHE_SIZE", &Container::of_auth_service().setting("TOKEN_CACHE_SIZE"))
        .auth_setting("TRUSTED_PROXIES", "127.0.0.1/32")
        .auth_setting("ADDITIONAL_GRANTS", "device_code")
        .within(Tier::AuthService, Container::of_auth_service().bounds())
        .start()
        .await
}

async fn strangers(store: &str, setup: Setup) {
    let bounds = Container::of_auth_service().bounds();
    if !ControlGroup::is_possible(bounds, "a100_strangers_do_not_end_auth_service") {
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().await;
    let upstream = Upstream::start().await;
    let mut stack = bounded(setup, &upstream).await;
    let mut honest = Honest::new(&stack, Person::new(ACCOUNT.0, ACCOUNT.1)).await;
    let quiet = honest.is_served(&stack).await;
    say(&format!("FIGURE auth-service on {store}, quiet: {quiet}"));
    let mut memory = Memory::before(&stack, Tier::AuthService);
    let floods = floods_of_strangers(&stack, &honest).await;
    let neighbour = neighbour(&upstream).await;
    let next_door = match &neighbour {
        Some(neighbour) => floods_of_strangers(neighbour, &honest).await,
        None => Vec::new(),
    };
    let what = format!("auth-service on {store}");
    during(&mut stack, &mut honest, &mut memory, &what, floods, next_door).await;
    memory.is_back(&mut stack, &format!("auth-service on {store} after strangers"));
}

/// A second auth-service on the same machine, if the figures are for a table.
async fn neighbour(upstream: &Upstream) -> Option<Stack> {
    if is_for_a_table() { Some(bounded(Setup::as_shipped(), upstream).await) } else { None }
}

/// Runs one flood after another, and serves the honest user during each of them. If there is a neighbour, `next_door`
/// contains the same floods of the neighbour.
async fn during(
    stack: &mut Stack,
    honest: &mut Honest,
    memory: &mut Memory,
    what: &str,
    here: Vec<(&str, Start)>,
    next_door: Vec<(&str, Start)>,
) {
    let mut next_door = next_door.into_iter();
    for (name, here) in here {
        let next_door = next_door.next().map(|(_, start)| start);
        let comparison = Comparison::of(Duration::from_secs(1), next_door, here, async |side| {
            if side == Side::Here {
                memory.look(stack);
            }
            let seen = honest.is_served(stack).await;
            if side == Side::Here {
                memory.look(stack);
                // The listener for operators must also respond.
                assert_eq!(stack.ready().await.status, 200, "{name}");
            }
            seen
        })
        .await;
        say(&format!("FIGURE {what}, {name} {comparison}"));
        assert!(stack.runs(Tier::AuthService), "{name}\n{}", stack.logs());
    }
}

type Start = Box<dyn Fn() -> Vec<Flood>>;

async fn floods_of_strangers(stack: &Stack, honest: &Honest) -> Vec<(&'static str, Start)> {
    let client = stack.register_as("a stranger's client").await.unwrap();
    let (device, resource) = (device(stack).await, stack.mcp_url.clone());
    let host = format!("localhost:{}", stack.port);
    let (public, edge, grpc, ops) =
        (stack.auth_public_port, stack.auth_edge_port, stack.auth_edge_grpc_port, stack.ops_port);
    let stalled = move |port: u16, kind: Kind, connections: usize| {
        let host = host.clone();
        move || Flood::stalled(port, &host, &kind, connections, ADDRESSES)
    };
    // Each request has about thirty bytes, but needs much more memory once it is parsed.
    let ahead = |path: &str| {
        Kind::Bytes(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").repeat(20_000).into_bytes())
    };
    let ahead = [
        stalled(public, ahead("/errors"), 500),
        stalled(edge, ahead("/verify/caddy"), 1000),
        stalled(ops, ahead("/metrics"), 50),
    ];
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    let heads = [
        stalled(public, Kind::Head(120_000), 1500),
        stalled(edge, Kind::Head(120_000), 2500),
        stalled(ops, Kind::Head(120_000), 100),
        stalled(grpc, Kind::Bytes(preface), 400),
    ];
    let bodies = [
        stalled(public, Kind::Body("/token".into(), 15_000), 1500),
        stalled(edge, Kind::Body("/verify/caddy".into(), 100_000), 1500),
        stalled(ops, Kind::Body("/ready".into(), 100_000), 100),
    ];
    vec![
        ("unterminated heads", Box::new(move || heads.iter().map(|start| start()).collect()) as Start),
        ("stalled bodies", Box::new(move || bodies.iter().map(|start| start()).collect())),
        ("requests sent ahead", Box::new(move || ahead.iter().map(|start| start()).collect())),
        ("registrations", posts(stack, "/register", JSON, registration)),
        (
            "authorizations",
            requests(stack, {
                let path = authorization(stack, &client);
                move |_| ("GET", path.clone(), FORM, String::new())
            }),
        ),
        (
            "pushed requests",
            posts(stack, "/par", FORM, {
                let path = authorization(stack, &client);
                let query = path.split_once('?').unwrap().1.to_owned();
                move |number| format!("{query}&nonce={number}")
            }),
        ),
        (
            "devices",
            posts(stack, "/device_authorization", FORM, move |_| {
                format!("client_id={device}&scope=mcp&resource={resource}")
            }),
        ),
        (
            "wrong codes",
            posts(stack, "/token", FORM, {
                let id = client.client_id.clone();
                move |number| {
                    format!(
                        "grant_type=authorization_code&client_id={id}&code=wrong-{number}&code_verifier={VERIFIER}"
                    )
                }
            }),
        ),
        ("wrong passwords", wrong_passwords(stack).await),
        ("checks of wrong tokens", checks(stack, 64, wrong_tokens(honest.token()))),
    ]
}

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
const VERIFIER: &str = "a-code-verifier-that-is-long-enough-0123456789-abc";

/// The method, path, content type and body of a request.
type Request = (&'static str, String, &'static str, String);

fn requests(stack: &Stack, of: impl Fn(usize) -> Request + Send + Sync + 'static) -> Start {
    let (port, host) = (stack.auth_public_port, format!("localhost:{}", stack.port));
    let of = Arc::new(of);
    Box::new(move || {
        let (host, of) = (host.clone(), of.clone());
        vec![Flood::requests(port, AT_ONCE, ADDRESSES, move |number| {
            let (method, path, kind, body) = of(number);
            let length = body.len();
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}")
                .into_bytes()
        })]
    })
}

fn posts(
    stack: &Stack,
    path: &'static str,
    kind: &'static str,
    body: impl Fn(usize) -> String + Send + Sync + 'static,
) -> Start {
    requests(stack, move |number| ("POST", path.to_owned(), kind, body(number)))
}

fn registration(number: usize) -> String {
    json!({ "client_name": format!("stranger {number}"), "redirect_uris": [REDIRECT_URI], "token_endpoint_auth_method": "none" })
        .to_string()
}

/// The path and query of a client's authorization URL.
fn authorization(stack: &Stack, client: &Registration) -> String {
    let url = stack.authorization_url(client, &stack.mcp_url);
    format!("{}?{}", url.path(), url.query().unwrap())
}

async fn device(stack: &Stack) -> String {
    let grant = "urn:ietf:params:oauth:grant-type:device_code";
    let metadata =
        json!({ "client_name": "a device", "token_endpoint_auth_method": "none", "grant_types": [grant] });
    let request = stack.http.post(stack.endpoint("register")).json(&metadata);
    let answer = Answer::read(request.send().await.unwrap()).await.unwrap();
    answer.json().unwrap().get("client_id").unwrap().as_str().unwrap().to_owned()
}

/// Login attempts with wrong passwords in one browser's form, for user names with and without accounts.
async fn wrong_passwords(stack: &Stack) -> Start {
    let page = stack.get(&stack.endpoint("login")).await.unwrap();
    let after = |text: &str, before: &str, end: char| {
        text.split_once(before).and_then(|(_, rest)| rest.split_once(end)).unwrap().0.to_owned()
    };
    let form_token = after(&page.body, "name=\"form_token\" value=\"", '"');
    let cookies: Vec<_> =
        page.headers.get_all("set-cookie").iter().map(|cookie| cookie.to_str().unwrap()).collect();
    let cookie: Vec<_> = cookies.iter().map(|cookie| cookie.split(';').next().unwrap()).collect();
    let cookie = cookie.join("; ");
    let (port, host) = (stack.auth_public_port, format!("localhost:{}", stack.port));
    Box::new(move || {
        let (form_token, cookie, host) = (form_token.clone(), cookie.clone(), host.clone());
        vec![Flood::requests(port, AT_ONCE, ADDRESSES, move |number| {
            let body =
                format!("form_token={form_token}&username=user-{}&password=wrong-{number}", number % 1000);
            let length = body.len();
            format!("POST /login HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nCookie: {cookie}\r\nContent-Type: {FORM}\r\nContent-Length: {length}\r\n\r\n{body}")
                .into_bytes()
        })]
    })
}

/// Checks of requests with a token, as an edge sends them over kept-alive connections.
fn checks(
    stack: &Stack,
    connections: usize,
    token: impl Fn(usize) -> String + Send + Sync + 'static,
) -> Start {
    let (port, secret) = stack.check_at();
    let (host, token) = (format!("localhost:{}", stack.port), Arc::new(token));
    Box::new(move || {
        let (host, secret, token) = (host.clone(), secret.clone(), token.clone());
        vec![Flood::requests(port, connections, 0, move |number| {
            let token = token(number);
            format!("POST /verify/caddy HTTP/1.1\r\nHost: {host}\r\nX-Edge-Secret: {secret}\r\nX-Forwarded-Method: POST\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: {host}\r\nX-Forwarded-Uri: /mcp\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n")
                .into_bytes()
        })]
    })
}

/// The valid token with a different signature each time.
fn wrong_tokens(good: &str) -> impl Fn(usize) -> String + use<> {
    let (start, signature) = good.rsplit_once('.').unwrap();
    let (start, length) = (start.to_owned(), signature.len());
    move |number| format!("{start}.{number:A>length$}")
}

#[tokio::test]
async fn on_a_machine_with_64_cores_it_has_enough_threads() {
    if !ControlGroup::is_possible(
        Container::of_auth_service().bounds(),
        "on_a_machine_with_64_cores_it_has_enough_threads",
    ) {
        return;
    }
    let upstream = Upstream::start().await;
    let stack = bounded(Setup::as_shipped().auth_setting("WORKERS", "64"), &upstream).await;
    Honest::new(&stack, Person::new(ACCOUNT.0, ACCOUNT.1)).await;
}

#[tokio::test]
async fn a100_somebody_with_an_account_does_not_end_auth_service() {
    let bounds = Container::of_auth_service().bounds();
    if !ControlGroup::is_possible(bounds, "a100_somebody_with_an_account_does_not_end_auth_service") {
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().await;
    let upstream = Upstream::start().await;
    let mut stack = bounded(Setup::as_shipped(), &upstream).await;
    stack.add_account("bob", Some(BOB));
    let token = stack.log_in().await.access_token;
    let mut bob = Honest::new(&stack, Person::new("bob", BOB)).await;
    let quiet = bob.is_served(&stack).await;
    say(&format!("FIGURE auth-service, quiet: {quiet}"));
    let mut memory = Memory::before(&stack, Tier::AuthService);
    let floods = floods_of_one_account(&stack, token);
    let neighbour = neighbour(&upstream).await;
    let next_door = match &neighbour {
        Some(neighbour) => floods_of_one_account(neighbour, neighbour.log_in().await.access_token),
        None => Vec::new(),
    };
    during(&mut stack, &mut bob, &mut memory, "auth-service", floods, next_door).await;
    memory.is_back(&mut stack, "auth-service after one account");
}

const BOB: &str = "another battery that is a staple";

fn floods_of_one_account(stack: &Stack, token: String) -> Vec<(&'static str, Start)> {
    let gate = stack.gate.clone();
    vec![
        ("logins, consents and refreshes of one account", Box::new(move || vec![consents(&gate)])),
        ("checks of a good token on 1900 connections", checks(stack, 1900, move |_| token.clone())),
    ]
}

/// Ana in sixteen browsers. Each of them repeatedly registers a client, allows it, gets tokens and refreshes them.
fn consents(gate: &Gate) -> Flood {
    Flood::of(16, |member, counts| {
        let gate = gate.clone();
        async move {
            let browser = browser().unwrap();
            for number in 0.. {
                let client = async {
                    let client = gate.register_as(&format!("client {number} of {member}")).await?;
                    let mut url = gate.authorization_url(&client, &gate.mcp_url);
                    url.query_pairs_mut().append_pair("prompt", "consent");
                    let person = Person::new(ACCOUNT.0, ACCOUNT.1);
                    let back = authorize_in(&browser, url, REDIRECT_URI, &person).await?;
                    let code = back
                        .query_pairs()
                        .find(|(name, _)| name == "code")
                        .context("no code")?
                        .1
                        .into_owned();
                    let mut tokens = gate.redeem(&client, &code, &gate.mcp_url).await?;
                    for _ in 0..10 {
                        tokens = gate.refresh(&client, &tokens.refresh_token).await?;
                        counts.answered(200);
                    }
                    anyhow::Ok(())
                };
                if client.await.is_err() {
                    counts.answered(503);
                }
            }
        }
    })
}
