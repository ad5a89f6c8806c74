//! Computes how many connections the limit on open files allows. A listener that strangers can reach must not use
//! up the files that the readiness check, the edge listener and the store need.

use std::num::NonZeroUsize;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{EDGE_CONNECTIONS, OPS_CONNECTIONS, PUBLIC_CONNECTIONS};

/// Number of files per connection: its socket, and a second handle, which is used to close a silent connection.
const OF_A_CONNECTION: usize = 2;
/// Maximum number of gRPC connections. Each uses one file.
const GRPC_CONNECTIONS: usize = 256;
/// Number of files that the event loop of one listener worker uses.
const OF_A_WORKER: usize = 4;
/// Number of files for fetching documents, for the store, and for operators' commands.
const BESIDES: usize = 128;
/// Assumed number of open files at startup if `/proc/self/fd` cannot be read.
const USUAL: usize = 64;

/// Maximum numbers of open connections to the public and the edge listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ceilings {
    pub(super) public: usize,
    pub(super) edge: usize,
}

/// Raises the limit on open files to the hard limit, and returns the ceilings that fit it. Logs a warning if they
/// are lower than usual. The soft limit is usually 1024, which is meant for programs that use select(2).
pub(super) fn ceilings(workers: NonZeroUsize) -> Ceilings {
    let hard = getrlimit(Resource::Nofile).maximum;
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard }) {
        tracing::warn!(%error, "the limit on open files cannot be raised");
    }
    let limit = getrlimit(Resource::Nofile)
        .current
        .map_or(usize::MAX, |limit| limit.try_into().unwrap_or(usize::MAX));
    let open = std::fs::read_dir("/proc/self/fd").map_or(USUAL, Iterator::count);
    let taken = open + 2 * OF_A_WORKER * workers.get() + 4 * OF_A_WORKER;
    let ceilings = fitting(limit, taken);
    if ceilings != ALL {
        let Ceilings { public, edge } = ceilings;
        tracing::warn!(
            limit,
            needed = taken + NEEDED,
            public_connections = public,
            edge_connections = edge,
            "the limit of open files is low, so fewer connections are accepted; raise it (ulimits: nofile of the container, LimitNOFILE of systemd, ulimit -n)"
        );
    }
    ceilings
}

const ALL: Ceilings = Ceilings { public: PUBLIC_CONNECTIONS, edge: EDGE_CONNECTIONS };

/// Number of files for everything except the connections to the public and the edge listener.
const OTHERS: usize = OPS_CONNECTIONS * OF_A_CONNECTION + GRPC_CONNECTIONS + BESIDES;
const NEEDED: usize = (PUBLIC_CONNECTIONS + EDGE_CONNECTIONS) * OF_A_CONNECTION + OTHERS;

/// The ceilings if `limit` files can be open and `taken` of them are not available to connections.
fn fitting(limit: usize, taken: usize) -> Ceilings {
    let free = limit.saturating_sub(taken);
    if free >= NEEDED {
        return ALL;
    }
    // The other uses seldom need all of their files, so at most half of the free files is reserved for them.
    let shared = free.saturating_sub(OTHERS.min(free / 2)) / OF_A_CONNECTION;
    let of = |part: usize| (shared * part / (PUBLIC_CONNECTIONS + EDGE_CONNECTIONS)).clamp(1, part);
    Ceilings { public: of(PUBLIC_CONNECTIONS), edge: of(EDGE_CONNECTIONS) }
}

/// How a ceiling is divided among the workers of a listener. Each worker counts only its own connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// Number of workers. It is lower than configured if the ceiling allows fewer connections than there are
    /// workers.
    pub(super) workers: usize,
    /// Maximum number of connections of one worker.
    pub(super) connections: usize,
}

/// Divides `ceiling`, which must be at least 1. All workers together do not exceed it.
pub(super) fn share(ceiling: usize, workers: NonZeroUsize) -> Share {
    let workers = workers.get().min(ceiling).max(1);
    Share { workers, connections: (ceiling / workers).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a100_all_workers_together_stay_below_the_ceiling() {
        for ceiling in [1, 2, 39, 79, 1024, PUBLIC_CONNECTIONS] {
            for workers in [1, 2, 3, 7, 64, 2000] {
                let Share { workers, connections } = share(ceiling, NonZeroUsize::new(workers).unwrap());
                let all = workers * connections;
                assert!(all <= ceiling && all > ceiling / 2, "{ceiling}: {workers} of {connections}");
            }
        }
    }

    #[test]
    fn a100_connections_leave_files_for_everything_else_whatever_the_limit_is() {
        assert_eq!(fitting(1 << 20, 100), ALL);
        assert_eq!(fitting(usize::MAX, 100), ALL);
        assert_eq!(fitting(100 + NEEDED, 100), ALL);
        assert_ne!(fitting(99 + NEEDED, 100), ALL);
        for limit in [64, 128, 256, 1024, 4096, 99 + NEEDED] {
            let Ceilings { public, edge } = fitting(limit, 40);
            assert!(public >= 1 && edge >= public, "{limit}");
            let left = (limit - 40).saturating_sub((public + edge) * OF_A_CONNECTION);
            assert!(left >= OTHERS.min((limit - 40) / 2), "{limit}: {left}");
        }
        assert_eq!(fitting(10, 40), Ceilings { public: 1, edge: 1 });
    }
}
