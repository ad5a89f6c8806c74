//! The tasks that use the service during the faults. They create grants, revoke them, refresh, redeem, register,
//! or send invalid tokens.

use std::time::{Duration, Instant};

use auth_service::domain::account::Account;
use auth_service::domain::client::Client;
use auth_service::domain::clock::{Clock, SystemClock};
use auth_service::domain::grant::Grant;
use auth_service::domain::grant_id::GrantId;
use auth_service::domain::opaque_token::{OpaqueToken, TokenHash, TokenKind};
use auth_service::domain::refresh_token::RefreshToken;
use auth_service::store::{
    AccountStore, Addition, Change, ClientStore, CodeStore, Deletion, DirectGrant, GrantStore, Issuance,
};
use reqwest::StatusCode;
use tokio::time::sleep;

use super::{BOUND, Storm, chance, count};
use crate::store::things::{
    NOW, access_token, account, client, code, grant, id, random, refresh_token, terms, usage,
};

/// A user with a grant and its two tokens.
struct Newcomer {
    client: Client,
    account: Account,
    grant: Grant,
    access: String,
    refresh: RefreshToken,
}

impl Storm {
    /// Stores a new user with a grant and its two tokens. Returns `None` if Redis did not store everything.
    async fn newcomer(&self, name: &str) -> Option<Newcomer> {
        let client = client(name);
        let terms = terms(NOW, 1_000_000);
        let ids = [client.id.clone()];
        self.store.register_client(&client, &ids, &terms).await.ok()?;
        let account = account(&format!("{name}-person"));
        let Ok(Addition::Added) = self.store.add_account(&account).await else { return None };
        let grant = grant(&code(&client, &account.subject, NOW), name, NOW);
        let refresh = refresh_token(&grant.id, 0, name);
        let granted = self.store.add_grant(&grant, &usage(&client, NOW)).await;
        let Ok(DirectGrant::Created) = granted else { return None };
        let access = self.token(&grant);
        Some(Newcomer { client, account, grant, access, refresh })
    }

    fn token(&self, grant: &Grant) -> String {
        access_token(&self.keys, grant, SystemClock.now())
    }

    /// Creates grants and revokes them, one after another.
    pub(super) async fn revoke(&self, who: usize) {
        for n in 0.. {
            if !self.goes_on() {
                return;
            }
            let name = format!("r{who}-{n}");
            let Some(Newcomer { client, account, grant, access: token, refresh }) =
                self.newcomer(&name).await
            else {
                sleep(Duration::from_millis(20)).await;
                continue;
            };
            // All replicas put the token into their cache.
            for replica in &self.replicas {
                for _ in 0..2 {
                    self.check(replica, &token).await;
                }
            }
            let by_http = [("token", refresh.expose()), ("client_id", client.id.as_str())];
            let acknowledged = match chance() % 4 {
                0 => self.store.revoke_grant(&grant.id).await.is_ok(),
                1 => {
                    let switched = self.store.set_account_disabled(&account.subject, true).await;
                    matches!(switched, Ok(Change::Changed))
                }
                2 => matches!(self.store.delete_client(&client.id).await, Ok(Deletion::Deleted)),
                _ => self.post("/revoke", &by_http).await.is_some_and(|(status, _)| status == StatusCode::OK),
            };
            if !acknowledged {
                continue;
            }
            count(&self.seen.revoked);
            let since = Instant::now();
            for wait in [BOUND, Duration::from_millis(100), Duration::from_millis(400)] {
                sleep(wait).await;
                for (number, replica) in self.replicas.iter().enumerate() {
                    let asked = since.elapsed();
                    if self.check(replica, &token).await == Some(StatusCode::OK) {
                        self.wrong(&format!(
                            "{name} passes at replica {number}, checked {asked:?} after its end"
                        ));
                    }
                }
            }
        }
    }

