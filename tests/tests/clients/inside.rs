//! Tests of an attacker who uses URLs of internal hosts as client identifiers and key sets. auth-service must
//! never connect to these hosts (attacks 49 and 50).
//!
//! auth-service runs in its own network, with listeners at all the forbidden addresses. The test first shows
//! that the listeners can be reached from there, and that auth-service does fetch from a permitted host.
//! Otherwise, a missing connection would prove nothing.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tests::Gate;
use tests::places::binary;
use tests::process::Process;
use url::Url;

use crate::document_host::DocumentHost;
use crate::name_server;
use crate::namespaces::{Namespaces, skipped};

/// An address that looks public but exists only in this network.
const OUTSIDE: &str = "192.0.1.2";
const PORTS: [u16; 5] = [22, 443, 3128, 8443, 50_000];

const OF_GATE: [&str; 9] = [
    "10.99.0.1/24",
    "169.254.169.1/24",
    "100.64.0.1/24",
    "172.16.7.1/24",
    "192.168.7.1/24",
    "192.0.1.1/24",
    "fd00:99::1/64",
    "64:ff9b::1/96",
    "2002:a63:2::1/48",
];
const OF_INSIDE: [&str; 9] = [
    "10.99.0.2/24",
    "169.254.169.254/24",
    "100.64.0.2/24",
    "172.16.7.2/24",
    "192.168.7.2/24",
    "192.0.1.2/24",
    "fd00:99::2/64",
    "64:ff9b::a63:2/96",
    "2002:a63:2::2/48",
];

const HOSTS: &str = "\
127.0.0.1 localhost loopback.example
::1 localhost
192.0.1.2 outside.example
10.99.0.2 inside.example
10.99.0.2 mixed.example
192.0.1.2 mixed.example
192.0.1.2 turned.example
10.99.0.2 turned.example
192.0.1.2 both.example
fd00:99::2 both.example
fd00:99::2 v6.example
169.254.169.254 linklocal.example
::ffff:10.99.0.2 mapped.example
100.64.0.2 shared.example
172.16.7.2 private.example
0.0.0.0 zero.example
:: unspecified.example
64:ff9b::a63:2 nat64.example
2002:a63:2::2 sixtofour.example
";

/// The forbidden addresses in many forms, and the names in `HOSTS`.
const HOSTS_OF_THE_CORPUS: [&str; 49] = [
    // 127.0.0.1 in decimal, octal, hexadecimal, short and mixed forms, and related addresses.
    "127.0.0.1",
    "2130706433",
    "017700000001",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "127.1",
    "127.0.1",
    "127.8.9.1",
    "127.0.0.1.",
    "0",
    "0.0.0.0",
    "0x0",
    "[::]",
    "[::1]",
    "[::127.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:7f00:0001]",
    // The address of the private host, in several forms.
    "10.99.0.2",
    "174260226",
    "012.0143.0.2",
    "0x0a.0x63.0.2",
    "10.25344002",
    "10.99.2",
    "[::ffff:10.99.0.2]",
    "[2002:a63:2::2]",
    "[64:ff9b::a63:2]",
    "[fd00:99::2]",
    "172.16.7.2",
    "192.168.7.2",
    "100.64.0.2",
    "169.254.169.254",
    "2852039166",
    "[::ffff:169.254.169.254]",
    // Host names.
    "localhost",
    "localhost.",
    "LOCALHOST",
    "loopback.example",
    "inside.example",
    "inside.example.",
    "mixed.example",
    "turned.example",
    "both.example",
    "v6.example",
    "linklocal.example",
    "zero.example",
    "unspecified.example",
    "mapped.example",
];

/// URLs with other hosts, with credentials, with other ports, or without TLS.
const MORE_URLS: [&str; 9] = [
    "https://shared.example/client.json",
    "https://private.example/client.json",
    "https://nat64.example/client.json",
    "https://sixtofour.example/client.json",
    "https://outside.example@inside.example/client.json",
    "https://user:password@inside.example/client.json",
    "https://inside.example:22/client.json",
    "https://inside.example:50000/client.json",
    "http://inside.example/client.json",
];

/// A URL that different parsers read in different ways. Our parser follows the WHATWG standard, so the service
/// connects to the host before the backslash.
const AMBIGUOUS: &str = "https://outside.example:8443\\@inside.example/client.json";

fn corpus() -> Vec<String> {
    let hosts = HOSTS_OF_THE_CORPUS.iter();
    let urls = hosts.flat_map(|host| ["", ":8443"].map(|port| format!("https://{host}{port}/client.json")));
    urls.chain(MORE_URLS.map(str::to_owned)).collect()
}

/// The service in its network, with the other hosts.
struct Scene {
    gate: Gate,
    host: DocumentHost,
    /// How often the name with the changing address has been looked up.
    rebound: Arc<AtomicUsize>,
    /// The number of the current source address of requests.
    moved: u16,
    // The fields are dropped in this order.
    _service: Process,
    _namespaces: Namespaces,
    _directory: tempfile::TempDir,
}

