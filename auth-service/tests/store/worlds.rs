//! The stores under test. A world contains several handles on the same store, which represent its replicas.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use auth_service::domain::clock::Random;
use auth_service::domain::opaque_token::TokenHash;
use auth_service::keys::seal::{StoreKey, SystemRandomSource};
use auth_service::store::Store;
use auth_service::store::embedded::EmbeddedStore;
use auth_service::store::redis::{RedisAddress, RedisStore};
use futures_util::future::join_all;

use super::resp::says;
use crate::redis_server::RedisServer;

pub(crate) struct World {
    pub(crate) replicas: Vec<Arc<dyn Store>>,
    next: AtomicUsize,
    _server: Option<RedisServer>,
    _data: Option<tempfile::TempDir>,
}

pub(crate) fn key() -> StoreKey {
    StoreKey::new([7; 32])
}

impl World {
    pub(crate) fn embedded() -> Self {
        let data = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(data.path(), &key()).unwrap());
        Self { replicas: vec![store], next: AtomicUsize::new(0), _server: None, _data: Some(data) }
    }

    pub(crate) async fn redis() -> Option<Self> {
        let server = RedisServer::start(&["--appendonly", "no"])?;
        let world = Self::at(&server.url()).await;
        Some(Self { _server: Some(server), ..world })
    }

    /// Three replicas on the Redis server at `url`, with their own key prefix.
    pub(crate) async fn at(url: &str) -> Self {
        let random = SystemRandomSource.bytes().unwrap();
        let prefix = TokenHash::of(&random).text();
        let mut replicas: Vec<Arc<dyn Store>> = Vec::new();
        for _ in 0..3 {
            let address = RedisAddress::parse(url).unwrap();
            replicas.push(Arc::new(RedisStore::connect_below(&address, &key(), &prefix).await.unwrap()));
        }
        Self { replicas, next: AtomicUsize::new(0), _server: None, _data: None }
    }

    /// Returns the replicas in turn, so that a test fails if a replica keeps its own state.
    pub(crate) fn store(&self) -> &dyn Store {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        &*self.replicas[next % self.replicas.len()]
    }

    /// Runs `many` calls concurrently, and returns their results.
    pub(crate) async fn at_once<T, F>(&self, many: usize, call: impl Fn(usize, Arc<dyn Store>) -> F) -> Vec<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let calls = (0..many).map(|n| {
            let replica = Arc::clone(&self.replicas[n % self.replicas.len()]);
            tokio::spawn(call(n, replica))
        });
        join_all(calls.collect::<Vec<_>>()).await.into_iter().map(Result::unwrap).collect()
    }
}

/// A Redis Cluster of three nodes without replicas.
pub(crate) struct Cluster {
    nodes: Vec<RedisServer>,
}

impl Cluster {
    pub(crate) fn start() -> Option<Self> {
        let options = ["--appendonly", "no", "--cluster-enabled", "yes"];
        let nodes = (0..3).map(|_| RedisServer::start(&options)).collect::<Option<Vec<_>>>()?;
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]);
        create.args(nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)));
        create.args(["--cluster-replicas", "0", "--cluster-yes"]).stdout(Stdio::null());
        assert!(create.status().unwrap().success(), "the cluster could not be created");
        let deadline = Instant::now() + Duration::from_secs(30);
        while !nodes.iter().all(|node| says(node.port, "CLUSTER INFO\r\n", "cluster_state:ok")) {
            assert!(Instant::now() < deadline, "the cluster did not start");
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(Self { nodes })
    }

    pub(crate) fn url(&self) -> String {
        let [first, others @ ..] = self.nodes.as_slice() else { panic!("no nodes") };
        let others: Vec<_> = others.iter().map(|node| format!("node=127.0.0.1:{}", node.port)).collect();
        format!("redis-cluster://127.0.0.1:{}?{}", first.port, others.join("&"))
    }

    /// Sends a signal to one node.
    pub(crate) fn signal(&self, node: usize, name: &str) {
        let process = self.nodes[node].process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([name, &process]).status().unwrap().success());
    }

    /// Moves some slots with their keys from one node to another.
    pub(crate) fn move_slots(&self, from: usize, to: usize, slots: u32) {
        let id = |node: usize| {
            let mut ask = Command::new("redis-cli");
            ask.args(["-p", &self.nodes[node].port.to_string(), "CLUSTER", "MYID"]);
            String::from_utf8(ask.output().unwrap().stdout).unwrap().trim().to_owned()
        };
        let mut reshard = Command::new("redis-cli");
        reshard.args(["--cluster", "reshard", &format!("127.0.0.1:{}", self.nodes[0].port), "--cluster-yes"]);
        reshard.args(["--cluster-from", &id(from), "--cluster-to", &id(to)]);
        reshard.args(["--cluster-slots", &slots.to_string()]).stdout(Stdio::null());
        assert!(reshard.status().unwrap().success(), "the slots could not be moved");
    }

    /// For each node, whether it has keys.
    pub(crate) fn filled(&self) -> Vec<bool> {
        self.nodes.iter().map(|node| !says(node.port, "DBSIZE\r\n", ":0\r\n")).collect()
    }
}
