//! The command line. Settings come from the environment. A command accesses the store directly, or through the
//! service that has it open.

mod add_client;
mod arguments;
mod client;
mod clock;
mod doctor;
mod grant;
mod healthcheck;
mod keys;
mod policy;
mod rows;
mod running;
mod shell;
mod store;
mod user;

use clap::{Parser, Subcommand};

pub(crate) use client::{ClientCommand, client};
pub(crate) use clock::{ClockCommand, clock};
pub(crate) use doctor::run as doctor;
pub(crate) use grant::{GrantCommand, grant};
pub(crate) use healthcheck::{Healthcheck, healthcheck};
pub(crate) use keys::{KeysCommand, keys};
pub(crate) use policy::{PolicyCommand, policy};
pub(crate) use shell::{Completions, ManualPages, completions, manual_pages};
pub(crate) use store::{StoreCommand, store};
pub(crate) use user::{UserCommand, user};

/// OAuth 2.1 authorization server and forward-auth check for MCP servers.
///
/// Settings are environment variables. `ISSUER` and `PROTECTED_HOSTS` are required. Instead of any setting,
/// `NAME_FILE` can name a file that contains its value. `docs/settings.md` lists all settings.
#[derive(Parser)]
#[command(version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Serve until SIGTERM (the default).
    Serve,
    /// Manage local accounts. Works whether or not the service is running.
    #[command(subcommand)]
    User(UserCommand),
    /// Manage clients. Works whether or not the service is running.
    #[command(subcommand)]
    Client(ClientCommand),
    /// Show and revoke what users have allowed clients. Works whether or not the service is running.
    #[command(subcommand)]
    Grant(GrantCommand),
    /// Manage the keys that sign tokens. Works whether or not the service is running.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Correct the time that the service has recorded while its clock was wrong. Works whether or not the service
    /// is running.
    #[command(subcommand)]
    Clock(ClockCommand),
    /// Manage the whole state: back it up, move it to another store, or change its key.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Check a policy file, and explain how a request would be decided.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Examine a running service from outside and inside, and explain problems and how to fix them.
    ///
    /// It sends requests as clients, browsers and attackers would. It needs no account, and deletes the client
    /// that it registers. If `ISSUER` and `PROTECTED_HOSTS` are set, it also examines the service's settings,
    /// store and listeners. The exit code is 0 if there are no problems, 1 if there are problems, and 2 if the
    /// examination failed.
    Doctor(doctor::Doctor),
    /// Check whether a running service is ready, with a request to its `OPS_LISTEN`. The health check of a
    /// container uses this.
    ///
    /// The exit code is 0 if it is ready, and 1 if it is not ready or does not respond.
    Healthcheck(Healthcheck),
    /// Print a completion script for a shell: auth-service completions bash >/etc/bash_completion.d/auth-service
    Completions(Completions),
    /// Write manual pages (man) for this program and each of its commands into a directory.
    Man(ManualPages),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_may_begin_with_a_hyphen() {
        for line in [
            "keys revoke -5bw",
            "client show -k",
            "client disable --x",
            "client delete -h5",
            "user link ana https://idp -7",
        ] {
            let words = ["auth-service"].into_iter().chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
        assert!(Cli::try_parse_from(["auth-service", "keys", "revoke", "--help"]).is_err());
    }
}
