//! `auth-service store …`: export, import and migration of the whole state.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use contract::printing::print_line;

use auth_service::config::{Config, Storage};
use auth_service::domain::clock::{Clock, SystemClock};
use auth_service::keys::seal::{StoreKey, SystemRandomSource};
use auth_service::operator::{self, Reply, read_key, socket};
use auth_service::ops::audit;
use auth_service::store::embedded::{self, EmbeddedStore, EmbeddedTarget};
use auth_service::store::redis::{RedisStore, RedisTarget};
use auth_service::store::transfer::{self, Source};

use crate::serve::of_redis;

use super::running::{report_progress, run, tell_dangers, write_log};

#[derive(Subcommand)]
pub(crate) enum StoreCommand {
    /// Export the whole store to a new encrypted file. Works whether or not the service is running.
    Export {
        /// The file, which must not exist. Only its owner can read it. If the embedded store is in use, the
        /// running service writes the file.
        file: PathBuf,
        /// Encrypt the file with the key in this file (32 random bytes in base64) instead of the key of the store.
        #[arg(long)]
        key_file: Option<PathBuf>,
    },
    /// Import an exported file into the store that the settings name. Stop the service first.
    Import(Import),
    /// Copy everything from the embedded store in `DATA_DIR` to the Redis at `REDIS_URL`, or back. Stop the
    /// service first.
    Migrate {
        /// The store to copy to.
        #[arg(long)]
        to: Place,
        /// Replace the contents of the target.
        #[arg(long)]
        replace: bool,
    },
    /// Check that an exported file is complete and can be decrypted, and print a summary of its content.
    Verify {
        /// The file that `store export` has written.
        file: PathBuf,
        /// The file with the key of the export, if it is not the key of the store.
        #[arg(long)]
        key_file: Option<PathBuf>,
    },
    /// Accept the data in Redis as it is, although Redis has lost the identity of the store or has older data than
    /// before. The service refuses everything until then. Stop all replicas first. Whatever was revoked or
    /// disabled after the time of the data is valid again, so revoke and disable it again before you start them.
    Adopt,
    /// Encrypt everything with `STORE_KEY` that is still encrypted with `STORE_KEY_PREVIOUS`. The previous key is
    /// not needed afterwards. Works while the service is running.
    Rekey,
}

#[derive(Args)]
pub(crate) struct Import {
    /// The file that `store export` has written.
    file: PathBuf,
    /// The file with the key of the export, if it is not the key of the store.
    #[arg(long)]
    key_file: Option<PathBuf>,
    /// Replace the contents of the store. The previous embedded store is kept as `store.redb.replaced`, with
    /// `store.reserve.replaced`.
    #[arg(long)]
    replace: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Place {
    /// The Redis at `REDIS_URL`.
    Redis,
    /// The embedded store in `DATA_DIR`.
    Embedded,
}

/// Runs a command that processes the whole store.
pub(crate) async fn store(command: StoreCommand) -> anyhow::Result<()> {
    match command {
        StoreCommand::Export { file, key_file } => export(&file, key_file).await,
        StoreCommand::Import(asked) => import(asked).await,
        StoreCommand::Migrate { to, replace } => migrate(to, replace).await,
        StoreCommand::Verify { file, key_file } => {
            let key = dump_key(&storage()?, key_file.as_deref())?;
            let counts = Source::Dump(file.clone(), key).count().await?;
            say(format_args!("{} is complete: {counts}", file.display()))
        }
        StoreCommand::Rekey => rekey().await,
        StoreCommand::Adopt => adopt().await,
    }
}

async fn adopt() -> anyhow::Result<()> {
    let storage = storage()?;
    let (Some(address), Some(key)) = (&storage.redis, &storage.key) else {
        bail!("this command is for a store in Redis: set REDIS_URL and STORE_KEY");
    };
    write_log()?;
    RedisStore::adopt(address, key).await.map_err(|error| of_redis(address, error))?;
    audit::Event::StoreAdopted.emit();
    say(
        "the data in Redis is accepted; repeat what was revoked, disabled or removed after the time of this data, and then start the service",
    )
}

fn storage() -> anyhow::Result<Storage> {
    Ok(Config::storage_from_variables(std::env::vars())?.0)
}

/// Makes a path absolute, because the running service might have a different working directory.
fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{} is not a path", path.display()))
}

async fn export(file: &Path, key_file: Option<PathBuf>) -> anyhow::Result<()> {
    let key_file = key_file.as_deref().map(absolute).transpose()?;
    let command = operator::Command::ExportStore { file: absolute(file)?, key_file };
    let Reply::Exported(counts) = run(command).await? else {
        bail!("the service sent an unexpected reply instead of what it exported")
    };
    say(format_args!("exported to {}: {counts}", file.display()))
}

