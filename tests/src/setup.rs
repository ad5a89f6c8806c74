//! The configuration of a [`Stack`](crate::Stack) before it starts.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::control_group::Bounds;
use crate::edge::{Change, Edge, REQUESTS_PER_SECOND};

/// The user name and password of the account in every stack.
pub const ACCOUNT: (&str, &str) = ("ana", "correct horse battery staple");

/// One of the three programs of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// The edge proxy in front of the others.
    Edge,
    /// The authorization server, auth-service.
    AuthService,
    /// The wrapper with its child processes.
    Wrapper,
}

/// The server behind the edge.
#[derive(Debug, Clone)]
pub(crate) enum Backend {
    /// The real wrapper with this command.
    Wrapper(Vec<String>),
    /// A server that the test runs on this port.
    Port(u16),
}

/// The configuration of a stack. The default is the configuration of `scripts/up`.
#[derive(Debug, Clone)]
pub struct Setup {
    pub(crate) issuer_path: String,
    pub(crate) other_hosts: Vec<String>,
    pub(crate) auth_settings: Vec<(String, String)>,
    pub(crate) wrapper_settings: Vec<(String, String)>,
    pub(crate) backend: Option<Backend>,
    pub(crate) edge: Edge,
    pub(crate) edge_changes: Vec<Change>,
    pub(crate) requests_per_second: u32,
    pub(crate) any_answer: bool,
    pub(crate) checked_at: Option<u16>,
    pub(crate) replicated: Option<(Tier, Vec<Ipv4Addr>)>,
    pub(crate) bounds: BTreeMap<Tier, Bounds>,
    pub(crate) auth_log: Option<Arc<File>>,
}

impl Setup {
    /// The configuration that `scripts/up` uses.
    pub fn as_shipped() -> Self {
        Self {
            issuer_path: String::new(),
            other_hosts: Vec::new(),
            auth_settings: Vec::new(),
            wrapper_settings: Vec::new(),
            backend: None,
            edge: Edge::EnvoyHttp,
            edge_changes: Vec::new(),
            requests_per_second: REQUESTS_PER_SECOND,
            any_answer: false,
            checked_at: None,
            replicated: None,
            bounds: BTreeMap::new(),
            auth_log: None,
        }
    }

    /// Puts the issuer below a path such as `/tenant1`.
    #[must_use]
    pub fn issuer_path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.issuer_path);
        self
    }

    /// Protects one more host, on the same port.
    #[must_use]
    pub fn also_protecting(mut self, host: &str) -> Self {
        self.other_hosts.push(host.to_owned());
        self
    }

    /// Sets an environment variable of auth-service.
    #[must_use]
    pub fn auth_setting(mut self, name: &str, value: &str) -> Self {
        self.auth_settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets an environment variable of the wrapper.
    #[must_use]
    pub fn wrapper_setting(mut self, name: &str, value: &str) -> Self {
        self.wrapper_settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Uses this edge proxy.
    #[must_use]
    pub fn through(mut self, edge: Edge) -> Self {
        self.edge = edge;
        self
    }

    /// Replaces a string in the proxy's shipped configuration. The string `from` must exist.
    #[must_use]
    pub fn edge_changed(mut self, from: &str, to: &str) -> Self {
        self.edge_changes.push((from.to_owned(), to.to_owned()));
        self
    }

    /// Removes the limit on requests per second from one address.
    #[must_use]
    pub fn with_any_rate(self) -> Self {
        self.with_rate(1_000_000)
    }

    /// Sets the number of requests per second from one address.
    #[must_use]
    pub fn with_rate(mut self, in_a_second: u32) -> Self {
        self.requests_per_second = in_a_second;
        self.auth_setting("REQUESTS_PER_SECOND", &in_a_second.to_string())
    }

    /// Limits one of the programs to these bounds, in its own control group.
    #[must_use]
    pub fn within(mut self, tier: Tier, bounds: Bounds) -> Self {
        self.bounds.insert(tier, bounds);
        self
    }

    /// Makes auth-service write its log to this file, for example a pipe.
    #[must_use]
    pub fn logging_to(mut self, file: File) -> Self {
        self.auth_log = Some(Arc::new(file));
        self
    }

    /// Makes the edge send its checks to this port instead of to auth-service.
    #[must_use]
    pub fn checked_at(mut self, port: u16) -> Self {
        self.checked_at = Some(port);
        self
    }

    /// Makes the edge reach auth-service or the wrapper by a name that has these loopback addresses, in this order, as the
    /// DNS of a container network does for replicas. The stack itself starts the one at `127.0.0.1`.
    #[must_use]
    pub fn replicas_at(mut self, tier: Tier, addresses: &[Ipv4Addr]) -> Self {
        self.replicated = Some((tier, addresses.to_vec()));
        self
    }

    /// Treats the stack as ready as soon as the edge has a route for the endpoint, whatever the response is. This
    /// is for an edge that is misconfigured on purpose.
    #[must_use]
    pub fn with_any_answer(mut self) -> Self {
        self.any_answer = true;
        self
    }

    /// Makes the wrapper run this command.
    #[must_use]
    pub fn wrapping(mut self, command: Vec<String>) -> Self {
        self.backend = Some(Backend::Wrapper(command));
        self
    }

    /// Uses the test's own server instead of the wrapper.
    #[must_use]
    pub fn in_front_of(mut self, port: u16) -> Self {
        self.backend = Some(Backend::Port(port));
        self
    }
}
