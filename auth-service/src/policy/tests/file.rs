//! Tests of the content that a policy file can have, and of the error messages for everything else.

use super::*;

fn problems(text: &str) -> String {
    parse(text, Who::default(), None).unwrap_err().to_string()
}

fn warnings(text: &str) -> Vec<String> {
    parse(text, Who::default(), Some(&hosts())).unwrap().1.iter().map(ToString::to_string).collect()
}

#[test]
fn every_problem_is_in_one_list_with_its_line() {
    let text = r#"default_scop = "mcp"
default_scope = 7
[scopes]
"a b" = "Blank"
notes.read = "Dotted"
"mcp" = ""
[[service]]
host = "mcp.example.com:8443"
path = "/a/../b"
users = ["a@b@c"]
groups = ["", "a,b"]
email_domains = ["@example.com"]
http_methods = ["post"]
legacy_tools = "off"
scopes = []
[[service]]
host = ["*.*.example", 7]
group = ["misspelled"]
[[service.tool]]
match = ""
[[service.tool]]
scopes = "mcp:x"
[service.method]
match = "x"
[[service]]
host = "a.example"
[[service]]
host = "A.Example."
path = "/"
"#;
    let problems = problems(text);
    for expected in [
        "line 1: the file has no key \"default_scop\"",
        "line 2: default_scope must be a list of strings, not integer",
        "line 4: scopes: \"a b\" is not valid",
        "line 5: scopes: \"notes\" must be a string; a name with a dot must be in quotes",
        "line 6: scopes: the description of \"mcp\" must be one line",
        "line 8: host: \"mcp.example.com:8443\" is not valid: write the host without a port",
        "line 9: path: \"/a/../b\" is not valid",
        "line 10: users: \"a@b@c\" is not valid",
        "line 11: groups: \"\" is not valid",
        "line 11: groups: \"a,b\" is not valid",
        "line 12: email_domains: \"@example.com\" is not valid",
        "line 13: http_methods: \"post\" is not valid",
        "line 14: legacy_tools must be \"strict\" or \"wrapper\", not \"off\"",
        "line 15: scopes is empty",
        "line 17: host must contain strings in quotes, not integer",
        "line 17: host: \"*.*.example\" is not valid",
        "line 18: [[service]] has no key \"group\"",
        "line 19: [[service.tool]] has no condition",
        "line 20: match: \"\" is not valid",
        "line 21: [[service.tool]] needs match",
        "line 23: method must be written as [[service.method]]",
        "line 27: there is already a [[service]] for a.example in line 25",
    ] {
        assert!(problems.contains(expected), "{expected}\nin {problems}");
    }
}

#[test]
fn two_rules_of_places_that_many_servers_take_for_one_are_refused() {
    let two = |one: &str, other: &str| {
        let service = |path: &str| format!("[[service]]\nhost = \"a.example\"\npath = \"{path}\"\n");
        parse(&(service(one) + &service(other)), Who::default(), None)
            .map_err(|problems| problems.to_string())
    };
    for (one, other) in [("/mcp", "/MCP"), ("/mcp/a", "/mcp./a"), ("/a/b/", "/A/b")] {
        let problems = two(one, other).unwrap_err();
        assert!(
            problems.contains("line 4: many servers treat a.example/") && problems.contains("in line 1"),
            "{problems}"
        );
    }
    assert!(two("/mcp", "/mcp2").is_ok() && two("/mcp", "/mcp/a").is_ok());
}

#[test]
fn what_is_no_toml_is_told_with_its_lines() {
    let problems = problems("default_scope = \"mcp\nscopes = = 1\n[[service]]\nhost = 'a'\nhost = 'b'\n");
    assert!(problems.contains("line 1: ") && problems.contains("line 2: "), "{problems}");
    assert!(problems.contains("line 5: ") && problems.contains("duplicate"), "{problems}");
}

#[test]
fn a_file_that_says_nothing_is_not_a_policy_without_rules() {
    for text in ["", "\n \n", "# nothing\n"] {
        assert!(problems(text).contains("unset POLICY_FILE"), "{text:?}");
    }
    let long = format!("#{}\n", "x".repeat(MAX_FILE_SIZE));
    assert!(problems(&long).contains("more than"));
}

