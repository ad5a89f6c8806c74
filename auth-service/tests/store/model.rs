//! Runs random steps on both stores, in any order and at any time. Both must return the same results.

use auth_service::domain::client::{Client, ClientId};
use auth_service::domain::clock::UnixTime;
use auth_service::domain::grant::{AuthorizationCode, Grant};
use auth_service::domain::grant_id::GrantId;
use auth_service::store::{Store, StoreError};
use proptest::collection::vec;
use proptest::prelude::*;

use super::things::{
    GRACE, IDLE, NOW, account, client, code, document_client, grant, hash, held, id, successor, terms, usage,
};
use super::worlds::World;
use crate::redis_server::RedisServer;

/// The number of different clients, and the maximum number of clients in the store. Both are small, so that
/// steps often concern the same client and the maximum is reached.
const CLIENTS: usize = 5;
const CEILING: u64 = 3;

/// A step. Its numbers are indices, modulo the number of existing objects.
#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Register(usize),
    Look(usize),
    Update(usize),
    Switch(usize, bool),
    Delete(usize),
    Approve { client: usize, approval: usize },
    Find(usize),
    Redeem(usize),
    Rotate(usize),
    Revoke(usize),
    Once(usize),
    List,
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0_usize..100;
    let times = [1, 59, 60, 119, 121, 1800, 3600, 86_399, 86_400, 29 * 86_400, IDLE.as_secs()];
    prop_oneof![
        2 => prop::sample::select(times.to_vec()).prop_map(Step::Wait),
        4 => which.clone().prop_map(Step::Register),
        2 => which.clone().prop_map(Step::Look),
        1 => which.clone().prop_map(Step::Update),
        1 => (which.clone(), any::<bool>()).prop_map(|(n, off)| Step::Switch(n, off)),
        1 => which.clone().prop_map(Step::Delete),
        4 => (which.clone(), which.clone()).prop_map(|(client, approval)| Step::Approve { client, approval }),
        1 => which.clone().prop_map(Step::Find),
        4 => which.clone().prop_map(Step::Redeem),
        4 => which.clone().prop_map(Step::Rotate),
        1 => which.clone().prop_map(Step::Revoke),
        1 => which.prop_map(Step::Once),
        1 => Just(Step::List),
        1 => Just(Step::Sweep),
    ]
}

/// The state that the caller of the stores remembers. It can be out of date.
struct Caller {
    now: UnixTime,
    seen: Vec<Client>,
    codes: Vec<AuthorizationCode>,
    /// For each refresh token: its grant, its position in the sequence of tokens, and its name.
    tokens: Vec<(Grant, u32, String)>,
    steps: usize,
}

fn asked(n: usize) -> Client {
    match n % CLIENTS {
        4 => document_client("https://app.example/client.json"),
        n => client(&format!("c{n}")),
    }
}

/// The identifiers that are proposed for client `n`. Clients 2 and 3 have the same first identifier.
fn ids(n: usize) -> [ClientId; 2] {
    [id(["c0", "c1", "c2", "c2"][n % 4]), id(["d0", "d1", "d2", "d3"][n % 4])]
}

/// The text of an answer, without the times on the clocks of the stores. Each store has its own clock.
fn said<T: std::fmt::Debug>(answer: &Result<T, StoreError>) -> String {
    let mut text = format!("{answer:?}");
    while let Some(start) = text.find("by_store: Some(") {
        let end = start + text[start..].find("})").unwrap() + 2;
        text.replace_range(start..end, "by_store: None");
    }
    text
}

impl Caller {
    fn new() -> Self {
        let seen = (0..CLIENTS).map(asked).collect();
        Self { now: NOW, seen, codes: Vec::new(), tokens: Vec::new(), steps: 0 }
    }

