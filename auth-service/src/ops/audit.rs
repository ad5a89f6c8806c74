//! Events that matter to whoever is responsible for the service. Emitting one writes its log line and counts it.

use crate::domain::account::Subject;
use crate::domain::client::ClientId;
use crate::domain::grant::GrantId;
use crate::domain::scope::Scope;

/// Something that happened. No variant carries a token, a code, a password or anything that a stranger typed.
#[derive(Debug)]
pub enum Event<'a> {
    /// A client registered (RFC 7591).
    ClientRegistered {
        /// Which.
        client_id: &'a ClientId,
    },
    /// A person logged in.
    LoggedIn {
        /// Who.
        subject: &'a Subject,
    },
    /// A login failed.
    LoginFailed,
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
    /// A code was used a second time; its grant is revoked.
    CodeReplayed {
        /// Which grant.
        grant_id: &'a GrantId,
        /// By whom.
        client_id: &'a ClientId,
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
    pub fn emit(&self) {
        let event = match self {
            Self::ClientRegistered { client_id } => {
                tracing::info!(target: "audit", event = "client_registered", %client_id);
                "client_registered"
            }
            Self::LoggedIn { subject } => {
                tracing::info!(target: "audit", event = "logged_in", %subject);
                "logged_in"
            }
            Self::LoginFailed => {
                tracing::info!(target: "audit", event = "login_failed");
                "login_failed"
            }
            Self::PasswordChosen { subject } => {
                tracing::info!(target: "audit", event = "password_chosen", %subject);
                "password_chosen"
            }
            Self::ConsentGiven { subject, client_id, scope } => {
                tracing::info!(target: "audit", event = "consent_given", %subject, %client_id, %scope);
                "consent_given"
            }
            Self::CodeReplayed { grant_id, client_id } => {
                tracing::warn!(target: "audit", event = "code_replayed", %grant_id, %client_id);
                "code_replayed"
            }
            Self::RefreshTokenReused { grant_id, client_id } => {
                tracing::warn!(target: "audit", event = "refresh_token_reused", %grant_id, %client_id);
                "refresh_token_reused"
            }
        };
        metrics::counter!("mcp_gate_audit_events_total", "event" => event).increment(1);
    }
}
