//! Commands with which an operator manages accounts, clients, signing keys and the store.
//!
//! The command line program runs a command directly on the store if no other process has the store open.
//! Otherwise, it sends the command to the running service over a socket that only the service's Unix user can
//! open.

mod add_client;
mod clock;
mod delete_user;
mod grants;
mod keys;
pub mod socket;
mod store;

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::domain::account::{Account, AccountKind, Group, StoredPassword, Subject, Username};
use crate::domain::client::{Client, ClientId, ClientOrigin};
use crate::domain::clock::{Random, RandomUnavailable, UnixTime};
use crate::domain::grant_id::GrantId;
use crate::identity::password::{HashingError, Passwords};
use crate::keys::set::RotationTerms;
use crate::ops::audit;
use crate::rotation::RotationError;
use crate::store::records::{Counts, Resealed};
use crate::store::{AccountLinkStore, AccountStore, Addition, Change, Deletion, Linking, Store, StoreError};

pub use add_client::{Credentials, NewClient};
pub use grants::GrantRow;
pub use keys::KeyRow;
pub use store::{KeyFileError, read_key};

/// Maximum number of clients in one reply.
pub const PAGE: usize = 1000;

/// A command from an operator.
#[derive(Debug, Serialize, Deserialize)]
pub enum Command {
    /// Adds a user's account.
    AddUser {
        /// The login name of the user.
        username: Username,
        /// The email address of the user.
        email: Option<String>,
        /// The groups of the user, to which policy rules refer.
        groups: Vec<Group>,
        /// A permanent password. If absent, a one-time password is created.
        #[serde(with = "password_text")]
        password: Option<SecretString>,
    },
    /// Lists all accounts, sorted by user name.
    ListUsers,
    /// Sets a new one-time password, and ends the user's login sessions.
    ResetUser {
        /// The login name of the user.
        username: Username,
    },
    /// Deletes an account and its grants.
    DeleteUser {
        /// The login name of the user.
        username: Username,
    },
    /// Lists the grants of a user, or of all users. If the reply has at least [`PAGE`] grants, there might be more, of
    /// users after the last one in the reply.
    ListGrants {
        /// The login name of the user. `None` means all users.
        username: Option<Username>,
        /// The last user of the previous page.
        after: Option<Username>,
    },
    /// Revokes one grant.
    RevokeGrant {
        /// The identifier of the grant.
        id: GrantId,
    },
    /// Links an account to a user of an issuer in `TRUSTED_ISSUERS`.
    LinkUser {
        /// The user name of the account.
        username: Username,
        /// The `iss` of the issuer.
        issuer: String,
        /// The user's `sub` at the issuer.
        sub: String,
    },
    /// Removes the link between an account and a user of an issuer.
    UnlinkUser {
        /// The user name of the account.
        username: Username,
        /// The `iss` of the issuer.
        issuer: String,
    },
    /// Adds a client of the operator.
    AddClient(NewClient),
    /// Disables or enables an account.
    SwitchUser {
        /// The user name of the account.
        username: Username,
        /// Whether the account will be disabled.
        disabled: bool,
    },
    /// Replaces the groups of an account.
    SetUserGroups {
        /// The user name of the account.
        username: Username,
        /// The complete list of its groups.
        groups: Vec<Group>,
    },
    /// Replaces the email address of an account.
    SetUserEmail {
        /// The user name of the account.
        username: Username,
        /// The new email address. `None` removes the current one.
        email: Option<String>,
    },
    /// Lists up to [`PAGE`] clients, starting after the client `after`.
    ListClients {
        /// The last client of the previous page.
        after: Option<ClientId>,
    },
    /// Shows one client in detail.
    ShowClient {
        /// The identifier of the client.
        id: ClientId,
    },
    /// Disables or enables a client.
    SwitchClient {
        /// The identifier of the client.
        id: ClientId,
        /// Whether the client will be disabled.
        disabled: bool,
    },
    /// Deletes a client and its grants.
    DeleteClient {
        /// The identifier of the client.
        id: ClientId,
    },
    /// Lists all signing keys.
    ListKeys,
    /// Publishes a new signing key, which will be used after the lead time.
    RotateKeys,
    /// Removes a signing key immediately.
    RevokeKey {
        /// The `kid` of the key.
        kid: String,
    },
    /// Sets the latest trusted time back to the current time, after the clock was ahead.
    AcceptClock {
        /// Today's date according to the operator, `YYYY-MM-DD` in UTC. It is compared with the clock.
        today: String,
    },
    /// Writes the content of the store to a new file.
    ExportStore {
        /// The absolute path of the new file.
        file: PathBuf,
        /// The file with the key that encrypts the dump. If absent, the store's own key is used.
        key_file: Option<PathBuf>,
    },
    /// Encrypts all rows with the current key.
    ResealStore,
}

