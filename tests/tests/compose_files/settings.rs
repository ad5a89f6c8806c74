//! Tests that a misspelt setting is refused: by `scripts/up`, because Compose ignores a variable that no file of the
//! stack names, and by both programs.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use tests::places::{binary, repository};

use crate::{SERVICES, checkout, settings_of_auth_service, text};

const OPTIONS: &str = "stdio-wrapper/src/config/options.rs";

/// Runs the part of `scripts/up` that prepares the files of the stack. `settings` are appended to the shipped
/// `.env`, and `environment` is added to the environment. Returns whether it succeeded, and its output.
fn prepared(settings: &str, services: &str, environment: &[(&str, &str)]) -> (bool, String) {
    let checkout = checkout();
    let options = checkout.path().join(OPTIONS);
    fs::create_dir_all(options.parent().unwrap()).unwrap();
    fs::copy(repository().join(OPTIONS), options).unwrap();
    fs::write(checkout.path().join("compose/services.yaml"), text(SERVICES) + services).unwrap();
    fs::write(checkout.path().join(".env"), text(".env.example") + settings).unwrap();
    let script = "source scripts/lib.sh; source scripts/stack.sh; PORT='' EDGE=''; stack_files";
    let mut command = Command::new("bash");
    command.args(["-euc", script]).current_dir(checkout.path());
    let output = command.envs(environment.iter().copied()).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn everything_in_dot_env_that_nothing_uses_is_refused_with_the_right_name() {
    for (line, expected) in [
        ("ALLOWED_USER=ana", "ALLOWED_USER: there is no such setting. Did you mean ALLOWED_USERS?"),
        ("allowed_users = ana", "allowed_users: there is no such setting. Did you mean ALLOWED_USERS?"),
        ("export REGISTRATOIN=token", "Did you mean REGISTRATION?"),
        ("ALLOWED_PEOPLE=ana", "or ALLOWED_GROUPS or ALLOWED_ORIGINS or ALLOWED_USERS?"),
        ("COMPOSE_PROFILE=memory", "Did you mean COMPOSE_PROFILES?"),
        ("ALLOWED_USERS_FILE=/x", "cannot read files of this machine. Set ALLOWED_USERS instead."),
        ("ISSUER=https://mcp.example.com", "ISSUER: the stack sets this itself, from PUBLIC_URL."),
        ("CHILD_MEMORY=1g", "CHILD_MEMORY: this is a setting of stdio-wrapper."),
        ("WEATHER_KEY=x", "WEATHER_KEY: there is no such setting."),
        ("ALLOWED_USERS", "\"ALLOWED_USERS\" is not a setting. Write NAME=value"),
    ] {
        let (went_on, said) = prepared(&format!("{line}\n"), "", &[]);
        assert!(!went_on && said.contains(expected), "{line}: {said}");
    }
    let (_, said) = prepared("ALLOWED_USER=a\nDPOPP=b\n", "", &[]);
    assert!(said.contains("ALLOWED_USERS?") && said.contains("Did you mean DPOP?"), "all together: {said}");
}

#[test]
fn settings_of_the_stack_of_compose_and_of_blocks_are_left_alone() {
    for (settings, services) in [
        ("", ""),
        ("ALLOWED_USERS=ana\nWORKERS=2\nLISTEN_TLS=0.0.0.0\nTRUSTED_ISSUERS_FILE=/policy/issuers\n", ""),
        ("COMPOSE_ANSI=never\nDOCKER_HOST=tcp://192.0.2.1\n", ""),
        ("  # a comment\n\nWEATHER_KEY=x\n", "# environment: { WEATHER_KEY: \"${WEATHER_KEY:?}\" }\n"),
    ] {
        let (went_on, said) = prepared(settings, services, &[("DOCKER_HOST", "")]);
        assert!(went_on, "{settings}: {said}");
    }
}

#[test]
fn the_environment_of_scripts_up_is_compared_too_because_compose_reads_it() {
    for (name, meant) in [("ALLOWED_USER", "ALLOWED_USERS"), ("TRUSTED_ADDRESSES", "TRUSTED_")] {
        let (went_on, said) = prepared("", "", &[(name, "x")]);
        let expected = format!("{name}: there is no such setting. Did you mean {meant}");
        assert!(!went_on && said.contains(&expected), "{name}: {said}");
    }
    let others =
        ["ALLOWED_HOSTS", "ALLOWED_USERS", "CHILD_CONCURRENCY", "ISSUER", "WEATHER_KEY", "http_proxy"];
    let (went_on, said) = prepared("", "", &others.map(|name| (name, "x")));
    assert!(went_on, "{said}");
}

/// The environment variables of stdio-wrapper's options.
fn settings_of_wrapper() -> BTreeSet<String> {
    let source = text(OPTIONS);
    let names = source.split("env = \"").skip(1).filter_map(|rest| rest.split('"').next());
    names.filter(|name| name.chars().all(|c| c.is_ascii_uppercase() || c == '_')).map(str::to_owned).collect()
}

/// `scripts/up --native` starts both programs with the same environment.
#[test]
fn each_program_leaves_the_settings_of_the_other_alone() {
    let (of_auth, of_wrapper) = (settings_of_auth_service(), settings_of_wrapper());
    assert!(of_wrapper.len() > 40, "{of_wrapper:?}");
    let said = |program: &str, words: &[&str], names: &mut dyn Iterator<Item = String>| {
        let mut command = Command::new(binary(program));
        command.args(words).env_clear().envs(names.map(|name| (name, "x")));
        let output = command.output().unwrap();
        assert!(!output.status.success(), "{program} {words:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let files = of_auth.iter().map(|name| format!("{name}_FILE"));
    let mut names = of_auth.iter().cloned().chain(files).filter(|name| !of_wrapper.contains(name));
    let told = said("stdio-wrapper", &["--", "true"], &mut names);
    // A file with the value of an option that the wrapper also has would be ignored, so it mentions that.
    let unexpected = told.lines().filter(|line| line.contains("no such setting"));
    let unexpected: Vec<&str> = unexpected.filter(|line| !line.contains("_FILE: ")).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
    let told = said("auth-service", &["policy", "check"], &mut of_wrapper.difference(&of_auth).cloned());
    assert!(!told.contains("no such setting"), "{told}");
}
