//! What operators see and do, while the service runs.

use std::time::Duration;

use auth_service::domain::account::Username;
use auth_service::domain::client::ClientId;
use auth_service::operator::{Command, Reply, socket};
use reqwest::StatusCode;

use super::app::{PASSWORD, TestApp, error_code};

pub(crate) async fn ask(app: &TestApp, command: Command) -> Reply {
    let directory = tempfile::tempdir().unwrap();
    let listener = socket::listen(directory.path()).unwrap();
    let serving = actix_web::rt::spawn(socket::serve(listener, app.state.clone()));
    let reply = socket::ask(directory.path(), &command).await.unwrap();
    serving.abort();
    reply
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
    let tokens = super::app::Tokens::of(app.refresh(&client, &tokens.refresh).await).await;
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
    let page = app.browser().open(&format!("/authorize?{}", super::app::authorize_query(&client, &[]))).await;
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
    let query = format!("/authorize?{}", super::app::authorize_query(&client, &[]));
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
    let choose = browser.submit(&page, &[("username", "ana"), ("password", &password)]).await;
    assert!(choose.body.contains("Choose your own password"));
}
