//! Property tests for arbitrary policies and requests.

use proptest::prelude::*;
use proptest::sample::subsequence;

use super::*;

/// Generates the text of a rule for tools or methods. There are few names and scopes, so that rules often apply to
/// the same operation.
fn rule() -> impl Strategy<Value = String> {
    let kind = prop::sample::select(vec!["tool", "method"]);
    let pattern = prop::sample::select(vec!["*", "a*", "*b", "ab", "tools/*", "tools/call"]);
    let except = prop::option::of(prop::sample::select(vec!["a", "ab", "*c"]));
    let scopes = subsequence(vec!["s:a", "s:b", "t"], 0..=2);
    let groups = subsequence(vec!["g", "h"], 0..=2);
    (kind, pattern, except, scopes, groups).prop_filter_map("the rule has a condition", |parts| {
        let (kind, pattern, except, scopes, groups) = parts;
        if scopes.is_empty() && groups.is_empty() {
            return None;
        }
        let list = |key: &str, list: &[&str]| {
            if list.is_empty() { String::new() } else { format!("{key} = {list:?}\n") }
        };
        let except = list("except", &except.into_iter().collect::<Vec<_>>());
        let needs = list("scopes", &scopes) + &list("groups", &groups);
        Some(format!("[[service.{kind}]]\nmatch = {pattern:?}\n{except}{needs}"))
    })
}

/// Generates a service on `a.example`, and the same service with one more rule.
fn services() -> impl Strategy<Value = (String, String)> {
    let who = prop::sample::select(vec![
        "",
        "groups = [\"g\"]\n",
        "users = [\"ana\"]\n",
        "email_domains = [\"example.com\"]\n",
    ]);
    let legacy = prop::sample::select(vec!["", "legacy_tools = \"wrapper\"\n"]);
    (who, legacy, prop::collection::vec(rule(), 0..4), rule()).prop_map(|(who, legacy, rules, more)| {
        let text =
            format!("[[service]]\nhost = \"a.example\"\nscopes = \"s:r\"\n{who}{legacy}{}", rules.concat());
        (text.clone(), text + &more)
    })
}

/// Generates a caller, and the same caller with fewer rights.
fn callers() -> impl Strategy<Value = (Principal, Principal)> {
    let scopes = subsequence(vec!["s", "s:r", "s:a", "s:b", "t"], 0..=5);
    let groups = subsequence(vec!["g", "h", "other"], 0..=3);
    let email = prop::option::of(prop::sample::select(vec![
        "ana@example.com",
        "ana@example.org",
        "a@b@example.com",
        "",
    ]));
    (scopes, groups, email, any::<(prop::sample::Index, bool, bool, bool)>()).prop_map(
        |(scopes, groups, email, less)| {
            let mut principal = ana(&scopes.join(" "), &groups);
            principal.email = email.map(str::to_owned);
            let (at, drop_scope, drop_group, drop_email) = less;
            let without = |list: &[&'static str], drop: bool| {
                let mut list = list.to_vec();
                if drop && !list.is_empty() {
                    list.remove(at.index(list.len()));
                }
                list
            };
            let mut lesser = ana(&without(&scopes, drop_scope).join(" "), &without(&groups, drop_group));
            lesser.email = if drop_email { None } else { principal.email.clone() };
            (principal, lesser)
        },
    )
}

fn operations() -> impl Strategy<Value = Operation<'static>> {
    prop::sample::select(vec![
        Operation::Unknown,
        Operation::Tool("a"),
        Operation::Tool("ab"),
        Operation::Tool("abc"),
        Operation::Tool("zb"),
        Operation::Method("tools/list"),
        Operation::Method("resources/read"),
    ])
}

fn passes(policy: &Policy, principal: &Principal, operation: Operation<'_>) -> bool {
    decided(policy, principal, NOTES, operation) == Decision::Allow
}

/// Whether a wrapper refuses the operation because of the rules that are sent to it. It interprets them like
/// `stdio-wrapper/src/policy.rs`.
fn wrapper_refuses(policy: &Policy, principal: &Principal, operation: Operation<'_>) -> bool {
    let any = |patterns: &[String], name: &str| {
        patterns.iter().any(|text| pattern::Pattern::parse(text).unwrap().matches(name))
    };
    let about = |patterns: &[String], except: &[String], name| any(patterns, name) && !any(except, name);
    policy.unmet_rules(principal, &resource(NOTES)).iter().any(|rule| {
        let tool = matches!(operation, Operation::Tool(name) if about(&rule.tools, &rule.except, name));
        tool || operation.method().is_some_and(|method| about(&rule.methods, &rule.except, method))
    })
}

proptest! {
    #[test]
    fn taking_something_from_a_caller_opens_nothing(
        (text, _) in services(), (more, less) in callers(), operation in operations(),
    ) {
        let policy = policy(&text);
        prop_assert!(!passes(&policy, &less, operation) || passes(&policy, &more, operation));
        // More rights never add a rule that the wrapper must enforce.
        prop_assert!(wrapper_refuses(&policy, &less, operation) || !wrapper_refuses(&policy, &more, operation));
    }

    #[test]
    fn a_rule_more_opens_nothing((text, with_rule) in services(), (principal, _) in callers(), operation in operations()) {
        let (before, after) = (policy(&text), policy(&with_rule));
        prop_assert!(!passes(&after, &principal, operation) || passes(&before, &principal, operation));
        prop_assert!(wrapper_refuses(&after, &principal, operation) || !wrapper_refuses(&before, &principal, operation));
    }

    #[test]
    fn a092_headers_that_are_left_out_open_nothing((text, _) in services(), (principal, _) in callers(), operation in operations()) {
        let policy = policy(&text);
        let by_headers = passes(&policy, &principal, operation);
        // The wrapper reads the body, which always contains the operation.
        let without_headers = passes(&policy, &principal, Operation::Unknown) && !wrapper_refuses(&policy, &principal, operation);
        prop_assert!(!without_headers || by_headers);
        // If the check allows a request by its headers, the wrapper allows it by its body.
        prop_assert_eq!(by_headers, by_headers && !wrapper_refuses(&policy, &principal, operation));
    }

    #[test]
    fn what_a_challenge_names_is_enough((text, _) in services(), (mut principal, _) in callers(), operation in operations()) {
        let policy = policy(&text);
        if let Decision::Deny(Denial::InsufficientScope { scope }) = decided(&policy, &principal, NOTES, operation) {
            prop_assert!(scope.within(policy.catalogue()) == scope, "not all of {} can be granted", scope);
            principal.scope = scope;
            prop_assert!(passes(&policy, &principal, operation));
        }
    }

    #[test]
    fn any_text_is_a_policy_or_a_list_of_problems(text in "([a-z_]{1,8} = [\"\\[\\]a-z,0-9 ]{0,20}\n|\\[\\[service\\]\\]\n|\\[\\[service.tool\\]\\]\n|host = \"[a-z.*]{0,8}\"\n|.{0,10}\n){0,8}") {
        match parse(&text, Who::default(), None) {
            Ok((policy, _)) => prop_assert!(!passes(&policy, &ana("", &[]), Operation::Unknown)),
            Err(problems) => prop_assert!(!problems.0.is_empty()),
        }
    }
}
