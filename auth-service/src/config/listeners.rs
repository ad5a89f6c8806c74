//! The addresses on which the service listens. The internet, the edge proxy and the operator have separate
//! sockets, so that none of them can reach the endpoints of another.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;

use serde::Deserialize;

use crate::threads::DEFAULT_WORKERS;

use super::{Environment, Problems};

/// The listening addresses and the number of threads.
#[derive(Debug, Clone, Copy)]
pub struct Listeners {
    /// Address for OAuth endpoints, well-known documents and pages (`PUBLIC_LISTEN`, default 127.0.0.1:9000).
    pub public: SocketAddr,
    /// Address for checks by edge proxies (`EDGE_LISTEN`, default 127.0.0.1:9001).
    pub edge: SocketAddr,
    /// Address for checks by Envoy over gRPC (`EDGE_GRPC_LISTEN`, default none).
    pub edge_grpc: Option<SocketAddr>,
    /// Address for health, readiness and metrics (`OPS_LISTEN`, default 127.0.0.1:9002).
    pub ops: SocketAddr,
    /// Number of threads that serve requests (`WORKERS`, at most 256; default one for each core, at most 16).
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
    let cores = default_workers(std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN));
    let workers = raw.workers.map_or(cores, |text| {
        text.parse().ok().filter(|workers: &NonZeroUsize| workers.get() <= MAX_WORKERS).unwrap_or_else(|| {
            problems.add(
                "WORKERS",
                format_args!("{text:?} is not a number of threads; it must be from 1 to {MAX_WORKERS}"),
            );
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
                        "{text:?} is not an address with a port; write it as {default} or [::1]:{port}"
                    ),
                );
                default
            })
        })
    };
    let listeners = Listeners {
        public: address("PUBLIC_LISTEN", raw.public_listen, 9000),
        edge: address("EDGE_LISTEN", raw.edge_listen, 9001),
        edge_grpc: raw.edge_grpc_listen.map(|text| address("EDGE_GRPC_LISTEN", Some(text), 9003)),
        ops: address("OPS_LISTEN", raw.ops_listen, 9002),
        workers,
    };
    refuse_shared(&listeners, problems);
    listeners
}

/// Refuses two listeners with one address. The operating system's error would only state that the address is in
/// use, as if another program were using it.
fn refuse_shared(listeners: &Listeners, problems: &mut Problems) {
    let all = [
        ("PUBLIC_LISTEN", Some(listeners.public)),
        ("EDGE_LISTEN", Some(listeners.edge)),
        ("EDGE_GRPC_LISTEN", listeners.edge_grpc),
        ("OPS_LISTEN", Some(listeners.ops)),
    ];
    // An invalid address has been replaced with its default. The operator has not chosen this default, so it is not
    // compared with the other addresses.
    let read = all.into_iter().filter(|(name, _)| !problems.has(name));
    let all: Vec<_> = read.filter_map(|(name, address)| Some((name, address?))).collect();
    for (at, (name, address)) in all.iter().enumerate() {
        let is_same = |other: &SocketAddr| {
            let (one, two) = (address.ip(), other.ip());
            let overlap = one == two || one.is_unspecified() || two.is_unspecified();
            address.port() != 0 && address.port() == other.port() && overlap
        };
        if let Some((other, _)) = all.iter().take(at).find(|(_, other)| is_same(other)) {
            problems.add(
                name,
                format_args!("{address} is also the address of {other}: give each listener one of its own"),
            );
        }
    }
}

/// Maximum of `WORKERS`. The process starts about three threads for each.
const MAX_WORKERS: usize = 256;

/// One thread for each core, up to a number that fits the usual limits of containers.
fn default_workers(cores: NonZeroUsize) -> NonZeroUsize {
    NonZeroUsize::new(DEFAULT_WORKERS).map_or(cores, |most| cores.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_of_many_cores_does_not_start_more_workers_than_a_container_has_room_for() {
        let workers = |cores| default_workers(NonZeroUsize::new(cores).unwrap()).get();
        assert_eq!([1, 2, 16, 17, 256].map(workers), [1, 2, 16, 16, 16]);
    }
}
