//! Reads the limits and settings of containers from compose files.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::blocks;
use crate::control_group::Bounds;
use crate::edge::Edge;

/// Settings that make a program return memory to the system, and Go's debugging switches, one of which turns
/// HTTP/2 off.
const MEMORY: [&str; 4] = ["GODEBUG", "GOMEMLIMIT", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_"];

/// The block of a container in a compose file.
#[derive(Debug, Clone)]
pub struct Container(Value);

impl Edge {
    /// The container of this edge in the compose files of this repository.
    pub fn container(self) -> Container {
        Container::of(&format!("compose/edge-{}.yaml", self.name()), "edge")
    }
}

impl Container {
    /// The block with this name in this file of the repository.
    #[track_caller]
    pub fn of(below: &str, service: &str) -> Self {
        let file = blocks::read(below).expect("a compose file");
        Self(file["services"][service].clone())
    }

    /// The container of auth-service.
    pub fn of_auth_service() -> Self {
        Self::of("compose/stack.yaml", "auth-service")
    }

    /// The container of a wrapper with its server. All these containers have the same limits.
    pub fn of_service() -> Self {
        Self::of("compose/services.example.yaml", "everything")
    }

    /// The limits for the processes of the container.
    pub fn bounds(&self) -> Bounds {
        let number = |value: &Value| value.as_u64().expect("a number");
        let files = &self.0["ulimits"]["nofile"];
        assert_eq!(files["soft"], files["hard"]);
        Bounds {
            memory: bytes(&preset(self.0["mem_limit"].as_str().expect("mem_limit is text"))),
            pids: number(&self.0["pids_limit"]),
            files: files["soft"].as_u64(),
        }
    }

    /// The numbers of a kernel setting in the container's own namespaces.
    #[track_caller]
    pub fn sysctl(&self, name: &str) -> Vec<u64> {
        let numbers = self.0["sysctls"][name].as_str().expect("a kernel setting is text");
        numbers.split_whitespace().map(|number| number.parse().expect("a number")).collect()
    }

    /// The default value of a setting, which applies if `.env` does not set it.
    #[track_caller]
    pub fn setting(&self, name: &str) -> String {
        preset(self.0["environment"][name].as_str().expect("a setting is text"))
    }

    /// The environment variables that affect memory use.
    pub fn memory_settings(&self) -> BTreeMap<String, String> {
        let environment = self.0["environment"].as_object().expect("environment is a mapping");
        let mine = environment.iter().filter(|(name, _)| MEMORY.contains(&name.as_str()));
        mine.map(|(name, value)| (name.clone(), preset(value.as_str().expect("it is text")))).collect()
    }
}

/// The default in `${NAME:-value}`, or the text itself.
fn preset(text: &str) -> String {
    let inner = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    inner.and_then(|inner| inner.split_once(":-")).map_or(text, |(_, value)| value).to_owned()
}

/// Reads a size such as Compose's `512m` or Go's `400MiB`, in bytes.
#[track_caller]
pub fn bytes(text: &str) -> u64 {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => 1,
        "m" | "MiB" => 1 << 20,
        "g" | "GiB" => 1 << 30,
        other => panic!("{text}: the unit {other} is not known here"),
    };
    digits.parse::<u64>().expect("digits") * unit
}