    /// Runs a step on each store, and returns the results.
    async fn take(&mut self, step: &Step, stores: [&dyn Store; 2]) -> [String; 2] {
        self.steps += 1;
        let fresh = format!("fresh{}", self.steps);
        let mut answers = [String::new(), String::new()];
        let mut seen_now = None;
        let now = self.now;
        let known = |n: usize| self.seen[n % CLIENTS].clone();
        let code_at = |n: usize| self.codes.get(n % self.codes.len().max(1)).cloned();
        let person = account("ana");
        let new_client = |n: usize| Client { issued_at: now, ..asked(n) };
        let newcomer = match step {
            Step::Register(n) => Some(new_client(*n % 4)),
            Step::Update(n) => Some(Client { management: known(*n).management, ..new_client(*n) }),
            _ => None,
        };
        let new_code = match step {
            Step::Approve { client, .. } => Some(code(&known(*client), &person.subject, now)),
            _ => None,
        };
        for (answer, store) in answers.iter_mut().zip(stores) {
            *answer = match step {
                Step::Wait(_) => String::new(),
                Step::Register(n) => {
                    let newcomer = newcomer.as_ref().unwrap();
                    said(&store.register_client(newcomer, &ids(*n), &terms(now, CEILING)).await)
                }
                Step::Look(n) => {
                    let found = store.client(&known(*n).id, now).await;
                    if let Ok(Some(client)) = &found {
                        seen_now = Some((*n % CLIENTS, client.clone()));
                    }
                    said(&found)
                }
                Step::Update(n) => {
                    let mut updated = newcomer.clone().unwrap();
                    let management = known(*n).management.unwrap_or_else(|| hash("none"));
                    updated.fingerprint = Some(hash(&fresh));
                    said(&store.update_client(&management, &updated).await)
                }
                Step::Switch(n, off) => said(&store.set_client_disabled(&known(*n).id, *off).await),
                Step::Delete(n) => said(&store.delete_client(&known(*n).id).await),
                Step::Approve { client, approval } => {
                    let approval = format!("approval{}", approval % 20);
                    let used = usage(&known(*client), now);
                    said(&store.add_code(&approval, &hash(&fresh), new_code.as_ref().unwrap(), &used).await)
                }
                Step::Find(n) => match code_at(*n) {
                    Some(code) => said(&store.find_code(&hash(&code_name(&code)), now).await),
                    None => String::new(),
                },
                Step::Redeem(n) => match code_at(*n) {
                    Some(code) => {
                        let used = usage(&seen_by(&self.seen, &code), now);
                        let grant = grant(&code, &fresh, now);
                        said(&store.redeem_code(&hash(&code_name(&code)), &grant, &used).await)
                    }
                    None => String::new(),
                },
                Step::Rotate(n) => match self.tokens.get(n % self.tokens.len().max(1)) {
                    Some((grant, number, name)) => {
                        let token = held(grant, *number, name);
                        let belongs = store.grant_of_refresh(&token, now).await;
                        let holder = belongs.as_ref().ok().and_then(Option::as_ref);
                        let holder =
                            holder.and_then(|grant| self.seen.iter().find(|c| c.id == grant.client_id));
                        let used = usage(holder.unwrap_or(&self.seen[0]), now);
                        let next = successor(grant, number + 1, &fresh, now);
                        let outcome = store.rotate_refresh(&token, &next, &used, GRACE).await;
                        said(&belongs) + &said(&outcome)
                    }
                    None => String::new(),
                },
                Step::Revoke(n) => match code_at(*n) {
                    Some(code) => said(&store.revoke_grant(&code.grant_id).await),
                    None => String::new(),
                },
                Step::Once(n) => {
                    let until = now.plus(std::time::Duration::from_secs(3600));
                    said(&store.remember_once(&format!("once{}", n % 3), until, now).await)
                }
                Step::List => said(&store.clients(None, 100, now).await),
                // The numbers of deleted rows differ, because Redis deletes most rows on its own.
                Step::Sweep => said(&store.sweep(now).await.map(|_| ())),
            };
        }
        match step {
            Step::Wait(seconds) => self.now.0 += seconds,
            Step::Approve { .. } => {
                let mut made = new_code.unwrap();
                CODE_NAMES.with_borrow_mut(|names| names.insert(made.grant_id.clone(), fresh));
                made.authenticated_at = now;
                self.codes.push(made);
            }
            Step::Redeem(_) | Step::Rotate(_) => self.note_token(step, fresh),
            _ => {}
        }
        if let Some((n, client)) = seen_now {
            self.seen[n] = client;
        }
        answers
    }

    /// Records the refresh token that a step has created, if any.
    fn note_token(&mut self, step: &Step, name: String) {
        let made = match step {
            Step::Redeem(n) => {
                let code = self.codes.get(n % self.codes.len().max(1));
                code.map(|code| (grant(code, "", self.now), 0))
            }
            Step::Rotate(n) => {
                let last = self.tokens.get(n % self.tokens.len().max(1));
                last.map(|(grant, number, _)| (grant.clone(), number + 1))
            }
            _ => None,
        };
        self.tokens.extend(made.map(|(grant, number)| (grant, number, name)));
    }

    /// The results of all read-only calls.
    async fn look_around(&self, store: &dyn Store) -> String {
        let mut all = said(&store.clients(None, 100, self.now).await);
        for code in &self.codes {
            all += &said(&store.grant(&code.grant_id, self.now).await);
            all += &said(&store.held_grant(&code.grant_id, &code.client_id, &code.subject, self.now).await);
        }
        for (grant, number, name) in &self.tokens {
            all += &said(&store.grant_of_refresh(&held(grant, *number, name), self.now).await);
        }
        all
    }
}

thread_local! {
    static CODE_NAMES: std::cell::RefCell<std::collections::HashMap<GrantId, String>> = std::cell::RefCell::default();
}

fn code_name(code: &AuthorizationCode) -> String {
    CODE_NAMES.with_borrow(|names| names[&code.grant_id].clone())
}

fn seen_by(seen: &[Client], code: &AuthorizationCode) -> Client {
    seen.iter().find(|client| client.id == code.client_id).unwrap_or(&seen[0]).clone()
}

#[test]
fn both_stores_say_the_same_whatever_is_done() {
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let outcome = runner.run(&vec(step(), 1..80), |steps| {
        runtime.block_on(async {
            let (embedded, redis) = (World::embedded(), World::at(&server.url()).await);
            let mut caller = Caller::new();
            for step in &steps {
                let [one, other] = caller.take(step, [embedded.store(), redis.store()]).await;
                prop_assert_eq!(one, other, "{:?}", step);
                let (one, other) =
                    (caller.look_around(embedded.store()).await, caller.look_around(redis.store()).await);
                prop_assert_eq!(one, other, "after {:?}", step);
            }
            Ok(())
        })
    });
    outcome.unwrap();
}
