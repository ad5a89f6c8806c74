//! Checks the compose files without an engine: labels that Traefik accepts, hardened containers, and settings
//! that exist. A typo in a compose file makes a test fail.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod down;
mod memory;
mod published;
mod scripts;
mod settings;
mod tools;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::process::Command;

use serde_json::Value;
use tests::blocks::{self, Definitions, check_hardening, names, section};
use tests::places::repository;

const EDGES: [&str; 4] = ["traefik", "envoy", "nginx", "caddy"];
const SERVICES: &str = "compose/services.example.yaml";

fn text(below: &str) -> String {
    fs::read_to_string(repository().join(below)).unwrap()
}

/// Checks every block, and that no two blocks share a lane or a user.
#[track_caller]
fn assert_good(file: &Value) -> usize {
    let definitions = Definitions::read().unwrap();
    let mut lanes: BTreeMap<String, &str> = BTreeMap::new();
    let mut users: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, block) in section(file, "services") {
        let lane = definitions.check(name, block).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        check_hardening(block).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        if let Some(other) = lanes.insert(lane, name) {
            panic!("{name} and {other} are in the same lane, so they can reach each other");
        }
        let user = block["user"].as_str().unwrap_or_default();
        if let Some(other) = users.insert(user, name) {
            panic!(
                "{name} and {other} have one user, and so can take from each other what the kernel counts for it"
            );
        }
        // A new volume gets the owner of the directory in the image. The image of a static program has no such
        // directory.
        let owner = block["build"]["args"]["SERVICE_USER"].as_str().unwrap_or("10001");
        let has_none = block["volumes"].is_null() || block["build"]["target"] == "wrapper";
        let is_writable = has_none || user.strip_suffix(":10001") == Some(owner);
        assert!(is_writable, "{name} runs as {user}, and its volume belongs to {owner}");
    }
    lanes.len()
}

/// The block that results from removing the comment marks of the commented template.
fn template() -> String {
    let text = text(SERVICES);
    let lines = text.lines().skip_while(|line| !line.starts_with("  # The template."));
    let block = lines.skip_while(|line| *line != "  #").skip(1);
    let block: Vec<&str> = block.map_while(|line| line.strip_prefix("  # ")).collect();
    assert!(block.len() > 10, "{block:?}");
    format!("  {}\n", block.join("\n  "))
}

#[test]
fn the_ready_made_services_are_good_blocks() {
    assert_eq!(assert_good(&blocks::read(SERVICES).unwrap()), 6);
}

#[test]
fn the_template_makes_a_good_block() {
    let block = template().replace("NAME:", "notes:").replace("NAME", "notes").replace("LANE", "7");
    // `COMPOSE_PROJECT_NAME` is a variable of Compose that happens to contain the template's placeholder.
    let block = block.replace("COMPOSE_PROJECT_notes", "COMPOSE_PROJECT_NAME");
    let all = text(SERVICES).replace("\nvolumes:\n", &format!("\n{block}\nvolumes:\n"));
    assert_eq!(assert_good(&blocks::parse(&all).unwrap()), 7);
}

#[test]
fn a_slip_of_the_pen_is_found() {
    let slips = [
        ("traefik.http.routers.everything.rule", "traefik.http.router.everything.rule"),
        ("traefik.http.routers.everything.rule", "traefik.http.routers.other.rule"),
        ("mcp-gate.stack", "mcp-gate.stak"),
        ("checked@file", "chekced@file"),
        ("checked@file", "services@file"),
        ("LISTEN: 0.0.0.0:8080", "LISTEN: 0.0.0.0:8081"),
        ("Path(`/everything/mcp`)", "Path(`/everithing/mcp`)"),
        ("Path(`/everything/mcp`)", "PathPrefix(`/`)"),
        ("http://mcp-everything:8080", "http://mcp-everyting:8080"),
        ("{ lane-1:", "{ lane-13:"),
        ("[mcp-everything]", "[everything]"),
        ("traefik.enable: \"true\"", "traefik.enable: true"),
        ("MCP_PATH: /everything/mcp", "MCP_PATH: /mcp"),
        ("IDENTITY: assertion", "IDENTITY: headers"),
        ("kernel.msgmni: \"0\"", "kernel.msgmni: \"32000\""),
        ("kernel.shm_rmid_forced", "kernel.shm_rmid_force"),
        ("250 4096 100 128", "32000 1024000000 500 32000"),
    ];
    let definitions = Definitions::read().unwrap();
    let good = text(SERVICES);
    let check = |text: &str| {
        let file = blocks::parse(text).unwrap();
        definitions.check("everything", &file["services"]["everything"]).map_err(|error| format!("{error:#}"))
    };
    check(&good).unwrap();
    for (from, to) in slips {
        let slipped = good.replacen(from, to, 1);
        assert_ne!(slipped, good, "{from} is not in the file");
        assert!(check(&slipped).is_err(), "no check notices {to} instead of {from}");
    }
    for (from, to) in [
        ("read_only: true", "read_only: false"),
        ("cap_drop: [ALL]", "cap_drop: [NET_RAW]"),
        ("no-new-privileges:true", "seccomp:unconfined"),
        ("user: \"10101:10001\"", "user: \"0:0\""),
        ("user: \"10101:10001\"", "user: root"),
        ("mem_limit: 1g", "shm_size: 1g"),
        ("pids_limit: 256", "init: true"),
    ] {
        let slipped = good.replacen(from, to, 1);
        assert_ne!(slipped, good, "{from} is not in the file");
        let file = blocks::parse(&slipped).unwrap();
        let checked = check_hardening(&file["services"]["everything"]);
        assert!(checked.is_err(), "no check notices {to} instead of {from}");
    }
}

