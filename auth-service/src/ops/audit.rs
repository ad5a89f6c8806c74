//! Events that matter to whoever is responsible for the service. Emitting one writes its log line and counts it.

use std::sync::LazyLock;

use crate::domain::account::Subject;
use crate::domain::client::ClientId;
use crate::domain::clock::UnixTime;
use crate::domain::grant::GrantId;
use crate::domain::scope::Scope;
use crate::guard::log_rate::LogRate;

/// Lines that anybody can cause have a limit of their own each; the metrics count every event.
static FAILED: LazyLock<LogRate> = LazyLock::new(LogRate::default);
static THROTTLED: LazyLock<LogRate> = LazyLock::new(LogRate::default);
static LIMITED: LazyLock<LogRate> = LazyLock::new(LogRate::default);
static REPLAYED: LazyLock<LogRate> = LazyLock::new(LogRate::default);
static REUSED: LazyLock<LogRate> = LazyLock::new(LogRate::default);
/// Where anybody may register, anybody can cause these as well. An operator wants to see each, so many are written.
static REGISTERED: LazyLock<LogRate> = LazyLock::new(LogRate::of_a_place);
static UPDATED: LazyLock<LogRate> = LazyLock::new(LogRate::of_a_place);
static DELETED: LazyLock<LogRate> = LazyLock::new(LogRate::of_a_place);

/// Something that happened. No variant carries a token, a code, a password or anything that a stranger typed.
#[derive(Debug)]
pub enum Event<'a> {
    /// A client registered (RFC 7591).
    ClientRegistered {
        /// Which.
        client_id: &'a ClientId,
    },
    /// A client changed its registration (RFC 7592).
    ClientUpdated {
        /// Which.
        client_id: &'a ClientId,
    },
    /// A client was deleted, and every grant that it held with it.
    ClientDeleted {
        /// Which.
        client_id: &'a ClientId,
    },
    /// An operator switched a client off or on.
    ClientSwitched {
        /// Which.
        client_id: &'a ClientId,
        /// Off?
        disabled: bool,
    },
    /// An operator entered a client.
    ClientAdded {
        /// Which.
        client_id: &'a ClientId,
    },
    /// A machine got a token for itself.
    MachineAuthorized {
        /// Which grant.
        grant_id: &'a GrantId,
        /// Who.
        client_id: &'a ClientId,
    },
    /// An operator said who an account is at a trusted issuer, or that it is nobody there any more.
    AccountLinked {
        /// Whose.
        subject: &'a Subject,
        /// From now on, or no longer?
        linked: bool,
    },
    /// A trusted issuer's assertion became a grant.
    AssertionAccepted {
        /// Which grant.
        grant_id: &'a GrantId,
        /// For whom.
        subject: &'a Subject,
        /// To whom.
        client_id: &'a ClientId,
    },
    /// A client got a token to act for a person elsewhere.
    TokenExchanged {
        /// Which grant.
        grant_id: &'a GrantId,
        /// For whom.
        subject: &'a Subject,
        /// Who acts.
        client_id: &'a ClientId,
    },
    /// A person tried too many user codes.
    UserCodesThrottled {
        /// Who.
        subject: &'a Subject,
    },
    /// A client got again what the person had allowed it before, without a question.
    ConsentRemembered {
        /// Whose consent.
        subject: &'a Subject,
        /// To whom.
        client_id: &'a ClientId,
        /// What.
        scope: &'a Scope,
    },
    /// A client asked for what the rules do not let its user use.
    Barred {
        /// Who is not let in.
        subject: &'a Subject,
        /// Who asked.
        client_id: &'a ClientId,
    },
    /// An operator added an account.
    AccountAdded {
        /// Whose.
        subject: &'a Subject,
    },
    /// An operator gave a person a new one-time password.
    PasswordReset {
        /// Whom.
        subject: &'a Subject,
    },
    /// An operator changed an account.
    AccountChanged {
        /// Whom.
        subject: &'a Subject,
        /// What: `off`, `on`, `groups` or `email`.
        what: &'static str,
    },
    /// A person logged in.
    LoggedIn {
        /// Who.
        subject: &'a Subject,
    },
    /// A login failed.
    LoginFailed,
    /// A login was not even tried: there had been too many.
    LoginThrottled,
    /// A person chose a password.
    PasswordChosen {
        /// Who.
        subject: &'a Subject,
    },
    /// A person allowed a client to act.
    ConsentGiven {
        /// Who.
        subject: &'a Subject,
        /// Whom.
        client_id: &'a ClientId,
        /// What.
        scope: &'a Scope,
    },
    /// A person did not allow a client to act.
    ConsentDenied {
        /// Who.
        subject: &'a Subject,
        /// Whom.
        client_id: &'a ClientId,
    },
    /// A code was used a second time; its grant is revoked.
    CodeReplayed {
        /// Which grant.
        grant_id: &'a GrantId,
        /// By whom.
        client_id: &'a ClientId,
    },
    /// A client gave its grant back (RFC 7009).
    GrantRevoked {
        /// Which grant.
        grant_id: &'a GrantId,
        /// By whom.
        client_id: &'a ClientId,
    },
    /// An operator started a rotation of the signing keys.
    SigningKeyAdded {
        /// The key that was published.
        kid: &'a str,
        /// From when on it signs.
        signs_from: UnixTime,
    },
    /// An operator removed a signing key; nothing that it signed counts any more.
    SigningKeyRevoked {
        /// Which.
        kid: &'a str,
    },
    /// An operator had everything that is stored written to a file, sealed.
    StoreExported {
        /// How much.
        records: u64,
    },
    /// An operator had everything sealed with the key that seals now.
    StoreResealed {
        /// All rows.
        rows: u64,
        /// Those that had another key.
        changed: u64,
    },
    /// A used refresh token came again; its grant is revoked.
    RefreshTokenReused {
        /// Which grant.
        grant_id: &'a GrantId,
        /// By whom.
        client_id: &'a ClientId,
    },
}

