//! What an operator may do to accounts and clients while the service runs or rests.
//!
//! The command line runs a command on the store itself when nobody else has it open, and otherwise sends it to the
//! running service over a socket that only the service's own user can open.

mod add_client;
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
use crate::identity::password::{HashingError, Passwords};
use crate::keys::set::RotationTerms;
use crate::ops::audit;
use crate::rotation::RotationError;
use crate::store::records::{Counts, Resealed};
use crate::store::{Store, StoreError};

pub use add_client::{Credentials, NewClient};
pub use keys::KeyRow;
pub use store::{KeyFileError, read_key};

/// Clients in one answer.
pub const PAGE: usize = 1000;

/// Something that an operator asks for.
#[derive(Debug, Serialize, Deserialize)]
pub enum Command {
    /// Add an account.
    AddUser {
        /// Login name.
        username: Username,
        /// Where to reach the person.
        email: Option<String>,
        /// What policy knows the person by.
        groups: Vec<Group>,
        /// A lasting password; a one-time one is made when there is none.
        #[serde(with = "password_text")]
        password: Option<SecretString>,
    },
    /// All accounts.
    ListUsers,
    /// A new one-time password, and an end to the person's logins.
    ResetUser {
        /// Whose.
        username: Username,
    },
    /// Say who an account is at an issuer in `TRUSTED_ISSUERS`.
    LinkUser {
        /// Whose account.
        username: Username,
        /// `iss`.
        issuer: String,
        /// `sub` there.
        sub: String,
    },
    /// End that.
    UnlinkUser {
        /// Whose account.
        username: Username,
        /// `iss`.
        issuer: String,
    },
    /// Enter a client.
    AddClient(NewClient),
    /// Switch an account off or on.
    SwitchUser {
        /// Whose.
        username: Username,
        /// Off?
        disabled: bool,
    },
    /// Replace what policy knows a person by.
    SetUserGroups {
        /// Whose.
        username: Username,
        /// All of them.
        groups: Vec<Group>,
    },
    /// Replace where a person is reached.
    SetUserEmail {
        /// Whose.
        username: Username,
        /// None, if absent.
        email: Option<String>,
    },
    /// A page of clients, from the one after `after` on.
    ListClients {
        /// The last one of the page before.
        after: Option<ClientId>,
    },
    /// One client.
    ShowClient {
        /// Which.
        id: ClientId,
    },
    /// Switch a client off or on.
    SwitchClient {
        /// Which.
        id: ClientId,
        /// Off?
        disabled: bool,
    },
    /// Forget a client and end its grants.
    DeleteClient {
        /// Which.
        id: ClientId,
    },
    /// All signing keys.
    ListKeys,
    /// Publish a new signing key, and sign with it later.
    RotateKeys,
    /// Remove a signing key at once.
    RevokeKey {
        /// Which.
        kid: String,
    },
    /// Write everything that is stored to a new file.
    ExportStore {
        /// Which; an absolute path.
        file: PathBuf,
        /// Where the key is that seals it, when that is not the store's.
        key_file: Option<PathBuf>,
    },
    /// Seal everything with the key that seals now.
    ResealStore,
}

impl Command {
    /// How long it may take.
    fn budget(&self) -> Duration {
        match self {
            // All of a store.
            Self::ExportStore { .. } | Self::ResealStore => Duration::from_secs(6 * 3600),
            _ => Duration::from_secs(30),
        }
    }
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// It is done.
    Done,
    /// The account is there, and has this one-time password.
    OneTimePassword(String),
    /// The client is there, under this identifier and with this secret.
    ClientAdded {
        /// Its identifier.
        id: ClientId,
        /// Its secret, when it has one.
        secret: Option<String>,
    },
    /// Accounts, by name.
    Users(Vec<UserRow>),
    /// Clients, by identifier.
    Clients(Vec<ClientRow>),
    /// Signing keys, in the order in which they begin to sign.
    Keys(Vec<KeyRow>),
    /// It is in the file, so many of each kind.
    Exported(Counts),
    /// What became of the rows.
    Resealed(Resealed),
    /// It cannot be done, and why.
    Refused(String),
}

/// An account as operators see it.
#[derive(Debug, Serialize, Deserialize)]
pub struct UserRow {
    /// Login name.
    pub username: Username,
    /// Identifier.
    pub subject: Subject,
    /// Address.
    pub email: Option<String>,
    /// Groups.
    pub groups: Vec<Group>,
    /// Switched off?
    pub disabled: bool,
}

/// A client as operators see it: no hash of any secret.
#[derive(Debug, Serialize, Deserialize)]
pub struct ClientRow {
    /// Identifier.
    pub id: ClientId,
    /// Registered, or known by document.
    pub origin: ClientOrigin,
    /// What it calls itself.
    pub name: Option<String>,
    /// Where its codes go.
    pub redirect_uris: Vec<String>,
    /// Since when.
    pub issued_at: UnixTime,
    /// Last use, to the hour; never, if absent.
    pub last_used_at: Option<UnixTime>,
    /// Switched off?
    pub disabled: bool,
    /// Whether it has a secret.
    pub confidential: bool,
}

/// The command could not be run.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] RandomUnavailable),
    /// No hash.
    #[error(transparent)]
    Hashing(#[from] HashingError),
    /// The signing keys stay as they are.
    #[error(transparent)]
    Rotation(#[from] RotationError),
}

/// What commands work with.
pub struct Tools<'a> {
    /// The store.
    pub store: &'a dyn Store,
    /// Hashes passwords.
    pub passwords: &'a Passwords,
    /// How signing keys are made and replaced.
    pub rotation: RotationTerms,
    /// Makes passwords.
    pub random: &'a dyn Random,
    /// The present second.
    pub now: UnixTime,
    /// Hears how many records a long command has dealt with.
    pub progress: &'a (dyn Fn(u64) + Send + Sync),
}

