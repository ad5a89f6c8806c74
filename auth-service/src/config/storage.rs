//! What is remembered where.

use std::path::PathBuf;

use serde::Deserialize;

use crate::keys::seal::StoreKey;

use super::{Environment, Problems};

/// The store.
#[derive(Debug, Clone)]
pub struct Storage {
    /// `DATA_DIR`, `data`: directory of the embedded store.
    pub data_dir: PathBuf,
    /// `STORE_KEY`: 32 bytes in base64 that encrypt what is stored. Made in `DATA_DIR` on the first start when not set.
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
    if raw.redis_url.is_some() {
        problems.add(
            "REDIS_URL",
            "this release has the embedded store only; unset REDIS_URL and run one replica",
        );
    }
    let key = raw.store_key.and_then(|text| match StoreKey::parse(&text) {
        Ok(key) => Some(key),
        Err(error) => {
            problems.add("STORE_KEY", error);
            None
        }
    });
    Storage { data_dir: raw.data_dir.unwrap_or_else(|| PathBuf::from("data")), key }
}
