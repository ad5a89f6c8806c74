//! `auth-service`: reads its settings, opens its store, and serves until it is told to stop.

mod cli;
mod serve;

use std::process::ExitCode;
use std::time::Duration;

use actix_web::rt::System;
use clap::Parser;
use tikv_jemallocator::Jemalloc;
use tokio::runtime::{Builder, Runtime};

use auth_service::domain::causes::in_one_line;
use auth_service::ops::telemetry;

use cli::{Cli, Command};

/// jemalloc, which gives memory back to the system when a flood of requests is over. The allocator of the C
/// library would keep most of it.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let command = Cli::parse().command.unwrap_or(Command::Serve);
    System::with_tokio_rt(runtime).block_on(run(command))
}

/// The runtime of everything except the workers. A thread that libraries use for blocking work, such as
/// looking up the name of Redis, is never ended: they panic if they need one and the system has none left.
#[expect(clippy::panic, reason = "without a runtime, the program can only report the error")]
fn runtime() -> Runtime {
    let made = Builder::new_current_thread().enable_all().thread_keep_alive(Duration::MAX).build();
    made.unwrap_or_else(|error| panic!("the system gives no resources for a runtime: {error}"))
}

async fn run(command: Command) -> ExitCode {
    let outcome = match command {
        Command::Serve => match serve::run().await {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::User(command) => cli::user(command).await,
        Command::Client(command) => cli::client(command).await,
        Command::Keys(command) => cli::keys(command).await,
        Command::Clock(command) => cli::clock(command).await,
        Command::Store(command) => cli::store(command).await,
        Command::Healthcheck(asked) => cli::healthcheck(&asked),
        Command::Policy(command) => return cli::policy(command).await,
        Command::Doctor(asked) => return cli::doctor(asked).await,
    };
    // A command can have written audit events.
    telemetry::end(None);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The whole chain of causes is printed on one line, because this is what an operator reads first.
            #[expect(clippy::print_stderr, reason = "the last word of a failing command")]
            {
                eprintln!("auth-service: {}", in_one_line(error.as_ref()));
            }
            ExitCode::FAILURE
        }
    }
}