#[test]
fn every_container_of_the_stack_is_held_to_the_rules() {
    let edges = EDGES.map(|edge| format!("compose/edge-{edge}.yaml"));
    let mut seen = 0;
    for below in edges.iter().map(String::as_str).chain(["compose/stack.yaml"]) {
        for (name, block) in section(&blocks::read(below).unwrap(), "services") {
            // This block only extends a service from another file.
            if block["image"].is_null() {
                continue;
            }
            check_hardening(block).unwrap_or_else(|error| panic!("{name} in {below}: {error:#}"));
            seen += 1;
        }
    }
    assert_eq!(seen, 8);
}

#[test]
fn every_edge_is_in_every_lane_and_only_the_edge_is_reached_from_outside() {
    let stack = blocks::read("compose/stack.yaml").unwrap();
    let lanes = Definitions::read().unwrap().lanes;
    assert!(lanes.len() >= 12);
    for (name, network) in section(&stack, "networks") {
        let open = ["public", "outbound"].contains(&name);
        assert_eq!(network["internal"].as_bool().unwrap_or_default(), !open, "{name}");
    }
    let quiet = &stack["networks"]["outbound"]["driver_opts"]["com.docker.network.bridge.enable_icc"];
    assert_eq!(quiet, "false", "services with internet access could reach each other");
    for edge in EDGES {
        let file = blocks::read(&format!("compose/edge-{edge}.yaml")).unwrap();
        let edge_is_in: BTreeSet<String> = names(&file["services"]["edge"]["networks"]).into_iter().collect();
        assert!(edge_is_in.is_superset(&lanes), "{edge}");
        for forbidden in ["store", "outbound"] {
            assert!(!edge_is_in.contains(forbidden), "{edge} is in {forbidden}");
        }
        for (name, block) in section(&file, "services").into_iter().chain(section(&stack, "services")) {
            assert!(name == "edge" || block["ports"].is_null(), "{name} publishes a port");
            if name != "edge" {
                assert!(!names(&block["networks"]).iter().any(|network| lanes.contains(network)), "{name}");
            }
        }
    }
    assert_eq!(names(&stack["services"]["redis"]["networks"]), ["store"]);
}

/// A caller chooses the path of a request, and with these edges the path determines the host name that is looked
/// up.
#[test]
fn an_edge_asks_nobody_outside_for_the_name_of_a_container() {
    for edge in EDGES {
        let file = blocks::read(&format!("compose/edge-{edge}.yaml")).unwrap();
        let block = &file["services"]["edge"];
        assert_eq!(names(&block["dns_search"]), ["."], "{edge}");
        if edge != "traefik" {
            assert_eq!(names(&block["dns"]), ["127.0.0.1"], "{edge}");
        }
    }
}

/// The setting names that `config/environment.rs` lists.
fn settings_of_auth_service() -> BTreeSet<String> {
    let source = text("auth-service/src/config/environment.rs");
    let list = source.split("const NAMES").nth(1).unwrap().split("];").next().unwrap();
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_setting_of_auth_service_can_be_made_in_dot_env() {
    let stack = blocks::read("compose/stack.yaml").unwrap();
    let passed = names(&stack["services"]["auth-service"]["environment"]);
    let known = settings_of_auth_service();
    let missing: Vec<_> = known
        .iter()
        // The edge sends checks over HTTP, and with Redis there is no data directory.
        .filter(|name| !["DATA_DIR", "EDGE_GRPC_LISTEN"].contains(&name.as_str()))
        .filter(|name| !passed.contains(name) && !passed.contains(&format!("{name}_FILE")))
        .collect();
    assert!(missing.is_empty(), "compose/stack.yaml does not pass {missing:?}");
    for name in &passed {
        let is_setting =
            known.contains(name) || name.strip_suffix("_FILE").is_some_and(|name| known.contains(name));
        assert!(is_setting, "auth-service has no setting {name}");
    }
}

/// The variables that a file requests from Compose.
fn variables(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let parts = lines.flat_map(|line| line.split("${").skip(1).map(str::to_owned).collect::<Vec<_>>());
    parts
        .map(|part| part.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>())
        .collect()
}

#[test]
fn dot_env_explains_every_variable_and_has_every_variable() {
    let example = text(".env.example");
    let mut explained = BTreeSet::new();
    let mut comment = false;
    for line in example.lines() {
        match line.split_once('=') {
            Some((name, _)) if !line.starts_with('#') => {
                assert!(comment, "{name} in .env.example has no explanation");
                explained.insert(name.to_owned());
            }
            _ => comment = line.starts_with('#'),
        }
    }
    let settings = settings_of_auth_service();
    let known = |name: &String| {
        let plain = name.strip_suffix("_FILE").unwrap_or(name);
        explained.contains(name)
            || settings.contains(name)
            || settings.contains(plain)
            || name == "LISTEN_TLS"
    };
    let mut used = BTreeSet::new();
    for entry in fs::read_dir(repository().join("compose")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "yaml") && !path.ends_with("services.yaml") {
            used.extend(variables(&fs::read_to_string(path).unwrap()));
        }
    }
    let unexplained: Vec<_> = used.iter().filter(|name| !known(name)).collect();
    assert!(unexplained.is_empty(), "not in .env.example: {unexplained:?}");
    let unused: Vec<_> = explained
        .iter()
        .filter(|name| {
            !used.contains(*name) && !["COMPOSE_FILE", "COMPOSE_PROFILES"].contains(&name.as_str())
        })
        .collect();
    assert!(unused.is_empty(), "only in .env.example: {unused:?}");
}

