//! The command line. Settings come from the environment. A command accesses the store directly, or through the
//! service that has it open.

mod add_client;
mod clock;
mod doctor;
mod healthcheck;
mod keys;
mod policy;
mod store;

use std::io::BufRead;
use std::path::Path;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use secrecy::SecretString;

use auth_service::config::{Config, Observability};
use auth_service::domain::account::{Group, Username};
use auth_service::domain::client::{ClientId, ClientOrigin};
use auth_service::domain::clock::{Clock, SystemClock, UnixTime};
use auth_service::identity::password::{MAX_PASSWORD_LEN, MIN_PASSWORD_LEN, Passwords};
use auth_service::keys::seal::SystemRandomSource;
use auth_service::operator::{self, ClientRow, PAGE, Reply, Tools, UserRow, socket};
use auth_service::ops::telemetry;
use auth_service::store::Store;
use auth_service::store::embedded::{self, OpenError};
use auth_service::upkeep;
use contract::log_filter::LogFilter;
use contract::printing::{Reader, print_line};

use crate::serve::{NewStore, open_store};
use add_client::AddClient;

pub(crate) use clock::{ClockCommand, clock};
pub(crate) use doctor::run as doctor;
pub(crate) use healthcheck::{Healthcheck, healthcheck};
pub(crate) use keys::{KeysCommand, keys};
pub(crate) use policy::{PolicyCommand, policy};
pub(crate) use store::{StoreCommand, store};

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
}

#[derive(Subcommand)]
pub(crate) enum UserCommand {
    /// Add an account and print its one-time password, which is replaced at the first login.
    Add(AddUser),
    /// List all accounts with their state.
    List,
    /// Link an account to a user of an issuer in `TRUSTED_ISSUERS`, so that assertions from that issuer about this
    /// user are accepted.
    Link {
        /// Login name of the account.
        name: String,
        /// The value of `iss` in the issuer's assertions.
        issuer: String,
        /// The user's `sub` at that issuer.
        #[arg(allow_hyphen_values = true)]
        sub: String,
    },
    /// Remove the link of an account to a user of an issuer.
    Unlink {
        /// Login name of the account.
        name: String,
        /// The value of `iss` in the issuer's assertions.
        issuer: String,
    },
    /// Disable an account. Until it is enabled again, its user cannot log in, and its tokens are refused. The
    /// tokens are not deleted: after `enable`, those that have not expired are valid again.
    Disable {
        /// Login name of the account.
        name: String,
    },
    /// Re-enable an account. Its tokens become valid again, so applications that the user has connected do not
    /// need to log in again.
    Enable {
        /// Login name of the account.
        name: String,
    },
    /// Replace the groups of an account, or remove all of them if none is given. The change takes effect with the
    /// next request.
    Groups {
        /// Login name of the account.
        name: String,
        /// All groups of the user.
        groups: Vec<String>,
        /// A group of the user. This option exists because `user add` has it.
        #[arg(long = "group", value_name = "GROUP")]
        more: Vec<String>,
    },
    /// Replace the email address of an account, or remove it if none is given.
    Email {
        /// Login name of the account.
        name: String,
        /// The user's email address.
        email: Option<String>,
    },
    /// Print a new one-time password for an account, and sign the user out in all browsers. Applications that the
    /// user has connected stay connected. Use `disable` and `enable` to interrupt those as well.
    Reset {
        /// Login name of the account.
        name: String,
    },
}

#[derive(Args)]
pub(crate) struct AddUser {
    /// Login name: letters, digits and . _ - + with at most one @. Upper and lower case are not distinguished.
    name: String,
    /// The user's email address.
    #[arg(long)]
    email: Option<String>,
    /// A group of the user; can be given several times.
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// Read a permanent password from standard input instead of creating a one-time password.
    #[arg(long)]
    password_stdin: bool,
    /// Create a new store if there is none because the service has never been started. Without this option, a
    /// missing store is an error: `DATA_DIR` or `REDIS_URL` might be wrong, or Redis might have lost its data.
    #[arg(long)]
    new_store: bool,
}

