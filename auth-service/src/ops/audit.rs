//! Audit events, which record actions of users, clients and operators. Emitting an event writes its log line and
//! counts it.

use std::net::IpAddr;
use std::sync::LazyLock;

use crate::domain::account::{Account, Subject, Username};
use crate::domain::client::ClientId;
use crate::domain::clock::UnixTime;
use crate::domain::grant_id::GrantId;
use crate::domain::scope::Scope;
use crate::guard::log_rate::{LogRate, LogRates};

/// Limits on the log lines for events that anybody can cause, one limit for each event. The metrics count every
/// event.
static FAILED: LazyLock<LogRate> = LazyLock::new(LogRate::default);
static THROTTLED: LazyLock<LogRate> = LazyLock::new(LogRate::default);
static LIMITED: LazyLock<LogRate> = LazyLock::new(LogRate::default);
/// Limits for events that anybody can cause if registration is open. They are higher, because, if possible, every
/// registration should be logged.
static REGISTERED: LazyLock<LogRate> = LazyLock::new(LogRate::of_a_place);
static UPDATED: LazyLock<LogRate> = LazyLock::new(LogRate::of_a_place);
static DELETED: LazyLock<LogRate> = LazyLock::new(LogRate::of_a_place);

/// Limits for events that a user or a client can cause without limit, one for each account, or for each client if
/// the event has no account.
static OF_ACCOUNTS: LazyLock<LogRates<Subject>> = LazyLock::new(LogRates::of_accounts);
/// Limits for events of accounts that other events must not suppress, one for each kind. Otherwise an attacker
/// with a stolen session could hide its use behind many other events that are easy to cause.
static GIVEN: LazyLock<LogRates<Subject>> = LazyLock::new(LogRates::of_accounts);
static ENDED: LazyLock<LogRates<Subject>> = LazyLock::new(LogRates::of_accounts);
/// Limits for events that indicate a stolen code or refresh token, one for each account.
static STOLEN: LazyLock<LogRates<Subject>> = LazyLock::new(LogRates::of_accounts);
static PASSWORDS: LazyLock<LogRates<Subject>> = LazyLock::new(LogRates::of_accounts);

/// Removes accounts whose lines are no longer limited. Called periodically.
pub fn forget_idle() {
    for rates in [&OF_ACCOUNTS, &GIVEN, &ENDED, &STOLEN, &PASSWORDS] {
        rates.forget_idle();
    }
}

/// All values of the label `event`. The events about the policy are only logged.
pub const EVENTS: &[&str] = &[
    "access_denied",
    "account_added",
    "account_changed",
    "account_disabled",
    "account_enabled",
    "account_linked",
    "account_removed",
    "account_unlinked",
    "assertion_accepted",
    "client_added",
    "client_credentials_accepted",
    "client_deleted",
    "client_disabled",
    "client_enabled",
    "client_registered",
    "client_removed",
    "client_updated",
    "clock_accepted",
    "code_replayed",
    "consent_denied",
    "consent_given",
    "consent_remembered",
    "grant_displaced",
    "grant_removed",
    "grant_revoked",
    "logged_in",
    "login_failed",
    "login_throttled",
    "password_chosen",
    "password_reset",
    "refresh_token_reused",
    "signing_key_added",
    "signing_key_revoked",
    "signing_keys_rotated",
    "store_adopted",
    "store_exported",
    "store_resealed",
    "token_exchanged",
    "user_codes_throttled",
];

/// The user whom an event is about.
#[derive(Debug, Clone, Copy)]
pub struct User<'a> {
    subject: &'a Subject,
    username: &'a Username,
}

impl<'a> From<&'a Account> for User<'a> {
    fn from(account: &'a Account) -> Self {
        Self { subject: &account.subject, username: &account.username }
    }
}

/// The owner of a grant. The name is missing if the account could not be read: such an event must not depend on it.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    subject: &'a Subject,
    username: Option<&'a Username>,
}

impl<'a> Owner<'a> {
    /// The owner with this subject and, if it could be read, this account.
    pub fn new(subject: &'a Subject, account: Option<&'a Account>) -> Self {
        Self { subject, username: account.map(|account| &account.username) }
    }
}