/// A writable copy of the files that the scripts need.
fn checkout() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for below in ["compose", "scripts", ".env.example"] {
        let status =
            Command::new("cp").arg("-r").arg(repository().join(below)).arg(dir.path()).status().unwrap();
        assert!(status.success());
    }
    for mine in ["compose/services.yaml", ".env"] {
        fs::remove_file(dir.path().join(mine)).ok();
    }
    dir
}

/// The installed versions of Compose. They need no engine for these tests.
fn composes() -> Vec<Vec<&'static str>> {
    let all = [vec!["docker", "compose"], vec!["docker-compose"]];
    let is_here = |words: &Vec<&str>| {
        let version = Command::new(words[0]).args(&words[1..]).arg("version").output();
        version.is_ok_and(|output| output.status.success())
    };
    all.into_iter().filter(is_here).collect()
}

#[test]
fn compose_takes_every_variant() {
    let composes = composes();
    if composes.is_empty() {
        let message = "SKIPPED compose_takes_every_variant: there is no Compose here (Debian: apt-get install docker-compose)\n";
        std::io::stderr().write_all(message.as_bytes()).unwrap();
        return;
    }
    let checkout = checkout();
    let env = checkout.path().join(".env");
    let example = text(".env.example");
    fs::copy(repository().join(SERVICES), checkout.path().join("compose/services.yaml")).unwrap();
    for edge in EDGES {
        for more in ["", ":compose/scale.yaml", ":compose/tls.yaml", ":compose/edge-certificate.yaml"] {
            let files = format!(
                "COMPOSE_FILE=compose/stack.yaml:compose/edge-{edge}.yaml:compose/services.yaml{more}\n"
            );
            let settings: Vec<&str> =
                example.lines().filter(|line| !line.starts_with("COMPOSE_FILE=")).collect();
            let mut settings = settings.join("\n") + "\n";
            settings =
                settings.replace("COMPOSE_PROFILES=", "COMPOSE_PROFILES=filesystem,memory,time,fetch,git");
            fs::write(&env, settings + &files).unwrap();
            for compose in &composes {
                let mut command = Command::new(compose[0]);
                command.args(&compose[1..]).args(["config"]).current_dir(checkout.path());
                for name in ["COMPOSE_FILE", "COMPOSE_PROJECT_NAME", "COMPOSE_PROFILES"] {
                    command.env_remove(name);
                }
                let output = command.output().unwrap();
                let error = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success(), "{compose:?} {files}: {error}");
                let shown = blocks::parse(&String::from_utf8(output.stdout).unwrap()).unwrap();
                assert_eq!(
                    section(&shown, "services").len(),
                    if edge == "traefik" { 11 } else { 10 },
                    "{files}"
                );
            }
        }
    }
}

#[test]
fn the_user_of_auth_service_at_the_redis_of_the_stack_may_run_all_that_it_needs() {
    let decision = text("docs/adr/0003-redis-store.md");
    let (_, list) = decision.split_once("these commands: ").unwrap();
    let (list, _) = list.split_once(". They are tested").unwrap();
    let setup = text("compose/setup/setup");
    let user = setup.lines().find(|line| line.starts_with("user mcp-gate on ")).unwrap();
    let allowed: Vec<&str> = user.split(' ').collect();
    let needed: Vec<&str> = list.split([',', ' ', '\n']).filter(|command| !command.is_empty()).collect();
    assert!(needed.len() > 10, "{needed:?}");
    for command in needed {
        assert!(allowed.contains(&format!("+{command}").as_str()), "{command}");
    }
}
