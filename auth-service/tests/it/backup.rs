//! Tests of backup and restore with the real program, following the operator's steps.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use auth_service::operator::read_key;
use auth_service::store::embedded::EmbeddedStore;

use crate::redis_server::RedisServer;

const PROGRAM: &str = env!("CARGO_BIN_EXE_auth-service");
const KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
const OTHER_KEY: &str = "CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg=";

fn run(program: &Path, arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", path).env("AUTH_SERVICE", PROGRAM);
    command.envs(settings.iter().copied()).output().unwrap()
}

#[track_caller]
fn works(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[track_caller]
fn fails(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    text
}

fn command(words: &str, settings: &[(&str, &str)]) -> Output {
    run(Path::new(PROGRAM), &words.split(' ').collect::<Vec<_>>(), settings)
}

fn script(name: &str, arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts").join(name);
    run(&path, arguments, settings)
}

#[test]
fn a_backup_of_one_machine_is_restored_on_another() {
    let all = tempfile::tempdir().unwrap();
    let at = |name: &str| all.path().join(name).display().to_string();
    let (data, new, dumps) = (at("data"), at("new"), at("dumps"));
    fs::create_dir(&dumps).unwrap();
    let (here, there) = ([("DATA_DIR", data.as_str())], [("DATA_DIR", new.as_str())]);
    works(&command("user add --new-store ana --email ana@people.example --group staff", &here));
    works(&command("user add bo", &here));
    // Two backups can be made in the same second.
    for _ in 0..2 {
        works(&script("backup", &["--keep", "1", &dumps], &here));
    }
    let kept: Vec<_> = fs::read_dir(&dumps).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [dump] = kept.as_slice() else { panic!("{kept:?}") };
    // A dump whose name contains a later time was made while the clock was ahead. The script must then report an
    // error and remove no dump.
    let later = Path::new(&dumps).join("mcp-gate-29990101T000000Z.dump");
    fs::write(&later, "").unwrap();
    let message = fails(&script("backup", &["--keep", "1", &dumps], &here));
    assert!(message.contains("Set the clock"), "{message}");
    assert_eq!(fs::read_dir(&dumps).unwrap().count(), 3);
    fs::remove_file(later).unwrap();
    // A dump that another backup wrote while this one was running is newer, and nothing is wrong with the clock.
    let slow = all.path().join("slow");
    let other = at("dumps/mcp-gate-$(date -u +%Y%m%dT%H%M%S.%6NZ).dump");
    fs::write(&slow, format!("#!/bin/sh\n{PROGRAM} \"$@\" && touch \"{other}\"\n")).unwrap();
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o700)).unwrap();
    let beside = [here[0], ("AUTH_SERVICE", slow.to_str().unwrap())];
    works(&script("backup", &["--keep", "9", &dumps], &beside));
    for entry in fs::read_dir(&dumps).unwrap() {
        let path = entry.unwrap().path();
        if &path != dump {
            fs::remove_file(path).unwrap();
        }
    }
    let dump = dump.to_str().unwrap();
    let bytes = fs::read(dump).unwrap();
    assert!(!bytes.windows(6).any(|window| window == b"people"));
    // A restore brings back the state at the time of the backup, and needs the key with which the backup was made.
    works(&command("user disable ana", &here));
    let refused = fails(&script("restore", &[dump], &there));
    assert!(refused.contains("--key-file"), "{refused}");
    assert!(!Path::new(&new).join("store.key").exists(), "a refused restore left a key file");
    let key_file = format!("{data}/store.key");
    works(&script("restore", &["--key-file", &key_file, dump], &there));
    let users = works(&command("user list", &there));
    assert!(users.contains("ana@people.example\tactive\tstaff") && users.contains("bo\t"), "{users}");
    assert_ne!(fs::read(&key_file).unwrap(), fs::read(format!("{new}/store.key")).unwrap());
    // An existing store is replaced only with `--replace`. The old file is kept as `store.redb.replaced`.
    let refused = fails(&script("restore", &[dump], &here));
    assert!(refused.contains("not empty") && refused.contains("--replace"), "{refused}");
    assert!(works(&command("user list", &here)).contains("disabled"));
    works(&script("restore", &["--replace", dump], &here));
    assert!(!works(&command("user list", &here)).contains("disabled"));
    assert!(Path::new(&data).join("store.redb.replaced").exists());
    for name in ["backup", "restore"] {
        assert!(works(&script(name, &["--help"], &[])).contains("Usage: scripts/"));
        assert!(fails(&script(name, &[], &here)).contains("--help"));
        assert!(fails(&script(name, &["--what"], &here)).contains("no option"));
    }
    assert!(fails(&script("restore", &["/nowhere"], &here)).contains("no file"));
    assert!(fails(&script("backup", &["/nowhere"], &here)).contains("not a directory"));
}