impl Scene {
    /// Starts the service and its network. Afterwards, this thread is in the service's namespace.
    async fn set(namespaces: Namespaces) -> Self {
        let directory = tempfile::tempdir().unwrap();
        namespaces.set_hosts(HOSTS);
        // The certificate is valid for all these hosts, so that a connection cannot fail because of TLS.
        let names: Vec<&str> =
            HOSTS.lines().flat_map(|line| line.split(' ').skip(1)).chain(inside_addresses()).collect();
        let names = [names, vec![name_server::NAME]].concat();
        let host = DocumentHost::named(&names, directory.path());
        for enter in [Namespaces::enter_inside, Namespaces::enter_gate] {
            enter(&namespaces);
            for port in PORTS {
                // The listener accepts IPv4 and IPv6.
                host.listen(TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
            }
        }
        let name_server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).unwrap();
        let rebound =
            name_server::serve(name_server, [OUTSIDE.parse().unwrap(), Ipv4Addr::new(10, 99, 0, 2)]);
        let mut command = namespaces.command_in_gate(&binary("auth-service"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("ISSUER", "https://auth.example")
            .env("PROTECTED_HOSTS", "mcp.example")
            .env("DATA_DIR", directory.path())
            .env("EDGE_SECRET", "edge-secret-of-the-network-0123456789")
            .env("PUBLIC_LISTEN", "127.0.0.1:9001")
            .env("EDGE_LISTEN", "127.0.0.1:9002")
            .env("OPS_LISTEN", "127.0.0.1:9003")
            .env("EXTRA_CA_FILE", &host.ca)
            .env("REGISTRATION_RATE", "100000")
            // The service must not use a proxy from the environment either.
            .envs(["https_proxy", "HTTPS_PROXY", "ALL_PROXY"].map(|name| (name, "http://10.99.0.2:3128")));
        let service = Process::start("auth-service", &mut command, directory.path());
        let gate = Gate::at("http://127.0.0.1:9001", "https://mcp.example/mcp");
        let deadline = Instant::now() + Duration::from_secs(20);
        while !gate.get("http://127.0.0.1:9003/ready").await.is_ok_and(|answer| answer.status == 200) {
            assert!(Instant::now() < deadline, "auth-service is not ready\n{}", service.log_tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Self {
            gate,
            host,
            rebound,
            moved: 0,
            _service: service,
            _namespaces: namespaces,
            _directory: directory,
        }
    }

    /// Uses a different source address for subsequent requests. One address can cause only a few fetches of new
    /// documents, and a refusal for that reason would prove nothing about the URL.
    fn move_on(&mut self) {
        self.moved += 1;
        let [high, low] = self.moved.to_be_bytes();
        self.gate.http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(30))
            .local_address(IpAddr::from([127, 1, high, low]))
            .build()
            .unwrap();
    }

    /// Opens the authorization page with this URL as the client identifier. Returns the status and the page.
    async fn authorize_as(&self, client_id: &str) -> (u16, String) {
        let query = [
            ("response_type", "code"),
            ("client_id", client_id),
            ("redirect_uri", "http://127.0.0.1:9/callback"),
            ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
            ("code_challenge_method", "S256"),
            ("resource", "https://mcp.example/mcp"),
        ];
        let url = Url::parse_with_params(&self.gate.endpoint("authorize"), query).unwrap();
        let answer = self.gate.get(url.as_str()).await.unwrap();
        (answer.status, answer.body)
    }

    /// Registers a client whose keys are at this URL, and uses the client at the token endpoint. Returns the
    /// status of the registration and, if it succeeded, the token endpoint's response.
    async fn authenticate_with_keys_at(&self, jwks_uri: &str) -> (u16, Option<(u16, String)>) {
        let metadata = json!({
            "client_name": jwks_uri,
            "redirect_uris": ["http://127.0.0.1:9/callback"],
            "grant_types": ["authorization_code", "refresh_token"],
            "token_endpoint_auth_method": "private_key_jwt",
            "jwks_uri": jwks_uri,
        });
        let response =
            self.gate.http.post(self.gate.endpoint("register")).json(&metadata).send().await.unwrap();
        let status = response.status().as_u16();
        if status != 201 {
            return (status, None);
        }
        let registered: Value = response.json().await.unwrap();
        let id = registered["client_id"].as_str().unwrap();
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let claims =
            json!({ "iss": id, "sub": id, "aud": "https://auth.example", "exp": now + 60, "jti": id });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = part(&json!({ "alg": "EdDSA", "kid": "k1" }));
        let assertion = format!("{header}.{}.{}", part(&claims), URL_SAFE_NO_PAD.encode([1; 64]));
        let form = [
            ("grant_type", "refresh_token"),
            ("refresh_token", "none"),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", &assertion),
        ];
        let answer = self.gate.token_endpoint(&form).await.unwrap();
        (status, Some((answer.status, answer.body)))
    }

    /// Asserts that the URL is refused as a client identifier and as the location of keys.
    async fn assert_refused(&self, url: &str) {
        let (status, page) = self.authorize_as(url).await;
        assert_eq!(status, 400, "{url}: {page}");
        match self.authenticate_with_keys_at(url).await {
            (registered, None) => assert_eq!(registered, 400, "{url}"),
            (_, Some((status, body))) => assert_eq!(status, 401, "{url}: {body}"),
        }
    }

    /// The numbers of connections so far to addresses that must not be reached.
    fn reached_inside(&self) -> HashMap<IpAddr, usize> {
        let mut reached = self.host.reached();
        reached.remove(&OUTSIDE.parse().unwrap());
        reached
    }

    fn reached_outside(&self) -> usize {
        self.host.reached().get(&OUTSIDE.parse().unwrap()).copied().unwrap_or_default()
    }
}

fn inside_addresses() -> impl Iterator<Item = &'static str> {
    let theirs = OF_INSIDE.iter().map(|address| address.split('/').next().unwrap());
    theirs.filter(|address| *address != OUTSIDE).chain(["127.0.0.1", "127.8.9.1", "::1"])
}

/// Shows that all the forbidden addresses and ports can be reached from the network of auth-service.
async fn assert_reachable_from_the_gate(scene: &Scene) {
    let before = scene.reached_inside();
    let mut tried = 0;
    for address in inside_addresses() {
        for port in PORTS {
            let there = SocketAddr::new(address.parse().unwrap(), port);
            let most = Duration::from_secs(5);
            let connection = TcpStream::connect_timeout(&there, most);
            connection.unwrap_or_else(|error| panic!("{there} cannot be reached: {error}"));
            tried += 1;
        }
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    let seen = |reached: HashMap<IpAddr, usize>| reached.values().sum::<usize>();
    while seen(scene.reached_inside()) < seen(before.clone()) + tried {
        assert!(Instant::now() < deadline, "{tried} connections, seen are {:?}", scene.reached_inside());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a049_a050_nobody_inside_is_ever_connected_to() {
    let namespaces = match Namespaces::new(&OF_GATE, &OF_INSIDE) {
        Ok(namespaces) => namespaces,
        Err(reason) => return skipped("a049_a050_nobody_inside_is_ever_connected_to", &reason),
    };
    let mut scene = Scene::set(namespaces).await;
    assert_reachable_from_the_gate(&scene).await;
    let control = scene.reached_inside();

    // The service does fetch a document and a key set from a permitted host.
    let id = "https://outside.example/client.json";
    scene.host.put_public_client(id, "/client.json", "outside", "http://127.0.0.1:9/callback");
    assert_eq!(scene.authorize_as(id).await.0, 303);
    assert_eq!(scene.reached_outside(), 1);
    scene.host.put_json("/jwks.json", &json!({ "keys": [] }));
    let (_, token) = scene.authenticate_with_keys_at("https://outside.example:8443/jwks.json").await;
    assert_eq!(token.unwrap().0, 401);
    let outside = scene.reached_outside();
    assert!(outside > 1, "no key set was fetched");

    for url in corpus() {
        scene.move_on();
        scene.assert_refused(&url).await;
        assert_eq!(scene.reached_inside(), control, "{url}");
        // If one address of a name is forbidden, the service does not connect to its permitted address either.
        assert_eq!(scene.reached_outside(), outside, "{url}");
    }
    scene.move_on();
    scene.assert_refused(AMBIGUOUS).await;

    // A permitted host redirects to a forbidden one.
    for (number, inward) in
        ["https://inside.example/client.json", "https://127.0.0.1:8443/client.json"].into_iter().enumerate()
    {
        let path = format!("/redirect-{number}.json");
        scene.host.put_redirect(&path, inward);
        let (status, page) = scene.authorize_as(&format!("https://outside.example{path}")).await;
        assert!(status == 400 && page.contains("302"), "{page}");
        scene.authenticate_with_keys_at(&format!("https://outside.example{path}")).await;
    }
    assert!(scene.reached_outside() >= outside + 4, "a redirect was not seen");

    // The name has a permitted address when the service checks it, and would have a forbidden one after a second
    // lookup. The service must look up the name only once, and connect to the address that it has checked.
    scene.move_on();
    for round in 0..6 {
        let (outside, asked) = (scene.reached_outside(), scene.rebound.load(Ordering::SeqCst));
        let id = format!("https://{}/never-cached-{round}.json", name_server::NAME);
        assert_eq!(scene.authorize_as(&id).await.0, 400);
        assert_eq!(scene.rebound.load(Ordering::SeqCst), asked + 1, "the name was looked up again");
        assert_eq!(scene.reached_outside(), outside + usize::from(asked % 2 == 0));
    }
    assert_eq!(scene.reached_inside(), control);
}