impl Event<'_> {
    /// Writes and counts the event.
    #[expect(clippy::too_many_lines, reason = "an arm for each event")]
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
            Self::ClientSwitched { client_id, disabled } => {
                tracing::info!(target: "audit", event = "client_switched", %client_id, disabled);
                "client_switched"
            }
            Self::ClientAdded { client_id } => {
                tracing::info!(target: "audit", event = "client_added", %client_id);
                "client_added"
            }
            Self::MachineAuthorized { grant_id, client_id } => {
                tracing::info!(target: "audit", event = "machine_authorized", %grant_id, %client_id);
                "machine_authorized"
            }
            Self::AccountLinked { subject, linked } => {
                tracing::info!(target: "audit", event = "account_linked", %subject, linked);
                "account_linked"
            }
            Self::AssertionAccepted { grant_id, subject, client_id } => {
                tracing::info!(target: "audit", event = "assertion_accepted", %grant_id, %subject, %client_id);
                "assertion_accepted"
            }
            Self::TokenExchanged { grant_id, subject, client_id } => {
                tracing::info!(target: "audit", event = "token_exchanged", %grant_id, %subject, %client_id);
                "token_exchanged"
            }
            Self::UserCodesThrottled { subject } => {
                if let Some(left_out) = LIMITED.admit() {
                    tracing::warn!(target: "audit", event = "user_codes_throttled", %subject, left_out);
                }
                "user_codes_throttled"
            }
            Self::ConsentRemembered { subject, client_id, scope } => {
                tracing::info!(target: "audit", event = "consent_remembered", %subject, %client_id, %scope);
                "consent_remembered"
            }
            Self::Barred { subject, client_id } => {
                tracing::info!(target: "audit", event = "barred", %subject, %client_id);
                "barred"
            }
            Self::AccountAdded { subject } => {
                tracing::info!(target: "audit", event = "account_added", %subject);
                "account_added"
            }
            Self::PasswordReset { subject } => {
                tracing::info!(target: "audit", event = "password_reset", %subject);
                "password_reset"
            }
            Self::AccountChanged { subject, what } => {
                tracing::info!(target: "audit", event = "account_changed", %subject, what);
                "account_changed"
            }
            Self::LoggedIn { subject } => {
                tracing::info!(target: "audit", event = "logged_in", %subject);
                "logged_in"
            }
            Self::LoginFailed => {
                if let Some(left_out) = FAILED.admit() {
                    tracing::info!(target: "audit", event = "login_failed", left_out);
                }
                "login_failed"
            }
            Self::LoginThrottled => {
                if let Some(left_out) = THROTTLED.admit() {
                    tracing::warn!(target: "audit", event = "login_throttled", left_out);
                }
                "login_throttled"
            }
            Self::PasswordChosen { subject } => {
                tracing::info!(target: "audit", event = "password_chosen", %subject);
                "password_chosen"
            }
            Self::ConsentGiven { subject, client_id, scope } => {
                tracing::info!(target: "audit", event = "consent_given", %subject, %client_id, %scope);
                "consent_given"
            }
            Self::ConsentDenied { subject, client_id } => {
                tracing::info!(target: "audit", event = "consent_denied", %subject, %client_id);
                "consent_denied"
            }
            Self::CodeReplayed { grant_id, client_id } => {
                if let Some(left_out) = REPLAYED.admit() {
                    tracing::warn!(target: "audit", event = "code_replayed", %grant_id, %client_id, left_out);
                }
                "code_replayed"
            }
            Self::GrantRevoked { grant_id, client_id } => {
                tracing::info!(target: "audit", event = "grant_revoked", %grant_id, %client_id);
                "grant_revoked"
            }
            Self::SigningKeyAdded { kid, signs_from } => {
                tracing::info!(target: "audit", event = "signing_key_added", %kid, %signs_from);
                "signing_key_added"
            }
            Self::SigningKeyRevoked { kid } => {
                tracing::warn!(target: "audit", event = "signing_key_revoked", %kid);
                "signing_key_revoked"
            }
            Self::StoreExported { records } => {
                tracing::warn!(target: "audit", event = "store_exported", records);
                "store_exported"
            }
            Self::StoreResealed { rows, changed } => {
                tracing::info!(target: "audit", event = "store_resealed", rows, changed);
                "store_resealed"
            }
            Self::RefreshTokenReused { grant_id, client_id } => {
                if let Some(left_out) = REUSED.admit() {
                    tracing::warn!(target: "audit", event = "refresh_token_reused", %grant_id, %client_id, left_out);
                }
                "refresh_token_reused"
            }
        };
        metrics::counter!("mcp_gate_audit_events_total", "event" => event).increment(1);
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::telemetry::tests::lines_of;

    use super::*;

    #[test]
    fn a095_a_flood_of_registrations_is_told_by_its_number_and_hides_no_login_and_no_consent() {
        let client_id = &ClientId::try_from("client".to_owned()).unwrap();
        let (subject, scope) = (&Subject::new([1; 32]), &Scope::default());
        let lines = lines_of(|| {
            for _ in 0..1000 {
                Event::ClientRegistered { client_id }.emit();
                Event::ClientUpdated { client_id }.emit();
                Event::ClientDeleted { client_id }.emit();
                Event::LoggedIn { subject }.emit();
                Event::ConsentGiven { subject, client_id, scope }.emit();
                Event::ConsentDenied { subject, client_id }.emit();
            }
        });
        let of =
            |event: &str| lines.iter().filter(|line| line.contains(&format!("event=\"{event}\""))).count();
        for event in ["client_registered", "client_updated", "client_deleted"] {
            assert!((100..200).contains(&of(event)), "{event}: {}", of(event));
        }
        for event in ["logged_in", "consent_given", "consent_denied"] {
            assert_eq!(of(event), 1000, "{event}");
        }
        assert!(lines.iter().any(|line| line.contains("client_registered") && line.contains("left_out=0")));
    }
}
