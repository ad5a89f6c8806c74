//! `auth-service`: reads its settings, opens its store, serves until it is told to stop.

mod cli;
mod serve;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

#[actix_web::main]
async fn main() -> ExitCode {
    let outcome = match Cli::parse().command.unwrap_or(Command::Serve) {
        Command::Serve => serve::run().await,
        Command::User(command) => cli::user(command).await,
        Command::Client(command) => cli::client(command).await,
        Command::Keys(command) => cli::keys(command).await,
        Command::Store(command) => cli::store(command).await,
        Command::Healthcheck(asked) => cli::healthcheck(&asked),
        Command::Policy(command) => return cli::policy(command).await,
        Command::Doctor(asked) => return cli::doctor(asked).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The whole chain on one line of its own: this is what an operator reads first.
            #[expect(clippy::print_stderr, reason = "the last word of a failing command")]
            {
                eprintln!("auth-service: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
