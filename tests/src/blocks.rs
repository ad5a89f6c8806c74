//! Reads compose files, and checks their services: the labels for Traefik, and the hardening of the containers.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value};

use crate::places::repository;

/// The labels that the stack uses: its own label, and Traefik's labels as spelled in the Docker label reference of
/// Traefik 3.7. `*` is a name that we choose. Check a new label in that reference before you add it here.
const LABELS: [&str; 6] = [
    "mcp-gate.stack",
    "traefik.enable",
    "traefik.docker.allownonrunning",
    "traefik.http.routers.*.rule",
    "traefik.http.services.*.loadbalancer.server.url",
    "traefik.http.services.*.loadbalancer.serverstransport",
];

/// The kernel settings of a service. Without them, a server can leave memory in System V objects that stays until the
/// container is restarted.
const SYSCTLS: [(&str, &str); 3] =
    [("kernel.shm_rmid_forced", "1"), ("kernel.msgmni", "0"), ("kernel.sem", "250 4096 100 128")];

/// Maximum number of labels of a service.
pub const MAX_LABELS: usize = 6;

/// Reads a compose file at this path in the repository. Anchors and merges are resolved, but variables are not
/// replaced.
pub fn read(below: &str) -> Result<Value> {
    let path = repository().join(below);
    parse(&fs::read_to_string(&path).with_context(|| path.display().to_string())?)
        .with_context(|| path.display().to_string())
}

/// Reads a compose file from its text.
pub fn parse(text: &str) -> Result<Value> {
    serde_saphyr::from_str(text).context("not YAML")
}

/// The entries of a section of a compose file, such as `services` or `networks`. A missing section is empty.
pub fn section<'a>(file: &'a Value, name: &str) -> Vec<(&'a str, &'a Value)> {
    let entries = file[name].as_object().map(Map::iter).into_iter().flatten();
    entries.map(|(name, value)| (name.as_str(), value)).collect()
}

/// The names in a list, or the keys of a mapping. Compose accepts both in many places.
pub fn names(value: &Value) -> Vec<String> {
    match value {
        Value::Array(list) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Value::Object(map) => map.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

/// The objects that blocks of services refer to, read from the files that define them.
#[derive(Debug)]
pub struct Definitions {
    /// The transports of `traefik/dynamic.yaml.in`.
    pub transports: BTreeSet<String>,
    /// The networks named `lane-…` in `compose/stack.yaml`.
    pub lanes: BTreeSet<String>,
}

impl Definitions {
    /// Reads the files of this repository.
    pub fn read() -> Result<Self> {
        // Placeholders are not valid YAML, and no line with a placeholder is needed here.
        let template = |below: &str| -> Result<Value> {
            let text = fs::read_to_string(repository().join(below)).context(below.to_owned())?;
            let lines = text.lines().filter(|line| !line.trim_start().starts_with('@'));
            parse(&lines.collect::<Vec<_>>().join("\n").replace('@', "")).context(below.to_owned())
        };
        let dynamic = template("traefik/dynamic.yaml.in")?;
        let stack = read("compose/stack.yaml")?;
        Ok(Self {
            transports: names(&dynamic["http"]["serversTransports"]).into_iter().collect(),
            lanes: names(&stack["networks"]).into_iter().filter(|name| name.starts_with("lane-")).collect(),
        })
    }

    /// Checks the block of one service. Returns its lane, or an error that names what is wrong.
    pub fn check(&self, name: &str, block: &Value) -> Result<String> {
        let labels = block["labels"].as_object().context("it has no labels")?;
        ensure!(labels.len() <= MAX_LABELS, "{} label lines are more than {MAX_LABELS}", labels.len());
        let label = |wanted: &str| {
            let text = labels.get(wanted).and_then(Value::as_str);
            text.with_context(|| format!("no label {wanted}, or it is not a string"))
        };
        for written in labels.keys() {
            ensure!(
                LABELS.iter().any(|known| is_spelled(written, known, name)),
                "Traefik has no label {written}"
            );
        }
        ensure!(label("mcp-gate.stack")? == "${STACK_LABEL:-}", "the label does not name this stack");
        ensure!(label("traefik.enable")? == "true", "traefik.enable is not \"true\"");

        let environment = &block["environment"];
        let setting =
            |name: &str| environment[name].as_str().with_context(|| format!("no {name} in environment"));
        let path = setting("MCP_PATH")?;
        let rule = label(&format!("traefik.http.routers.{name}.rule"))?;
        let asked = format!("Path(`{path}`)");
        let host =
            rule.strip_suffix(&asked).with_context(|| format!("the rule is not for {path}: {rule}"))?;
        let resource = setting("RESOURCE")?;
        match host.strip_prefix("Host(`").and_then(|rest| rest.strip_suffix("`) && ")) {
            None => {
                ensure!(host.is_empty(), "the rule begins with {host}");
                ensure!(path == format!("/{name}/mcp"), "without its own host, the path must be /{name}/mcp");
                ensure!(resource == format!("${{PUBLIC_URL}}{path}"), "RESOURCE is {resource}");
            }
            Some(host) => {
                ensure!(resource.contains(&format!("://{host}")), "RESOURCE is {resource}, not on {host}");
            }
        }
        ensure!(setting("IDENTITY")? == "assertion", "callers are not identified by assertions");

        let service = |field: &str| label(&format!("traefik.http.services.{name}.loadbalancer.{field}"));
        let url = service("server.url")?;
        ensure!(url == format!("http://mcp-{name}:8080"), "Traefik looks for it at {url}");
        ensure!(setting("LISTEN")?.ends_with(":8080"), "LISTEN is not at port 8080");
        let transport = service("serverstransport")?.strip_suffix("@file");
        ensure!(transport.is_some_and(|name| self.transports.contains(name)), "no such transport");
        ensure!(transport == Some("checked"), "an older Traefik would serve it without the check");

        for (name, value) in SYSCTLS {
            ensure!(block["sysctls"][name] == value, "the kernel setting {name} is not \"{value}\"");
        }

        let networks = block["networks"].as_object().context("its networks are not a mapping")?;
        let mut lanes = networks.keys().filter(|network| network.as_str() != "outbound");
        let (Some(lane), None) = (lanes.next(), lanes.next()) else {
            bail!("it is not in exactly one lane: {networks:?}")
        };
        ensure!(self.lanes.contains(lane), "there is no network {lane}");
        ensure!(names(&networks[lane]["aliases"]) == [format!("mcp-{name}")], "its alias is not mcp-{name}");
        Ok(lane.clone())
    }
}

/// Checks that a container of this block has the hardening that all containers must have. The error describes what
/// is missing.
pub fn check_hardening(block: &Value) -> Result<()> {
    ensure!(block["read_only"] == true, "its root file system is writable");
    ensure!(names(&block["cap_drop"]) == ["ALL"], "it keeps capabilities");
    ensure!(names(&block["security_opt"]) == ["no-new-privileges:true"], "it can gain privileges");
    let user = block["user"].as_str().and_then(|user| user.split_once(':')).map(|(user, _)| user);
    ensure!(user.is_some_and(|id| id.parse::<u32>().is_ok_and(|id| id > 0)), "it runs as {user:?}");
    ensure!(block["privileged"].is_null() && block["cap_add"].is_null(), "it has more than it needs");
    ensure!(
        !block["mem_limit"].is_null() && block["pids_limit"].is_u64(),
        "its memory or processes are not limited"
    );
    Ok(())
}

/// Compares label names case-insensitively, like Traefik.
fn is_spelled(written: &str, known: &str, name: &str) -> bool {
    written.eq_ignore_ascii_case(&known.replace('*', name))
}
