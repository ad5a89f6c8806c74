//! Tests of stored data written by a newer release.

use std::fs;

use auth_service::keys::seal::{Purpose, Sealer};
use auth_service::store::embedded::{EmbeddedStore, OpenError};
use auth_service::store::redis::{RedisAddress, RedisStore};

use super::everything::fill;
use super::resp::Resp;
use super::worlds::key;
use crate::redis_server::RedisServer;

async fn connect(server: &RedisServer) -> RedisStore {
    RedisStore::connect(&RedisAddress::parse(&server.url()).unwrap(), &key()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_a_newer_release_is_refused_and_left_alone() {
    let data = tempfile::tempdir().unwrap();
    fill(&EmbeddedStore::open(data.path(), &key()).unwrap()).await;
    let file = data.path().join("store.redb");
    let sealer = Sealer::new(&key(), Purpose::StoredValue).unwrap();
    // A row in the format of a newer release, without an expiry and encrypted for its key in the store.
    let newer = |place: &[u8], json: &[u8]| {
        let header = [&[1][..], &u64::MAX.to_be_bytes()].concat();
        [&header[..], &sealer.seal(&[place, b"\0", &header].concat(), json).unwrap()].concat()
    };
    {
        let database = redb::Database::open(&file).unwrap();
        let meta = redb::TableDefinition::<&str, &[u8]>::new("meta");
        let transaction = database.begin_write().unwrap();
        transaction.open_table(meta).unwrap().insert("schema", &*newer(b"meta\0schema", b"2")).unwrap();
        transaction.commit().unwrap();
    }
    let before = fs::read(&file).unwrap();
    let refused = EmbeddedStore::open(data.path(), &key()).err().unwrap();
    assert!(matches!(refused, OpenError::Newer { found: 2, .. }), "{refused}");
    assert!(refused.to_string().contains("newer release"), "{refused}");
    assert_eq!(fs::metadata(&file).unwrap().len(), before.len() as u64);
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    fill(&connect(&server).await).await;
    let mut redis = Resp::connect(server.port);
    let (check, keys) = (b"mcp-gate:{meta}:key-check", redis.keys().len());
    redis.ask(&[b"SET", check, &newer(check, b"\"right key, schema 2\"")]);
    let refused =
        RedisStore::connect(&RedisAddress::parse(&server.url()).unwrap(), &key()).await.err().unwrap();
    assert!(refused.to_string().contains("newer release"), "{refused}");
    assert_eq!(redis.keys().len(), keys);
}
