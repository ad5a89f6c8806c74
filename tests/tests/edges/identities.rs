//! Tests that a decision about one caller is used neither for another caller nor after a change.

use std::time::Duration;

use reqwest::Method;
use tests::browser::Person;
use tests::setup::ACCOUNT;
use tests::{Edge, Setup};
use tokio::task::JoinSet;

use crate::world::{World, arrived};

each_edge!(
    a079_a_name_reaches_the_wrapper_in_one_form,
    a082_a_verdict_for_one_host_is_none_for_another,
    a083_a_revoked_token_is_refused_at_once,
    a084_two_callers_at_once_are_two_callers,
    a085_nobody_is_in_a_group_or_domain_by_having_none,
    an_expired_token_is_refused,
);

impl World {
    /// Adds the account `bob`. Returns an access token for it.
    pub(crate) async fn second_person(&self) -> String {
        let once = self.stack.operator(&["user", "add", "bob"]);
        let once = once.lines().find_map(|line| line.strip_prefix("password:")).unwrap().trim().to_owned();
        let person = Person::new("bob", &once).choosing("another correct horse battery");
        self.stack.log_in_as(&person, &self.stack.mcp_url).await.unwrap().1.access_token
    }
}

pub(crate) async fn a079_a_name_reaches_the_wrapper_in_one_form(edge: Edge) {
    let world = World::start(edge).await;
    // A user name with different case logs in to the same account, and the wrapper receives the same user name.
    let person = Person::new("ANA", ACCOUNT.1);
    let (_, tokens) = world.stack.log_in_as(&person, &world.stack.mcp_url).await.unwrap();
    let mut seen = Vec::new();
    for token in [&world.token, &tokens.access_token] {
        let answer = world.ask(Method::POST, &[("authorization", &format!("Bearer {token}"))]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        seen.push((arrived(&answer.body, "x-auth-username"), arrived(&answer.body, "x-auth-subject")));
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0].0, ["ana"]);
}

pub(crate) async fn a085_nobody_is_in_a_group_or_domain_by_having_none(edge: Edge) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.toml");
    std::fs::write(&file, "default_scope = \"mcp\"\n").unwrap();
    let setup = Setup::as_shipped().through(edge).auth_setting("POLICY_FILE", file.to_str().unwrap());
    let world = World::of(setup).await;
    // Bob has neither an email address nor groups.
    let bearer = format!("Bearer {}", world.second_person().await);
    let ask = async |more: &[(&str, &str)]| {
        let mut headers = vec![("authorization", bearer.as_str())];
        headers.extend_from_slice(more);
        world.ask(Method::POST, &headers).await
    };
    assert_eq!(ask(&[]).await.status, 200);

    let rules = "[[service]]\nhost = \"*\"\ngroups = [\"staff\"]\nemail_domains = [\"example.com\"]\n";
    std::fs::write(&file, rules).unwrap();
    for _ in 0..100 {
        if ask(&[]).await.status == 403 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.upstream.take_heads();
    for claimed in ["", ",", "staff", "@example.com"] {
        let answer = ask(&[("x-auth-groups", claimed), ("x-auth-email", claimed)]).await;
        assert_eq!(answer.status, 403, "{claimed:?}: {answer:?}");
        assert_eq!(answer.challenge(), "", "no scope is enough: {answer:?}");
    }
    world.assert_nothing_passed("a request of a user without access");
    world.stack.operator(&["user", "groups", "bob", "staff"]);
    assert_eq!(ask(&[]).await.status, 200, "{}", world.stack.logs());
}

pub(crate) async fn a082_a_verdict_for_one_host_is_none_for_another(edge: Edge) {
    let world = World::start(edge).await;
    let other = format!("other.{}", world.host);
    let foreign = world.stack.log_in_for(&format!("http://{other}/mcp")).await.access_token;
    let ask = async |host: &str, token: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("Host", host), ("Authorization", bearer.as_str()), ("Connection", "close")];
        tests::raw::ask(world.stack.port, "GET", "/mcp", &headers).await.unwrap().status
    };
    for _ in 0..3 {
        assert_eq!(ask(&world.host, &world.token).await, 200);
        assert_eq!(ask(&other, &world.token).await, 401);
        assert_eq!(ask(&other, &foreign).await, 200);
        assert_eq!(ask(&world.host, &foreign).await, 401);
    }
}

pub(crate) async fn a083_a_revoked_token_is_refused_at_once(edge: Edge) {
    let world = World::start(edge).await;
    let person = Person::new(ACCOUNT.0, ACCOUNT.1);
    let (client, tokens) = world.stack.log_in_as(&person, &world.stack.mcp_url).await.unwrap();
    let bearer = format!("Bearer {}", tokens.access_token);
    for _ in 0..5 {
        assert_eq!(world.ask(Method::POST, &[("authorization", &bearer)]).await.status, 200);
    }
    let form = [("token", tokens.refresh_token.as_str()), ("client_id", &client.client_id)];
    let revoked = world.stack.http.post(world.stack.endpoint("revoke")).form(&form).send().await.unwrap();
    assert_eq!(revoked.status(), 200);
    world.upstream.take_heads();
    for _ in 0..5 {
        let answer = world.ask(Method::POST, &[("authorization", &bearer)]).await;
        assert_eq!(answer.status, 401, "{answer:?}");
        assert!(answer.challenge().contains("error=\"invalid_token\""), "{answer:?}");
    }
    world.assert_nothing_passed("a revoked token");
}

pub(crate) async fn a084_two_callers_at_once_are_two_callers(edge: Edge) {
    let world = World::start(edge).await;
    let bob = world.second_person().await;
    let mut tasks = JoinSet::new();
    for number in 0..120 {
        let (name, token) = if number % 2 == 0 { ("ana", &world.token) } else { ("bob", &bob) };
        let request = world.stack.http.post(&world.stack.mcp_url).bearer_auth(token);
        tasks.spawn(async move { (name, tests::Answer::read(request.send().await.unwrap()).await.unwrap()) });
    }
    let mut subjects = std::collections::BTreeSet::new();
    while let Some(done) = tasks.join_next().await {
        let (name, answer) = done.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(arrived(&answer.body, "x-auth-username"), [name]);
        subjects.extend(arrived(&answer.body, "x-auth-subject"));
    }
    assert_eq!(subjects.len(), 2, "{subjects:?}");
}

pub(crate) async fn an_expired_token_is_refused(edge: Edge) {
    let world = World::of(Setup::as_shipped().through(edge).auth_setting("ACCESS_TOKEN_TTL", "2s")).await;
    let bearer = world.bearer();
    assert_eq!(world.ask(Method::POST, &[("authorization", &bearer)]).await.status, 200);
    tokio::time::sleep(Duration::from_millis(3100)).await;
    world.upstream.take_heads();
    let answer = world.ask(Method::POST, &[("authorization", &bearer)]).await;
    assert_eq!(answer.status, 401, "{answer:?}");
    world.assert_nothing_passed("an expired token");
}