    /// Keeps one grant alive, and refreshes its tokens repeatedly.
    pub(super) async fn live(&self, who: usize) {
        let Newcomer { client, grant, refresh: first, .. } = loop {
            let started = Instant::now();
            match self.newcomer(&format!("l{who}-{}", TokenHash::of(&random()).text())).await {
                Some(newcomer) => break newcomer,
                None if started.elapsed() > Duration::from_secs(60) => panic!("no newcomer"),
                None => sleep(Duration::from_millis(50)).await,
            }
        };
        let (mut refresh, mut access) = (first.expose().to_owned(), self.token(&grant));
        let mut tries = Instant::now();
        while self.goes_on() {
            if self.check(self.replica(), &access).await == Some(StatusCode::UNAUTHORIZED) {
                self.wrong(&format!("l{who}: a live token is refused"));
            }
            let form = [
                ("grant_type", "refresh_token"),
                ("client_id", client.id.as_str()),
                ("refresh_token", refresh.as_str()),
            ];
            match self.post("/token", &form).await {
                Some((StatusCode::OK, body)) => {
                    let text = |name: &str| body[name].as_str().unwrap().to_owned();
                    (refresh, access) = (text("refresh_token"), text("access_token"));
                    count(&self.seen.refreshed);
                    tries = Instant::now();
                }
                Some((StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED, body)) => {
                    self.wrong(&format!("l{who}: a live refresh token: {body}"));
                    return;
                }
                // There was no response, or the store is unavailable. The same token is used again.
                _ => sleep(Duration::from_millis(20)).await,
            }
            assert!(tries.elapsed() < Duration::from_secs(100), "l{who}: no refresh succeeds any more");
        }
        self.is_back().await;
        match self
            .store
            .grant_of_refresh(&RefreshToken::parse(&refresh).unwrap().presented(), SystemClock.now())
            .await
            .unwrap()
        {
            Some(found) if found.id == grant.id => {}
            _ => self.wrong(&format!("l{who}: an acknowledged refresh token is lost")),
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.check(self.replica(), &access).await {
                Some(StatusCode::OK) => return,
                // A replica might notice only now that its connection was broken.
                Some(StatusCode::SERVICE_UNAVAILABLE) | None if Instant::now() < deadline => {}
                status => return self.wrong(&format!("l{who}: at the end, a live token gets {status:?}")),
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Creates codes, and redeems each of them on two replicas at the same time.
    pub(super) async fn redeem(&self) {
        for n in 0.. {
            if !self.goes_on() {
                return;
            }
            let name = format!("c-{n}");
            let Some(Newcomer { client, account, .. }) = self.newcomer(&name).await else {
                sleep(Duration::from_millis(20)).await;
                continue;
            };
            let made = code(&client, &account.subject, NOW);
            let secret = OpaqueToken::new(TokenKind::AuthorizationCode, random());
            let added = self.store.add_code(&name, &secret.hash(), &made, &usage(&client, NOW)).await;
            if !added.is_ok_and(|added| added == Issuance::Issued) {
                continue;
            }
            let form = [
                ("grant_type", "authorization_code"),
                ("client_id", client.id.as_str()),
                ("code", secret.expose()),
                ("redirect_uri", "https://app.example/cb"),
                ("code_verifier", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
            ];
            let mut redeemed = 0;
            for _ in 0..2 {
                let (a, b) = tokio::join!(self.post("/token", &form), self.post("/token", &form));
                let of = |answer: Option<(StatusCode, _)>| {
                    answer.is_some_and(|(status, _)| status == StatusCode::OK)
                };
                redeemed += usize::from(of(a)) + usize::from(of(b));
            }
            match redeemed {
                0 => {}
                1 => count(&self.seen.redeemed),
                times => self.wrong(&format!("{name}: redeemed {times} times")),
            }
        }
    }

    /// Registers clients, and checks at the end that all of them are still registered.
    pub(super) async fn register(&self) {
        let mut registered = Vec::new();
        for n in 0.. {
            if !self.goes_on() {
                break;
            }
            let asked = serde_json::json!({
                "client_name": format!("registered {n}"),
                "redirect_uris": [format!("https://app{n}.example/cb")],
                "token_endpoint_auth_method": "none",
            });
            let url = format!("http://127.0.0.1:{}/register", self.replica().public);
            if let Ok(response) = self.http.post(url).json(&asked).send().await
                && response.status() == StatusCode::CREATED
                && let Ok(body) = response.json::<serde_json::Value>().await
            {
                count(&self.seen.registered);
                registered.push(id(body["client_id"].as_str().unwrap()));
            }
            sleep(Duration::from_millis(20)).await;
        }
        self.is_back().await;
        for id in registered {
            if self.store.client(&id, SystemClock.now()).await.unwrap().is_none() {
                self.wrong(&format!("an acknowledged client is lost: {id}"));
            }
        }
    }

    /// Sends invalid tokens. Some have a valid signature but belong to no grant, and the others are damaged.
    pub(super) async fn strangers(&self) {
        let client = client("stranger");
        while self.goes_on() {
            let of_nobody = Grant {
                id: GrantId::new(random()),
                ..grant(&code(&client, &account("nobody").subject, NOW), "none", NOW)
            };
            let token = self.token(&of_nobody);
            let forged = format!("{}A", token.trim_end_matches('A'));
            for token in [&token, &forged] {
                if self.check(self.replica(), token).await == Some(StatusCode::OK) {
                    self.wrong("an invalid token passes");
                }
            }
        }
    }
}