#[derive(Subcommand)]
pub(crate) enum ClientCommand {
    /// Add a client that does not register itself, such as a machine or a resource server. Prints its
    /// identifier and its secret.
    Add(AddClient),
    /// List all clients: identifier, kind, last use, state, name.
    List,
    /// Show the registration of one client.
    Show {
        /// The `client_id` of the client.
        #[arg(allow_hyphen_values = true)]
        id: String,
    },
    /// Disable a client. Until it is enabled again, it gets no tokens, and its tokens are refused. The tokens are
    /// not deleted: after `enable`, those that have not expired are valid again.
    Disable {
        /// The `client_id` of the client.
        #[arg(allow_hyphen_values = true)]
        id: String,
    },
    /// Re-enable a client. Its tokens become valid again.
    Enable {
        /// The `client_id` of the client.
        #[arg(allow_hyphen_values = true)]
        id: String,
    },
    /// Delete a client and all of its grants.
    Delete {
        /// The `client_id` of the client.
        #[arg(allow_hyphen_values = true)]
        id: String,
    },
}

/// Runs a command that manages accounts.
pub(crate) async fn user(command: UserCommand) -> anyhow::Result<()> {
    match command {
        UserCommand::Add(asked) => add_user(asked).await,
        UserCommand::Link { name, issuer, sub } => {
            let username = username(&name)?;
            run(operator::Command::LinkUser { username, issuer, sub }).await.map(|_| ())
        }
        UserCommand::Unlink { name, issuer } => {
            run(operator::Command::UnlinkUser { username: username(&name)?, issuer }).await.map(|_| ())
        }
        UserCommand::List => print_users(&run(operator::Command::ListUsers).await?),
        UserCommand::Disable { name } => {
            let username = username(&name)?;
            run(operator::Command::SwitchUser { username, disabled: true }).await.map(|_| ())
        }
        UserCommand::Enable { name } => {
            let username = username(&name)?;
            run(operator::Command::SwitchUser { username, disabled: false }).await.map(|_| ())
        }
        UserCommand::Groups { name, mut groups, more } => {
            groups.extend(more);
            let (username, groups) = (username(&name)?, self::groups(groups)?);
            run(operator::Command::SetUserGroups { username, groups }).await.map(|_| ())
        }
        UserCommand::Email { name, email } => {
            let (username, email) = (username(&name)?, self::email(email)?);
            run(operator::Command::SetUserEmail { username, email }).await.map(|_| ())
        }
        UserCommand::Reset { name } => {
            let username = username(&name)?;
            let reply = run(operator::Command::ResetUser { username: username.clone() }).await?;
            print_password(&username, &reply)
        }
    }
}

/// Runs a command that manages clients.
pub(crate) async fn client(command: ClientCommand) -> anyhow::Result<()> {
    let id = |text: String| ClientId::try_from(text).context("this is not a valid client_id");
    match command {
        ClientCommand::Add(asked) => print_added(&run(operator::Command::AddClient(asked.read()?)).await?),
        ClientCommand::List => list_clients().await,
        ClientCommand::Show { id: text } => {
            print_client(&run(operator::Command::ShowClient { id: id(text)? }).await?)
        }
        ClientCommand::Disable { id: text } => {
            run(operator::Command::SwitchClient { id: id(text)?, disabled: true }).await.map(|_| ())
        }
        ClientCommand::Enable { id: text } => {
            run(operator::Command::SwitchClient { id: id(text)?, disabled: false }).await.map(|_| ())
        }
        ClientCommand::Delete { id: text } => {
            run(operator::Command::DeleteClient { id: id(text)? }).await.map(|_| ())
        }
    }
}

/// Makes this process write audit events and warnings about the store to standard error. If the command accesses
/// the store directly, no service writes them.
fn write_log() -> anyhow::Result<()> {
    static STARTED: std::sync::Once = std::sync::Once::new();
    let settings = Config::log_from_variables(std::env::vars())?;
    let filter = LogFilter::parse("off,audit=info,auth_service::cli=warn,auth_service::rotation=error")?;
    let mut outcome = Ok(());
    STARTED.call_once(|| {
        outcome = telemetry::start(&Observability { filter, ..settings });
    });
    outcome.context("the log cannot be written to standard error")
}

