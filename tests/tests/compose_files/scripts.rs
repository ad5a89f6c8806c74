//! Tests of the scripts that write blocks and configurations, without an engine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;
use tests::blocks;
use tests::blocks::names;
use tests::places::repository;

use crate::{EDGES, assert_good, checkout, composes};

/// Runs `scripts/add-service` with an engine that does not respond.
fn add_service(checkout: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(checkout.join("scripts/add-service"));
    command.args(words).env("DOCKER_HOST", "unix:///nonexistent").output().unwrap()
}

#[test]
fn add_service_writes_good_blocks_until_the_lanes_are_used_up() {
    let checkout = checkout();
    let services: [&[&str]; 6] = [
        &["notes", "--data", "--", "npx", "-y", "@scope/server-notes", "--flag", "a \"b\" $c \\d"],
        &["pages", "--internet", "--env", "TOKEN", "--env", "MODE=x=$y", "--", "uvx", "mcp-server-fetch"],
        &["many", "--", "uvx", "--from", "package[extra]==1.2", "script", "--x"],
        &["own", "--host", "own", "--", "npx", "server-own@1.2.3"],
        &["plain", "--data", "--", "/bin/true", "--serve"],
        &["tools", "--debian", "git", "--debian", "jq", "--", "npx", "-y", "server-tools"],
    ];
    for words in services {
        let output = add_service(checkout.path(), words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let file = fs::read_to_string(checkout.path().join("compose/services.yaml")).unwrap();
    let file = blocks::parse(&file).unwrap();
    assert_eq!(assert_good(&file), 12);
    let block = |name: &str| &file["services"][name];
    assert_eq!(block("notes")["command"], serde_json::json!(["server", "--flag", "a \"b\" $$c \\d"]));
    assert_eq!(block("notes")["build"]["args"]["NPM_PACKAGE"], "@scope/server-notes");
    assert_eq!(block("notes")["volumes"][0], "notes-data:/data");
    assert!(file["volumes"].as_object().unwrap().contains_key("notes-data"));
    assert_eq!(block("pages")["environment"]["CHILD_ENV"], "TOKEN\nMODE=x=$$y\n");
    assert_eq!(block("pages")["environment"]["TOKEN"], "${TOKEN:?Set TOKEN in .env}");
    assert!(names(&block("pages")["networks"]).contains(&"outbound".to_owned()));
    assert_eq!(block("many")["build"]["args"]["SCRIPT"], "script");
    assert_eq!(block("own")["environment"]["RESOURCE"], "http://own.localhost:8080/mcp");
    assert_eq!(block("plain")["command"], serde_json::json!(["/usr/local/bin/server", "--serve"]));
    assert_eq!(block("tools")["build"]["args"]["DEBIAN_PACKAGES"], "git jq");

    let before = fs::read_to_string(checkout.path().join("compose/services.yaml")).unwrap();
    for (words, expected) in [
        (&["more", "--", "npx", "-y", "x"][..], "All twelve lanes are in use"),
        (&["notes", "--", "npx", "-y", "x"], "already has a block notes"),
        (&["redis", "--", "npx", "-y", "x"], "is used by the stack itself"),
        (&["Bad_Name", "--", "npx", "x"], "cannot be the name of a service"),
        (&["other", "--", "npx", "-y", "x; rm -rf /"], "is not the name of an npm package"),
        (&["other", "--", "uvx", "x y"], "is not the name of a PyPI package"),
        (&["other", "--", "rm", "-rf"], "is not supported"),
        (&["other"], "The command is missing"),
        (&[], "Usage: scripts/add-service NAME"),
        (&["--", "npx", "x"], "The name of the service is missing"),
    ] {
        let output = add_service(checkout.path(), words);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(expected), "{words:?}: {error}");
    }
    assert_eq!(fs::read_to_string(checkout.path().join("compose/services.yaml")).unwrap(), before);
}

/// `compose/setup` in the directory layout of its image, with temporary volumes.
struct SetUp(TempDir);

impl SetUp {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for volume in ["auth", "edge", "redis", "redis-data", "certificates"] {
            fs::create_dir_all(dir.path().join("volumes").join(volume)).unwrap();
        }
        let setup = dir.path().join("setup");
        for (from, to) in [
            ("compose/setup", ""),
            ("traefik", "traefik"),
            ("compose/envoy", "envoy"),
            ("compose/nginx", "nginx"),
            ("compose/caddy", "caddy"),
        ] {
            let from = repository().join(from);
            assert!(Command::new("cp").arg("-r").arg(from).arg(setup.join(to)).status().unwrap().success());
        }
        Self(dir)
    }

    /// The directory of the volumes that the script writes to.
    fn volumes(&self) -> PathBuf {
        self.0.path().join("volumes")
    }

    fn run(&self, settings: &[(&str, &str)]) -> Output {
        let mut command = Command::new(self.0.path().join("setup/setup"));
        command.env("VOLUMES", self.volumes());
        for (name, preset) in [
            ("PUBLIC_URL", "http://localhost:8080"),
            ("EDGE", "traefik"),
            ("ACME_EMAIL", ""),
            ("ACME_SERVER", ""),
            ("TRUSTED_IPS", ""),
            ("REQUESTS_PER_ADDRESS", "512"),
            ("SUBNET", "10.213"),
            ("STACK_LABEL", ""),
            ("COMPOSE_PROJECT_NAME", "x"),
        ] {
            command.env(name, preset);
        }
        command.envs(settings.iter().copied()).output().unwrap()
    }

    fn made(&self, below: &str) -> String {
        fs::read_to_string(self.volumes().join(below)).unwrap()
    }
}

