//! The settings of the store and of the token cache.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::keys::seal::StoreKey;
use crate::principal::CacheTerms;
use crate::store::redis::RedisAddress;

use super::{Environment, Problems, durations};

const TOKENS: usize = 100_000;
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The settings of the store and of the token cache.
#[derive(Debug, Clone)]
pub struct Storage {
    /// Directory of the embedded store (`DATA_DIR`, default `data`).
    pub data_dir: PathBuf,
    /// The Redis server to use instead of the embedded store (`REDIS_URL`). It allows any number of replicas.
    pub redis: Option<RedisAddress>,
    /// The key that encrypts stored data (`STORE_KEY`, 32 bytes in base64). It is required with Redis. If it is
    /// not set, the embedded store creates a key in `DATA_DIR` when it starts for the first time.
    pub key: Option<StoreKey>,
    /// The previous key, while `STORE_KEY` is being replaced (`STORE_KEY_PREVIOUS`). Data that is encrypted
    /// with it can still be read.
    pub previous_key: Option<StoreKey>,
    /// The limits of the token cache: the number of access tokens (`TOKEN_CACHE_SIZE`, default 100000), and the
    /// maximum time for which a result is cached, even if nothing changes (`TOKEN_CACHE_TTL`, default 10 s).
    pub token_cache: CacheTerms,
}

#[derive(Default, Deserialize)]
struct Raw {
    data_dir: Option<PathBuf>,
    store_key: Option<String>,
    store_key_previous: Option<String>,
    redis_url: Option<String>,
    token_cache_size: Option<String>,
    token_cache_ttl: Option<String>,
}

pub(super) fn read(environment: &Environment, problems: &mut Problems) -> Storage {
    let raw: Raw = environment.concern(problems);
    if raw.redis_url.is_some() && raw.store_key.is_none() {
        problems.add_about(
            "STORE_KEY",
            "is required with REDIS_URL, the same for all replicas: 32 random bytes in base64, as `openssl rand -base64 32` prints them",
        );
    }
    let redis = raw.redis_url.and_then(|text| match RedisAddress::parse(&text) {
        Ok(address) => Some(address),
        Err(error) => {
            problems.add_about("REDIS_URL", error);
            None
        }
    });
    let mut key = |name: &str, text: Option<String>| match text.as_deref().map(StoreKey::parse)? {
        Ok(key) => Some(key),
        Err(error) => {
            problems.add(name, error);
            None
        }
    };
    let previous_key = key("STORE_KEY_PREVIOUS", raw.store_key_previous);
    let key = key("STORE_KEY", raw.store_key).map(|key| key.with_previous(previous_key.as_ref()));
    let tokens = raw.token_cache_size.map_or(Ok(TOKENS), |text| text.parse::<usize>());
    let tokens = tokens.ok().filter(|tokens| (1..=10_000_000).contains(tokens)).unwrap_or_else(|| {
        problems.add_about("TOKEN_CACHE_SIZE", "must be a number of tokens from 1 to 10000000");
        TOKENS
    });
    // This limits the damage if a change is not noticed, so it should be short.
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(300));
    let longest = durations::read("TOKEN_CACHE_TTL", raw.token_cache_ttl, MAX_WAIT, least, most, problems);
    let token_cache = CacheTerms { tokens, longest };
    let data_dir = raw.data_dir.unwrap_or_else(|| PathBuf::from("data"));
    Storage { data_dir, redis, key, previous_key, token_cache }
}
