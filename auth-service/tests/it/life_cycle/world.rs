//! Runs the steps of a story on the real service, and compares its responses with the model's predictions.

use std::time::Duration;

use auth_service::domain::account::{Account, AccountKind, LoginSession, StoredPassword, Subject, Username};
use auth_service::domain::client::{ClientId, GrantType, OperatorTerms};
use auth_service::domain::clock::Random;
use auth_service::domain::device::DeviceState;
use auth_service::domain::opaque_token::{OpaqueToken, TokenKind};
use auth_service::keys::seal::SystemRandomSource;
use auth_service::operator::{Credentials, NewClient};
use auth_service::store::{Addition, Change, Decision};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::Value;

use super::Step;
use super::model::{Answer, CLIENTS, DEVICE_CLIENT, MACHINE, Model, SERVICE, Said};
use crate::it::app::{REDIRECT, RESOURCE, TestApp, VERIFIER, authorize_query};
use crate::it::browser::Browser;
use crate::it::dpop::Key;
use crate::it::machines::{enter, new_client, resource};

const BACK: &str = "https://other.example/mcp";
const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// The number of latest tokens that are used after each step.
const LOOKED_AT: usize = 8;

/// The identifiers and secrets of the clients, by their numbers in the model, and the keys.
pub(super) struct Parties {
    clients: Vec<(String, String)>,
    keys: [Key; 2],
}

impl Parties {
    pub(super) async fn enter(app: &TestApp) -> Self {
        let public = |name: &str, grant_types: &[GrantType]| NewClient {
            credentials: Credentials::None,
            grant_types: grant_types.to_vec(),
            redirect_uris: vec![REDIRECT.to_owned().try_into().unwrap()],
            ..new_client(name)
        };
        let code = [GrantType::AuthorizationCode, GrantType::RefreshToken];
        let device = [GrantType::DeviceCode, GrantType::RefreshToken];
        let terms = |serves: &[&str], resources: &[&str]| OperatorTerms {
            serves: serves.iter().map(|url| resource(url)).collect(),
            resources: resources.iter().map(|url| resource(url)).collect(),
            pushes_requests: false,
        };
        let machine = NewClient {
            grant_types: vec![GrantType::ClientCredentials],
            terms: terms(&[], &[RESOURCE]),
            ..new_client("machine")
        };
        let service = NewClient {
            grant_types: vec![GrantType::TokenExchange],
            terms: terms(&[RESOURCE], &[BACK]),
            ..new_client("service")
        };
        let all = [public("one", &code), public("two", &code), public("device", &device), machine, service];
        let mut clients = Vec::new();
        for client in all {
            clients.push(enter(app, client).await);
        }
        Self { clients, keys: [Key::new(), Key::new()] }
    }

    pub(super) async fn switch_all_on(&self, app: &TestApp) {
        for client in 0..CLIENTS {
            let switched = app.state.store.set_client_disabled(&self.client_id(client), false).await.unwrap();
            assert_eq!(switched, Change::Changed);
        }
    }

    fn id(&self, client: usize) -> &str {
        &self.clients[client].0
    }

    fn client_id(&self, client: usize) -> ClientId {
        self.id(client).to_owned().try_into().unwrap()
    }
}

pub(super) struct World<'a> {
    app: &'a TestApp,
    parties: &'a Parties,
    subject: Subject,
    cookie: OpaqueToken,
    address: String,
    codes: Vec<String>,
    access: Vec<String>,
    refresh: Vec<String>,
    devices: Vec<String>,
}

type Checked<T> = Result<T, String>;

fn same<T: PartialEq + std::fmt::Debug>(what: &str, real: &T, expected: &T) -> Checked<()> {
    if real == expected { Ok(()) } else { Err(format!("{what}: {real:?}, but expected {expected:?}")) }
}

impl<'a> World<'a> {
    /// Starts a story with a new user who is logged in.
    pub(super) async fn new(app: &'a TestApp, parties: &'a Parties, story: usize) -> Self {
        let now = app.state.now();
        let account = Account {
            subject: Subject::new(SystemRandomSource.bytes().unwrap()),
            kind: AccountKind::Person,
            username: Username::try_from(format!("person{story}")).unwrap(),
            email: None,
            groups: Vec::new(),
            password: StoredPassword { phc: "$argon2id$none".to_owned(), one_time: false },
            logins_ended: 0,
            disabled: false,
            created_at: now,
        };
        assert_eq!(app.state.store.add_account(&account).await.unwrap(), Addition::Added);
        let mut world = Self {
            app,
            parties,
            subject: account.subject,
            cookie: app.state.new_token(TokenKind::Session).unwrap(),
            address: format!("10.0.{}.{}", story / 250, story % 250 + 1),
            codes: Vec::new(),
            access: Vec::new(),
            refresh: Vec::new(),
            devices: Vec::new(),
        };
        world.log_in().await;
        world
    }

