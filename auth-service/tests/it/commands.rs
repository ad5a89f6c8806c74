//! Tests of the commands that operators and their scripts run: lists in JSON, completions and manual pages.

use std::fs;
use std::process::{Command, Output};

use serde_json::{Value, json};

/// A directory with a store in which there is the account `ana`.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.text("user add --new-store ana --email ana@example.com --group staff");
        place
    }

    fn run(&self, words: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_auth-service"));
        command.args(words.split_whitespace()).current_dir(self.0.path()).env_clear().env("RUST_LOG", "off");
        command.output().unwrap()
    }

    /// The output of a command that succeeds.
    fn text(&self, words: &str) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn list(&self, words: &str) -> Value {
        serde_json::from_str(&self.text(&format!("{words} --json"))).unwrap()
    }
}

#[test]
fn every_list_is_also_available_as_json() {
    let place = Place::new();
    let users = place.list("user list");
    assert_eq!(users.as_array().unwrap().len(), 1, "{users}");
    let user = &users[0];
    assert_eq!((&user["username"], &user["email"]), (&json!("ana"), &json!("ana@example.com")), "{users}");
    assert_eq!((&user["groups"], &user["disabled"]), (&json!(["staff"]), &json!(false)), "{users}");
    assert_eq!(place.list("client list"), json!([]));
    let added =
        place.text("client add robot --grant client-credentials --resource http://localhost:8080/mcp");
    let id = added.lines().next().unwrap().strip_prefix("client_id: ").unwrap();
    let clients = place.list("client list");
    assert!(clients.as_array().unwrap().len() == 1 && clients[0]["id"] == id, "{clients}");
    assert_eq!(place.list(&format!("client show {id}")), clients);
    assert!(!clients.to_string().contains("secret"), "{clients}");
    assert_eq!(place.list("grant list"), json!([]));
    assert_eq!(place.list("grant list ana"), json!([]));
    place.text("keys rotate");
    let keys = place.list("keys list");
    assert!(keys[0]["kid"].is_string() && keys[0]["state"].is_string(), "{keys}");
}

#[test]
fn an_account_is_deleted_only_once_and_a_grant_must_exist() {
    let place = Place::new();
    assert_eq!(place.text("user delete ana"), "");
    assert_eq!(place.text("user list"), "");
    for (words, expected) in [
        ("user delete ana", "there is no account named ana"),
        ("grant list ana", "there is no account named ana"),
        ("grant revoke grt_AAAAAAAAAAAAAAAAAAAAAA", "there is no grant grt_AAAAAAAAAAAAAAAAAAAAAA"),
        ("grant revoke ana", "not the identifier of a grant"),
    ] {
        let output = place.run(words);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && told.contains(expected), "{words}: {told}");
    }
}

#[test]
fn completions_and_manual_pages_have_every_command() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = place.text(&format!("completions {shell}"));
        for word in ["grant", "revoke", "policy", "explain"] {
            assert!(script.contains(word), "{word} for {shell}");
        }
        if shell == "bash" {
            let file = place.0.path().join("completions");
            fs::write(&file, script).unwrap();
            assert!(Command::new("bash").arg("-n").arg(&file).status().unwrap().success());
        }
    }
    fs::create_dir(place.0.path().join("man")).unwrap();
    place.text("man man");
    for page in ["auth-service.1", "auth-service-user-delete.1", "auth-service-grant-list.1"] {
        let text = fs::read_to_string(place.0.path().join("man").join(page)).unwrap();
        assert!(text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"), "{page}: {text}");
    }
    let output = place.run("man absent");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && told.contains("name an existing directory"), "{told}");
}