/// Prints the risks to the store's data, once per process. They are in the log of the service as well, but an
/// operator who disables an account reads only the output of the command.
async fn tell_dangers(store: &dyn Store) -> anyhow::Result<()> {
    static TOLD: std::sync::Once = std::sync::Once::new();
    write_log()?;
    // If the store cannot be read, the command itself reports this.
    let dangers = upkeep::dangers_of(store, &SystemClock).await.unwrap_or_default();
    TOLD.call_once(|| {
        for danger in dangers {
            tracing::warn!("the store: {danger}");
        }
    });
    Ok(())
}

/// Runs a command on the store, or sends it to the service that has the store open.
async fn run(command: operator::Command) -> anyhow::Result<Reply> {
    run_on(NewStore::Refuse, command).await
}

async fn run_on(new: NewStore, command: operator::Command) -> anyhow::Result<Reply> {
    let (storage, rotation) = Config::storage_from_variables(std::env::vars())?;
    // If there is no store, the directory is probably wrong.
    if storage.redis.is_none() && new == NewStore::Refuse && !embedded::exists(&storage.data_dir) {
        let is_first = match &command {
            operator::Command::AddUser { .. } => {
                ". To add the first account before the first start, use `user add --new-store`"
            }
            _ => "",
        };
        bail!(
            "there is no store in {}; set DATA_DIR to the directory in which the service keeps its state{is_first}",
            storage.data_dir.display()
        );
    }
    // The running service is tried first. If its store file has been replaced on disk, this command could open the
    // new file, but a change there would not affect the service.
    let reply = if storage.redis.is_none() && socket::is_served(&storage.data_dir).await {
        socket::ask(&storage.data_dir, &command).await?
    } else {
        match open_store(&storage, new).await {
            Ok((open, _)) => {
                tell_dangers(open.as_ref()).await?;
                let passwords = Passwords::new(1)?;
                let progress = store::report_progress();
                let tools = Tools {
                    store: open.as_ref(),
                    passwords: &passwords,
                    rotation,
                    random: &SystemRandomSource,
                    now: SystemClock.now(),
                    progress: &progress,
                };
                operator::run(command, &tools).await?
            }
            // The service has started since `is_served` was called.
            Err(error) if matches!(error.downcast_ref(), Some(OpenError::InUse(_))) => {
                socket::ask(&storage.data_dir, &command).await?
            }
            Err(error) => return Err(error),
        }
    };
    match reply {
        Reply::Refused(reason) => bail!(reason),
        reply => Ok(reply),
    }
}

/// The error for an unreadable file that was named by an argument.
fn unreadable(path: &Path, error: &std::io::Error) -> anyhow::Error {
    anyhow::anyhow!("cannot read {}: {error}; name a regular file that this user can read", path.display())
}

fn username(text: &str) -> anyhow::Result<Username> {
    Username::try_from(text.to_owned()).with_context(|| format!("{text:?} is not a valid user name"))
}

async fn add_user(asked: AddUser) -> anyhow::Result<()> {
    let username = username(&asked.name)?;
    let (email, groups) = (email(asked.email)?, groups(asked.groups)?);
    let password = if asked.password_stdin { Some(typed_password()?) } else { None };
    let command = operator::Command::AddUser { username: username.clone(), email, groups, password };
    let new = if asked.new_store { NewStore::Begin } else { NewStore::Refuse };
    print_password(&username, &run_on(new, command).await?)
}

fn email(text: Option<String>) -> anyhow::Result<Option<String>> {
    if text
        .as_ref()
        .is_some_and(|email| email.matches('@').count() != 1 || !email.is_ascii() || email.len() > 254)
    {
        bail!("an email must be one plain ASCII address such as ana@example.com");
    }
    Ok(text)
}

fn groups(names: Vec<String>) -> anyhow::Result<Vec<Group>> {
    Ok(names.into_iter().map(Group::try_from).collect::<Result<Vec<_>, _>>()?)
}

fn typed_password() -> anyhow::Result<SecretString> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("no password could be read from standard input")?;
    let password = line.trim_end_matches(['\r', '\n']).to_owned();
    if password.chars().count() < MIN_PASSWORD_LEN || password.len() > MAX_PASSWORD_LEN {
        bail!(
            "the password on standard input must have at least {MIN_PASSWORD_LEN} characters and at most {MAX_PASSWORD_LEN} bytes"
        );
    }
    Ok(SecretString::from(password))
}