    async fn log_in(&mut self) {
        let now = self.app.state.now();
        let account = self.app.state.store.account(&self.subject).await.unwrap().unwrap();
        self.cookie = self.app.state.new_token(TokenKind::Session).unwrap();
        let session = LoginSession {
            id: self.cookie.hash(),
            subject: self.subject.clone(),
            logins_ended: account.logins_ended,
            authenticated_at: now,
            expires_at: now.plus(Duration::from_secs(10 * 365 * 86_400)),
            asked_by: None,
        };
        self.app.state.store.add_session(&session).await.unwrap();
    }

    fn browser(&self) -> Browser<'a> {
        let mut browser = self.app.browser();
        browser.cookies.push(("__Host-mcp_gate_session".to_owned(), self.cookie.expose().to_owned()));
        browser
    }

    /// A request from a client, with that client's authentication method.
    fn as_client(&self, path: &str, client: usize, form: &[(&str, &str)]) -> RequestBuilder {
        let (id, secret) = &self.parties.clients[client];
        let request = self.app.http.post(format!("{}{path}", self.app.public));
        if secret.is_empty() {
            let form: Vec<_> = form.iter().copied().chain([("client_id", id.as_str())]).collect();
            request.form(&form)
        } else {
            request.basic_auth(id, Some(secret)).form(form)
        }
    }

    /// Sends a token request, and compares the response with the expected one.
    async fn token(&mut self, request: RequestBuilder, key: Option<usize>, expected: Said) -> Checked<()> {
        let request = match key {
            Some(key) => request.header("dpop", self.parties.keys[key].for_token_endpoint(self.app)),
            None => request,
        };
        let response: Response = request.send().await.unwrap();
        let status = response.status();
        let body: Value = response.json().await.unwrap();
        match expected {
            Said::Error(codes) => {
                let code = body["error"].as_str().unwrap_or_default();
                if status == StatusCode::OK || !codes.split(" or ").any(|expected| expected == code) {
                    return Err(format!("{status} {body}, but the model predicts {codes}"));
                }
            }
            Said::Tokens { repeated } => {
                same(&format!("{body}"), &status, &StatusCode::OK)?;
                self.access.push(body["access_token"].as_str().unwrap().to_owned());
                if let Some(refresh) = body["refresh_token"].as_str() {
                    let known = self.refresh.iter().any(|token| token == refresh);
                    same("whether the refresh token was handed out before", &known, &repeated)?;
                    if !known {
                        self.refresh.push(refresh.to_owned());
                    }
                }
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each step")]
    pub(super) async fn take(&mut self, step: &Step, model: &mut Model) -> Checked<()> {
        let at = |n: usize, all: &[String]| match n.checked_sub(1_000_000) {
            Some(back) => all.len().checked_sub(1 + back),
            None => n.checked_rem(all.len()),
        };
        // If `other` is 0, the owner uses its own code or token. Otherwise, another client uses it.
        let chosen = |owner: usize, other: usize| if other == 0 { owner } else { 1 - owner.min(1) };
        match *step {
            Step::Wait(seconds) => {
                self.app.wait(Duration::from_secs(seconds));
                model.now = self.app.state.now().0;
            }
            Step::Authorize { client, all } => self.authorize(client, all, model).await?,
            Step::Redeem { code, client, verifier, key } => {
                let Some(code) = at(code, &self.codes) else { return Ok(()) };
                let Some(owner) = model.client_of_code(code) else { return Ok(()) };
                let client = chosen(owner, client);
                let form = [
                    ("grant_type", "authorization_code"),
                    ("code", self.codes[code].as_str()),
                    (
                        "code_verifier",
                        if verifier { VERIFIER } else { "another-verifier-another-verifier-another-v" },
                    ),
                    ("redirect_uri", REDIRECT),
                ];
                let request = self.as_client("/token", client, &form);
                self.token(request, key, model.redeem(code, client, verifier, key)).await?;
            }
            Step::Refresh { token, client, key } => {
                let Some(token) = at(token, &self.refresh) else { return Ok(()) };
                let client = chosen(model.client_of_refresh(token), client);
                let form = [("grant_type", "refresh_token"), ("refresh_token", self.refresh[token].as_str())];
                let request = self.as_client("/token", client, &form);
                self.token(request, key, model.refresh(token, client, key)).await?;
            }
            Step::Revoke { refresh, token, client } => {
                let all = if refresh { &self.refresh } else { &self.access };
                let Some(token) = at(token, all) else { return Ok(()) };
                let owner =
                    if refresh { model.client_of_refresh(token) } else { model.client_of_access(token) };
                let client = chosen(owner, client);
                let response =
                    self.as_client("/revoke", client, &[("token", &all[token])]).send().await.unwrap();
                let let_in = if refresh {
                    model.revoke_refresh(token, client)
                } else {
                    model.revoke_access(token, client)
                };
                same("whether the client may revoke", &(response.status() == StatusCode::OK), &let_in)?;
            }
            Step::StartDevice => {
                let form = [("resource", RESOURCE), ("scope", "mcp")];
                let request = self.as_client("/device_authorization", DEVICE_CLIENT, &form);
                let response = request.header("x-forwarded-for", &self.address).send().await.unwrap();
                let body: Value = response.json().await.unwrap();
                let Some(code) = body["device_code"].as_str() else { return Err(body.to_string()) };
                self.devices.push(code.to_owned());
                model.start_device();
            }
            Step::Decide { device, yes } => {
                let Some(device) = at(device, &self.devices) else { return Ok(()) };
                let hash = OpaqueToken::parse(TokenKind::DeviceCode, &self.devices[device]).unwrap().hash();
                let now = self.app.state.now();
                let allowed = DeviceState::Allowed { subject: self.subject.clone(), authenticated_at: now };
                let decision = if yes { allowed } else { DeviceState::Denied };
                let wanted = self.app.state.store.decide_device(&hash, &decision, now).await.unwrap();
                let wanted = wanted == Decision::Stored;
                same("whether the answer was wanted", &wanted, &model.decide(device, yes))?;
            }
            Step::Poll { device, right_client } => {
                let Some(device) = at(device, &self.devices).filter(|n| model.remembers_device(*n)) else {
                    return Ok(());
                };
                let client = if right_client { DEVICE_CLIENT } else { 0 };
                let form = [("grant_type", DEVICE_GRANT), ("device_code", self.devices[device].as_str())];
                let request = self.as_client("/token", client, &form);
                self.token(request, None, model.poll(device, client)).await?;
            }
            Step::Machine => {
                let request = self.as_client("/token", MACHINE, &[("grant_type", "client_credentials")]);
                model.machine();
                self.token(request, None, Said::Tokens { repeated: false }).await?;
            }
            Step::Exchange(access) => {
                let Some(access) = at(access, &self.access) else { return Ok(()) };
                let form = [
                    ("grant_type", EXCHANGE),
                    ("subject_token", self.access[access].as_str()),
                    ("subject_token_type", ACCESS_TOKEN),
                ];
                let request = self.as_client("/token", SERVICE, &form);
                self.token(request, None, model.exchange(access)).await?;
            }
            Step::SwitchClient { client, off } => {
                let id = self.parties.client_id(client);
                assert_eq!(
                    self.app.state.store.set_client_disabled(&id, off).await.unwrap(),
                    Change::Changed
                );
                model.switch_client(client, off);
            }
            Step::SwitchPerson { off } => {
                assert_eq!(
                    self.app.state.store.set_account_disabled(&self.subject, off).await.unwrap(),
                    Change::Changed
                );
                model.switch_person(off);
                // The session of a disabled account has ended.
                self.log_in().await;
            }
        }
        Ok(())
    }

    async fn authorize(&mut self, client: usize, all: bool, model: &mut Model) -> Checked<()> {
        let scope = if all { "mcp" } else { "mcp:read" };
        let query = authorize_query(self.parties.id(client), &[("scope", scope)]);
        let mut browser = self.browser();
        let mut page = browser.open(&format!("/authorize?{query}")).await;
        let asked = page.body.contains("name=\"decision\"");
        if asked {
            page = browser.submit(&page, &[("decision", "allow")]).await;
        }
        let code = page.parameter("code");
        same("whether there is a page", &code.as_ref().map(|_| asked), &model.authorize(client, all))?;
        self.codes.extend(code);
        Ok(())
    }

    /// Calls a service with each of the latest tokens. Returns how many calls passed and how many were
    /// refused.
    pub(super) async fn look(&self, model: &mut Model) -> Checked<[usize; 2]> {
        let mut counts = [0, 0];
        for n in self.access.len().saturating_sub(LOOKED_AT)..self.access.len() {
            let (token, key) = (&self.access[n], model.key_of(n).map(|key| &self.parties.keys[key]));
            let host = if model.acts(n) { "other.example" } else { "mcp.example" };
            let request = self.app.check(reqwest::Method::POST, host, "/mcp");
            let request = match key {
                Some(key) => request
                    .header("authorization", format!("DPoP {token}"))
                    .header("dpop", key.for_call(self.app, token)),
                None => request.bearer_auth(token),
            };
            let answer = match request.send().await.unwrap().status().as_u16() {
                200 => Answer::Passes,
                401 => Answer::Unknown,
                403 => Answer::TooLittle,
                other => return Err(format!("access token {n} got status {other}")),
            };
            same(&format!("access token {n}"), &answer, &model.answer(n))?;
            counts[usize::from(answer != Answer::Passes)] += 1;
        }
        Ok(counts)
    }
}
