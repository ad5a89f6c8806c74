//! `auth-service healthcheck`: the health check of the container, because the image contains no other program that
//! can send a request.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use contract::health;

use auth_service::config::Config;

/// Options of the health check.
#[derive(Args)]
pub(crate) struct Healthcheck {
    /// Check only whether the process responds (`/health`), not whether it can serve requests (`/ready`).
    #[arg(long)]
    alive: bool,
    /// Time limit for the response, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3)]
    patience: u64,
}

/// Sends the request to the service that runs with the same settings.
pub(crate) fn healthcheck(asked: &Healthcheck) -> anyhow::Result<()> {
    let address = health::from_inside(Config::ops_listen_from_variables(std::env::vars())?);
    let path = if asked.alive { "/health" } else { "/ready" };
    let patience = Duration::from_secs(asked.patience.max(1));
    let answer = health::ask(address, path, patience)
        .with_context(|| format!("the service does not respond at OPS_LISTEN ({address}); is it running?"))?;
    if let Err(answer) = answer {
        bail!("{path} answered {answer}");
    }
    Ok(())
}
