//! Runs an operator's command on the store or, if the service has the store open, asks the service to run it.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use auth_service::config::{Config, Observability};
use auth_service::domain::clock::{Clock, SystemClock};
use auth_service::identity::password::Passwords;
use auth_service::keys::seal::SystemRandomSource;
use auth_service::operator::{self, Reply, Tools, socket};
use auth_service::ops::telemetry;
use auth_service::store::Store;
use auth_service::store::embedded::{self, OpenError};
use auth_service::upkeep;
use contract::log_filter::LogFilter;
use contract::printing::print_error;

use crate::serve::{NewStore, open_store};

/// Makes this process write audit events and warnings about the store to standard error. If the command accesses
/// the store directly, no service writes them.
pub(super) fn write_log() -> anyhow::Result<()> {
    static STARTED: std::sync::Once = std::sync::Once::new();
    let settings = Config::log_from_variables(std::env::vars())?;
    let filter = LogFilter::parse(
        "off,audit=info,auth_service::cli=warn,auth_service::rotation=error,auth_service::store::embedded::files=warn",
    )?;
    let mut outcome = Ok(());
    STARTED.call_once(|| {
        outcome = telemetry::start(&Observability { filter, ..settings });
    });
    outcome.context("the log cannot be written to standard error")
}

/// Prints the risks to the store's data, once per process. They are in the log of the service as well, but an
/// operator who disables an account reads only the output of the command.
pub(super) async fn tell_dangers(store: &dyn Store) -> anyhow::Result<()> {
    static TOLD: std::sync::Once = std::sync::Once::new();
    write_log()?;
    // If the store cannot be read, the command itself reports this.
    let dangers = upkeep::dangers_of(store, &SystemClock).await.unwrap_or_default();
    TOLD.call_once(|| {
        for danger in dangers {
            tracing::warn!("the store: {danger}");
        }
    });
    Ok(())
}

/// Runs a command on the store, or sends it to the service that has the store open.
pub(super) async fn run(command: operator::Command) -> anyhow::Result<Reply> {
    run_on(NewStore::Refuse, command).await
}

pub(super) async fn run_on(new: NewStore, command: operator::Command) -> anyhow::Result<Reply> {
    let (storage, rotation) = Config::storage_from_variables(std::env::vars())?;
    // If there is no store, the directory is probably wrong.
    if storage.redis.is_none() && new == NewStore::Refuse && !embedded::exists(&storage.data_dir)? {
        let is_first = match &command {
            operator::Command::AddUser { .. } => {
                ". To add the first account before the first start, use `user add --new-store`"
            }
            _ => "",
        };
        bail!(
            "there is no store in {}; set DATA_DIR to the directory in which the service keeps its state{is_first}",
            storage.data_dir.display()
        );
    }
    // The running service is tried first. If its store file has been replaced on disk, this command could open the
    // new file, but a change there would not affect the service.
    let reply = if storage.redis.is_none() && socket::is_served(&storage.data_dir).await {
        socket::ask(&storage.data_dir, &command).await?
    } else {
        write_log()?;
        match open_store(&storage, new).await {
            Ok((open, _)) => {
                tell_dangers(open.as_ref()).await?;
                let passwords = Passwords::new(1)?;
                let progress = report_progress();
                let tools = Tools {
                    store: open.as_ref(),
                    passwords: &passwords,
                    rotation,
                    random: &SystemRandomSource,
                    now: SystemClock.now(),
                    progress: &progress,
                };
                operator::run(command, &tools).await?
            }
            // The service has started since `is_served` was called.
            Err(error) if matches!(error.downcast_ref(), Some(OpenError::InUse(_))) => {
                socket::ask(&storage.data_dir, &command).await?
            }
            Err(error) => return Err(error),
        }
    };
    match reply {
        Reply::Refused(reason) => bail!(reason),
        reply => Ok(reply),
    }
}

/// Returns a callback that prints the number of copied records every two seconds.
pub(super) fn report_progress() -> impl Fn(u64) + Send + Sync {
    let last = std::sync::Mutex::new(Instant::now());
    move |records| {
        let mut last = last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.elapsed() > Duration::from_secs(2) {
            *last = Instant::now();
            print_error(format_args!("{records} records so far …"));
        }
    }
}
