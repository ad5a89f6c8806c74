//! Tests of the operator's view and commands while the service runs.

use std::time::Duration;

use auth_service::domain::account::{Group, Username};
use auth_service::domain::client::ClientId;
use auth_service::operator::{Command, Reply, socket};
use auth_service::store::records::Kind;
use auth_service::store::transfer::Source;
use reqwest::StatusCode;

use super::app::{PASSWORD, REDIRECT, TestApp, Tokens, authorize_query, error_code};

pub(crate) async fn ask(app: &TestApp, command: Command) -> Reply {
    let directory = tempfile::tempdir().unwrap();
    let listener = socket::Operators::listen(directory.path()).unwrap();
    let serving = actix_web::rt::spawn(socket::serve(listener, app.state.clone()));
    let reply = socket::ask(directory.path(), &command).await.unwrap();
    serving.abort();
    reply
}

#[actix_web::test]
async fn connections_without_a_command_delay_no_command() {
    let app = TestApp::start().await;
    let directory = tempfile::tempdir().unwrap();
    let listener = socket::Operators::listen(directory.path()).unwrap();
    let serving = actix_web::rt::spawn(socket::serve(listener, app.state.clone()));
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(tokio::net::UnixStream::connect(directory.path().join("operator.sock")).await.unwrap());
    }
    let reply = socket::ask(directory.path(), &Command::ListClients { after: None }).await.unwrap();
    assert!(matches!(reply, Reply::Clients(_)), "{reply:?}");
    // None of the other connections had reached its time limit when the reply arrived.
    let closed = silent.iter().filter(|stream| stream.try_read(&mut [0]).is_ok()).count();
    assert_eq!(closed, 0);
    serving.abort();
}

fn id(text: &str) -> ClientId {
    ClientId::try_from(text.to_owned()).unwrap()
}

#[actix_web::test]
async fn clients_are_listed_with_their_last_use_to_the_hour() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let last_used = async || match ask(&app, Command::ShowClient { id: id(&client) }).await {
        Reply::Clients(clients) => clients[0].last_used_at,
        other => panic!("{other:?}"),
    };
    assert_eq!(last_used().await, None);
    let tokens = app.tokens(&client).await;
    let first = last_used().await.unwrap();
    assert_eq!(first, app.state.now());
    app.wait(Duration::from_secs(600));
    let tokens = Tokens::of(app.refresh(&client, &tokens.refresh).await).await;
    assert_eq!(last_used().await, Some(first));
    app.wait(Duration::from_secs(3600));
    app.refresh(&client, &tokens.refresh).await;
    assert_eq!(last_used().await, Some(app.state.now()));
    let Reply::Clients(all) = ask(&app, Command::ListClients { after: None }).await else { panic!() };
    assert_eq!(all.len(), 1);
}

#[actix_web::test]
async fn a_client_that_is_switched_off_gets_nothing_until_it_is_switched_on() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    let switch = |disabled| ask(&app, Command::SwitchClient { id: id(&client), disabled });
    assert!(matches!(switch(true).await, Reply::Done));
    assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(error_code(app.refresh(&client, &tokens.refresh).await).await, "invalid_client");
    let page = app.browser().open(&format!("/authorize?{}", authorize_query(&client, &[]))).await;
    assert!(page.status == StatusCode::BAD_REQUEST && page.body.contains("disabled"));
    assert!(matches!(switch(false).await, Reply::Done));
    assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::OK);
    assert!(matches!(ask(&app, Command::DeleteClient { id: id(&client) }).await, Reply::Done));
    assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::UNAUTHORIZED);
    assert!(matches!(ask(&app, Command::DeleteClient { id: id(&client) }).await, Reply::Refused(_)));
}

#[actix_web::test]
async fn a_password_reset_ends_logins_and_gives_a_one_time_password() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let mut browser = app.browser_of("ana").await;
    let query = format!("/authorize?{}", authorize_query(&client, &[]));
    assert_eq!(browser.open(&query).await.status, StatusCode::OK);
    app.wait(Duration::from_secs(1));
    let username = Username::try_from("ana".to_owned()).unwrap();
    let Reply::OneTimePassword(password) = ask(&app, Command::ResetUser { username }).await else { panic!() };
    assert!(browser.open(&query).await.location.unwrap().contains("/login?"));
    let page = browser.open("/login").await;
    assert_eq!(
        browser.submit(&page, &[("username", "ana"), ("password", PASSWORD)]).await.status,
        StatusCode::FORBIDDEN
    );
    let choose = browser.submit_and_follow(&page, &[("username", "ana"), ("password", &password)]).await;
    assert!(choose.body.contains("Choose your own password"));
}

async fn username_of(app: &TestApp, token: &str) -> String {
    let answer = app.check_token(token).await;
    assert_eq!(answer.status(), StatusCode::OK);
    answer.headers().get("x-auth-username").unwrap().to_str().unwrap().to_owned()
}

