//! `auth-service clock …`: corrects the latest time that was ever trusted.

use clap::Subcommand;

use auth_service::operator;

use super::run;

#[derive(Subcommand)]
pub(crate) enum ClockCommand {
    /// Tell the service that the clock is right now, after it had used a clock that was far ahead. What was
    /// stored in that time then expires as it should, and what is stored from now on does not live too long.
    Accept {
        /// The date of today (UTC), as a check that the clock is right.
        #[arg(long, value_name = "YYYY-MM-DD")]
        today: String,
    },
}

/// Runs a command about the clock.
pub(crate) async fn clock(command: ClockCommand) -> anyhow::Result<()> {
    match command {
        ClockCommand::Accept { today } => run(operator::Command::AcceptClock { today }).await.map(|_| ()),
    }
}
