//! Records what a user has allowed a client, so that the user is not asked for it again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::account::Subject;
use super::client::{Client, ClientId, RegistrationId};
use super::opaque_token::TokenHash;
use super::redirect_uri::RedirectUri;
use super::resource::ResourceUri;
use super::scope::Scope;

/// A user's consent to one client. It is valid as long as the client has the metadata that the user was
/// shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consent {
    /// The user who consented.
    pub subject: Subject,
    /// The client that the consent is for.
    pub client_id: ClientId,
    /// The client's registration at the time of consent.
    pub registration: RegistrationId,
    /// Digest of the client's metadata at the time of consent ([`ClientMetadata::digest`]).
    ///
    /// [`ClientMetadata::digest`]: super::client::ClientMetadata::digest
    metadata: TokenHash,
    /// The allowed scope for each redirect URI ([`RedirectUri::comparable`]) and resource.
    answers: BTreeMap<String, BTreeMap<ResourceUri, Scope>>,
}

/// What a user allows in one authorization response. A consent covers it completely or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// The redirect URI to which the response is sent.
    pub redirect_uri: RedirectUri,
    /// The scope that is allowed.
    pub scope: Scope,
    /// The resources for which the scope is allowed.
    pub resources: Vec<ResourceUri>,
}

impl Consent {
    /// Maximum number of pairs of redirect URI and resource. If a client needs more, all earlier pairs are
    /// forgotten, so that a row does not grow without limit.
    const MAX_PAIRS: usize = 128;

    /// Maximum number of bytes of these pairs and their scopes. A single approval is always shorter, because
    /// the length of a request is limited.
    const MAX_BYTES: usize = 16 * 1024;

    /// Creates a consent that allows nothing yet.
    pub fn new(subject: Subject, client: &Client) -> Self {
        Self {
            subject,
            client_id: client.id.clone(),
            registration: client.registration.clone(),
            metadata: client.metadata.digest(),
            answers: BTreeMap::new(),
        }
    }

    /// Whether the consent applies to the client in its current form. A consent is no longer valid once the
    /// client's metadata has changed, for example its name, redirect URIs or keys.
    pub fn is_to(&self, client: &Client) -> bool {
        self.client_id == client.id
            && self.registration == client.registration
            && self.metadata == client.metadata.digest()
    }

    /// Whether the user has already allowed a response to this redirect URI.
    pub fn knows(&self, redirect_uri: &RedirectUri) -> bool {
        self.answers.contains_key(&redirect_uri.comparable())
    }

    /// The part of the requested scope that is already allowed at all requested resources with the same
    /// redirect URI.
    pub fn known(&self, asked: &Approval) -> Scope {
        let allowed = self.answers.get(&asked.redirect_uri.comparable());
        let Some(allowed) = allowed.filter(|_| !asked.resources.is_empty()) else {
            return Scope::default();
        };
        let nothing = Scope::default();
        asked.resources.iter().fold(asked.scope.clone(), |known, resource| {
            known.within(allowed.get(resource).unwrap_or(&nothing))
        })
    }

    /// Whether everything that is requested is already allowed.
    pub fn covers(&self, asked: &Approval) -> bool {
        let Some(allowed) = self.answers.get(&asked.redirect_uri.comparable()) else { return false };
        // An empty scope is within every other scope, so the resources must be checked separately.
        let resources = &asked.resources;
        let each_allowed = resources.iter().all(|resource| allowed.contains_key(resource));
        !resources.is_empty() && each_allowed && self.known(asked) == asked.scope
    }

    /// Adds an approval. If the pairs would exceed `MAX_PAIRS` or `MAX_BYTES`, the earlier ones are forgotten.
    pub fn add(&mut self, approval: &Approval) {
        let pairs: usize = self.answers.values().map(BTreeMap::len).sum();
        if pairs.saturating_add(approval.resources.len()) > Self::MAX_PAIRS {
            self.answers.clear();
        }
        self.insert(approval);
        if self.bytes() > Self::MAX_BYTES {
            self.answers.clear();
            self.insert(approval);
        }
    }

    fn bytes(&self) -> usize {
        let of_pair = |(resource, scope): (&ResourceUri, &Scope)| {
            resource.as_str().len().saturating_add(scope.to_string().len())
        };
        let of_answer = |(uri, allowed): (&String, &BTreeMap<ResourceUri, Scope>)| {
            uri.len().saturating_add(allowed.iter().map(of_pair).sum())
        };
        self.answers.iter().map(of_answer).sum()
    }