#[actix_web::test]
async fn an_account_that_is_switched_off_gets_nothing_until_it_is_switched_on() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    let name = username_of(&app, &tokens.access).await;
    let person = || Username::try_from(name.clone()).unwrap();
    let switch = |disabled| ask(&app, Command::SwitchUser { username: person(), disabled });
    assert!(matches!(switch(true).await, Reply::Done));
    let refused = app.check_token(&tokens.access).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let challenge = refused.headers().get("www-authenticate").unwrap().to_str().unwrap();
    assert!(challenge.contains("was revoked, or its account or client is disabled"), "{challenge}");
    let reset = ask(&app, Command::ResetUser { username: person() }).await;
    assert!(matches!(reset, Reply::OneTimePasswordOfDisabled(_)), "{reset:?}");
    let mut browser = app.browser();
    let page = browser.open("/login").await;
    let refused = browser.submit(&page, &[("username", &name), ("password", PASSWORD)]).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let refused = app.refresh(&client, &tokens.refresh).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    let Reply::Users(users) = ask(&app, Command::ListUsers).await else { panic!() };
    assert!(users.iter().any(|user| user.username == person() && user.disabled));
    assert!(matches!(switch(false).await, Reply::Done));
    assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::OK);
    let nobody = Username::try_from("nobody".to_owned()).unwrap();
    for command in [
        Command::SwitchUser { username: nobody.clone(), disabled: true },
        Command::SetUserGroups { username: nobody.clone(), groups: vec![] },
        Command::SetUserEmail { username: nobody.clone(), email: None },
    ] {
        assert!(matches!(ask(&app, command).await, Reply::Refused(_)));
    }
}

#[actix_web::test]
async fn a_deleted_account_has_no_access_and_a_new_one_with_its_name_inherits_none() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    let name = username_of(&app, &tokens.access).await;
    let person = || Username::try_from(name.clone()).unwrap();
    let delete = || ask(&app, Command::DeleteUser { username: person() });
    let link = |name: Username| Command::LinkUser {
        username: name,
        issuer: "https://idp.example".to_owned(),
        sub: "7".to_owned(),
    };
    assert!(matches!(ask(&app, link(person())).await, Reply::Done));
    assert!(matches!(delete().await, Reply::Done));
    assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(app.refresh(&client, &tokens.refresh).await.status(), StatusCode::BAD_REQUEST);
    let mut browser = app.browser();
    let page = browser.open("/login").await;
    let refused = browser.submit(&page, &[("username", &name), ("password", PASSWORD)]).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(matches!(delete().await, Reply::Refused(_)), "there is no such account any more");
    let Reply::Users(users) = ask(&app, Command::ListUsers).await else { panic!() };
    assert!(users.iter().all(|user| user.username != person()));
    app.person(&name).await;
    assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(app.refresh(&client, &tokens.refresh).await.status(), StatusCode::BAD_REQUEST);
    let Reply::Grants(grants) =
        ask(&app, Command::ListGrants { username: Some(person()), after: None }).await
    else {
        panic!()
    };
    assert!(grants.is_empty(), "{grants:?}");
    // The user of the other issuer is free for the new account.
    assert!(matches!(ask(&app, link(person())).await, Reply::Done));
}

#[actix_web::test]
async fn a_grant_is_listed_and_revoked_without_the_others() {
    let app = TestApp::start().await;
    // The registration of a public client with the same metadata would be the same client.
    let (one, other) = (app.client().await, app.client_with(&[REDIRECT, "https://app.example/other"]).await);
    let ana = Username::try_from("ana".to_owned()).unwrap();
    let mut browser = app.browser_of("ana").await;
    let tokens_of = async |client: &str, code: String| Tokens::of(app.redeem(client, &code).await).await;
    let code = browser.allow(&authorize_query(&one, &[])).await;
    let tokens = tokens_of(&one, code).await;
    let code = browser.allow(&authorize_query(&other, &[])).await;
    let kept = tokens_of(&other, code).await;
    let list =
        async |username: Option<Username>| match ask(&app, Command::ListGrants { username, after: None })
            .await
        {
            Reply::Grants(grants) => grants,
            other => panic!("{other:?}"),
        };
    let grants = list(Some(ana.clone())).await;
    assert_eq!(grants.len(), 2, "{grants:?}");
    assert!(grants.iter().all(|grant| grant.username == ana && grant.client_name.is_some()), "{grants:?}");
    assert_eq!(list(None).await.len(), 2);
    let after = ask(&app, Command::ListGrants { username: None, after: Some(ana.clone()) }).await;
    assert!(matches!(after, Reply::Grants(grants) if grants.is_empty()));
    let revoked = grants.iter().find(|grant| grant.client_id == id(&one)).unwrap().id.clone();
    assert!(matches!(ask(&app, Command::RevokeGrant { id: revoked.clone() }).await, Reply::Done));
    assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(error_code(app.refresh(&one, &tokens.refresh).await).await, "invalid_grant");
    assert_eq!(app.check_token(&kept.access).await.status(), StatusCode::OK);
    assert!(matches!(ask(&app, Command::RevokeGrant { id: revoked }).await, Reply::Refused(_)));
    let left = list(Some(ana)).await;
    assert!(left.len() == 1 && left[0].client_id == id(&other), "{left:?}");
    let nobody = Some(Username::try_from("nobody".to_owned()).unwrap());
    assert!(matches!(
        ask(&app, Command::ListGrants { username: nobody, after: None }).await,
        Reply::Refused(_)
    ));
}

