//! Fuzzes the policy parser and the decisions. For every policy file and question, a user must never be allowed without
//! a scope, and a wider scope must never cause a refusal. A legacy request, which does not name its tool in a
//! header, must be allowed only if the same modern request is allowed.
#![no_main]

use auth_service::domain::account::{Group, Username};
use auth_service::domain::client::ClientId;
use auth_service::domain::resource::{ProtectedHosts, Scheme};
use auth_service::policy::{Era, Question, Verdict, Who, explain, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str, &str, &str)| {
    let (file, tool, scope, group) = input;
    let hosts = ProtectedHosts::new(Scheme::Https, vec!["a.example".parse().expect("a host")]);
    let Ok((policy, _)) = parse(file, Who::default(), Some(&hosts)) else { return };
    let question = |scope: &str, era| Question {
        username: Username::try_from("ana".to_owned()).expect("a name"),
        email: Some("ana@example.com".to_owned()),
        groups: Group::try_from(group.to_owned()).into_iter().collect(),
        client_id: ClientId::try_from("c".to_owned()).expect("an id"),
        scope: scope.parse().unwrap_or_default(),
        resource: hosts.parse("https://a.example/mcp").expect("a resource"),
        http_method: "POST".to_owned(),
        method: "tools/call".to_owned(),
        tool: Some(tool.to_owned()),
        era,
    };
    let passes = |scope: &str, era| explain(&policy, &question(scope, era)).verdict == Verdict::Allowed;
    for era in [Era::Modern, Era::Legacy] {
        assert!(!passes("", era), "allowed without any scope");
        let more = format!("{scope} more");
        assert!(scope.len() > 200 || !passes(scope, era) || passes(&more, era), "refused with more scope");
    }
    // Requests with an empty tool name are not compared.
    assert!(
        tool.is_empty() || !passes(scope, Era::Legacy) || passes(scope, Era::Modern),
        "allowed because the tool is not named"
    );
});
