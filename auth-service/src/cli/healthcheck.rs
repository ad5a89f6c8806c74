//! `auth-service healthcheck`. An image without a shell has no other program that could send a request.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use contract::health;

use auth_service::config::Config;

/// Options of the health check.
#[derive(Args)]
pub(crate) struct Healthcheck {
    /// Ask only whether the process is alive (`/health`), not whether its store answers (`/ready`).
    #[arg(long)]
    alive: bool,
    /// Maximum time for the answer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3)]
    patience: u64,
}

/// Asks the service that runs with the same settings.
pub(crate) fn healthcheck(asked: &Healthcheck) -> anyhow::Result<()> {
    let address = health::from_inside(Config::ops_listen_from_variables(std::env::vars())?);
    let path = if asked.alive { "/health" } else { "/ready" };
    let patience = Duration::from_secs(asked.patience.max(1));
    let answer = health::ask(address, path, patience)
        .with_context(|| format!("no service answers at OPS_LISTEN ({address}); is it running?"))?;
    if let Err(answer) = answer {
        bail!("{path} answered {answer}");
    }
    Ok(())
}