fn print_password(username: &Username, reply: &Reply) -> anyhow::Result<()> {
    let mut lines = format!("account: {username}");
    if let Reply::OneTimePassword(password) | Reply::OneTimePasswordOfDisabled(password) = reply {
        lines.extend(["\npassword: ", password]);
    }
    if let Reply::OneTimePasswordOfDisabled(_) = reply {
        lines.push_str(
            "\nThe account is disabled. To make it possible to log in, run `auth-service user enable ",
        );
        lines.extend([username.as_str(), "`."]);
    }
    print_line(lines)?;
    Ok(())
}

fn print_users(reply: &Reply) -> anyhow::Result<()> {
    let Reply::Users(users) = reply else {
        bail!("the service sent an unexpected reply instead of accounts")
    };
    print_rows(users.iter().map(|UserRow { username, subject, email, groups, disabled }| {
        let groups: Vec<&str> = groups.iter().map(Group::as_str).collect();
        let state = if *disabled { "disabled" } else { "active" };
        let email = email.as_deref().unwrap_or_default();
        format!("{username}\t{subject}\t{email}\t{state}\t{}", groups.join(","))
    }))?;
    Ok(())
}

/// Prints one line for each row. Stops when the output is no longer read.
fn print_rows(rows: impl Iterator<Item = String>) -> std::io::Result<Reader> {
    for row in rows {
        if print_line(row)? == Reader::Gone {
            return Ok(Reader::Gone);
        }
    }
    Ok(Reader::Present)
}

fn print_added(reply: &Reply) -> anyhow::Result<()> {
    let Reply::ClientAdded { id, secret } = reply else {
        bail!("the service sent an unexpected reply instead of a client")
    };
    let secret = secret.as_ref().map(|secret| format!("\nclient_secret: {secret}")).unwrap_or_default();
    print_line(format_args!("client_id: {id}{secret}"))?;
    Ok(())
}

async fn list_clients() -> anyhow::Result<()> {
    let mut after = None;
    loop {
        let Reply::Clients(page) = run(operator::Command::ListClients { after }).await? else {
            bail!("the service sent an unexpected reply instead of clients")
        };
        let rows = page.iter().map(|client| {
            let state = if client.disabled { "disabled" } else { "active" };
            let name = client.name.as_deref().unwrap_or_default().escape_debug();
            format!("{}\t{}\t{}\t{state}\t{name}", client.id, kind(client), used(client.last_used_at))
        });
        let reader = print_rows(rows)?;
        match page.last() {
            Some(last) if page.len() == PAGE && reader == Reader::Present => after = Some(last.id.clone()),
            _ => return Ok(()),
        }
    }
}

fn print_client(reply: &Reply) -> anyhow::Result<()> {
    let Reply::Clients(clients) = reply else {
        bail!("the service sent an unexpected reply instead of a client")
    };
    let rows = clients.iter().flat_map(|client| {
        let facts = [
            format!("client_id:     {}", client.id),
            format!("kind:          {}", kind(client)),
            format!("name:          {}", client.name.as_deref().unwrap_or_default().escape_debug()),
            format!("known since:   {}", client.issued_at.readable()),
            format!("last used:     {}", used(client.last_used_at)),
            format!("state:         {}", if client.disabled { "disabled" } else { "active" }),
        ];
        facts.into_iter().chain(client.redirect_uris.iter().map(|uri| format!("redirect URI:  {uri}")))
    });
    print_rows(rows)?;
    Ok(())
}

fn kind(client: &ClientRow) -> &'static str {
    match (client.origin, client.confidential) {
        (ClientOrigin::MetadataDocument, _) => "document",
        (ClientOrigin::Operator, _) => "operator",
        (ClientOrigin::Registration, true) => "confidential",
        (ClientOrigin::Registration, false) => "public",
    }
}

fn used(at: Option<UnixTime>) -> String {
    at.map_or_else(|| "never".to_owned(), UnixTime::readable)
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
