//! `auth-service keys …`: the keys that sign tokens.

use anyhow::bail;
use clap::Subcommand;

use auth_service::domain::clock::UnixTime;
use auth_service::keys::set::KeyState;
use auth_service::operator::{self, KeyRow, Reply};

use super::rows::{ListFormat, print_list};
use super::running::run;

#[derive(Subcommand)]
pub(crate) enum KeysCommand {
    /// List the signing keys: identifier, algorithm, state, and when each starts signing, stops signing, and
    /// is removed.
    List(ListFormat),
    /// Publish a new key now, and sign with it after a lead time in which verifiers can fetch it
    /// (`SIGNING_KEY_LEAD`).
    Rotate,
    /// Remove a key immediately, in an emergency. All access tokens that it signed become invalid within seconds.
    /// Clients get new ones with their refresh tokens, but some clients (the Python SDK) make the user log in
    /// again.
    Revoke {
        /// The identifier of the key, as `list` shows it.
        // An identifier is a thumbprint (RFC 7638) in base64url. One in 64 begins with a hyphen.
        #[arg(allow_hyphen_values = true)]
        kid: String,
    },
}

/// Runs a command that manages the signing keys.
pub(crate) async fn keys(command: KeysCommand) -> anyhow::Result<()> {
    let format = if let KeysCommand::List(format) = &command { *format } else { ListFormat { json: false } };
    let reply = match command {
        KeysCommand::List(_) => run(operator::Command::ListKeys).await?,
        KeysCommand::Rotate => run(operator::Command::RotateKeys).await?,
        KeysCommand::Revoke { kid } => run(operator::Command::RevokeKey { kid }).await?,
    };
    let Reply::Keys(rows) = reply else { bail!("the service sent an unexpected reply instead of keys") };
    print_list(&rows, format, row)
}

fn row(key: &KeyRow) -> String {
    let time = |at: Option<UnixTime>| at.map_or_else(|| "-".to_owned(), UnixTime::readable);
    let state = match key.state {
        KeyState::Next => "next",
        KeyState::Current => "current",
        KeyState::Retired => "retired",
    };
    format!(
        "{}\t{}\t{state}\tsigns from {}\tuntil {}\tgone at {}",
        key.kid,
        key.algorithm,
        key.signs_from.readable(),
        time(key.signs_until),
        time(key.gone_at)
    )
}
