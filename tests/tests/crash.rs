//! Kills auth-service with SIGKILL while it works. After a restart, everything that it acknowledged must still be
//! stored, and everything that it ended must still be invalid. There are six rounds, and more until
//! `CHAOS_SECONDS` have passed.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tests::browser::Person;
use tests::{Registration, Setup, Stack, Tokens};
use tokio::sync::RwLock;
use tokio::task::JoinSet;

const ROUNDS: u64 = 6;
const WORKERS: usize = 4;

/// Everything that auth-service has acknowledged to clients and users.
#[derive(Default)]
struct Acknowledged {
    clients: Vec<Registration>,
    accounts: Vec<Person>,
    grants: Vec<(Registration, Tokens)>,
    revoked: Vec<(Registration, Tokens)>,
}

type Shared = Arc<Mutex<Acknowledged>>;

/// Registers, logs in, refreshes and revokes repeatedly until the service is killed. Records everything that was
/// acknowledged.
async fn work(stack: Arc<RwLock<Stack>>, newcomer: Person, done: Shared) {
    let stack = stack.read().await;
    let mut person = newcomer;
    loop {
        let Ok(client) = stack.register().await else {
            return;
        };
        done.lock().unwrap().clients.push(client.clone());
        let Ok(code) = stack.code(&client, &person, &stack.mcp_url).await else {
            return;
        };
        // The first login has replaced the one-time password with a permanent one.
        if person.password != person.new_password {
            person.password.clone_from(&person.new_password);
            done.lock().unwrap().accounts.push(person.clone());
        }
        let Ok(tokens) = stack.redeem(&client, &code, &stack.mcp_url).await else {
            return;
        };
        let slot = {
            let mut done = done.lock().unwrap();
            done.grants.push((client.clone(), tokens.clone()));
            done.grants.len() - 1
        };
        let Ok(newer) = stack.refresh(&client, &tokens.refresh_token).await else {
            return;
        };
        done.lock().unwrap().grants.get_mut(slot).unwrap().1 = newer;
        let Ok(code) = stack.code(&client, &person, &stack.mcp_url).await else {
            return;
        };
        let Ok(tokens) = stack.redeem(&client, &code, &stack.mcp_url).await else {
            return;
        };
        let form = [("token", &tokens.refresh_token), ("client_id", &client.client_id)];
        match stack.http.post(stack.endpoint("revoke")).form(&form).send().await {
            Ok(answer) if answer.status() == 200 => done.lock().unwrap().revoked.push((client, tokens)),
            _ => return,
        }
    }
}

/// Whether auth-service knows this client. For an unknown client, it sends no redirect.
async fn is_known(stack: &Stack, client: &Registration) -> bool {
    let url = stack.authorization_url(client, &stack.mcp_url);
    stack.http.get(url).send().await.unwrap().status().is_redirection()
}

/// Asserts that every client can start an authorization, every user can log in, every grant can be refreshed,
/// and every revoked grant is invalid.
async fn verify(stack: &Stack, done: &Acknowledged) {
    assert!(!is_known(stack, &Registration { client_id: "mcp_nobody".into() }).await);
    for client in &done.clients {
        assert!(is_known(stack, client).await, "{client:?} was lost");
    }
    for person in &done.accounts {
        if let Err(error) = stack.log_in_as(person, &stack.mcp_url).await {
            panic!("{person:?} cannot log in any more: {error:#}");
        }
    }
    for (client, tokens) in &done.grants {
        if let Err(error) = stack.refresh(client, &tokens.refresh_token).await {
            panic!("the grant of {client:?} was lost: {error:#}");
        }
    }
    for (client, tokens) in &done.revoked {
        let refreshed = stack.refresh(client, &tokens.refresh_token).await;
        assert!(refreshed.is_err(), "{client:?} can refresh a revoked grant");
        let answer = stack.http.post(&stack.mcp_url).bearer_auth(&tokens.access_token).send().await.unwrap();
        assert_eq!(answer.status(), 401, "a revoked token of {client:?} passes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_auth_service_is_killed() {
    let upstream = tests::upstream::Upstream::start().await;
    let mut stack = Setup::as_shipped().in_front_of(upstream.port).start().await;
    let (mut clients, mut accounts, mut grants, mut revoked) = (0, 0, 0, 0);
    let least = std::env::var("CHAOS_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let (begun, mut round) = (Instant::now(), 0);
    while round < ROUNDS || begun.elapsed() < Duration::from_secs(least) {
        stack.kill_auth_service();
        let newcomers: Vec<Person> = (0..WORKERS)
            .map(|worker| {
                let name = format!("newcomer-{round}-{worker}");
                let once = stack.add_account(&name, None);
                Person::new(&name, &once).choosing("a password of my own, and a long one")
            })
            .collect();
        stack.start_auth_service().await;

        let done = Shared::default();
        let shared = Arc::new(RwLock::new(stack));
        let mut workers = JoinSet::new();
        for person in newcomers {
            workers.spawn(work(shared.clone(), person, done.clone()));
        }
        // The service is killed at a different moment in each round, from the first logins to later ones.
        tokio::time::sleep(Duration::from_millis(300 + 450 * (round % ROUNDS) + 67 * (round / ROUNDS))).await;
        let pid = shared.read().await.auth_service_pid();
        tests::process::kill_9(pid);
        while let Some(ended) = workers.join_next().await {
            ended.unwrap();
        }
        stack =
            Arc::try_unwrap(shared).unwrap_or_else(|_| panic!("a worker still uses the stack")).into_inner();
        stack.kill_auth_service();
        stack.start_auth_service().await;

        let done = std::mem::take(&mut *done.lock().unwrap());
        verify(&stack, &done).await;
        clients += done.clients.len();
        accounts += done.accounts.len();
        grants += done.grants.len();
        revoked += done.revoked.len();
        round += 1;
    }
    println!(
        "{round} rounds: {clients} clients, {accounts} passwords and {grants} grants acknowledged, all kept; {revoked} \
         revocations, none undone"
    );
    assert!(
        clients > 0 && accounts > 0 && grants > 0 && revoked > 0,
        "too little happened to prove anything"
    );
}
