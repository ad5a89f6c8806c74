//! `user`: manages accounts.

use std::io::BufRead;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use secrecy::SecretString;

use auth_service::domain::account::{Group, Username};
use auth_service::identity::password::{MAX_PASSWORD_LEN, MIN_PASSWORD_LEN};
use auth_service::operator::{self, Reply, UserRow};
use contract::printing::print_line;

use super::arguments::{email, groups, username};
use super::rows::{ListFormat, print_list};
use super::running::{run, run_on};
use crate::serve::NewStore;

#[derive(Subcommand)]
pub(crate) enum UserCommand {
    /// Add an account and print its one-time password, which is replaced at the first login.
    Add(AddUser),
    /// List all accounts with their state.
    List(ListFormat),
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
    /// Delete an account. Its user cannot log in, and its tokens are refused. This cannot be undone: a new account with
    /// the same name is another account, also for the services.
    Delete {
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
        UserCommand::List(format) => print_users(&run(operator::Command::ListUsers).await?, format),
        UserCommand::Delete { name } => {
            run(operator::Command::DeleteUser { username: username(&name)? }).await.map(|_| ())
        }
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
            let (username, groups) = (username(&name)?, super::arguments::groups(groups)?);
            run(operator::Command::SetUserGroups { username, groups }).await.map(|_| ())
        }
        UserCommand::Email { name, email } => {
            let (username, email) = (username(&name)?, super::arguments::email(email)?);
            run(operator::Command::SetUserEmail { username, email }).await.map(|_| ())
        }
        UserCommand::Reset { name } => {
            let username = username(&name)?;
            let reply = run(operator::Command::ResetUser { username: username.clone() }).await?;
            print_password(&username, &reply)
        }
    }
}

async fn add_user(asked: AddUser) -> anyhow::Result<()> {
    let username = username(&asked.name)?;
    let (email, groups) = (email(asked.email)?, groups(asked.groups)?);
    let password = if asked.password_stdin { Some(typed_password()?) } else { None };
    let command = operator::Command::AddUser { username: username.clone(), email, groups, password };
    let new = if asked.new_store { NewStore::Begin } else { NewStore::Refuse };
    print_password(&username, &run_on(new, command).await?)
}

fn typed_password() -> anyhow::Result<SecretString> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("no password could be read from standard input")?;
    let password = line.trim_end_matches(['\r', '\n']).to_owned();
    if password.chars().count() < MIN_PASSWORD_LEN || password.len() > MAX_PASSWORD_LEN {
        bail!(
            "the password on standard input must have at least {MIN_PASSWORD_LEN} characters and at most \
             {MAX_PASSWORD_LEN} bytes"
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

fn print_users(reply: &Reply, format: ListFormat) -> anyhow::Result<()> {
    let Reply::Users(users) = reply else {
        bail!("the service sent an unexpected reply instead of accounts")
    };
    print_list(users, format, |UserRow { username, subject, email, groups, disabled }| {
        let groups: Vec<&str> = groups.iter().map(Group::as_str).collect();
        let state = if *disabled { "disabled" } else { "active" };
        let email = email.as_deref().unwrap_or_default();
        format!("{username}\t{subject}\t{email}\t{state}\t{}", groups.join(","))
    })
}