/// Returns whether `scripts/up` accepts the labels in `compose/services.yaml`, and its output. `STACK_LABEL` is
/// set to `stack_label`.
fn judged(compose: &[&str], services: &str, stack_label: &str) -> (bool, String) {
    let checkout = checkout();
    fs::write(checkout.path().join("compose/services.yaml"), services).unwrap();
    let settings = fs::read_to_string(repository().join(".env.example")).unwrap();
    let settings = settings.replacen("\nSTACK_LABEL=\n", &format!("\nSTACK_LABEL={stack_label}\n"), 1);
    assert!(settings.contains(&format!("\nSTACK_LABEL={stack_label}\n")));
    fs::write(checkout.path().join(".env"), settings).unwrap();
    let script = format!(
        "source scripts/lib.sh; source scripts/stack.sh; COMPOSE=({}); need_good_labels",
        compose.join(" ")
    );
    let output = Command::new("bash").args(["-euc", &script]).current_dir(checkout.path()).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn labels_that_lead_past_the_check_are_refused() {
    let good = fs::read_to_string(repository().join("compose/services.example.yaml")).unwrap();
    let rule = "      traefik.http.routers.everything.rule: \"Path(`/everything/mcp`)\"\n";
    let older = good.replacen("      mcp-gate.stack: \"${STACK_LABEL:-}\"\n", "", 1);
    assert_ne!(older, good);
    for compose in composes() {
        for label in ["", "made"] {
            assert_eq!(judged(&compose, &good, label), (true, String::new()));
        }
        // TCP and UDP routers receive connections before HTTP is parsed. Compose keeps the case of labels, but
        // Traefik ignores it.
        for past in
            ["Traefik.TCP.Routers.x.Rule: \"HostSNI(`*`)\"", "traefik.udp.routers.x.entrypoints: edge"]
        {
            let slipped = good.replacen(rule, &format!("{rule}      {past}\n"), 1);
            assert_ne!(slipped, good);
            let (went_on, said) = judged(&compose, &slipped, "made");
            assert!(
                !went_on && said.contains("everything traefik.") && said.contains("without the check"),
                "{said}"
            );
        }
        // Blocks like these were used before the check was at the entry point. They are checked in the same way,
        // although new blocks should not use them.
        let lines = "      traefik.http.routers.everything.entrypoints: edge
      traefik.http.routers.everything.middlewares: mcp@file
      traefik.http.routers.everything.priority: \"99999\"
      traefik.http.routers.second.rule: \"PathPrefix(`/`)\"\n";
        let written = good.replacen(rule, &format!("{rule}{lines}"), 1);
        assert_eq!(judged(&compose, &written, "made"), (true, String::new()));
        let (went_on, said) = judged(&compose, &older, "");
        assert!(went_on && said.contains("mcp-gate.stack") && said.contains("everything"), "{said}");
        let (went_on, said) = judged(&compose, &older, "made");
        assert!(!went_on && said.contains("would not serve these blocks: everything"), "{said}");
    }
}

#[test]
fn setup_keeps_containers_of_others_out() {
    let setup = SetUp::new();
    let constraint = |label: &str| {
        assert!(setup.run(&[("STACK_LABEL", label)]).status.success(), "{label}");
        let fixed = blocks::parse(&setup.made("edge/traefik.yaml")).unwrap();
        fixed["providers"]["docker"]["constraints"].as_str().unwrap().to_owned()
    };
    let of_project = "Label(`com.docker.compose.project`, `x`)";
    assert_eq!(constraint(""), of_project);
    assert_eq!(constraint("a-B_9"), format!("{of_project} && Label(`mcp-gate.stack`, `a-B_9`)"));
    let output = setup.run(&[("STACK_LABEL", "x`) || Label(`y")]);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("STACK_LABEL"));
}

