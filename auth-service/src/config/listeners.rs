//! Where to listen. Three sockets, so that what the internet, the edge and the operator may reach never mix.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;

use serde::Deserialize;

use super::{Environment, Problems};

/// Listening addresses.
#[derive(Debug, Clone, Copy)]
pub struct Listeners {
    /// `PUBLIC_LISTEN`, 127.0.0.1:9000: OAuth endpoints, well-known documents, pages.
    pub public: SocketAddr,
    /// `EDGE_LISTEN`, 127.0.0.1:9001: the check, for edge proxies only.
    pub edge: SocketAddr,
    /// `EDGE_GRPC_LISTEN`, none: the check over gRPC, for Envoy only.
    pub edge_grpc: Option<SocketAddr>,
    /// `OPS_LISTEN`, 127.0.0.1:9002: health, readiness, metrics.
    pub ops: SocketAddr,
    /// `WORKERS`, one a core: threads that serve.
    pub workers: NonZeroUsize,
}

#[derive(Default, Deserialize)]
struct Raw {
    public_listen: Option<String>,
    edge_listen: Option<String>,
    edge_grpc_listen: Option<String>,
    ops_listen: Option<String>,
    workers: Option<String>,
}

pub(super) fn read(environment: &Environment, problems: &mut Problems) -> Listeners {
    let raw: Raw = environment.concern(problems);
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let workers = raw.workers.map_or(cores, |text| {
        text.parse().unwrap_or_else(|_| {
            problems
                .add("WORKERS", format_args!("{text:?} is not a number of threads; it must be 1 or more"));
            cores
        })
    });
    let mut address = |variable, text: Option<String>, port| {
        let default = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        text.map_or(default, |text| {
            text.parse().unwrap_or_else(|_| {
                problems.add(
                    variable,
                    format_args!(
                        "{text:?} is not an address with a port; write it as 0.0.0.0:{port} or [::]:{port}"
                    ),
                );
                default
            })
        })
    };
    Listeners {
        public: address("PUBLIC_LISTEN", raw.public_listen, 9000),
        edge: address("EDGE_LISTEN", raw.edge_listen, 9001),
        edge_grpc: raw.edge_grpc_listen.map(|text| address("EDGE_GRPC_LISTEN", Some(text), 9003)),
        ops: address("OPS_LISTEN", raw.ops_listen, 9002),
        workers,
    }
}
