//! `auth-service clock …`: corrects the latest time that the service trusted.

use clap::Subcommand;

use auth_service::operator;

use super::running::run;

#[derive(Subcommand)]
pub(crate) enum ClockCommand {
    /// Confirm that the clock is now correct, after the service has run with a clock that was far ahead. Data that
    /// was stored during that time then expires at the correct time, and new data is not kept too long.
    Accept {
        /// Today's date (UTC). It must agree with the clock.
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
