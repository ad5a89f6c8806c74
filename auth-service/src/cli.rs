//! The command line. Settings come from the environment; commands work on the store.

use std::io::BufRead;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Parser, Subcommand};
use secrecy::SecretString;

use auth_service::config::Config;
use auth_service::domain::account::{Account, Group, StoredPassword, Subject, Username};
use auth_service::domain::clock::{Clock, Random, SystemClock};
use auth_service::identity::password::{LONGEST, Passwords, SHORTEST};
use auth_service::keys::seal::SystemRandomSource;
use auth_service::store::Store;

use crate::serve::open_store;

/// OAuth 2.1 authorization server and forward-auth check for MCP servers.
///
/// Settings are environment variables. `ISSUER` and `PROTECTED_HOSTS` are required, and any of them may be given as
/// `NAME_FILE`, the path of a file that holds the value. `docs/settings.md` lists them all.
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
    /// Local accounts. The embedded store serves one process: stop the service first.
    #[command(subcommand)]
    User(UserCommand),
}

#[derive(Subcommand)]
pub(crate) enum UserCommand {
    /// Add an account and print its one-time password, which is replaced at the first login.
    Add(AddUser),
    /// List all accounts.
    List,
}

#[derive(Args)]
pub(crate) struct AddUser {
    /// Login name: letters, digits and . _ - + with at most one @. Upper and lower case are the same.
    name: String,
    /// Where to reach the person.
    #[arg(long)]
    email: Option<String>,
    /// A group that the person is in; may be given several times.
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// Read a lasting password from standard input in place of making a one-time one.
    #[arg(long)]
    password_stdin: bool,
}

/// Runs a command on accounts.
pub(crate) async fn user(command: UserCommand) -> anyhow::Result<()> {
    let storage = Config::storage_from_variables(std::env::vars())?;
    let (store, _) = open_store(&storage)?;
    match command {
        UserCommand::Add(asked) => add(&store, asked).await,
        UserCommand::List => list(&store).await,
    }
}

#[expect(clippy::print_stdout, reason = "the command's result")]
async fn add(store: &dyn Store, asked: AddUser) -> anyhow::Result<()> {
    let username = Username::try_from(asked.name.clone())
        .with_context(|| format!("{:?} cannot be a user name", asked.name))?;
    if asked
        .email
        .as_ref()
        .is_some_and(|email| email.matches('@').count() != 1 || !email.is_ascii() || email.len() > 254)
    {
        bail!("--email must be one plain ASCII address such as ana@example.com");
    }
    let groups = asked.groups.into_iter().map(Group::try_from).collect::<Result<Vec<_>, _>>()?;
    let random = SystemRandomSource;
    let (password, one_time) =
        if asked.password_stdin { (typed_password()?, false) } else { (one_time_password(&random)?, true) };
    let passwords = Passwords::new(1)?;
    let account = Account {
        subject: Subject::new(random.bytes()?),
        username,
        email: asked.email,
        groups,
        password: StoredPassword {
            phc: passwords.hash(SecretString::from(password.clone())).await?,
            one_time,
        },
        disabled: false,
        created_at: SystemClock.now(),
    };
    if !store.add_account(&account).await? {
        bail!("there is an account named {} already; choose another name", account.username);
    }
    println!("account: {}", account.username);
    if one_time {
        println!("password: {password}");
    }
    Ok(())
}

/// 96 random bits: it lives for one login and is typed by hand.
fn one_time_password(random: &dyn Random) -> anyhow::Result<String> {
    Ok(URL_SAFE_NO_PAD.encode(random.bytes()?.get(..12).unwrap_or_default()))
}

fn typed_password() -> anyhow::Result<String> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("no password could be read from standard input")?;
    let password = line.trim_end_matches(['\r', '\n']).to_owned();
    if password.chars().count() < SHORTEST || password.len() > LONGEST {
        bail!("the password on standard input must have {SHORTEST} to {LONGEST} characters");
    }
    Ok(password)
}

#[expect(clippy::print_stdout, reason = "the command's result")]
async fn list(store: &dyn Store) -> anyhow::Result<()> {
    for account in store.accounts().await? {
        let groups: Vec<&str> = account.groups.iter().map(Group::as_str).collect();
        let state = if account.disabled { "disabled" } else { "active" };
        println!(
            "{}\t{}\t{}\t{state}\t{}",
            account.username,
            account.subject,
            account.email.unwrap_or_default(),
            groups.join(",")
        );
    }
    Ok(())
}