/// Runs a command.
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
        Command::LinkUser { username, issuer, sub } => link_user(&username, &issuer, &sub, store).await,
        Command::UnlinkUser { username, issuer } => unlink_user(&username, &issuer, store).await,
        Command::AddClient(new) => add_client::add_client(new, tools).await,
        Command::SwitchUser { username, disabled } => {
            let Some(account) = store.account_named(&username).await? else {
                return Ok(no_account(&username));
            };
            let done = store.set_account_disabled(&account.subject, disabled).await?;
            let what = if disabled { "off" } else { "on" };
            let event = audit::Event::AccountChanged { subject: &account.subject, what };
            Ok(if done { audited(&event) } else { no_account(&username) })
        }
        Command::SetUserGroups { username, groups } => {
            let Some(account) = store.account_named(&username).await? else {
                return Ok(no_account(&username));
            };
            let done = store.set_account_groups(&account.subject, &groups).await?;
            let event = audit::Event::AccountChanged { subject: &account.subject, what: "groups" };
            Ok(if done { audited(&event) } else { no_account(&username) })
        }
        Command::SetUserEmail { username, email } => {
            let Some(account) = store.account_named(&username).await? else {
                return Ok(no_account(&username));
            };
            let done = store.set_account_email(&account.subject, email.as_deref()).await?;
            let event = audit::Event::AccountChanged { subject: &account.subject, what: "email" };
            Ok(if done { audited(&event) } else { no_account(&username) })
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
            let done = store.set_client_disabled(&id, disabled).await?;
            Ok(if done {
                audited(&audit::Event::ClientSwitched { client_id: &id, disabled })
            } else {
                no_client(&id)
            })
        }
        Command::DeleteClient { id } => {
            let done = store.delete_client(&id).await?;
            // A machine's account goes with it; nobody else's subject is a client identifier.
            store.remove_account(&Subject::of_client(&id)).await?;
            Ok(if done { audited(&audit::Event::ClientDeleted { client_id: &id }) } else { no_client(&id) })
        }
        Command::ListKeys => keys::list(tools).await,
        Command::RotateKeys => keys::rotate(tools).await,
        Command::RevokeKey { kid } => keys::revoke(&kid, tools).await,
        Command::ExportStore { file, key_file } => store::export(&file, key_file.as_deref(), tools).await,
        Command::ResealStore => store::reseal(tools).await,
    }
}

fn audited(event: &audit::Event<'_>) -> Reply {
    event.emit();
    Reply::Done
}

fn no_client(id: &ClientId) -> Reply {
    Reply::Refused(format!("there is no client {id}; `auth-service client list` shows them all"))
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
        logins_from: tools.now,
        disabled: false,
        created_at: tools.now,
    };
    if !tools.store.add_account(&account).await? {
        return Ok(Reply::Refused(format!(
            "there is an account named {} already; choose another name",
            account.username
        )));
    }
    audit::Event::AccountAdded { subject: &account.subject }.emit();
    Ok(if one_time { Reply::OneTimePassword(password.expose_secret().to_owned()) } else { Reply::Done })
}

async fn reset_user(username: &Username, tools: &Tools<'_>) -> Result<Reply, CommandError> {
    let Some(account) = tools.store.account_named(username).await? else {
        return Ok(no_account(username));
    };
    if account.kind == AccountKind::Machine {
        return Ok(Reply::Refused(format!("{username} is a machine: it has no password and never logs in")));
    }
    let password = one_time_password(tools.random)?;
    let new = StoredPassword { phc: tools.passwords.hash(password.clone()).await?, one_time: true };
    if !tools.store.replace_password(&account.subject, &account.password, &new, tools.now).await? {
        return Ok(Reply::Refused("the password was changed at the same time; try again".to_owned()));
    }
    audit::Event::PasswordReset { subject: &account.subject }.emit();
    Ok(Reply::OneTimePassword(password.expose_secret().to_owned()))
}

async fn link_user(
    username: &Username,
    issuer: &str,
    sub: &str,
    store: &dyn Store,
) -> Result<Reply, CommandError> {
    let Some(account) = store.account_named(username).await? else { return Ok(no_account(username)) };
    if account.kind == AccountKind::Machine {
        return Ok(Reply::Refused(format!("{username} is a machine: no issuer speaks for it")));
    }
    if !store.link_account(issuer, sub, &account.subject).await? {
        return Ok(Reply::Refused(format!(
            "{username} is somebody else at {issuer}, or {sub} is another account; `auth-service user unlink` ends that"
        )));
    }
    Ok(audited(&audit::Event::AccountLinked { subject: &account.subject, linked: true }))
}

async fn unlink_user(username: &Username, issuer: &str, store: &dyn Store) -> Result<Reply, CommandError> {
    let Some(account) = store.account_named(username).await? else { return Ok(no_account(username)) };
    if !store.unlink_account(issuer, &account.subject).await? {
        return Ok(Reply::Refused(format!("{username} is nobody at {issuer}")));
    }
    Ok(audited(&audit::Event::AccountLinked { subject: &account.subject, linked: false }))
}

fn no_account(username: &Username) -> Reply {
    Reply::Refused(format!("there is no account named {username}; `auth-service user list` shows them all"))
}

/// 120 random bits in letters and digits that are hard to confuse: it is typed by hand, once.
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

    #[expect(clippy::ref_option, reason = "the signature that serde asks for")]
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
