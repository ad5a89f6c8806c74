//! Tests of the limit on connections from one address, which `scripts/fence` sets up in the kernel.
//!
//! These tests do not touch the firewall of this machine. Each test has three network namespaces: `outside` with
//! the clients, `host` with the rules, and `edge` with the proxy. `host` forwards connections to `edge`, like
//! Docker.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;
use tests::control_group::ControlGroup;
use tests::flood::{Flood, Kind};
use tests::places::repository;
use tests::{Edge, Setup, Tier, say};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::floods::ONE_AT_A_TIME;
use crate::world::World;

each_edge!(a100_one_address_does_not_take_all_connections,);

/// The address of `host` in the network of `outside` together with the port that it forwards, and two addresses of
/// `outside`.
const HOST: (&str, u16) = ("192.0.2.1", 8080);
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const HONEST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
/// The address of `edge` in the network `public` of the stack.
const EDGE: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 34);
/// The number of the attacker's connections that `host` lets through. This is the default of `scripts/fence`.
const ALLOWED: usize = 256;
/// More connections than any of the proxies accepts (docs/limits.md).
const CONNECTIONS: usize = 9000;
/// The number of requests that must be served during the flood, each over a new connection.
const REQUESTS: usize = 20;
/// The time limit for one of these requests. A proxy without a free connection takes longer than this to respond.
const PATIENCE: Duration = Duration::from_secs(20);

struct Namespaces {
    id: String,
    /// A checkout with only the files that `scripts/fence` needs.
    checkout: TempDir,
}

impl Namespaces {
    /// Creates the namespaces. The error explains why this machine cannot do that.
    fn new() -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            return Err("network namespaces need root".to_owned());
        }
        let id = format!("mcpgate-f-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let made = Self { id, checkout: tempfile::tempdir().unwrap() };
        for below in ["scripts/fence", "scripts/lib.sh", "scripts/settings.sh", "scripts/stack.sh"] {
            let to = made.checkout.path().join(below);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(repository().join(below), to).unwrap();
        }
        fs::copy(repository().join(".env.example"), made.checkout.path().join(".env")).unwrap();
        let id = &made.id;
        made.run(
            "",
            &format!(
                "for name in outside host edge; do
                   ip netns add {id}-$name
                   ip -n {id}-$name link set lo up
                 done
                 ip link add out netns {id}-host type veth peer name eth0 netns {id}-outside
                 ip link add in netns {id}-host type veth peer name eth0 netns {id}-edge
                 ip -n {id}-host address add 192.0.2.1/24 dev out
                 ip -n {id}-host address add 2001:db8::1/32 dev out nodad
                 ip -n {id}-host address add 10.213.0.33/28 dev in
                 ip -n {id}-edge address add {EDGE}/28 dev eth0
                 for address in {STRANGER}/24 {HONEST}/24; do
                   ip -n {id}-outside address add $address dev eth0
                 done
                 for address in 2001:db8:0:1::2/32 2001:db8:0:1::3/32 2001:db8:0:2::2/32; do
                   ip -n {id}-outside address add $address dev eth0 nodad
                 done
                 ip -n {id}-host link set out up && ip -n {id}-host link set in up
                 ip -n {id}-outside link set eth0 up && ip -n {id}-edge link set eth0 up
                 ip -n {id}-edge route add default via 10.213.0.33"
            ),
        )?;
        made.run("host", "echo 1 >/proc/sys/net/ipv4/ip_forward; nft list ruleset")?;
        Ok(made)
    }

    /// Runs a script in this namespace, or in the test's own namespace if the name is empty.
    fn run(&self, namespace: &str, script: &str) -> Result<String, String> {
        let mut command = if namespace.is_empty() {
            Command::new("sh")
        } else {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &format!("{}-{namespace}", self.id), "sh"]);
            command
        };
        let output = command.args(["-euc", script]).current_dir(self.checkout.path()).output();
        let output = output.map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if output.status.success() { Ok(said) } else { Err(said) }
    }

    /// Makes `host` forward connections from its port to this port of `edge`, like Docker.
    #[track_caller]
    fn publish(&self, port: u16) {
        let rule = format!(
            "nft 'table ip docker {{
               chain in {{
                 type nat hook prerouting priority -100
                 iifname out tcp dport {} dnat to {EDGE}:{port}
               }}
             }}'",
            HOST.1
        );
        self.run("host", &rule).unwrap();
    }

    /// Runs `work` on its own thread in this namespace. Sockets and threads that `work` creates belong to the
    /// namespace.
    fn at<T: Send>(&self, namespace: &str, work: impl FnOnce() -> T + Send) -> T {
        let link = File::open(Path::new("/run/netns").join(format!("{}-{namespace}", self.id))).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(link.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }

    /// Like [`at`](Self::at), for asynchronous work.
    fn wait_at<T: Send>(&self, namespace: &str, work: impl AsyncFnOnce() -> T + Send) -> T {
        self.at(namespace, || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work())
        })
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in ["outside", "host", "edge"] {
            self.run("", &format!("ip netns delete {}-{name}", self.id)).ok();
        }
    }
}