/// An audit event. No variant contains a token, a code, a password or any other text from a stranger.
#[derive(Debug)]
pub enum Event<'a> {
    /// A client has registered itself (RFC 7591).
    ClientRegistered {
        /// The client that registered.
        client_id: &'a ClientId,
    },
    /// A client has changed its registration (RFC 7592).
    ClientUpdated {
        /// The client that was changed.
        client_id: &'a ClientId,
    },
    /// A client was deleted together with all of its grants.
    ClientDeleted {
        /// The client that was deleted.
        client_id: &'a ClientId,
    },
    /// An operator has deleted a client together with all of its grants.
    ClientRemoved {
        /// The client that was deleted.
        client_id: &'a ClientId,
    },
    /// An operator has disabled or enabled a client.
    ClientSwitched {
        /// The client that the operator changed.
        client_id: &'a ClientId,
        /// Whether the client is disabled now.
        disabled: bool,
    },
    /// An operator has added a client.
    ClientAdded {
        /// The client that was added.
        client_id: &'a ClientId,
    },
    /// A client was issued a token for itself (RFC 6749 §4.4).
    ClientCredentialsAccepted {
        /// The grant of the token.
        grant_id: &'a GrantId,
        /// The client that received the token.
        client_id: &'a ClientId,
    },
    /// An operator has linked an account to a subject of a trusted issuer, or has removed the link.
    AccountLinked {
        /// The account whose link was changed.
        user: User<'a>,
        /// Whether the account is linked now.
        linked: bool,
    },
    /// A client received a grant for an assertion from a trusted issuer.
    AssertionAccepted {
        /// The grant that was created.
        grant_id: &'a GrantId,
        /// The user that the assertion names.
        user: User<'a>,
        /// The client that received the grant.
        client_id: &'a ClientId,
    },
    /// A client was issued a token to act for a user at another service.
    TokenExchanged {
        /// The grant of the token.
        grant_id: &'a GrantId,
        /// The user for whom the client acts.
        user: User<'a>,
        /// The client that acts for the user.
        client_id: &'a ClientId,
    },
    /// A user tried too many user codes.
    UserCodesThrottled {
        /// The user who tried the codes.
        user: User<'a>,
    },
    /// A client received a grant without a consent page, because its user had already allowed it.
    ConsentRemembered {
        /// The user who had already given consent.
        user: User<'a>,
        /// The client that received the grant.
        client_id: &'a ClientId,
        /// The scope that was granted.
        scope: &'a Scope,
    },
    /// A client requested resources that the policy does not allow its user to access.
    AccessDenied {
        /// The user who was refused.
        user: User<'a>,
        /// The client that sent the request.
        client_id: &'a ClientId,
    },
    /// An operator has added an account.
    AccountAdded {
        /// The account that was added.
        user: User<'a>,
    },
    /// An operator has set a new one-time password for a user.
    PasswordReset {
        /// The user whose password was replaced.
        user: User<'a>,
    },
    /// An operator has changed an account.
    AccountChanged {
        /// The account that was changed.
        user: User<'a>,
        /// What was changed: `groups` or `email`.
        changed: &'static str,
    },
    /// An operator has disabled or enabled an account.
    AccountSwitched {
        /// The account that was changed.
        user: User<'a>,
        /// Whether the account is disabled now.
        disabled: bool,
    },
    /// An operator has deleted an account and its grants.
    AccountRemoved {
        /// The account that was deleted.
        user: User<'a>,
    },
    /// A user has logged in.
    LoggedIn {
        /// The user who logged in.
        user: User<'a>,
    },
    /// A login failed because the name or the password was wrong.
    LoginFailed {
        /// The address from which the attempt came, if it is known.
        address: Option<IpAddr>,
    },
    /// A login was refused without checking the password, because there were too many attempts.
    LoginThrottled {
        /// The address from which the attempt came, if it is known.
        address: Option<IpAddr>,
    },
    /// A user has chosen a new password.
    PasswordChosen {
        /// The user who chose it.
        user: User<'a>,
    },
    /// A user has allowed a client to act.
    ConsentGiven {
        /// The user who allowed it.
        user: User<'a>,
        /// The client that was allowed.
        client_id: &'a ClientId,
        /// The scope that was granted.
        scope: &'a Scope,
    },
    /// A user has denied a client's request.
    ConsentDenied {
        /// The user who denied it.
        user: User<'a>,
        /// The client that was denied.
        client_id: &'a ClientId,
    },
    /// A code was used a second time, and its grant was revoked.
    CodeReplayed {
        /// The grant that was revoked.
        grant_id: &'a GrantId,
        /// The user who approved the grant, or the client if the grant had already been revoked.
        owner: Owner<'a>,
        /// The client that used the code.
        client_id: &'a ClientId,
    },
    /// A client has revoked its own grant (RFC 7009).
    GrantRevoked {
        /// The grant that was revoked.
        grant_id: &'a GrantId,
        /// The user who approved the grant, or the client if the grant was for the client itself.
        owner: Owner<'a>,
        /// The client that revoked it.
        client_id: &'a ClientId,
    },
    /// An operator has revoked a grant.
    GrantRemoved {
        /// The grant that was revoked.
        grant_id: &'a GrantId,
        /// The user who approved the grant, or the client if the grant was for the client itself.
        subject: &'a Subject,
        /// The client to which the grant belonged.
        client_id: &'a ClientId,
    },
    /// A grant was deleted because its account had too many.
    GrantDisplaced {
        /// The grant that was deleted.
        grant_id: &'a GrantId,
        /// The user who approved the grant.
        user: User<'a>,
        /// The client to which the grant belonged.
        client_id: &'a ClientId,
    },
    /// An operator has started a rotation of the signing keys.
    SigningKeyAdded {
        /// Identifier of the key that was published.
        kid: &'a str,
        /// Time from which the key signs.
        signs_from: UnixTime,
    },
    /// The service has changed its signing keys automatically: it created the first key, rotated on schedule,
    /// removed a key whose tokens have expired, or cancelled a change that a wrong clock had scheduled.
    SigningKeysRotated {
        /// Identifier of the key that signs now.
        current: &'a str,
        /// Identifier of the newest key. It differs from `current` while the newest key is only published.
        newest: &'a str,
        /// Number of keys that are published.
        keys: usize,
    },
    /// An operator has removed a signing key. Tokens that it signed are no longer valid.
    SigningKeyRevoked {
        /// Identifier of the key that was removed.
        kid: &'a str,
    },
    /// An operator has confirmed that the clock is right, although the service had trusted a later time.
    ClockAccepted {
        /// The latest trusted time, which is now discarded.
        forgotten: UnixTime,
    },
    /// An operator has exported the content of the store to an encrypted file.
    StoreExported {
        /// Number of records in the file.
        records: u64,
    },
    /// An operator has accepted the data in Redis, although Redis has lost the store's identity or has older data
    /// than before.
    StoreAdopted,
    /// An operator has encrypted the content of the store again with the current key.
    StoreResealed {
        /// Number of rows in the store.
        rows: u64,
        /// Number of rows that had been encrypted with a different key.
        changed: u64,
    },
    /// A used refresh token was presented again, and its grant was revoked.
    RefreshTokenReused {
        /// The grant that was revoked.
        grant_id: &'a GrantId,
        /// The user who approved the grant.
        user: User<'a>,
        /// The client that presented the token.
        client_id: &'a ClientId,
    },
}

