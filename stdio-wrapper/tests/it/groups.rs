//! Tests of a user who has left a group but still has a session that was opened as a member of the group.

use serde_json::json;

use crate::modern;
use crate::wrapper::{CHILD, Client, Events, Wrapper, call, gone};

/// The options of a wrapper whose children get the user's group in an environment variable.
const PER_GROUP: [&str; 3] = ["--identity=headers", "--env=WHERE={group}", "--legacy-sse"];

fn member(client: Client, groups: &str) -> Client {
    client.with_header("x-auth-subject", "ana").with_header("x-auth-groups", groups)
}

/// Sends a request of this kind in the session, and returns the status.
async fn used(client: &Client, way: &str) -> u16 {
    let response = match way {
        "call" => client.post(call(1, "self", json!({}))).await,
        "notification" => {
            client
                .post(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#)
                .await
        }
        "answer" => client.post(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).await,
        "batch" => client.post(format!("[{}]", call(1, "self", json!({})))).await,
        "initialize" => client.try_initialize("2025-03-26").await,
        "stream" => client.get(None).await,
        "resumption" => client.get(Some("1-1")).await,
        "end" => return client.delete().await,
        _ => panic!("{way}"),
    };
    response.status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a103_a_session_ends_when_its_user_comes_without_the_group_that_is_in_its_command() {
    let wrapper = Wrapper::start(&PER_GROUP, &[]).await;
    let ways = ["call", "notification", "answer", "batch", "initialize", "stream", "resumption", "end"];
    for (index, way) in ways.into_iter().enumerate() {
        let staff = member(wrapper.client(), "staff").initialize("2025-03-26").await;
        assert!(staff.text("self", json!({})).await.contains("\"WHERE\": \"staff\""));
        let left = member(staff.clone(), if index % 2 == 0 { "" } else { "guests" });
        assert_eq!(used(&left, way).await, 404, "{way}");
        gone(staff.server_pid).await;
        assert_eq!(used(&staff, "call").await, 404, "after {way}");
    }
    let refused = member(wrapper.client(), "").try_initialize("2025-03-26").await;
    assert_eq!(refused.status(), 403);
    wrapper.metric_becomes("stdio_wrapper_sessions", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a103_a_session_of_2024_and_one_before_a_stateless_server_end_like_any_other() {
    let wrapper = Wrapper::start(&PER_GROUP, &[]).await;
    let mut client = member(wrapper.client(), "staff");
    client.url = format!("http://{}/sse", wrapper.address);
    let mut stream = Events::new(client.get(None).await);
    let endpoint = stream.next().await.unwrap().data;
    client.url = format!("http://{}{}", wrapper.address, endpoint.as_str().unwrap());
    assert_eq!(client.try_initialize("2024-11-05").await.status(), 202);
    stream.next().await.unwrap();
    assert_eq!(used(&client, "call").await, 202);
    stream.next().await.unwrap();
    assert_eq!(used(&member(client, "guests"), "call").await, 404);
    assert_eq!(stream.next().await, None);

    let wrapper = Wrapper::run(&PER_GROUP, &["python3", modern::CHILD], &[]).await;
    let staff = member(wrapper.client(), "staff").initialize("2025-11-25").await;
    assert!(staff.text("seen", json!({})).await.contains("\"WHERE\": \"staff\""));
    assert_eq!(used(&member(staff.clone(), "guests"), "call").await, 404);
    assert_eq!(used(&staff, "call").await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_while_what_is_in_its_command_is_the_same() {
    let options = ["--identity=headers", "--env=WHERE={group}/{subject}", "--group-order=staff,guests"];
    let wrapper = Wrapper::start(&options, &[]).await;
    let both = member(wrapper.client(), "guests,staff").initialize("2025-11-25").await;
    assert_eq!(used(&member(both.clone(), "staff,new"), "call").await, 200);
    let renamed = both.clone().with_header("x-auth-username", "ana-maria");
    assert_eq!(used(&renamed, "call").await, 200);
    assert_eq!(used(&member(both, "guests"), "call").await, 404);
    // If the command contains no placeholder for the caller, groups have no effect on the session.
    let wrapper = Wrapper::run(&["--identity=headers"], &["python3", CHILD], &[]).await;
    let staff = member(wrapper.client(), "staff").initialize("2025-11-25").await;
    assert_eq!(used(&member(staff, ""), "call").await, 200);
}