async fn rekey() -> anyhow::Result<()> {
    if storage()?.previous_key.is_none() {
        bail!("STORE_KEY_PREVIOUS is not set: there is no key to replace; docs/state.md describes the steps");
    }
    let Reply::Resealed(resealed) = run(operator::Command::ResealStore).await? else {
        bail!("the service sent an unexpected reply instead of what it encrypted")
    };
    say(format_args!(
        "{} of {} rows were encrypted with the previous key, and none is now: remove STORE_KEY_PREVIOUS, and keep that key as long as \
         backups that were made with it",
        resealed.changed, resealed.rows
    ))
}

async fn import(asked: Import) -> anyhow::Result<()> {
    write_log()?;
    let storage = storage()?;
    let place = if storage.redis.is_some() { Place::Redis } else { Place::Embedded };
    let source = Source::Dump(asked.file.clone(), dump_key(&storage, asked.key_file.as_deref())?);
    copy(&source, &storage, place, asked.replace).await
}

async fn migrate(to: Place, replace: bool) -> anyhow::Result<()> {
    write_log()?;
    let storage = storage()?;
    let (Some(address), Some(key)) = (&storage.redis, &storage.key) else {
        bail!(
            "set REDIS_URL and STORE_KEY, and set DATA_DIR to the directory of the embedded store, which might not exist yet"
        )
    };
    let source = match to {
        Place::Redis => {
            if !embedded::exists(&storage.data_dir)? {
                bail!("there is no store in {}; set DATA_DIR to its directory", storage.data_dir.display());
            }
            Source::Store(Arc::new(open_embedded(&storage)?))
        }
        Place::Embedded => {
            let store = RedisStore::connect_to_known(address, key).await;
            let store = store.map_err(|error| of_redis(address, error))?;
            tell_dangers(&store).await?;
            Source::Store(Arc::new(store))
        }
    };
    copy(&source, &storage, to, replace).await
}

/// Opens the embedded store with `STORE_KEY` or, if that is the wrong key, with its key file.
fn open_embedded(storage: &Storage) -> anyhow::Result<EmbeddedStore> {
    let of_file = || embedded::store_key(&storage.data_dir, storage.key.as_ref(), &SystemRandomSource);
    let Some(key) = &storage.key else { return Ok(EmbeddedStore::open(&storage.data_dir, &of_file()?)?) };
    match EmbeddedStore::open(&storage.data_dir, key) {
        Err(embedded::OpenError::WrongKey(_)) if embedded::has_key_file(&storage.data_dir)? => {
            Ok(EmbeddedStore::open(&storage.data_dir, &of_file()?)?)
        }
        opened => Ok(opened?),
    }
}

/// The key that decrypts a dump. A missing key file is not created, because a new key could not decrypt the dump.
fn dump_key(storage: &Storage, key_file: Option<&Path>) -> anyhow::Result<StoreKey> {
    match (key_file, &storage.key) {
        (Some(path), _) => Ok(read_key(path)?),
        (None, Some(key)) => Ok(key.clone()),
        (None, None) if embedded::has_key_file(&storage.data_dir)? => own_key(storage),
        (None, None) => bail!(
            "set the key with which the file was encrypted: STORE_KEY, or --key-file with the file store.key from the directory of the \
             store that it was made from"
        ),
    }
}

/// The key of the embedded store. It is created if the store does not exist yet.
fn own_key(storage: &Storage) -> anyhow::Result<StoreKey> {
    let previous = storage.previous_key.as_ref();
    Ok(match &storage.key {
        Some(key) => key.clone(),
        None => embedded::store_key(&storage.data_dir, previous, &SystemRandomSource)?,
    })
}

async fn copy(source: &Source, storage: &Storage, to: Place, replace: bool) -> anyhow::Result<()> {
    // If a running service's store file has been replaced, this command could open the new file despite the
    // running service.
    let uses_embedded = matches!(to, Place::Embedded) || matches!(source, Source::Store(_));
    if uses_embedded && socket::is_served(&storage.data_dir).await {
        bail!("an auth-service is running with {}: stop it first", storage.data_dir.display());
    }
    let counts = if let (Some(address), Some(key), Place::Redis) = (&storage.redis, &storage.key, to) {
        let target = async || RedisTarget::new(address, key, replace, SystemClock.now()).await;
        let counts = transfer::copy(source, target, &SystemClock, report_progress()).await?;
        let store = RedisStore::connect_to_known(address, key).await;
        tell_dangers(&store.map_err(|error| of_redis(address, error))?).await?;
        counts
    } else {
        // The key is read before the source. Therefore, if the source cannot be read, at most a new key file is
        // left behind.
        let key = own_key(storage)?;
        let target = async || EmbeddedTarget::new(&storage.data_dir, &key, replace);
        transfer::copy(source, target, &SystemClock, report_progress()).await?
    };
    let place = match (&storage.redis, to) {
        (Some(address), Place::Redis) => address.to_string(),
        _ => storage.data_dir.display().to_string(),
    };
    say(format_args!("all data was copied to {place}, read back and counted: {counts}"))
}

fn say(text: impl Display) -> anyhow::Result<()> {
    print_line(text)?;
    Ok(())
}