    fn insert(&mut self, approval: &Approval) {
        let allowed = self.answers.entry(approval.redirect_uri.comparable()).or_default();
        for resource in &approval.resources {
            let scope = allowed.entry(resource.clone()).or_default();
            *scope = scope.union(&approval.scope);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::domain::client::{ClientAuthMethod, ClientDisplay, ClientKeys, ClientMetadata, ClientOrigin};
    use crate::domain::clock::UnixTime;
    use crate::domain::resource::{ProtectedHosts, Scheme};

    use super::*;

    const HERE: &str = "https://app.example/cb";

    fn resource(text: &str) -> ResourceUri {
        ProtectedHosts::new(Scheme::Https, vec!["a.example".parse().unwrap()]).parse(text).unwrap()
    }

    fn uri(text: &str) -> RedirectUri {
        RedirectUri::try_from(text.to_owned()).unwrap()
    }

    fn asks(redirect_uri: &str, scope: &str, paths: &[&str]) -> Approval {
        let resources = paths.iter().map(|path| resource(&format!("https://a.example/{path}"))).collect();
        Approval { redirect_uri: uri(redirect_uri), scope: scope.parse().unwrap(), resources }
    }

    fn client() -> Client {
        Client {
            id: ClientId::try_from("c".to_owned()).unwrap(),
            registration: RegistrationId::new([2; 32]),
            origin: ClientOrigin::Registration,
            issued_at: UnixTime(1),
            last_used_at: None,
            users: None,
            further_users: Vec::new(),
            kept_until: None,
            disabled: false,
            fingerprint: None,
            management: None,
            secret: None,
            metadata: ClientMetadata {
                redirect_uris: vec![uri(HERE), uri("http://127.0.0.1:1/cb")],
                auth_method: ClientAuthMethod::None,
                grant_types: vec![],
                scope: None,
                application_type: None,
                dpop_bound_access_tokens: false,
                keys: None,
                display: ClientDisplay::default(),
            },
            operator: None,
        }
    }

    fn consent() -> Consent {
        Consent::new(Subject::new([1; 32]), &client())
    }

    #[test]
    fn a016_what_was_allowed_at_one_resource_is_new_at_another() {
        let mut consent = consent();
        assert!(!consent.covers(&asks(HERE, "mcp", &["one"])) && !consent.covers(&asks(HERE, "", &[])));
        consent.add(&asks(HERE, "mcp:read", &["one"]));
        assert!(consent.covers(&asks(HERE, "mcp:read mcp:read:x", &["one"])));
        assert!(!consent.covers(&asks(HERE, "mcp", &["one"])));
        assert!(!consent.covers(&asks(HERE, "mcp:read", &["one", "other"])));
        for paths in [&["other"][..], &["one", "other"]] {
            assert!(!consent.covers(&asks(HERE, "", paths)), "{paths:?}");
        }
        assert_eq!(consent.known(&asks(HERE, "mcp:read mcp:write", &["one"])), "mcp:read".parse().unwrap());
        consent.add(&asks(HERE, "mcp:write", &["one", "other"]));
        assert!(consent.covers(&asks(HERE, "mcp:read mcp:write", &["one"])));
        assert!(!consent.covers(&asks(HERE, "mcp:read", &["other"])));
    }

    #[test]
    fn a016_what_may_be_sent_to_one_redirect_uri_is_new_at_another() {
        let mut consent = consent();
        consent.add(&asks(HERE, "mcp", &["one"]));
        for elsewhere in ["https://app.example/cb2", "https://evil.example/cb", "https://app.example:8443/cb"]
        {
            assert!(!consent.covers(&asks(elsewhere, "mcp", &["one"])), "{elsewhere}");
            assert!(consent.known(&asks(elsewhere, "mcp", &["one"])).is_empty(), "{elsewhere}");
            assert!(!consent.covers(&asks(elsewhere, "", &["one"])), "{elsewhere}");
        }
        // The client chooses the port of a loopback redirect URI at run time (RFC 8252 §7.3).
        consent.add(&asks("http://127.0.0.1:1/cb", "mcp", &["one"]));
        assert!(consent.covers(&asks("http://127.0.0.1:2/cb", "mcp", &["one"])));
        assert!(!consent.covers(&asks("http://localhost:1/cb", "mcp", &["one"])));
    }

    type Change = fn(&mut ClientMetadata);

    #[test]
    fn a016_a_client_that_changes_anything_that_was_shown_or_proves_who_it_is_is_another() {
        let consent = consent();
        assert!(consent.is_to(&client()));
        let kinds: [(&str, Change); 6] = [
            ("a name", |metadata| metadata.display.client_name = Some("Other".to_owned())),
            ("a logo", |metadata| metadata.display.logo_uri = Some("https://a.example/x.png".to_owned())),
            ("one more redirect URI", |metadata| metadata.redirect_uris.push(uri("https://evil.example/cb"))),
            ("no redirect URI", |metadata| metadata.redirect_uris.clear()),
            ("a method", |metadata| metadata.auth_method = ClientAuthMethod::PrivateKeyJwt),
            ("keys", |metadata| metadata.keys = Some(ClientKeys::Inline(json!({ "keys": [] })))),
        ];
        for (what, change) in kinds {
            let mut changed = client();
            change(&mut changed.metadata);
            assert!(!consent.is_to(&changed), "{what}");
        }
        let mut same = client();
        same.metadata.redirect_uris = vec![uri("http://127.0.0.1:9/cb"), uri(HERE)];
        assert!(consent.is_to(&same));
        assert!(!consent.is_to(&Client { registration: RegistrationId::new([3; 32]), ..client() }));
    }

    #[test]
    fn a_consent_has_a_ceiling() {
        let mut consent = consent();
        for n in 0..1000 {
            consent.add(&asks(HERE, "mcp", &[&format!("p{n}")]));
        }
        assert!(consent.answers.values().map(BTreeMap::len).sum::<usize>() <= Consent::MAX_PAIRS);
        assert!(
            consent.covers(&asks(HERE, "mcp", &["p999"])) && !consent.covers(&asks(HERE, "mcp", &["p0"]))
        );
    }

    #[test]
    fn a100_a_consent_has_a_greatest_length_and_the_last_approval_is_in_it() {
        let mut consent = consent();
        let long = |n: usize| format!("{n}/{}", "x".repeat(1000));
        for n in 0..100 {
            consent.add(&asks(HERE, "mcp", &[&long(n)]));
            assert!(consent.covers(&asks(HERE, "mcp", &[&long(n)])));
            assert!(serde_json::to_vec(&consent).unwrap().len() < 20 * 1024);
        }
    }
}
