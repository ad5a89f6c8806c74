//! What a person has allowed a client already: what it asks for again is not new.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::account::Subject;
use super::client::{Client, ClientId, RegistrationId};
use super::resource::ResourceUri;
use super::scope::Scope;

/// A person's standing consent to one client, in one registration of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consent {
    /// Whose.
    pub subject: Subject,
    /// To whom.
    pub client_id: ClientId,
    /// In which registration.
    pub registration: RegistrationId,
    /// What, at which resource.
    allowed: BTreeMap<ResourceUri, Scope>,
}

impl Consent {
    /// Consent to nothing yet.
    pub fn new(subject: Subject, client: &Client) -> Self {
        Self {
            subject,
            client_id: client.id.clone(),
            registration: client.registration.clone(),
            allowed: BTreeMap::new(),
        }
    }

    /// Whether it was given to the client as it is registered now.
    pub fn is_to(&self, client: &Client) -> bool {
        self.client_id == client.id && self.registration == client.registration
    }

    /// The part of `scope` that is allowed at every one of `resources` already.
    pub fn known(&self, scope: &Scope, resources: &[ResourceUri]) -> Scope {
        if resources.is_empty() {
            return Scope::default();
        }
        let nothing = Scope::default();
        resources.iter().fold(scope.clone(), |known, resource| {
            known.within(self.allowed.get(resource).unwrap_or(&nothing))
        })
    }

    /// Whether all of `scope` is allowed at all of `resources` already.
    pub fn covers(&self, scope: &Scope, resources: &[ResourceUri]) -> bool {
        !resources.is_empty() && self.known(scope, resources) == *scope
    }

    /// Adds what the person has allowed now.
    pub fn add(&mut self, scope: &Scope, resources: &[ResourceUri]) {
        for resource in resources {
            let allowed = self.allowed.entry(resource.clone()).or_default();
            *allowed = allowed.union(scope);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::domain::resource::{ProtectedHosts, Scheme};

    use super::*;

    fn resource(text: &str) -> ResourceUri {
        ProtectedHosts::new(Scheme::Https, vec!["a.example".parse().unwrap()]).parse(text).unwrap()
    }

    fn scope(text: &str) -> Scope {
        text.parse().unwrap()
    }

    #[test]
    fn a016_what_was_allowed_at_one_resource_is_new_at_another() {
        let (one, other) = ([resource("https://a.example/one")], [resource("https://a.example/other")]);
        let both = [one.clone(), other.clone()].concat();
        let mut consent = Consent {
            subject: Subject::new([1; 32]),
            client_id: ClientId::try_from("c".to_owned()).unwrap(),
            registration: RegistrationId::new([2; 32]),
            allowed: BTreeMap::new(),
        };
        assert!(!consent.covers(&scope("mcp"), &one) && !consent.covers(&Scope::default(), &[]));
        consent.add(&scope("mcp:read"), &one);
        assert!(consent.covers(&scope("mcp:read mcp:read:x"), &one));
        assert!(!consent.covers(&scope("mcp"), &one));
        assert!(!consent.covers(&scope("mcp:read"), &both));
        assert_eq!(consent.known(&scope("mcp:read mcp:write"), &one), scope("mcp:read"));
        consent.add(&scope("mcp:write"), &both);
        assert!(consent.covers(&scope("mcp:read mcp:write"), &one));
        assert!(!consent.covers(&scope("mcp:read"), &other));
    }
}
