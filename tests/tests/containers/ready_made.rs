//! Tests the ready-made services except `everything` and `time`, which other parts test. Each service is started
//! by its name in `.env`, and used for its purpose.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};
use tests::browser::Person;
use tests::process::{self, Process};
use tests::{Gate, Tokens};

use crate::PASSWORD;
use crate::reach::reached;
use crate::services::{nobody_was_restarted, starts};
use crate::stack::{Containers, call, tell};

/// The names of the services in `COMPOSE_PROFILES`.
const NAMES: [&str; 4] = ["filesystem", "memory", "fetch", "git"];

/// The observation that is stored in the memory service, and read again later.
const FACT: &str = "stacks come back";

/// The tokens of the account whose memory contains [`FACT`].
pub(crate) struct Remembered(Tokens);

pub(crate) async fn every_ready_made_service_does_its_work(stack: &Containers) -> Remembered {
    let started = Instant::now();
    let others = starts(stack);
    stack.set("COMPOSE_PROFILES", &NAMES.join(","));
    stack.script(&["up"]);
    nobody_was_restarted(&others, stack);

    let person = Person::new("admin", PASSWORD);
    files_of_a_volume_are_read(stack, &person).await;
    let remembered = each_account_has_a_memory_of_its_own(stack, &person).await;
    the_log_of_a_repository_is_read(stack, &person).await;
    pages_are_fetched_from_the_internet_and_from_nowhere_else(stack, &person).await;
    tell(&format!(
        "FIGURE {} ready-made services, built, started and used: {:.0} s",
        NAMES.len(),
        started.elapsed().as_secs_f32()
    ));
    remembered
}

/// Logs in to a service and calls one of its tools.
async fn ask(stack: &Containers, person: &Person, service: &str, tool: &str, arguments: Value) -> String {
    let (gate, tokens) = log_in(stack, person, service).await;
    call(&gate, &tokens.access_token, tool, arguments)
        .await
        .unwrap_or_else(|error| panic!("{service}, {tool}: {error:#}\n{}", stack.logs()))
}

async fn log_in(stack: &Containers, person: &Person, service: &str) -> (Gate, Tokens) {
    let gate = stack.gate(service);
    let (_, tokens) = gate.log_in_as(person, &gate.mcp_url).await.unwrap();
    (gate, tokens)
}

async fn files_of_a_volume_are_read(stack: &Containers, person: &Person) {
    // The file is added as shown in the documentation.
    stack.docker(&["exec", &stack.container("filesystem"), "sh", "-c", "echo 'from a volume' >/data/note"]);
    let note = ask(stack, person, "filesystem", "read_text_file", json!({ "path": "/data/note" })).await;
    assert!(note.contains("from a volume"), "{note}");
    let (gate, tokens) = log_in(stack, person, "filesystem").await;
    let outside = call(&gate, &tokens.access_token, "read_text_file", json!({ "path": "/etc/passwd" })).await;
    assert!(
        outside.as_ref().map_or_else(ToString::to_string, Clone::clone).contains("denied"),
        "{outside:?}"
    );
}

async fn each_account_has_a_memory_of_its_own(stack: &Containers, person: &Person) -> Remembered {
    let (gate, tokens) = log_in(stack, person, "memory").await;
    let entity = json!({ "name": "stack", "entityType": "thing", "observations": [FACT] });
    let token = &tokens.access_token;
    call(&gate, token, "create_entities", json!({ "entities": [entity] })).await.unwrap();
    assert!(recalled(stack, token).await.contains(FACT));

    let words = ["exec", &stack.container("auth-service"), "/auth-service", "user", "add", "ana"];
    let printed = stack.docker(&words);
    let once = printed.lines().find_map(|line| line.strip_prefix("password:")).unwrap().trim();
    let (_, of_ana) = log_in(stack, &Person::new("ana", once).choosing(PASSWORD), "memory").await;
    assert!(!recalled(stack, &of_ana.access_token).await.contains(FACT), "ana can read another user's data");
    Remembered(tokens)
}

async fn recalled(stack: &Containers, token: &str) -> String {
    call(&stack.gate("memory"), token, "read_graph", json!({})).await.unwrap()
}

/// Checks the memory after `down` and `up`. Then removes these services, so that they do not slow down the
/// following parts.
pub(crate) async fn what_was_remembered_is_still_known(stack: &Containers, remembered: Remembered) {
    assert!(recalled(stack, &remembered.0.access_token).await.contains(FACT), "the memory was lost");
    tell("  down and up: the knowledge graph of an account is unchanged");
    stack.set("COMPOSE_PROFILES", "");
    for name in NAMES {
        stack.docker(&["rm", "--force", &stack.container(name)]);
    }
}

async fn the_log_of_a_repository_is_read(stack: &Containers, person: &Person) {
    let script = "git init -q /data/notes && cd /data/notes && git -c user.name=Ana -c user.email=ana@example.com \
                  commit -q --allow-empty -m 'The first of all notes'";
    stack.docker(&["exec", &stack.container("git"), "sh", "-c", script]);
    let log = ask(stack, person, "git", "git_log", json!({ "repo_path": "/data/notes" })).await;
    assert!(log.contains("The first of all notes"), "{log}");
}

