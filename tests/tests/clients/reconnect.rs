//! Tests that a client that stores nothing and registers each time it connects remains one client (issue 4, ADR
//! 4).

use std::collections::HashSet;

use tests::Stack;

use crate::rust_sdk::{self, Asking};
use crate::sdk::{Sdk, events, lines};

const RECONNECTS: u16 = 50;

/// The kinds (`public`, `confidential`, `document`) of the clients with this name in the operator's list.
pub(crate) fn kinds(list: &str, name: &str) -> Vec<String> {
    let rows = list.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    rows.filter(|row| row[4] == name).map(|row| row[1].to_owned()).collect()
}

#[tokio::test]
async fn each_sdk_reconnects_fifty_times_and_leaves_one_client() {
    let stack = Stack::start().await;
    for sdk in Sdk::ALL {
        let settings = [
            ("CLIENT_NAME", sdk.name()),
            ("RECONNECTS", &RECONNECTS.to_string()),
            // A program that cannot store a secret requests this method. Only the Python SDK needs the setting.
            ("AUTH_METHOD", "none"),
        ];
        let events = events(&stack, sdk, &settings).await;
        let ids: Vec<_> = events.iter().filter_map(|event| event["client_id"].as_str()).collect();
        assert_eq!(ids.len(), usize::from(RECONNECTS), "{}", lines(&events));
        assert_eq!(HashSet::<_>::from_iter(ids).len(), 1, "{sdk:?} registered several clients");
        assert!(events.iter().any(|event| event["called"][0]["text"] == "Echo: hello"), "{}", lines(&events));
    }
    let mut ids = HashSet::new();
    for run in 0..RECONNECTS {
        let asking = Asking::begin(&stack, 21_000 + run, None).await.unwrap();
        ids.insert(asking.client_id().unwrap());
        if run % 40 == 0 {
            asking.finish_and_call(&stack).await.unwrap();
        }
    }
    assert_eq!(ids.len(), 1, "the Rust SDK registered several clients");

    // The command uses the socket of the running service, which keeps the store open.
    let list = stack.operator(&["client", "list"]);
    for name in Sdk::ALL.map(Sdk::name).into_iter().chain([rust_sdk::NAME]) {
        assert_eq!(kinds(&list, name), ["public"], "{name} in\n{list}");
    }
    assert_eq!(list.lines().count(), 4, "{list}");
}

#[tokio::test]
async fn a_client_that_asks_for_a_secret_is_a_client_of_its_own_each_time() {
    let stack = Stack::start().await;
    // Without a setting, the Python SDK requests no method, and the default of RFC 7591 is a secret. Two
    // registrations with different secrets cannot be one client. The maximum number of clients and the lifetime of
    // unused clients, which is a day, limit their number.
    let settings = [("CLIENT_NAME", "told nothing"), ("RECONNECTS", "3")];
    let events = events(&stack, Sdk::Python2, &settings).await;
    assert!(events.iter().any(|event| event["called"][0]["text"] == "Echo: hello"), "{}", lines(&events));
    let list = stack.operator(&["client", "list"]);
    assert_eq!(kinds(&list, "told nothing"), ["confidential"; 3], "{list}");
}