impl Command {
    /// The time limit for the command.
    fn budget(&self) -> Duration {
        match self {
            // Both commands process the whole store.
            Self::ExportStore { .. } | Self::ResealStore => Duration::from_secs(6 * 3600),
            _ => Duration::from_secs(30),
        }
    }
}

/// The result of a command.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// The command succeeded without output.
    Done,
    /// The account was added or reset. This is its one-time password.
    OneTimePassword(String),
    /// The account was reset. This is its one-time password, but the account is disabled. The password cannot be
    /// used until the account is enabled.
    OneTimePasswordOfDisabled(String),
    /// The client was added.
    ClientAdded {
        /// The identifier of the client.
        id: ClientId,
        /// The client secret, if the client has one. It is not shown again.
        secret: Option<String>,
    },
    /// Accounts, sorted by user name.
    Users(Vec<UserRow>),
    /// Clients, sorted by identifier.
    Clients(Vec<ClientRow>),
    /// Grants, sorted by user name.
    Grants(Vec<GrantRow>),
    /// Signing keys, sorted by the time at which they start to sign.
    Keys(Vec<KeyRow>),
    /// The export is complete, with this number of records of each kind.
    Exported(Counts),
    /// The number of rows that were encrypted again.
    Resealed(Resealed),
    /// The command was refused for this reason.
    Refused(String),
}

/// An account as it is shown to operators.
#[derive(Debug, Serialize, Deserialize)]
pub struct UserRow {
    /// The login name of the user.
    pub username: Username,
    /// The stable identifier of the account.
    pub subject: Subject,
    /// The email address, if it is known.
    pub email: Option<String>,
    /// The groups of the account.
    pub groups: Vec<Group>,
    /// Whether the account is disabled.
    pub disabled: bool,
}

/// A client as it is shown to operators, without hashes of secrets.
#[derive(Debug, Serialize, Deserialize)]
pub struct ClientRow {
    /// The client identifier (`client_id`).
    pub id: ClientId,
    /// The source of the client's metadata.
    pub origin: ClientOrigin,
    /// The name that the client gave itself.
    pub name: Option<String>,
    /// The registered redirect URIs.
    pub redirect_uris: Vec<String>,
    /// The time of registration, or of the first use.
    pub issued_at: UnixTime,
    /// The last use, accurate to one hour. `None` if the client has never been used.
    pub last_used_at: Option<UnixTime>,
    /// Whether the client is disabled.
    pub disabled: bool,
    /// Whether the client authenticates with a secret or with keys.
    pub confidential: bool,
}

