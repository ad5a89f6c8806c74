//! What is remembered where.

use std::path::PathBuf;

use serde::Deserialize;

use crate::keys::seal::StoreKey;
use crate::store::redis::RedisAddress;

use super::{Environment, Problems};

/// The store.
#[derive(Debug, Clone)]
pub struct Storage {
    /// `DATA_DIR`, `data`: directory of the embedded store.
    pub data_dir: PathBuf,
    /// `REDIS_URL`: the Redis store in place of the embedded one, for any number of replicas.
    pub redis: Option<RedisAddress>,
    /// `STORE_KEY`: 32 bytes in base64 that encrypt what is stored. Required with Redis; with the embedded store made
    /// in `DATA_DIR` on the first start when not set.
    pub key: Option<StoreKey>,
}

#[derive(Default, Deserialize)]
struct Raw {
    data_dir: Option<PathBuf>,
    store_key: Option<String>,
    redis_url: Option<String>,
}

pub(super) fn read(environment: &Environment, problems: &mut Problems) -> Storage {
    let raw: Raw = environment.concern(problems);
    if raw.redis_url.is_some() && raw.store_key.is_none() {
        problems.add(
            "STORE_KEY",
            "is required with REDIS_URL, the same for all replicas: 32 random bytes in base64, as `openssl rand -base64 32` prints them",
        );
    }
    let redis = raw.redis_url.and_then(|text| match RedisAddress::parse(&text) {
        Ok(address) => Some(address),
        Err(error) => {
            problems.add("REDIS_URL", error);
            None
        }
    });
    let key = raw.store_key.and_then(|text| match StoreKey::parse(&text) {
        Ok(key) => Some(key),
        Err(error) => {
            problems.add("STORE_KEY", error);
            None
        }
    });
    Storage { data_dir: raw.data_dir.unwrap_or_else(|| PathBuf::from("data")), redis, key }
}