#[test]
fn setup_believes_no_address_of_the_stack_itself() {
    let setup = SetUp::new();
    for given in [
        "10.213.0.0/16",
        "10.0.0.0/8",
        "0.0.0.0/0",
        "10.213.1.2",
        "10.213.0.65/32",
        "10.213.0.32/27",
        "10.213.1.0/24",
        "192.0.2.1, 10.213.0.0/24",
        "\"10.213.0.0/28\"",
        "::ffff:10.213.1.2",
        "::ffff:0ad5:0102",
        "300.1.2.3",
        "balancer",
        "10.0.0.1; x",
        "10.0.0",
    ] {
        let output = setup.run(&[("TRUSTED_IPS", given)]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains("TRUSTED_IPS"), "{given}: {error}");
    }
    for (given, made) in [
        ("", vec![]),
        ("10.0.0.7/32,10.0.0.8", vec!["10.0.0.7/32", "10.0.0.8"]),
        ("\"10.212.0.0/16\", \"2001:db8::/32\"", vec!["10.212.0.0/16", "2001:db8::/32"]),
        // This is the address of a load balancer on this machine.
        ("10.213.0.33/32", vec!["10.213.0.33/32"]),
    ] {
        let output = setup.run(&[("TRUSTED_IPS", given)]);
        assert!(output.status.success(), "{given}: {}", String::from_utf8_lossy(&output.stderr));
        let fixed = blocks::parse(&setup.made("edge/traefik.yaml")).unwrap();
        assert_eq!(names(&fixed["entryPoints"]["edge"]["forwardedHeaders"]["trustedIPs"]), made);
    }
    // In another subnet, these addresses do not belong to the stack.
    assert!(setup.run(&[("TRUSTED_IPS", "10.213.0.0/16"), ("SUBNET", "172.30")]).status.success());
}