impl Event<'_> {
    /// Writes the log line, if its limit allows it, and counts the event.
    #[expect(clippy::too_many_lines, reason = "one arm for each event")]
    pub fn emit(&self) {
        let event = match self {
            Self::ClientRegistered { client_id } => {
                if let Some(left_out) = REGISTERED.admit() {
                    tracing::info!(target: "audit", event = "client_registered", %client_id, left_out);
                }
                "client_registered"
            }
            Self::ClientUpdated { client_id } => {
                if let Some(left_out) = UPDATED.admit() {
                    tracing::info!(target: "audit", event = "client_updated", %client_id, left_out);
                }
                "client_updated"
            }
            Self::ClientDeleted { client_id } => {
                if let Some(left_out) = DELETED.admit() {
                    tracing::info!(target: "audit", event = "client_deleted", %client_id, left_out);
                }
                "client_deleted"
            }
            Self::ClientRemoved { client_id } => {
                tracing::info!(target: "audit", event = "client_removed", %client_id);
                "client_removed"
            }
            Self::ClientSwitched { client_id, disabled } => {
                let event = if *disabled { "client_disabled" } else { "client_enabled" };
                tracing::info!(target: "audit", event, %client_id);
                event
            }
            Self::ClientAdded { client_id } => {
                tracing::info!(target: "audit", event = "client_added", %client_id);
                "client_added"
            }
            Self::ClientCredentialsAccepted { grant_id, client_id } => {
                if let Some(left_out) = OF_ACCOUNTS.admit(&client_id.subject()) {
                    tracing::info!(target: "audit", event = "client_credentials_accepted", %grant_id, %client_id, left_out);
                }
                "client_credentials_accepted"
            }
            Self::AccountLinked { user, linked } => {
                let event = if *linked { "account_linked" } else { "account_unlinked" };
                tracing::info!(target: "audit", event, subject = %user.subject, username = %user.username);
                event
            }
            Self::AssertionAccepted { grant_id, user, client_id } => {
                if let Some(left_out) = OF_ACCOUNTS.admit(user.subject) {
                    tracing::info!(target: "audit", event = "assertion_accepted", %grant_id, subject = %user.subject, username = %user.username, %client_id, left_out);
                }
                "assertion_accepted"
            }
            Self::TokenExchanged { grant_id, user, client_id } => {
                if let Some(left_out) = OF_ACCOUNTS.admit(user.subject) {
                    tracing::info!(target: "audit", event = "token_exchanged", %grant_id, subject = %user.subject, username = %user.username, %client_id, left_out);
                }
                "token_exchanged"
            }
            Self::UserCodesThrottled { user } => {
                if let Some(left_out) = LIMITED.admit() {
                    tracing::warn!(target: "audit", event = "user_codes_throttled", subject = %user.subject, username = %user.username, left_out);
                }
                "user_codes_throttled"
            }
            Self::ConsentRemembered { user, client_id, scope } => {
                if let Some(left_out) = OF_ACCOUNTS.admit(user.subject) {
                    tracing::info!(target: "audit", event = "consent_remembered", subject = %user.subject, username = %user.username, %client_id, %scope, left_out);
                }
                "consent_remembered"
            }
            Self::AccessDenied { user, client_id } => {
                if let Some(left_out) = OF_ACCOUNTS.admit(user.subject) {
                    tracing::info!(target: "audit", event = "access_denied", subject = %user.subject, username = %user.username, %client_id, left_out);
                }
                "access_denied"
            }
            Self::AccountAdded { user } => {
                tracing::info!(target: "audit", event = "account_added", subject = %user.subject, username = %user.username);
                "account_added"
            }
            Self::PasswordReset { user } => {
                tracing::info!(target: "audit", event = "password_reset", subject = %user.subject, username = %user.username);
                "password_reset"
            }
            Self::AccountChanged { user, changed } => {
                tracing::info!(target: "audit", event = "account_changed", subject = %user.subject, username = %user.username, changed);
                "account_changed"
            }
            Self::AccountSwitched { user, disabled } => {
                let event = if *disabled { "account_disabled" } else { "account_enabled" };
                tracing::info!(target: "audit", event, subject = %user.subject, username = %user.username);
                event
            }
            Self::AccountRemoved { user } => {
                tracing::info!(target: "audit", event = "account_removed", subject = %user.subject, username = %user.username);
                "account_removed"
            }
            Self::GrantRemoved { grant_id, subject, client_id } => {
                tracing::info!(target: "audit", event = "grant_removed", %grant_id, %subject, %client_id);
                "grant_removed"
            }
            Self::LoggedIn { user } => {
                if let Some(left_out) = OF_ACCOUNTS.admit(user.subject) {
                    tracing::info!(target: "audit", event = "logged_in", subject = %user.subject, username = %user.username, left_out);
                }
                "logged_in"
            }
            Self::LoginFailed { address } => {
                if let Some(left_out) = FAILED.admit() {
                    tracing::info!(target: "audit", event = "login_failed", address = address.map(tracing::field::display), left_out);
                }
                "login_failed"
            }
            Self::LoginThrottled { address } => {
                if let Some(left_out) = THROTTLED.admit() {
                    tracing::warn!(target: "audit", event = "login_throttled", address = address.map(tracing::field::display), left_out);
                }
                "login_throttled"
            }
            Self::PasswordChosen { user } => {
                if let Some(left_out) = PASSWORDS.admit(user.subject) {
                    tracing::info!(target: "audit", event = "password_chosen", subject = %user.subject, username = %user.username, left_out);
                }
                "password_chosen"
            }
            Self::ConsentGiven { user, client_id, scope } => {
                if let Some(left_out) = GIVEN.admit(user.subject) {
                    tracing::info!(target: "audit", event = "consent_given", subject = %user.subject, username = %user.username, %client_id, %scope, left_out);
                }
                "consent_given"
            }
            Self::ConsentDenied { user, client_id } => {
                if let Some(left_out) = OF_ACCOUNTS.admit(user.subject) {
                    tracing::info!(target: "audit", event = "consent_denied", subject = %user.subject, username = %user.username, %client_id, left_out);
                }
                "consent_denied"
            }
            Self::CodeReplayed { grant_id, owner: Owner { subject, username }, client_id } => {
                if let Some(left_out) = STOLEN.admit(subject) {
                    let username = username.map(tracing::field::display);
                    tracing::warn!(target: "audit", event = "code_replayed", %grant_id, %subject, username, %client_id, left_out);
                }
                "code_replayed"
            }
            Self::GrantRevoked { grant_id, owner: Owner { subject, username }, client_id } => {
                if let Some(left_out) = ENDED.admit(subject) {
                    let username = username.map(tracing::field::display);
                    tracing::info!(target: "audit", event = "grant_revoked", %grant_id, %subject, username, %client_id, left_out);
                }
                "grant_revoked"
            }
            Self::GrantDisplaced { grant_id, user, client_id } => {
                if let Some(left_out) = ENDED.admit(user.subject) {
                    tracing::warn!(target: "audit", event = "grant_displaced", %grant_id, subject = %user.subject, username = %user.username, %client_id, left_out);
                }
                "grant_displaced"
            }
            Self::SigningKeyAdded { kid, signs_from } => {
                tracing::info!(target: "audit", event = "signing_key_added", %kid, signs_from = signs_from.readable());
                "signing_key_added"
            }
            Self::SigningKeysRotated { current, newest, keys } => {
                tracing::info!(target: "audit", event = "signing_keys_rotated", current, newest, keys);
                "signing_keys_rotated"
            }
            Self::SigningKeyRevoked { kid } => {
                tracing::warn!(target: "audit", event = "signing_key_revoked", %kid);
                "signing_key_revoked"
            }
            Self::ClockAccepted { forgotten } => {
                tracing::warn!(target: "audit", event = "clock_accepted", forgotten = forgotten.readable());
                "clock_accepted"
            }
            Self::StoreExported { records } => {
                tracing::warn!(target: "audit", event = "store_exported", records);
                "store_exported"
            }
            Self::StoreAdopted => {
                tracing::warn!(target: "audit", event = "store_adopted");
                "store_adopted"
            }
            Self::StoreResealed { rows, changed } => {
                tracing::info!(target: "audit", event = "store_resealed", rows, changed);
                "store_resealed"
            }
            Self::RefreshTokenReused { grant_id, user, client_id } => {
                if let Some(left_out) = STOLEN.admit(user.subject) {
                    tracing::warn!(target: "audit", event = "refresh_token_reused", %grant_id, subject = %user.subject, username = %user.username, %client_id, left_out);
                }
                "refresh_token_reused"
            }
        };
        metrics::counter!("mcp_gate_audit_events_total", "event" => event).increment(1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::ops::telemetry::tests::lines_of;

    use super::*;

    fn user(subject: &Subject) -> User<'_> {
        static NAME: LazyLock<Username> = LazyLock::new(|| Username::try_from("ana".to_owned()).unwrap());
        User { subject, username: &NAME }
    }

    #[test]
    fn a_line_about_a_user_has_the_name_beside_the_identifier() {
        let subject = &Subject::new([9; 32]);
        let lines = lines_of(|| Event::LoggedIn { user: user(subject) }.emit());
        assert!(lines[0].contains(&format!("subject={subject} username=ana")), "{lines:?}");
    }

    #[test]
    fn a_line_about_the_end_of_a_grant_has_the_name_of_its_owner_if_the_account_could_be_read() {
        let subject = &Subject::new([10; 32]);
        let (client_id, grant_id) =
            (&ClientId::try_from("client".to_owned()).unwrap(), &GrantId::new([1; 32]));
        let named = Owner { subject, username: Some(user(subject).username) };
        let lines = lines_of(|| {
            Event::CodeReplayed { grant_id, owner: named, client_id }.emit();
            Event::GrantRevoked { grant_id, owner: named, client_id }.emit();
            Event::GrantDisplaced { grant_id, user: user(subject), client_id }.emit();
            Event::CodeReplayed { grant_id, owner: Owner::new(subject, None), client_id }.emit();
            Event::GrantRevoked { grant_id, owner: Owner::new(subject, None), client_id }.emit();
        });
        let (named, unnamed) = lines.split_at(3);
        let about = |name| format!("grant_id={grant_id} subject={subject}{name} client_id=client left_out=0");
        assert!(named.iter().all(|line| line.ends_with(&about(" username=ana"))), "{named:?}");
        assert!(unnamed.iter().all(|line| line.ends_with(&about(""))), "{unnamed:?}");
    }

    #[test]
    fn a095_a_flood_of_registrations_or_of_one_account_hides_no_line_of_another_account() {
        let client_id = &ClientId::try_from("client".to_owned()).unwrap();
        let [eve, ana] = [&Subject::new([1; 32]), &Subject::new([2; 32])];
        let scope = &Scope::default();
        let lines = lines_of(|| {
            for n in 0..1000 {
                Event::ClientRegistered { client_id }.emit();
                Event::ClientUpdated { client_id }.emit();
                Event::ClientDeleted { client_id }.emit();
                Event::ClientRemoved { client_id }.emit();
                Event::LoggedIn { user: user(eve) }.emit();
                Event::ConsentRemembered { user: user(eve), client_id, scope }.emit();
                Event::ConsentGiven { user: user(eve), client_id, scope }.emit();
                if n % 50 == 0 {
                    Event::LoggedIn { user: user(ana) }.emit();
                    Event::ConsentGiven { user: user(ana), client_id, scope }.emit();
                    Event::ConsentDenied { user: user(ana), client_id }.emit();
                }
            }
        });
        let of = |part: &str| lines.iter().filter(|line| line.contains(part)).count();
        for event in ["client_registered", "client_updated", "client_deleted"] {
            let written = of(&format!("event=\"{event}\""));
            assert!((100..200).contains(&written), "{event}: {written}");
        }
        assert!((200..400).contains(&of(eve.as_str())), "{}", of(eve.as_str()));
        assert_eq!(of(ana.as_str()), 60);
        assert_eq!(of("client_removed"), 1000, "an operator's actions are always logged");
        assert!(lines.iter().any(|line| line.contains("client_registered") && line.contains("left_out=0")));
    }

    #[test]
    fn the_list_of_events_is_complete() {
        let source = include_str!("audit.rs");
        let (_, emit) = source.split_once("pub fn emit").unwrap();
        let (emit, _) = emit.split_once("#[cfg(test)]").unwrap();
        let is_event = |word: &&str| word.bytes().all(|letter| letter.is_ascii_lowercase() || letter == b'_');
        let quoted = emit.split('"').skip(1).step_by(2).filter(is_event);
        let other = ["audit", "event", "mcp_gate_audit_events_total"];
        let events: BTreeSet<&str> = quoted.filter(|word| !other.contains(word)).collect();
        assert_eq!(events.into_iter().collect::<Vec<_>>(), EVENTS);
    }

    #[test]
    fn a_failed_login_is_logged_with_the_address_that_it_came_from() {
        let address = Some("2001:db8::7".parse().unwrap());
        let lines = lines_of(|| {
            Event::LoginFailed { address }.emit();
            Event::LoginThrottled { address }.emit();
            Event::LoginFailed { address: None }.emit();
        });
        for (line, event) in lines.iter().zip(["login_failed", "login_throttled"]) {
            assert!(line.contains(&format!("event=\"{event}\" address=2001:db8::7 left_out=0")), "{line}");
        }
        assert!(lines[2].contains("event=\"login_failed\" left_out=0"), "{lines:?}");
    }

    #[test]
    fn a095_grants_that_one_user_revokes_hide_no_line_about_another_user_of_the_same_client() {
        let client_id = &ClientId::try_from("shared".to_owned()).unwrap();
        let [eve, ana] = [&Subject::new([3; 32]), &Subject::new([4; 32])];
        let grant_id = &GrantId::new([1; 32]);
        let lines = lines_of(|| {
            for _ in 0..1000 {
                Event::GrantRevoked { grant_id, owner: Owner::new(eve, None), client_id }.emit();
            }
            Event::GrantRevoked { grant_id, owner: Owner::new(ana, None), client_id }.emit();
        });
        assert_eq!(lines.iter().filter(|line| line.contains(ana.as_str())).count(), 1);
    }

    #[test]
    fn a095_replays_of_one_account_hide_no_stolen_token_of_another_account() {
        let client_id = &ClientId::try_from("shared".to_owned()).unwrap();
        let [eve, ana] = [&Subject::new([6; 32]), &Subject::new([7; 32])];
        let grant_id = &GrantId::new([1; 32]);
        let lines = lines_of(|| {
            for _ in 0..1000 {
                Event::CodeReplayed { grant_id, owner: Owner::new(eve, None), client_id }.emit();
                Event::RefreshTokenReused { grant_id, user: user(eve), client_id }.emit();
            }
            Event::CodeReplayed { grant_id, owner: Owner::new(ana, None), client_id }.emit();
            Event::RefreshTokenReused { grant_id, user: user(ana), client_id }.emit();
        });
        let of = |subject: &Subject| lines.iter().filter(|line| line.contains(subject.as_str())).count();
        assert_eq!(of(ana), 2);
        assert!((100..200).contains(&of(eve)), "{}", of(eve));
    }

    #[test]
    fn a095_events_that_cost_nothing_hide_no_password_consent_or_end_of_the_same_account() {
        let client_id = &ClientId::try_from("client".to_owned()).unwrap();
        let (eve, scope) = (&Subject::new([5; 32]), &Scope::default());
        let grant_id = &GrantId::new([1; 32]);
        let lines = lines_of(|| {
            for _ in 0..1000 {
                Event::AccessDenied { user: user(eve), client_id }.emit();
                Event::ConsentDenied { user: user(eve), client_id }.emit();
                Event::ConsentRemembered { user: user(eve), client_id, scope }.emit();
                Event::LoggedIn { user: user(eve) }.emit();
            }
            Event::ConsentGiven { user: user(eve), client_id, scope }.emit();
            for _ in 0..1000 {
                Event::ConsentGiven { user: user(eve), client_id, scope }.emit();
            }
            Event::GrantRevoked { grant_id, owner: Owner::new(eve, None), client_id }.emit();
            Event::GrantDisplaced { grant_id, user: user(eve), client_id }.emit();
            for _ in 0..1000 {
                Event::GrantRevoked { grant_id, owner: Owner::new(eve, None), client_id }.emit();
            }
            Event::PasswordChosen { user: user(eve) }.emit();
        });
        for event in ["consent_given", "grant_revoked", "grant_displaced", "password_chosen"] {
            assert!(lines.iter().any(|line| line.contains(&format!("event=\"{event}\""))), "{event}");
        }
    }
}
