//! The `auth-service` program: reads its settings, opens its store, and serves until it receives a signal to stop.

// `println!` and `eprintln!` panic if the pipe is closed. `contract::printing` does not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod cli;
mod serve;

use std::process::ExitCode;
use std::time::Duration;

use actix_web::rt::System;
use clap::{CommandFactory, Parser};
use contract::printing::print_error;
#[cfg(feature = "jemalloc")]
use tikv_jemallocator::Jemalloc;
use tokio::runtime::{Builder, Runtime};

use auth_service::ops::telemetry;
use contract::causes::in_one_line;

use cli::{Cli, Command};

/// jemalloc returns memory to the operating system after a flood of requests. The allocator of the C library would
/// keep most of it.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let command = Cli::parse().command.unwrap_or(Command::Serve);
    System::with_tokio_rt(runtime).block_on(run(command))
}

/// Creates the runtime for everything except the workers. Its threads for blocking work are never stopped.
/// Libraries use them, for example to look up the host name of Redis, and panic if they need a new thread and the
/// system cannot start one.
#[expect(clippy::panic, reason = "without a runtime, the program can only report the error")]
fn runtime() -> Runtime {
    let made = Builder::new_current_thread().enable_all().thread_keep_alive(Duration::MAX).build();
    made.unwrap_or_else(|error| panic!("the operating system has no resources for an async runtime: {error}"))
}

async fn run(command: Command) -> ExitCode {
    let outcome = match command {
        Command::Serve => match serve::run().await {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::User(command) => cli::user(command).await,
        Command::Client(command) => cli::client(command).await,
        Command::Grant(command) => cli::grant(command).await,
        Command::Keys(command) => cli::keys(command).await,
        Command::Clock(command) => cli::clock(command).await,
        Command::Store(command) => cli::store(command).await,
        Command::Healthcheck(asked) => cli::healthcheck(&asked),
        Command::Completions(asked) => cli::completions(&asked, Cli::command()),
        Command::Man(asked) => cli::manual_pages(&asked, Cli::command()),
        Command::Policy(command) => return cli::policy(command).await,
        Command::Doctor(asked) => return cli::doctor(asked).await,
    };
    // The command might have written audit events, which must be flushed.
    telemetry::end(None);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The whole chain of causes is printed on one line, because this is what an operator reads first.
            print_error(format_args!("auth-service: {}", in_one_line(error.as_ref())));
            ExitCode::FAILURE
        }
    }
}
