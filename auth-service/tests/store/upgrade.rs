//! Tests of stored data of earlier releases.

use std::fs;
use std::path::{Path, PathBuf};

use auth_service::keys::seal::{Purpose, Sealer};
use auth_service::store::embedded::{EmbeddedStore, OpenError};
use auth_service::store::redis::{RedisAddress, RedisStore};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::everything::{Filled, fill, is_there, is_there_to_read};
use super::resp::{Reply, Resp};
use super::things::NOW;
use super::worlds::key;
use crate::redis_server::RedisServer;

fn fixtures(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store/fixtures").join(of)
}

async fn connect(server: &RedisServer) -> RedisStore {
    RedisStore::connect(&RedisAddress::parse(&server.url()).unwrap(), &key()).await.unwrap()
}

/// Writes the data of this release to `fixtures/next`. When a release changes the schema, rename the
/// directory and keep it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "makes the fixtures of a release"]
async fn write_fixtures() {
    let to = fixtures("next");
    fs::create_dir_all(&to).unwrap();
    let data = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(data.path(), &key()).unwrap();
    let filled = fill(&store).await;
    drop(store);
    fs::copy(data.path().join("store.redb"), to.join("store.redb")).unwrap();
    fs::write(to.join("embedded-keys.json"), serde_json::to_vec(&filled.keys).unwrap()).unwrap();
    let server = RedisServer::start(&["--appendonly", "no"]).unwrap();
    let filled = fill(&connect(&server).await).await;
    fs::write(to.join("redis-keys.json"), serde_json::to_vec(&filled.keys).unwrap()).unwrap();
    let mut redis = Resp::connect(server.port);
    let mut lines = Vec::new();
    let mut names = redis.keys();
    names.sort();
    for name in names {
        let Reply::Number(left) = redis.ask(&[b"PTTL", &name]) else { panic!("no number") };
        let dump = STANDARD.encode(redis.ask(&[b"DUMP", &name]).bytes());
        lines.push(format!("{} {} {dump}\n", String::from_utf8(name).unwrap(), left.max(0)));
    }
    fs::write(to.join("redis.txt"), lines.concat()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_the_first_release_is_all_there() {
    let from = fixtures("0.1.0");
    let keys = |name: &str| {
        let keys = serde_json::from_slice(&fs::read(from.join(name)).unwrap()).unwrap();
        Filled::by_the_first_release(keys)
    };
    let data = tempfile::tempdir().unwrap();
    fs::copy(from.join("store.redb"), data.path().join("store.redb")).unwrap();
    // The data is read once while it is upgraded, and once afterwards.
    is_there_to_read(&EmbeddedStore::open(data.path(), &key()).unwrap(), &keys("embedded-keys.json"), NOW)
        .await;
    is_there(&EmbeddedStore::open(data.path(), &key()).unwrap(), &keys("embedded-keys.json"), NOW).await;
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let mut redis = Resp::connect(server.port);
    for line in fs::read_to_string(from.join("redis.txt")).unwrap().lines() {
        let [name, left, dump] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let dump = STANDARD.decode(dump).unwrap();
        let restored = redis.ask(&[b"RESTORE", name.as_bytes(), left.as_bytes(), &dump]);
        assert_eq!(restored, Reply::Text("OK".to_owned()));
    }
    is_there(&connect(&server).await, &keys("redis-keys.json"), NOW).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_a_newer_release_is_refused_and_left_alone() {
    let data = tempfile::tempdir().unwrap();
    fill(&EmbeddedStore::open(data.path(), &key()).unwrap()).await;
    let file = data.path().join("store.redb");
    let sealer = Sealer::new(&key(), Purpose::StoredValue).unwrap();
    // A row as a newer release would write it, without expiry and encrypted for its place.
    let newer = |place: &[u8], json: &[u8]| {
        let header = [&[1][..], &u64::MAX.to_be_bytes()].concat();
        [&header[..], &sealer.seal(&[place, b"\0", &header].concat(), json).unwrap()].concat()
    };
    {
        let database = redb::Database::open(&file).unwrap();
        let meta = redb::TableDefinition::<&str, &[u8]>::new("meta");
        let transaction = database.begin_write().unwrap();
        transaction.open_table(meta).unwrap().insert("schema", &*newer(b"meta\0schema", b"4")).unwrap();
        transaction.commit().unwrap();
    }
    let before = fs::read(&file).unwrap();
    let refused = EmbeddedStore::open(data.path(), &key()).err().unwrap();
    assert!(matches!(refused, OpenError::Newer { found: 4, .. }), "{refused}");
    assert!(refused.to_string().contains("newer release"), "{refused}");
    assert_eq!(fs::metadata(&file).unwrap().len(), before.len() as u64);
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    fill(&connect(&server).await).await;
    let mut redis = Resp::connect(server.port);
    let (check, keys) = (b"mcp-gate:{meta}:key-check", redis.keys().len());
    redis.ask(&[b"SET", check, &newer(check, b"\"right key, schema 3\"")]);
    let refused =
        RedisStore::connect(&RedisAddress::parse(&server.url()).unwrap(), &key()).await.err().unwrap();
    assert!(refused.to_string().contains("newer release"), "{refused}");
    assert_eq!(redis.keys().len(), keys);
}