#[test]
fn setup_makes_secrets_once_and_configurations_each_time() {
    let setup = SetUp::new();
    let volumes = setup.volumes();
    let run = |url: &str, edge: &str, email: &str| {
        setup.run(&[("PUBLIC_URL", url), ("EDGE", edge), ("ACME_EMAIL", email)])
    };
    let made = |below: &str| setup.made(below);
    let mut secrets = None;
    for edge in EDGES {
        let output = run("http://localhost:8080", edge, "");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let now = ["auth/edge-secret", "auth/store-key", "auth/redis-url"].map(made);
        assert!(now.iter().all(|secret| secret.len() >= 43));
        assert_eq!(secrets.get_or_insert_with(|| now.clone()), &now, "secrets changed");
    }
    assert_eq!(made("auth/protected-hosts"), "localhost:8080, *.localhost:8080");
    assert!(!made("redis/users.acl").contains(made("auth/redis-password").trim()), "the password itself");
    for file in ["envoy.yaml", "nginx.conf", "Caddyfile", "dynamic/dynamic.yaml"] {
        assert!(made(&format!("edge/{file}")).contains(&made("auth/edge-secret")), "{file}");
    }
    // The template's hardening is complete, and the result is valid YAML.
    for (url, email) in [
        ("http://localhost:8080", ""),
        ("https://mcp.example.com", "me@example.com"),
        ("https://mcp.example.com", ""),
    ] {
        assert!(run(url, "traefik", email).status.success());
        let fixed = blocks::parse(&made("edge/traefik.yaml")).unwrap();
        let edge = &fixed["entryPoints"]["edge"];
        assert_eq!(edge["http"]["aliasHeadersStrategy"], "reject");
        // These middlewares run before every router, in this order.
        let all = ["one-address@file", "all-addresses@file", "to-check@file", "check@file"];
        assert_eq!(names(&edge["http"]["middlewares"]), all);
        assert_eq!(
            (&edge["asDefault"], names(&fixed["providers"]["precedence"])),
            (&true.into(), vec!["file".into()])
        );
        // Without limits, strangers could fill the memory of an entry point.
        for (name, entry_point) in fixed["entryPoints"].as_object().unwrap() {
            let has_limits =
                entry_point["http"]["maxHeaderBytes"].as_u64().is_some_and(|bytes| bytes <= 16_384)
                    && entry_point["transport"]["respondingTimeouts"]["readTimeout"].is_string();
            let is_inside = entry_point["address"].as_str().unwrap().starts_with("127.0.0.1:");
            assert!(has_limits || is_inside && name == "ping", "{name}: {entry_point}");
        }
        // This entry point must serve only the keys. An attacker who could give wrappers different keys could sign
        // assertions for any user.
        assert_eq!(names(&fixed["entryPoints"]["keys"]["http"]["middlewares"]), ["only-keys@file"]);
        let routers = |file| blocks::parse(&made(file)).unwrap()["http"]["routers"].clone();
        let (open, keys) = (routers("edge/dynamic/dynamic.yaml"), routers("edge/dynamic/stack.yaml"));
        for router in [&open["open"], &open["preflight"], &keys["keys"]] {
            assert_eq!(router["priority"], 9_223_372_036_854_774_807_u64);
        }
        assert_eq!(edge["http"]["encodedCharacters"]["allowEncodedSlash"], false);
        assert_eq!(fixed["providers"]["docker"]["exposedByDefault"], false);
        let tls = url.starts_with("https");
        assert_eq!(edge["address"], if tls { ":8443" } else { ":8080" });
        assert_eq!(edge["http"].as_object().unwrap().contains_key("tls"), tls);
        assert_eq!(edge["http"]["tls"]["certResolver"].as_str(), (!email.is_empty()).then_some("acme"));
        assert_eq!(fixed["entryPoints"].as_object().unwrap().contains_key("plain"), tls);
    }
    for (url, expected) in [
        ("http://mcp.example.com", "for localhost only"),
        ("https://mcp.example.com/", "slash"),
        ("https://mcp.example.com/x", "no path"),
        ("mcp.example.com", "not a URL"),
    ] {
        let output = run(url, "traefik", "");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(expected), "{url}: {error}");
    }
    // A new key could not decrypt the existing data.
    fs::remove_file(volumes.join("auth/store-key")).unwrap();
    let output = run("http://localhost:8080", "envoy", "");
    assert!(String::from_utf8_lossy(&output.stderr).contains("encrypted with another key"), "{output:?}");
}