/// Creates the namespaces. If this machine cannot do that, prints that the test is skipped.
fn namespaces(test: &str) -> Option<Arc<Namespaces>> {
    let made = Namespaces::new().inspect_err(|why| say(&format!("SKIPPED {test}: {}", why.trim())));
    made.ok().map(Arc::new)
}

async fn connect(from: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if from.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(to).await
}

/// The first line of the response to a request with a token, over a new connection.
async fn ask(to: SocketAddr, host: &str, token: &str) -> std::io::Result<String> {
    let mut stream = connect(HONEST.into(), to).await?;
    let request = format!(
        "GET /mcp HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned())
}

pub(crate) async fn a100_one_address_does_not_take_all_connections(edge: Edge) {
    let test = "fence::a100_one_address_does_not_take_all_connections";
    let bounds = edge.container().bounds();
    if !ControlGroup::is_possible(bounds, test) {
        return;
    }
    let Some(namespaces) = namespaces(test) else { return };
    let _turn = ONE_AT_A_TIME.lock().await;
    // The proxy listens on all addresses, as in its container.
    let place = if edge == Edge::Caddy { "@EDGE_BIND@" } else { "@EDGE_ADDRESS@" };
    let setup = Setup::as_shipped().through(edge).within(Tier::Edge, bounds).edge_changed(place, "0.0.0.0");
    // For Traefik, this includes ::1, so a second entry point could not listen there.
    let setup = if edge == Edge::Traefik { setup.edge_changed("@MORE_ENTRY_POINTS@", "") } else { setup };
    // Caddy keeps an idle connection for longer than a connection with an unfinished head.
    let kind = match edge {
        Edge::Caddy => Kind::Bytes(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        _ => Kind::Head(200),
    };
    let (answers, held) = namespaces.wait_at("edge", async || {
        let mut world = World::of(setup).await;
        namespaces.publish(world.stack.port);
        namespaces.run("host", "scripts/fence").unwrap();
        let (during, host, token) = (namespaces.clone(), world.host.clone(), world.token.clone());
        // This thread runs the service behind the proxy, so another thread sends the requests.
        let seen = tokio::task::spawn_blocking(move || flooded(&during, &kind, &host, &token)).await;
        assert!(world.stack.runs(Tier::Edge), "{}", world.stack.logs());
        seen.unwrap()
    });
    assert_eq!(answers, vec!["HTTP/1.1 200 OK"; REQUESTS], "{edge}: the stranger holds {held} connections");
    assert!((1..=ALLOWED).contains(&held), "{edge}: the stranger holds {held} connections");
}

/// Makes an attacker try to open more connections than the proxy accepts. Returns the first lines of the responses
/// that other clients get during the flood, and how many connections the attacker has at that time.
fn flooded(namespaces: &Namespaces, kind: &Kind, host: &str, token: &str) -> (Vec<String>, usize) {
    let to = SocketAddr::new(HOST.0.parse().unwrap(), HOST.1);
    let flood = namespaces.at("outside", || Flood::from_one_address(STRANGER, to, host, kind, CONNECTIONS));
    let deadline = Instant::now() + Duration::from_secs(60);
    while flood.tried() < CONNECTIONS && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(flood.tried() >= CONNECTIONS, "{} connections were tried", flood.tried());
    let answers = namespaces.wait_at("outside", async || {
        let mut answers = Vec::new();
        for _ in 0..REQUESTS {
            let asked = tokio::time::timeout(PATIENCE, ask(to, host, token)).await;
            answers.push(match asked {
                Ok(Ok(line)) => line,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            });
        }
        answers
    });
    let count = format!("ss -Hnt state established dst {STRANGER} | wc -l");
    let held = namespaces.run("edge", &count).unwrap().trim().parse().unwrap();
    (answers, held)
}

/// Opens connections from these addresses, in this order, until one of them is refused. Returns the open
/// connections.
async fn open(to: SocketAddr, from: &[&str]) -> Vec<TcpStream> {
    let mut open = Vec::new();
    for address in from {
        match connect(address.parse().unwrap(), to).await {
            Ok(stream) => {
                // With a linger time of 0, the connection ends with a reset, and the kernel does not wait for
                // the other side.
                stream.set_zero_linger().unwrap();
                open.push(stream);
            }
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{address}: {error}");
                break;
            }
        }
    }
    open
}

#[test]
fn a100_connections_are_counted_by_address_and_by_network_of_ipv6() {
    let Some(namespaces) =
        namespaces("fence::a100_connections_are_counted_by_address_and_by_network_of_ipv6")
    else {
        return;
    };
    // No program accepts these connections, but the kernel completes their handshakes.
    let edge = namespaces.at("edge", || TcpListener::bind((EDGE, 0)).unwrap());
    let _host = namespaces.at("host", || TcpListener::bind((Ipv6Addr::UNSPECIFIED, HOST.1)).unwrap());
    namespaces.publish(edge.local_addr().unwrap().port());
    let env = namespaces.checkout.path().join(".env");
    let settings = fs::read_to_string(&env).unwrap();
    let trusted = settings.replace("\nTRUSTED_IPS=\n", "\nTRUSTED_IPS=10.0.0.7/32, 192.0.2.3/32, fd00::7\n");
    assert_ne!(trusted, settings);
    fs::write(&env, trusted).unwrap();
    let fence = |options: &str| namespaces.run("host", &format!("scripts/fence {options}")).unwrap();
    let opened = |namespace: &str, to: &str, from: &[&str]| {
        let to = SocketAddr::new(to.parse().unwrap(), HOST.1);
        namespaces.wait_at(namespace, async || open(to, from).await.len())
    };

    // These connections are forwarded to the container. They end when `opened` returns.
    fence("--connections 4");
    let stranger = STRANGER.to_string();
    let deadline = Instant::now() + Duration::from_secs(60);
    for _ in 0..2 {
        assert_eq!(opened("outside", HOST.0, &[stranger.as_str(); 6]), 4);
        // The kernel deletes an address without connections, so that old addresses use no memory.
        while namespaces.run("host", "nft list ruleset").unwrap().contains("elements") {
            assert!(Instant::now() < deadline, "an address is kept without connections");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    // Connections that are closed immediately are not counted, so the rate of new ones is limited. A burst of six is
    // allowed, followed by two per second.
    fence("--connections 100 --new 2");
    for _ in 0..6 {
        assert_eq!(opened("outside", HOST.0, &[stranger.as_str(); 1]), 1);
    }
    assert!(opened("outside", HOST.0, &[stranger.as_str(); 20]) <= 6);
    fence("--connections 4");
    // A trusted load balancer is not limited, because it forwards connections from all clients.
    assert_eq!(opened("outside", HOST.0, &[HONEST.to_string().as_str(); 6]), 6);
    // These connections reach a process on this machine, like all IPv6 connections. A /64 network counts as one
    // address.
    let (near, beside, other) = ("2001:db8:0:1::2", "2001:db8:0:1::3", "2001:db8:0:2::2");
    for options in ["--connections 4", "--native --connections 4"] {
        fence("--remove");
        fence(options);
        assert_eq!(opened("outside", "2001:db8::1", &[near, beside, near, other, beside, other, near]), 6);
        assert_eq!(opened("host", "::1", &["::1"; 6]), 6);
        if options.starts_with("--native") {
            fence("--native --remove");
        }
    }
    fence("--connections off");
    assert_eq!(opened("outside", HOST.0, &[stranger.as_str(); 6]), 6);
}