#[test]
fn a_backup_that_another_command_keeps_from_the_store_says_so() {
    let all = tempfile::tempdir().unwrap();
    let (data, dumps) = (all.path().join("data"), all.path().to_str().unwrap());
    let here = [("DATA_DIR", data.to_str().unwrap())];
    works(&command("user add --new-store ana", &here));
    let path = data.join("store.key");
    let key = read_key(&path).unwrap();
    let other = EmbeddedStore::open(&data, &key).unwrap();
    let told = fails(&script("backup", &[dumps], &here));
    for part in ["the store is in use", "Another command, such as a backup", "try again", "The backup failed"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    drop(other);
    works(&script("backup", &[dumps], &here));
}

/// With a wrong `DATA_DIR`, the account would be in a store that no service uses.
#[test]
fn an_account_makes_a_store_only_if_the_operator_says_so() {
    let all = tempfile::tempdir().unwrap();
    let data = all.path().join("data");
    let here = [("DATA_DIR", data.to_str().unwrap())];
    let told = fails(&command("user add ana", &here));
    assert!(told.contains("there is no store in") && told.contains("--new-store"), "{told}");
    assert!(!data.exists(), "a store was created");
    assert!(!fails(&command("user list", &here)).contains("--new-store"));
    works(&command("user add --new-store ana", &here));
    works(&command("user add bo", &here));
    // `--new-store` is also accepted if the store already exists.
    works(&command("user add --new-store cy", &here));
    assert_eq!(works(&command("user list", &here)).lines().count(), 3);
}

#[test]
fn what_an_operator_gets_wrong_is_named() {
    let all = tempfile::tempdir().unwrap();
    let (data, dump) = (all.path().join("data"), all.path().join("dump"));
    let here = [("DATA_DIR", data.to_str().unwrap())];
    works(&command("user add --new-store ana", &here));
    // `user groups` also accepts groups in the form of `user add` (`--group`).
    works(&command("user groups ana staff --group admins", &here));
    assert!(works(&command("user list", &here)).contains("staff,admins"));
    fs::write(&dump, "in the way").unwrap();
    let told = fails(&command(&format!("store export {}", dump.display()), &here));
    assert!(told.contains("already exists") && told.contains("choose another name"), "{told}");
    let rotated = works(&command("keys rotate", &here));
    let told = fails(&command("keys rotate", &here));
    assert!(rotated.contains("next") && told.contains("a rotation is under way"), "{told}");
    assert!(is_dated(&told), "{told}");
    let told = fails(&command("clock accept --today 2020-01-01", &here));
    assert!(told.contains("shows another day") && is_dated(&told), "{told}");
    fs::remove_file(data.join("store.key")).unwrap();
    fs::create_dir(data.join("store.key")).unwrap();
    let told = fails(&command("user list", &here));
    assert!(
        told.contains("regular file that this user can read") && !told.contains("DATA_DIR must"),
        "{told}"
    );
}

/// Whether `text` contains a time in a readable format rather than seconds since 1970.
fn is_dated(text: &str) -> bool {
    let words = || text.split(|c: char| !c.is_ascii_alphanumeric() && !"-:".contains(c));
    let is_time = |word: &str| word.starts_with("20") && word.contains('T') && word.ends_with('Z');
    let is_number = |word: &str| word.len() >= 10 && word.bytes().all(|b| b.is_ascii_digit());
    words().any(is_time) && !words().any(is_number)
}

#[test]
fn a_command_that_works_without_the_service_writes_its_audit_event_itself() {
    let Some(server) = RedisServer::start(&["--appendonly", "yes"]) else { return };
    let all = tempfile::tempdir().unwrap();
    let (data, url) = (all.path().display().to_string(), server.url());
    let embedded = [("DATA_DIR", data.as_str()), ("LOG_FORMAT", "json")];
    let redis = [("REDIS_URL", url.as_str()), ("STORE_KEY", KEY), ("LOG_FORMAT", "json")];
    for settings in [embedded.as_slice(), redis.as_slice()] {
        for (words, event) in
            [("user add --new-store ana", "account_added"), ("user disable ana", "account_disabled")]
        {
            let output = command(words, settings);
            works(&output);
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            let line: serde_json::Value = serde_json::from_str(&message).unwrap();
            assert_eq!(
                (line["target"].as_str(), line["event"].as_str()),
                (Some("audit"), Some(event)),
                "{message}"
            );
        }
        assert!(command("user list", settings).stderr.is_empty(), "an unexpected event");
    }
}

#[test]
fn one_machine_becomes_a_fleet_and_one_machine_again() {
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let all = tempfile::tempdir().unwrap();
    let (data, back) =
        (all.path().join("data").display().to_string(), all.path().join("back").display().to_string());
    let url = server.url();
    let here = [("DATA_DIR", data.as_str())];
    works(&command("user add --new-store ana", &here));
    let both = [("DATA_DIR", data.as_str()), ("REDIS_URL", url.as_str()), ("STORE_KEY", KEY)];
    let said = works(&command("store migrate --to redis", &both));
    assert!(said.contains("read back and counted") && said.contains("1 account\n"), "{said}");
    assert!(works(&command("user list", &both)).starts_with("ana\t"));
    assert!(fails(&command("store migrate --to redis", &both)).contains("not empty"));
    // These steps follow the key rotation in docs/state.md.
    let rotating = [("REDIS_URL", url.as_str()), ("STORE_KEY", OTHER_KEY), ("STORE_KEY_PREVIOUS", KEY)];
    assert!(fails(&command("store rekey", &both)).contains("STORE_KEY_PREVIOUS"));
    assert!(works(&command("store rekey", &rotating)).contains("none is now"));
    assert!(fails(&command("user list", &both)).contains("STORE_KEY"));
    let target = [("DATA_DIR", back.as_str()), ("REDIS_URL", url.as_str()), ("STORE_KEY", OTHER_KEY)];
    works(&command("store migrate --to embedded", &target));
    let alone = [("DATA_DIR", back.as_str()), ("STORE_KEY", OTHER_KEY)];
    assert!(works(&command("user list", &alone)).starts_with("ana\t"));
    // The embedded store keeps its key in a file. The operator renames that file, and a new key is made.
    let (key_file, old) = (format!("{data}/store.key"), format!("{data}/store.key.old"));
    fs::rename(&key_file, &old).unwrap();
    assert!(fails(&command("user list", &here)).contains("store.key is missing"));
    let rotating = [("DATA_DIR", data.as_str()), ("STORE_KEY_PREVIOUS_FILE", old.as_str())];
    works(&command("store rekey", &rotating));
    fs::remove_file(old).unwrap();
    assert!(works(&command("user list", &here)).starts_with("ana\t"));
}

#[test]
fn a_command_on_a_redis_that_can_lose_rows_says_so_once() {
    let evicts = ["--appendonly", "no", "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"];
    let Some(server) = RedisServer::start(&evicts) else { return };
    let all = tempfile::tempdir().unwrap();
    let (url, dump) = (server.url(), all.path().join("dump").display().to_string());
    let settings = [("REDIS_URL", url.as_str()), ("STORE_KEY", KEY)];
    works(&command("user add --new-store ana", &settings));
    for words in [
        "user list",
        "user disable ana",
        "client list",
        &format!("store export {dump}"),
        &format!("store import --replace {dump}"),
    ] {
        let output = command(words, &settings);
        works(&output);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        for danger in ["Set maxmemory-policy noeviction", "Set appendonly yes"] {
            assert_eq!(told.matches(danger).count(), 1, "{words}: {told}");
        }
    }
}