#[actix_web::test]
async fn groups_and_address_count_from_the_next_check_on() {
    let app = TestApp::start().await;
    let tokens = app.tokens(&app.client().await).await;
    let name = username_of(&app, &tokens.access).await;
    let person = || Username::try_from(name.clone()).unwrap();
    let header = async |name: &str| {
        let answer = app.check_token(&tokens.access).await;
        assert_eq!(answer.status(), StatusCode::OK);
        answer.headers().get(name).unwrap().to_str().unwrap().to_owned()
    };
    header("x-auth-groups").await;
    let groups = ["night".to_owned(), "day".to_owned()].map(|name| Group::try_from(name).unwrap()).into();
    assert!(matches!(ask(&app, Command::SetUserGroups { username: person(), groups }).await, Reply::Done));
    let shown = header("x-auth-groups").await;
    assert!(shown.contains("night") && shown.contains("day"), "{shown}");
    let email = Some("new@people.example".to_owned());
    assert!(matches!(ask(&app, Command::SetUserEmail { username: person(), email }).await, Reply::Done));
    assert_eq!(header("x-auth-email").await, "new@people.example");
    assert!(matches!(
        ask(&app, Command::SetUserEmail { username: person(), email: None }).await,
        Reply::Done
    ));
    assert_eq!(header("x-auth-email").await, "");
    assert!(matches!(
        ask(&app, Command::SetUserGroups { username: person(), groups: vec![] }).await,
        Reply::Done
    ));
    assert_eq!(header("x-auth-groups").await, "");
}

#[actix_web::test]
async fn the_running_service_exports_its_store() {
    let app = TestApp::start().await;
    let tokens = app.tokens(&app.client().await).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("dump");
    let export = |key_file| ask(&app, Command::ExportStore { file: file.clone(), key_file });
    let Reply::Exported(counts) = export(None).await else { panic!() };
    assert!(counts.0[&Kind::Grant] == 1 && counts.0[&Kind::Account] >= 1, "{counts}");
    let read = Source::Dump(file.clone(), app.state.store.key().clone()).count().await;
    assert_eq!(read.unwrap(), counts);
    let bytes = std::fs::read(&file).unwrap();
    for secret in [tokens.refresh.as_str(), "mcp.example"] {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret}");
    }
    let Reply::Refused(reason) = export(None).await else { panic!("the existing file was overwritten") };
    assert!(reason.contains("exists"), "{reason}");
    let Reply::Refused(reason) = export(Some(directory.path().join("no key"))).await else { panic!() };
    assert!(reason.contains("no key"), "{reason}");
    let Reply::Resealed(resealed) = ask(&app, Command::ResealStore).await else { panic!() };
    assert!(resealed.rows > 5 && resealed.changed == 0);
}

#[actix_web::test]
async fn a_socket_that_is_removed_is_made_anew() {
    let app = TestApp::start().await;
    let directory = tempfile::tempdir().unwrap();
    let operators = socket::Operators::listen(directory.path()).unwrap();
    let serving = actix_web::rt::spawn(socket::serve(operators, app.state.clone()));
    let list = async || socket::ask(directory.path(), &Command::ListUsers).await;
    assert!(list().await.is_ok());
    std::fs::remove_file(directory.path().join("operator.sock")).unwrap();
    for _ in 0..600 {
        if list().await.is_ok() {
            return serving.abort();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no account could be disabled");
}

/// The operator might have restored the file by hand. The running service would not notice a change in the new
/// file.
#[actix_web::test]
async fn a_command_asks_the_running_service_although_the_file_of_its_store_was_replaced() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let mut browser = app.browser_of("ana").await;
    let page = browser.follow(&format!("/authorize?{}", authorize_query(&client, &[]))).await;
    let code = browser.submit(&page, &[("decision", "allow")]).await.parameter("code").unwrap();
    let tokens = Tokens::of(app.redeem(&client, &code).await).await;
    assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::OK);
    let directory = app.directory();
    let operators = socket::Operators::listen(directory).unwrap();
    let serving = actix_web::rt::spawn(socket::serve(operators, app.state.clone()));
    // With Redis, there is no such file.
    if !directory.join("store.redb").exists() {
        return serving.abort();
    }
    std::fs::copy(directory.join("store.redb"), directory.join("copy")).unwrap();
    std::fs::rename(directory.join("copy"), directory.join("store.redb")).unwrap();
    let done = tokio::process::Command::new(env!("CARGO_BIN_EXE_auth-service"))
        .args(["user", "disable", "ana"])
        .env_clear()
        .env("DATA_DIR", directory)
        .env("STORE_KEY", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=")
        .output()
        .await
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::UNAUTHORIZED);
    serving.abort();
}