/// The reason why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The store failed or is unavailable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operating system provided no random bytes.
    #[error(transparent)]
    Random(#[from] RandomUnavailable),
    /// The password could not be hashed.
    #[error(transparent)]
    Hashing(#[from] HashingError),
    /// The signing keys could not be read or changed.
    #[error(transparent)]
    Rotation(#[from] RotationError),
}

/// The resources that commands need.
pub struct Tools<'a> {
    /// The store that commands read and change.
    pub store: &'a dyn Store,
    /// Hashes the passwords of accounts.
    pub passwords: &'a Passwords,
    /// The settings for creating and rotating signing keys.
    pub rotation: RotationTerms,
    /// The source of random bytes for passwords and secrets.
    pub random: &'a dyn Random,
    /// The time at which the command runs.
    pub now: UnixTime,
    /// Called with the number of records that a long command has processed so far.
    pub progress: &'a (dyn Fn(u64) + Send + Sync),
}

/// Runs a command. Returns [`Reply::Refused`] if it is not possible in the current state of the store.
pub async fn run(command: Command, tools: &Tools<'_>) -> Result<Reply, CommandError> {
    let store = tools.store;
    match command {
        Command::AddUser { username, email, groups, password } => {
            add_user(username, email, groups, password, tools).await
        }
        Command::ListUsers => {
            Ok(Reply::Users(store.accounts().await?.into_iter().map(UserRow::from).collect()))
        }
        Command::ResetUser { username } => reset_user(&username, tools).await,
        Command::DeleteUser { username } => delete_user::delete_user(&username, tools).await,
        Command::ListGrants { username, after } => {
            grants::list(username.as_ref(), after.as_ref(), tools).await
        }
        Command::RevokeGrant { id } => grants::revoke(&id, tools).await,
        Command::LinkUser { username, issuer, sub } => link_user(&username, &issuer, &sub, store).await,
        Command::UnlinkUser { username, issuer } => unlink_user(&username, &issuer, store).await,
        Command::AddClient(new) => add_client::add_client(new, tools).await,
        Command::SwitchUser { username, disabled } => {
            let Some(account) = store.account_named(&username).await? else {
                return Ok(no_account(&username));
            };
            let done = store.set_account_disabled(&account.subject, disabled).await?;
            let event = audit::Event::AccountSwitched { user: (&account).into(), disabled };
            Ok(match done {
                Change::Changed => audited(&event),
                Change::Missing => no_account(&username),
            })
        }
        Command::SetUserGroups { username, groups } => {
            let Some(account) = store.account_named(&username).await? else {
                return Ok(no_account(&username));
            };
            let done = store.set_account_groups(&account.subject, &groups).await?;
            let event = audit::Event::AccountChanged { user: (&account).into(), changed: "groups" };
            Ok(match done {
                Change::Changed => audited(&event),
                Change::Missing => no_account(&username),
            })
        }
        Command::SetUserEmail { username, email } => {
            let Some(account) = store.account_named(&username).await? else {
                return Ok(no_account(&username));
            };
            let done = store.set_account_email(&account.subject, email.as_deref()).await?;
            let event = audit::Event::AccountChanged { user: (&account).into(), changed: "email" };
            Ok(match done {
                Change::Changed => audited(&event),
                Change::Missing => no_account(&username),
            })
        }
        Command::ListClients { after } => {
            let clients = store.clients(after.as_ref(), PAGE, tools.now).await?;
            Ok(Reply::Clients(clients.into_iter().map(ClientRow::from).collect()))
        }
        Command::ShowClient { id } => Ok(match store.client(&id, tools.now).await? {
            Some(client) => Reply::Clients(vec![client.into()]),
            None => no_client(&id),
        }),
        Command::SwitchClient { id, disabled } => {
            Ok(match store.set_client_disabled(&id, disabled).await? {
                Change::Changed => audited(&audit::Event::ClientSwitched { client_id: &id, disabled }),
                Change::Missing => no_client(&id),
            })
        }
        Command::DeleteClient { id } => {
            let done = store.delete_client(&id).await?;
            // A client that acts for itself has an account, whose subject is the client identifier. It is removed
            // with the client.
            let _: Deletion = store.remove_account(&id.subject()).await?;
            Ok(match done {
                Deletion::Deleted => audited(&audit::Event::ClientRemoved { client_id: &id }),
                Deletion::Missing => no_client(&id),
            })
        }
        Command::ListKeys => keys::list(tools).await,
        Command::RotateKeys => keys::rotate(tools).await,
        Command::RevokeKey { kid } => keys::revoke(&kid, tools).await,
        Command::AcceptClock { today } => clock::accept(&today, tools).await,
        Command::ExportStore { file, key_file } => store::export(&file, key_file.as_deref(), tools).await,
        Command::ResealStore => store::reseal(tools).await,
    }
}

fn audited(event: &audit::Event<'_>) -> Reply {
    event.emit();
    Reply::Done
}

fn no_client(id: &ClientId) -> Reply {
    Reply::Refused(format!("there is no client {id}; `auth-service client list` lists all clients"))
}

async fn add_user(
    username: Username,
    email: Option<String>,
    groups: Vec<Group>,
    password: Option<SecretString>,
    tools: &Tools<'_>,
) -> Result<Reply, CommandError> {
    let one_time = password.is_none();
    let password = password.map_or_else(|| one_time_password(tools.random), Ok)?;
    let account = Account {
        subject: Subject::new(tools.random.bytes()?),
        kind: AccountKind::Person,
        username,
        email,
        groups,
        password: StoredPassword { phc: tools.passwords.hash(password.clone()).await?, one_time },
        logins_ended: 0,
        disabled: false,
        created_at: tools.now,
    };
    match tools.store.add_account(&account).await? {
        Addition::Added => {}
        Addition::Taken => return Ok(account_exists(&account.username)),
    }
    audit::Event::AccountAdded { user: (&account).into() }.emit();
    Ok(if one_time { Reply::OneTimePassword(password.expose_secret().to_owned()) } else { Reply::Done })
}

async fn reset_user(username: &Username, tools: &Tools<'_>) -> Result<Reply, CommandError> {
    let Some(account) = tools.store.account_named(username).await? else {
        return Ok(no_account(username));
    };
    if account.kind == AccountKind::Machine {
        return Ok(Reply::Refused(format!(
            "{username} is the account of a client: it has no password and cannot log in"
        )));
    }
    let password = one_time_password(tools.random)?;
    let new = StoredPassword { phc: tools.passwords.hash(password.clone()).await?, one_time: true };
    if tools.store.replace_password(&account.subject, &account.password, &new).await?.is_none() {
        return Ok(Reply::Refused("the password was changed at the same time; try again".to_owned()));
    }
    audit::Event::PasswordReset { user: (&account).into() }.emit();
    let told = if account.disabled { Reply::OneTimePasswordOfDisabled } else { Reply::OneTimePassword };
    Ok(told(password.expose_secret().to_owned()))
}

async fn link_user(
    username: &Username,
    issuer: &str,
    sub: &str,
    store: &(impl AccountStore + AccountLinkStore + ?Sized),
) -> Result<Reply, CommandError> {
    let Some(account) = store.account_named(username).await? else { return Ok(no_account(username)) };
    if account.kind == AccountKind::Machine {
        return Ok(Reply::Refused(format!(
            "{username} is the account of a client, which cannot be linked to a user of an issuer"
        )));
    }
    // A link to an account that has been deleted has no effect, but it would prevent another one.
    if let Some(other) = store.linked_account(issuer, sub).await?
        && store.account(&other).await?.is_none()
    {
        let _: Deletion = store.unlink_account(issuer, &other).await?;
    }
    Ok(match store.link_account(issuer, sub, &account.subject).await? {
        Linking::Linked => audited(&audit::Event::AccountLinked { user: (&account).into(), linked: true }),
        Linking::OtherLink => Reply::Refused(format!(
            "{username} is already linked to another user of {issuer}, or {sub} to another account; `auth-service user unlink` removes a link"
        )),
    })
}

async fn unlink_user(
    username: &Username,
    issuer: &str,
    store: &(impl AccountStore + AccountLinkStore + ?Sized),
) -> Result<Reply, CommandError> {
    let Some(account) = store.account_named(username).await? else { return Ok(no_account(username)) };
    Ok(match store.unlink_account(issuer, &account.subject).await? {
        Deletion::Deleted => audited(&audit::Event::AccountLinked { user: (&account).into(), linked: false }),
        Deletion::Missing => Reply::Refused(format!("{username} is not linked to a user of {issuer}")),
    })
}

fn no_account(username: &Username) -> Reply {
    Reply::Refused(format!(
        "there is no account named {username}; `auth-service user list` lists all accounts"
    ))
}

fn account_exists(username: &Username) -> Reply {
    Reply::Refused(format!("there is already an account named {username}; choose another name"))
}

/// Creates a password of 120 random bits. It consists of letters and digits that are not easily confused, because
/// the user types it once.
fn one_time_password(random: &dyn Random) -> Result<SecretString, RandomUnavailable> {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let bytes = random.bytes()?;
    let letter = |byte: &u8| char::from(ALPHABET.get(usize::from(byte % 32)).copied().unwrap_or(b'a'));
    let letters: Vec<String> =
        bytes.get(..24).unwrap_or_default().chunks(6).map(|part| part.iter().map(letter).collect()).collect();
    Ok(SecretString::from(letters.join("-")))
}

impl From<Account> for UserRow {
    fn from(account: Account) -> Self {
        let Account { username, subject, email, groups, disabled, .. } = account;
        Self { username, subject, email, groups, disabled }
    }
}

impl From<Client> for ClientRow {
    fn from(client: Client) -> Self {
        Self {
            name: client.metadata.display.client_name,
            redirect_uris: client.metadata.redirect_uris.into_iter().map(String::from).collect(),
            confidential: client.secret.is_some() || client.metadata.keys.is_some(),
            id: client.id,
            origin: client.origin,
            issued_at: client.issued_at,
            last_used_at: client.last_used_at,
            disabled: client.disabled,
        }
    }
}

mod password_text {
    use secrecy::{ExposeSecret, SecretString};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde requires this signature")]
    pub(super) fn serialize<S: Serializer>(
        password: &Option<SecretString>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        password.as_ref().map(ExposeSecret::expose_secret).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SecretString>, D::Error> {
        Ok(Option::<String>::deserialize(deserializer)?.map(SecretString::from))
    }
}
