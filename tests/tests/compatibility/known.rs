//! Features that are known to fail because of a client or a server. A test fails if any other feature fails.

use crate::programs::{Client, Server};
use crate::run::Seen;

/// A feature of a server that a client cannot use, with the reason.
pub(crate) struct Known {
    server: Option<Server>,
    client: Client,
    pub(crate) feature: &'static str,
    pub(crate) why: &'static str,
}

/// The number of features that each client tries.
const FEATURES: usize = 17;

const ALL: [Known; 3] = [
    Known {
        server: Some(Server::TypeScript2),
        client: Client::Go,
        feature: "roots",
        why: "roots: the Go SDK cannot read a question without `params`",
    },
    Known {
        server: Some(Server::Python2),
        client: Client::Go,
        feature: "roots",
        why: "roots: the Go SDK cannot read a question without `params`",
    },
    Known {
        server: Some(Server::Rmcp),
        client: Client::Go,
        feature: "roots",
        why: "roots: the Go SDK cannot read a question without `params`",
    },
];

/// The known failures of this server with this client.
pub(crate) fn of(server: Server, client: Client) -> impl Iterator<Item = &'static Known> {
    ALL.iter().filter(move |known| known.client == client && known.server.is_none_or(|found| found == server))
}

/// The failures of this run, if any. A client must sign in, step up, and use all features except the known
/// failures.
pub(crate) fn complaint(server: Server, client: Client, seen: &Seen) -> Option<String> {
    let mut complaints = Vec::new();
    if !seen.signed_in {
        complaints.push("it could not sign in".to_owned());
    }
    let known: Vec<_> = of(server, client).map(|known| known.feature).collect();
    let failed: Vec<_> = seen.with("failed").into_iter().filter(|feature| !known.contains(feature)).collect();
    if !failed.is_empty() {
        complaints.push(format!("these features failed: {failed:?}"));
    }
    if seen.features.len() < FEATURES {
        complaints.push(format!("only {} features were tried", seen.features.len()));
    }
    if !seen.stepped_up {
        complaints.push(format!("no call after the step-up; its logins requested {:?}", seen.scopes));
    }
    let pair = format!("{} with a server on {}", client.name(), server.name());
    (!complaints.is_empty()).then(|| format!("{pair}: {}\n{}", complaints.join("; "), seen.story))
}
