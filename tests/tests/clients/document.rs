//! Tests that the SDKs connect with a client metadata document, which is on an https host with its own CA.

use std::net::Ipv4Addr;

use tests::Setup;

use crate::document_host::DocumentHost;
use crate::reconnect::kinds;
use crate::rust_sdk::{self, Asking, redirect_uri};
use crate::sdk::{Sdk, events, lines};

/// A document host on loopback. auth-service allows fetches from it because its own issuer is on loopback as well.
fn host_on_loopback(directory: &std::path::Path) -> (DocumentHost, u16) {
    let host = DocumentHost::named(&["localhost"], directory);
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    host.listen(listener);
    (host, port)
}

#[tokio::test]
async fn each_sdk_connects_by_its_metadata_document() {
    let directory = tempfile::tempdir().unwrap();
    let (host, port) = host_on_loopback(directory.path());
    let stack = Setup::as_shipped().auth_setting("EXTRA_CA_FILE", host.ca.to_str().unwrap()).start().await;
    let publish = |name: &str| {
        let path = format!("/{}/client.json", name.replace(' ', "-"));
        let id = format!("https://localhost:{port}{path}");
        host.put_public_client(&id, &path, name, &redirect_uri(9));
        id
    };
    for sdk in Sdk::ALL {
        let id = publish(sdk.name());
        let events = events(&stack, sdk, &[("CLIENT_METADATA_URL", &id)]).await;
        let happened = |what: &dyn Fn(&serde_json::Value) -> bool| events.iter().any(what);
        assert!(!happened(&|event| event["path"] == "/register"), "{sdk:?} registered:\n{}", lines(&events));
        assert!(happened(&|event| event["called_again"][0]["text"] == "Echo: hello"), "{}", lines(&events));
        assert!(happened(&|event| event["done"] == true), "{}", lines(&events));
    }
    let id = publish(rust_sdk::NAME);
    let asking = Asking::begin(&stack, 9, Some(&id)).await.unwrap();
    assert_eq!(asking.client_id().unwrap(), id);
    asking.finish_and_call(&stack).await.unwrap();

    let list = stack.operator(&["client", "list"]);
    for name in Sdk::ALL.map(Sdk::name).into_iter().chain([rust_sdk::NAME]) {
        assert_eq!(kinds(&list, name), ["document"], "{name} in\n{list}");
    }
    assert_eq!(list.lines().count(), 4, "{list}");
    // Each document was fetched once, although each client sent several requests.
    assert_eq!(host.reached().values().sum::<usize>(), 4);
}
