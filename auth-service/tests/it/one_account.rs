//! Tests of attack 100 by a user: how much one account can make the service do and store (docs/limits.md).

use std::time::{Duration, Instant};

use auth_service::domain::account::Username;
use futures_util::future::join_all;
use reqwest::StatusCode;

use super::app::{TestApp, authorize_query};

#[actix_web::test]
async fn a100_an_account_that_asks_for_codes_in_a_loop_is_slowed_and_no_other() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let mut eve = app.browser_of("eve").await;
    let name = Username::try_from("eve".to_owned()).unwrap();
    let person = app.state.store.account_named(&name).await.unwrap().unwrap();
    let mut ana = app.browser_of("ana").await;
    eve.allow(&authorize_query(&client, &[])).await;
    let silent = format!("/authorize?{}", authorize_query(&client, &[("prompt", "none")]));
    let begun = Instant::now();
    let cookies = eve.cookie_header();
    let ask = async || {
        let request = app.http.get(format!("{}{silent}", app.public)).header("cookie", &cookies);
        request.send().await.unwrap().headers()["location"].to_str().unwrap().to_owned()
    };
    let mut codes = 1;
    let refused = loop {
        let answers = join_all((0..50).map(|_| ask())).await;
        codes += answers.iter().filter(|to| to.contains("code=")).count();
        if let Some(refused) = answers.into_iter().find(|to| to.contains("error=")) {
            break refused;
        }
    };
    let most = 61 + usize::try_from(begun.elapsed().as_secs()).unwrap();
    assert!((55..=most).contains(&codes), "{codes} codes");
    assert!(
        refused.contains("error=temporarily_unavailable") && refused.contains("state=the+state"),
        "{refused}"
    );
    // The consent form is also refused, with a `Retry-After`.
    let page = eve.open(&format!("/authorize?{}", authorize_query(&client, &[("prompt", "consent")]))).await;
    let subject = &person.subject;
    let others = async {
        loop {
            while app.state.account_rate.admit_code(subject).is_ok() {}
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let answer = tokio::select! {
        biased;
        () = others => unreachable!(),
        answer = eve.submit(&page, &[("decision", "allow")]) => answer,
    };
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{}", answer.body);
    let seconds: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(seconds >= 1);
    ana.allow(&authorize_query(&client, &[])).await;
    assert!(ana.open(&silent).await.parameter("code").is_some());
}
