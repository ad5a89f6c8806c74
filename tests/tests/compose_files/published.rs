//! Tests of `MCP_GATE_IMAGE`, with which both programs come from a published image instead of being compiled.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use crate::checkout;

/// A script that acts as an engine that cannot build. By the time the build fails and `scripts/up` exits, the
/// settings have been written.
const ENGINE: &str = "#!/bin/sh\ncase $2 in build) exit 1 ;; esac\necho 1\n";

fn up(checkout: &Path, image: Option<&str>, options: &[&str]) -> Output {
    let mut path = checkout.join("engine").into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut command = Command::new(checkout.join("scripts/up"));
    command.args(options).env("PATH", path).env_remove("MCP_GATE_IMAGE");
    command.envs(image.map(|image| ("MCP_GATE_IMAGE", image))).output().unwrap()
}

fn compiler(checkout: &Path) -> String {
    let settings = fs::read_to_string(checkout.join(".env")).unwrap();
    settings.lines().find_map(|line| line.strip_prefix("RUST_IMAGE=")).unwrap().to_owned()
}

#[test]
fn the_programs_come_from_the_image_that_is_named_from_then_on() {
    let checkout = checkout();
    let engine = checkout.path().join("engine");
    fs::create_dir(&engine).unwrap();
    fs::write(engine.join("docker"), ENGINE).unwrap();
    fs::set_permissions(engine.join("docker"), fs::Permissions::from_mode(0o755)).unwrap();

    up(checkout.path(), None, &[]);
    assert!(compiler(checkout.path()).starts_with("rust:"));
    let published = "registry.example/owner/mcp-gate/programs:0.1.0";
    for image in [Some(published), None] {
        up(checkout.path(), image, &[]);
        assert_eq!(compiler(checkout.path()), published);
    }
    let refused = up(checkout.path(), Some(published), &["--local-images"]);
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && message.contains("Use only one of the two"), "{message}");
}
