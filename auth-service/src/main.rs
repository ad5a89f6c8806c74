//! `auth-service`: reads its settings, opens its store, and serves until it is told to stop.

mod cli;
mod serve;

use std::process::ExitCode;

use clap::Parser;
use tikv_jemallocator::Jemalloc;

use cli::{Cli, Command};

/// Gives memory back to the system when a flood is over. The C library's allocator keeps most of it.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

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
            // The whole chain of causes is printed on one line, because this is what an operator reads first.
            #[expect(clippy::print_stderr, reason = "the last word of a failing command")]
            {
                eprintln!("auth-service: {}", in_one_line(&error));
            }
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes, without causes that earlier messages already include.
pub(crate) fn in_one_line(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told {
        told if told.is_empty() => cause,
        told if told.contains(&cause) => told,
        told => format!("{told}: {cause}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let error =
            anyhow::anyhow!("no such file").context("cannot read a: no such file").context("POLICY_FILE");
        assert_eq!(in_one_line(&error), "POLICY_FILE: cannot read a: no such file");
    }
}