async fn pages_are_fetched_from_the_internet_and_from_nowhere_else(stack: &Containers, person: &Person) {
    let (gate, tokens) = log_in(stack, person, "fetch").await;
    let fetch = async |place: &str| {
        let url = format!("http://{place}/page.html");
        let answer = call(&gate, &tokens.access_token, "fetch", json!({ "url": url })).await;
        answer.unwrap_or_else(|error| format!("{error:#}"))
    };
    // In this container, the names of the other services do not resolve, and the server itself refuses their
    // addresses.
    for name in ["redis:6379", "auth-service:9001", "mcp-memory:8080"] {
        let answer = fetch(name).await;
        assert!(answer.contains("connection issue") || answer.contains("public address"), "{name}: {answer}");
    }
    let addresses = [stack.address("redis", "store"), stack.address("auth-service", "outbound")];
    let fixed = ["edge:8082", "localhost:8081", "169.254.169.254"];
    for place in fixed.into_iter().chain(addresses.iter().map(String::as_str)) {
        let answer = fetch(place).await;
        assert!(answer.contains("is not a public address"), "{place}: {answer}");
    }
    let Some(elsewhere) = Elsewhere::make(stack.checkout.parent().unwrap()) else {
        tell("SKIPPED a page is fetched: only root can create a network for it");
        return;
    };
    let page = fetch(PUBLIC).await;
    assert!(page.contains("A page of elsewhere"), "{page}\n{}", elsewhere.server.log_tail());
    tell("  a page was fetched; this server refuses addresses that are not public");

    // Next, a server that does not check addresses itself is tested: which addresses it can reach with and
    // without the fence.
    let here = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let place = |host: &str, port| (host.to_owned(), port);
    let port = here.local_addr().unwrap().port();
    let gateway = stack.gateway("outbound");
    let places = [place(PUBLIC, 80), place(PRIVATE, 80), place(&gateway, port)];
    let found = || {
        let found = reached(stack, "fetch", &places);
        places.clone().map(|(host, port)| found.contains(&format!("{host}:{port}")))
    };
    assert_eq!(found(), [true, true, true]);
    if !stack.engine.is_ours() || Command::new("nft").arg("--version").output().is_err() {
        tell(
            "SKIPPED the fence: it needs nft (Debian: apt-get install nftables) and an engine that only this test uses",
        );
        return;
    }
    // The error number shows whether the name does not exist or the name server cannot be reached.
    let look_up = "import socket
try: socket.getaddrinfo('example.invalid', 80)
except socket.gaierror as error: print(error.errno)";
    let looked_up = || stack.docker(&["exec", &stack.container("fetch"), "python3", "-c", look_up]);
    let before = looked_up();
    stack.script(&["fence"]);
    assert_eq!(looked_up(), before, "names no longer resolve");
    assert_eq!(found(), [true, false, false]);
    assert!(fetch(PUBLIC).await.contains("A page of elsewhere"));
    stack.script(&["fence", "--allow", PRIVATE]);
    assert_eq!(found(), [true, true, false]);
    stack.script(&["fence", "--remove"]);
    assert_eq!(found(), [true, true, true]);
    tell(
        "  services with internet access also reach private networks and this machine; behind scripts/fence, they reach only the internet",
    );
}

/// A public address from a block that no host uses (RFC 7450 §7), and a private address (RFC 1918).
const PUBLIC: &str = "192.52.193.2";
const PRIVATE: &str = "192.168.213.2";

/// A web server that represents a host on the internet. It runs in a network namespace at the other end of a
/// virtual cable.
struct Elsewhere {
    namespace: String,
    server: Process,
}

impl Elsewhere {
    fn make(dir: &Path) -> Option<Self> {
        if !rustix::process::getuid().is_root() {
            return None;
        }
        let name = format!("elsewhere-{}", std::process::id());
        let cable = format!("mge{}", std::process::id());
        let script = format!(
            "ip netns add {name}
             ip link add {cable} type veth peer name eth0 netns {name}
             ip address add 192.52.193.1/30 dev {cable}
             ip link set {cable} up
             ip -n {name} link set lo up
             ip -n {name} address add {PUBLIC}/30 dev eth0
             ip -n {name} address add {PRIVATE}/32 dev lo
             ip -n {name} link set eth0 up
             ip -n {name} route add default via 192.52.193.1
             ip route add {PRIVATE} via {PUBLIC}"
        );
        let made = Command::new("sh").args(["-euc", &script]).output().ok()?;
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let pages = dir.join("pages");
        std::fs::create_dir_all(&pages).unwrap();
        let page = "<html><head><title>Elsewhere</title></head><body><article><p>A page of elsewhere.</p></article></body></html>";
        std::fs::write(pages.join("page.html"), page).unwrap();
        let mut command = process::command("ip");
        command
            .args(["netns", "exec", &name, "python3", "-m", "http.server", "80", "--directory"])
            .arg(&pages);
        let server = Process::start("elsewhere", &mut command, dir);
        Some(Self { namespace: name, server })
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.server.kill();
        Command::new("ip").args(["netns", "delete", &self.namespace]).status().ok();
    }
}