#[test]
fn rules_that_do_not_fit_into_an_assertion_are_refused_when_they_are_read() {
    let rule =
        |at: usize| format!("[[service.tool]]\nmatch = \"some_tool_number_{at}\"\nscopes = \"s:{at}\"\n");
    let text =
        |count| format!("[[service]]\nhost = \"a.example\"\n{}", (0..count).map(rule).collect::<String>());
    let policy = parse(&text(20), Who::default(), None).unwrap().0;
    let json = serde_json::to_string(&policy.unmet_rules(&ana("", &[]), &resource(NOTES))).unwrap();
    assert!(json.len() <= unmet::MAX_LEN, "{}", json.len());
    assert!(problems(&text(60)).contains("are possible"));
}

#[test]
fn warnings_name_what_has_no_effect_and_what_nobody_described() {
    let warnings = warnings(
        r#"[scopes]
mcp = "All"
[[service]]
host = "elsewhere.example"
[[service]]
host = "b.example"
scopes = "mcp"
legacy_tools = "wrapper"
[[service]]
host = "a.example"
scopes = "mcp"
[[service.tool]]
match = "x[yz]"
scopes = "mcp:x"
"#,
    );
    for expected in [
        "line 3: no host of PROTECTED_HOSTS is elsewhere.example",
        "line 5: legacy_tools has no effect",
        "line 12: the scope mcp:x is not described",
        "line 12: this rule refuses nothing",
        "line 12: [[service.tool]]: names like \"x[yz]\" are unusual",
    ] {
        assert!(warnings.iter().any(|warning| warning.starts_with(expected)), "{expected}\nin {warnings:#?}");
    }
    assert_eq!(warnings.len(), 5, "{warnings:#?}");
}

#[test]
fn a_rule_behind_more_specific_ones_everywhere_is_warned_of() {
    let text = "[[service]]\nhost = \"*\"\n[[service]]\nhost = [\"a.example\", \"b.example\"]\n";
    let only =
        ProtectedHosts::new(Scheme::Https, vec!["a.example".parse().unwrap(), "b.example".parse().unwrap()]);
    let warned = |hosts| parse(text, Who::default(), Some(hosts)).unwrap().1;
    assert!(warned(&only)[0].to_string().starts_with("line 1: no request matches *"));
    assert!(warned(&hosts()).is_empty(), "the wildcard host has no rule of its own");
}

#[test]
fn what_is_needed_can_be_granted_and_what_is_described_is_told() {
    let policy = policy(TOOLS);
    assert_eq!(policy.catalogue().to_string(), "mcp:use notes:admin notes:files notes:read notes:write");
    let token = |text: &str| ScopeToken::try_from(text.to_owned()).unwrap();
    assert_eq!(policy.description(&token("notes:read"), 1), Some("Read your notes"));
    assert_eq!(policy.description(&token("notes:admin"), 1), None);
}

#[test]
fn without_a_file_the_description_says_whether_it_is_about_one_service() {
    let policy = Policy::without_file(Who::default());
    let mcp = ScopeToken::try_from("mcp".to_owned()).unwrap();
    assert_eq!(policy.description(&mcp, 1), Some("To use all tools of this service"));
    assert_eq!(policy.description(&mcp, 2), Some("To use all tools of these services"));
}

#[test]
fn everything_but_some_is_one_rule() {
    let policy = policy(
        "[[service]]\nhost = \"a.example\"\nscopes = \"r\"\n[[service.tool]]\nmatch = \"*\"\nexcept = [\"list_*\", \"get\"]\nscopes = \"w\"\n",
    );
    let principal = ana("r", &[]);
    for (tool, allowed) in [("list_all", true), ("get", true), ("get_more", false), ("new_tool", false)] {
        assert_eq!(
            decided(&policy, &principal, NOTES, Operation::Tool(tool)) == Decision::Allow,
            allowed,
            "{tool}"
        );
    }
}

#[test]
fn the_example_file_is_good_and_means_what_it_says() {
    let text = include_str!("../../../../compose/policy.example.toml");
    let hosts = ProtectedHosts::new(Scheme::Https, vec!["mcp.example.com".parse().unwrap()]);
    let (policy, warnings) = parse(text, Who::default(), Some(&hosts)).unwrap();
    assert!(warnings.is_empty(), "{warnings:#?}");
    let notes = hosts.parse("https://mcp.example.com/notes").unwrap();
    let mut principal = ana("notes:read", &["staff"]);
    principal.resources = vec![hosts.parse("https://mcp.example.com").unwrap()];
    let tool = |name| decide(Credentials::Token(&principal), &policy, &asked(&notes, Operation::Tool(name)));
    assert_eq!(tool("list_pages"), Decision::Allow);
    assert_eq!(tool("delete_page"), needs("notes:read notes:write"));
    assert!(is_forbidden(&tool("export_all")));
}
