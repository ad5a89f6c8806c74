//! Tests that the memory that clients can make an edge, auth-service and a wrapper use is within the limits in
//! the compose files. The totals are in `docs/limits.md`, and their parts are in configurations and in the
//! source.

use tests::Edge;
use tests::container::{Container, bytes};

use crate::text;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A row of the table, with sizes in bytes.
struct Row {
    connections: u64,
    each: u64,
    base: u64,
    all: u64,
}

fn row(edge: &str) -> Row {
    let document = text("docs/limits.md");
    let section = document.split("## Memory of the edge").nth(1).unwrap();
    let line = section.lines().find(|line| line.starts_with(&format!("| {edge} |"))).unwrap();
    let cells: Vec<u64> =
        line.split('|').skip(2).map_while(|cell| cell.trim().replace(' ', "").parse().ok()).collect();
    let [connections, each, base, all] = cells[..] else { panic!("{line}") };
    Row { connections, each: each * KIB, base: base * MIB, all: all * MIB }
}

/// The number after this text in a configuration. A unit of nginx is applied if there is one.
fn number(below: &str, before: &str) -> u64 {
    let text = text(below);
    let mut found = text.split(before).skip(1).map(|rest| {
        let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
        let unit = if rest.trim_start()[digits.len()..].starts_with('k') { KIB } else { 1 };
        digits.parse::<u64>().unwrap_or_else(|error| panic!("{below}: {before}: {error}")) * unit
    });
    let first = found.next().unwrap_or_else(|| panic!("{below} has no {before}"));
    assert!(found.all(|other| other == first), "{below} has several {before}");
    first
}

/// Checks the total of a row. Returns the row and the memory limit of the container.
fn fits(name: &str, edge: Edge) -> (Row, u64) {
    let row = row(name);
    let memory = edge.container().bounds().memory;
    assert_eq!((row.connections * row.each + row.base).div_ceil(MIB) * MIB, row.all, "{name}");
    assert!(row.all <= memory, "{name}: {} MiB do not fit into {} MiB", row.all / MIB, memory / MIB);
    let example = text(".env.example");
    let preset = example.lines().find_map(|line| line.strip_prefix("EDGE_MEMORY=")).unwrap();
    assert_eq!(bytes(preset), memory, "{name}: .env.example has another EDGE_MEMORY");
    (row, memory)
}

#[test]
fn what_strangers_can_fill_of_a_proxy_in_go_fits_its_memory() {
    for (name, edge) in [("Traefik", Edge::Traefik), ("Caddy", Edge::Caddy)] {
        let (row, memory) = fits(name, edge);
        // These proxies limit connections only through the number of open files.
        assert_eq!(Some(row.connections), edge.container().bounds().files, "{name}");
        let collector = bytes(&edge.container().memory_settings()["GOMEMLIMIT"]);
        assert!(collector < memory && collector >= memory / 4 * 3, "{name}: GOMEMLIMIT does not fit");
        let head = match edge {
            Edge::Traefik => number("traefik/traefik.yaml.in", "maxHeaderBytes:"),
            _ => number("compose/caddy/Caddyfile.in", "max_header_size") * KIB,
        };
        // Go reads 4 KiB more of a head than the limit. Headers without a value, with names of three
        // characters, take up to 26 times their size, including the copies for the service behind the edge.
        assert!((head + 4 * KIB) * 26 <= row.each, "{name}");
        // Memory beyond this limit is collected later than the kernel kills the process.
        assert!(row.all <= collector, "{name}: {} MiB are in use at most", row.all / MIB);
    }
    // A request in progress uses a second connection, which leads to the service behind the edge.
    let at_once = number("traefik/dynamic.yaml.in", "all-addresses:\n      inFlightReq:\n        amount:");
    assert!(2 * at_once < row("Traefik").connections);
}

#[test]
fn requests_to_auth_service_take_as_many_addresses_as_connections_to_use_up_a_limit_of_traefik() {
    let of = |name: &str| {
        number("traefik/dynamic.yaml.in", &format!("    {name}:\n      inFlightReq:\n        amount:"))
    };
    let fence = number("scripts/fence", "PORTS=() CONNECTIONS=");
    let addresses = row("Traefik").connections.div_ceil(fence);
    assert!((addresses - 1) * of("one-address-auth-service") < of("all-addresses"));
    let document = text("docs/limits.md").split_whitespace().collect::<Vec<_>>().join(" ");
    for said in [
        format!("and {addresses} for Traefik or Caddy"),
        format!("at most {} requests to auth-service in progress", of("one-address-auth-service")),
    ] {
        assert!(document.contains(&said), "docs/limits.md does not contain: {said}");
    }
    // Every router to auth-service has the lower limit.
    let routes = text("traefik/dynamic.yaml.in");
    let lower = "      middlewares: [one-address-auth-service]\n      service: auth-service-public\n";
    assert_eq!(routes.matches("      service: auth-service-public\n").count(), routes.matches(lower).count());
}

/// What a socket takes in addition to its buffers: the socket itself, and the rest of a page in each direction.
const OF_SOCKET: u64 = 8 * KIB;

#[test]
fn the_memory_of_the_kernel_for_the_sockets_of_an_edge_also_fits_its_memory() {
    let document = text("docs/limits.md");
    let table = document.split("MiB for sockets |").nth(1).unwrap();
    let edges = [
        ("Traefik", Edge::Traefik),
        ("Caddy", Edge::Caddy),
        ("Envoy", Edge::EnvoyHttp),
        ("nginx", Edge::Nginx),
    ];
    for (name, edge) in edges {
        let line = table.lines().find(|line| line.starts_with(&format!("| {name} |"))).unwrap();
        let cells: Vec<u64> = line.split('|').filter_map(|cell| cell.trim().parse().ok()).collect();
        let [sockets, each, buffers, own, together] = cells[..] else { panic!("{line}") };
        let container = edge.container();
        let most = ["net.ipv4.tcp_wmem", "net.ipv4.tcp_rmem"].map(|name| {
            let [least, preset, most] = container.sysctl(name)[..] else { panic!("{name}") };
            assert!(least <= preset && preset <= most, "{line}");
            most
        });
        assert_eq!(each * KIB, most.iter().sum::<u64>() + OF_SOCKET, "{line}");
        assert_eq!((sockets, own * MIB), (row(name).connections, row(name).all), "{line}");
        assert_eq!(buffers, (sockets * each).div_ceil(KIB), "{line}");
        assert_eq!(together, buffers + own, "{line}");
        assert!(together * MIB <= container.bounds().memory, "{line}");
        // A client that is 100 ms away gets 96 KiB in this time.
        assert!(most[0] >= 96 * KIB, "{line}");
    }
    for file in ["compose/envoy/envoy.yaml.in", "compose/envoy/envoy-grpc.yaml.in"] {
        // The kernel doubles this value.
        let sent = 2 * number(file, "socket_options: [{ level: 1, name: 7, int_value:");
        assert_eq!(sent, Edge::EnvoyHttp.container().sysctl("net.ipv4.tcp_wmem")[2], "{file}");
    }
}

const SERVICES_OF_ENVOY: &str = "compose/setup/envoy-clusters.yaml";

#[test]
fn what_strangers_can_fill_of_envoy_fits_its_memory() {
    let (row, memory) = fits("Envoy", Edge::EnvoyHttp);
    for file in ["compose/envoy/envoy.yaml.in", "compose/envoy/envoy-grpc.yaml.in"] {
        assert_eq!(row.connections, number(file, "max_active_downstream_connections:"), "{file}");
        let allocated = number(file, "max_heap_size_bytes:");
        assert!(row.all <= allocated && allocated < memory, "{file}: {allocated}");
        let head = number(file, "max_request_headers_kb:") * KIB;
        let body = number(file, "\n      per_connection_buffer_limit_bytes:");
        assert!(head + body <= row.each, "{file}");
    }
    // Each connection can have a second connection to the service behind the edge.
    assert!(2 * row.connections < Edge::EnvoyHttp.container().bounds().files.unwrap());
}

const NAMES_OF_SERVICES: &str = "compose/setup/envoy-filters.yaml";

#[test]
fn names_of_services_that_do_not_exist_take_no_place_from_others_in_envoy() {
    let names = number(NAMES_OF_SERVICES, "max_hosts:");
    // A name is forgotten when its lookup is repeated for the first time after host_ttl.
    let seconds = number(NAMES_OF_SERVICES, "host_ttl:") + number(NAMES_OF_SERVICES, "1s, max_interval:");
    let preset = text("compose/stack.yaml");
    let preset = preset.split("REQUESTS_PER_SECOND:-").nth(1).unwrap();
    let rate: u64 = preset.split('}').next().unwrap().parse().unwrap();
    let section = text("docs/limits.md").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(section.contains(&format!("so {} addresses are necessary", names / (seconds * rate))));
    assert!(names >= 16 * seconds * rate, "{names}");
    // Each request for a new name waits for its lookup.
    let wait = number(NAMES_OF_SERVICES, "dns_query_timeout:");
    assert!(number(NAMES_OF_SERVICES, "max_pending_requests:") >= 16 * wait * rate);
    // A name without an address takes 1.2 KiB. Envoy itself uses less than 40 MiB at rest.
    assert!(names * 5 / 4 * KIB + 40 * MIB <= row("Envoy").base);
}

/// The lines of a configuration from this text on.
fn from<'a>(configuration: &'a str, text: &str) -> &'a str {
    configuration.split_once(text).unwrap_or_else(|| panic!("{text} is missing")).1
}

#[test]
fn envoy_repeats_no_check_because_it_takes_long_and_nobody_can_make_it_leave_out_a_replica() {
    for file in ["compose/envoy/envoy.yaml.in", "compose/envoy/envoy-grpc.yaml.in"] {
        let all = text(file);
        let check = from(&all, "- name: envoy.filters.http.ext_authz\n");
        let seconds = |name: &str| {
            let value = from(check, name).trim_start().split(['s', ' ']).next().unwrap();
            value.parse::<f64>().unwrap_or_else(|error| panic!("{file}: {name} {value}: {error}"))
        };
        // Envoy uses max_interval as the time limit of each try. A repeated DPoP proof is refused.
        assert!(seconds("max_interval:") >= seconds(" timeout:"), "{file}");
        // auth-service also answers 503 to callers who exceed a limit, so a stranger could make Envoy leave out a
        // healthy replica.
        assert!(!all.contains("outlier_detection"), "{file}");
        for name in ["auth-service-public", "auth-service-edge"] {
            let cluster = from(&all, &format!("    - name: {name}\n"));
            let cluster = cluster.split("\n    - name: ").next().unwrap();
            assert!(cluster.contains("      health_checks:"), "{file}: {cluster}");
        }
        assert!(all.contains("expected_statuses: [{ start: 200, end: 600 }]"), "{file}: any response counts");
        // If no replica answers, all are used. By default, this would already happen when half of them are left out.
        assert!(all.contains("healthy_panic_threshold: { value: 1 }"), "{file}");
    }
}

#[test]
fn calls_that_wait_at_one_service_leave_room_in_envoy_for_the_others() {
    let connections = row("Envoy").connections;
    let services = |file| {
        let (name, text) = (if file == SERVICES_OF_ENVOY { "services" } else { "stdio-wrapper" }, text(file));
        let cluster = text.split(&format!("- name: {name}\n      connect")).nth(1).unwrap().to_owned();
        cluster.split("\n    - name:").next().unwrap().to_owned()
    };
    for file in [SERVICES_OF_ENVOY, "compose/envoy/envoy.yaml.in", "compose/envoy/envoy-grpc.yaml.in"] {
        let cluster = services(file);
        // The default of each of these is 1024.
        for name in ["max_connections", "max_pending_requests", "max_requests"] {
            assert!(cluster.contains(&format!("{name}: {connections}")), "{file}: {name}\n{cluster}");
        }
    }
    let of_one = services(SERVICES_OF_ENVOY);
    let of_one = of_one.split("per_host_thresholds: [{ max_connections: ").nth(1).unwrap();
    let of_wrapper = number("compose/services.example.yaml", "MAX_CONNECTIONS: \"");
    assert!(of_one.starts_with(&format!("{of_wrapper} ")), "{of_one}");
    // A fifth of the connections is left.
    assert!(of_wrapper / 4 * 5 <= connections);
}

#[test]
fn what_strangers_can_fill_of_nginx_fits_its_memory() {
    let (row, _) = fits("nginx", Edge::Nginx);
    let of = |name: &str| number("compose/nginx/nginx.conf.in", &format!("    {name} "));
    let workers = number("compose/nginx/nginx.conf.in", "\nworker_processes ");
    assert_eq!(row.connections, workers * of("worker_connections"));
    let files = number("compose/nginx/nginx.conf.in", "\nworker_rlimit_nofile ");
    assert!(of("worker_connections") < files && files <= Edge::Nginx.container().bounds().files.unwrap());
    let head = of("client_header_buffer_size") + of("large_client_header_buffers 1");
    assert!(head <= row.each);
    // A request in progress has two connections, and buffers for its body and its response.
    let request = head + of("client_body_buffer_size") + of("proxy_buffer_size") + 4 * of("proxy_buffers 4");
    assert!(request <= 2 * row.each);
}

/// The name of a row, its number and size in KiB, and the total in MiB from the last column.
type Part = (String, Option<(u64, f64)>, u64);

/// The rows of the table below this heading.
fn rows_of(heading: &str) -> Vec<Part> {
    let document = text("docs/limits.md");
    let section = document.split(heading).nth(1).unwrap();
    let table = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let rows = table.take_while(|line| line.starts_with('|')).map(|line| {
        let [_, name, most, each, all, _] = line.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let product = most.parse().ok().zip(each.parse().ok());
        (name.to_owned(), product, all.parse().unwrap_or_else(|error| panic!("{line}: {error}")))
    });
    rows.collect()
}

/// Checks the products and the total, and returns the total in bytes from the last row.
fn sum_of(rows: &[Part]) -> u64 {
    let (together, parts) = rows.split_last().unwrap();
    for (name, product, all) in parts {
        let (most, each) = product.unwrap_or_else(|| panic!("{name}"));
        #[expect(clippy::cast_precision_loss, reason = "the numbers are small")]
        let off = most as f64 * each / 1024.0 - *all as f64;
        assert!(off.abs() <= 1.0, "{name}: {off}");
    }
    assert_eq!(parts.iter().map(|row| row.2).sum::<u64>(), together.2);
    together.2 * MIB
}

#[test]
fn what_auth_service_can_be_made_to_hold_fits_its_memory() {
    let rows = rows_of("## Memory of auth-service");
    let container = Container::of_auth_service();
    assert!(sum_of(&rows) <= container.bounds().memory);
    let example = text(".env.example");
    let preset = example.lines().find_map(|line| line.strip_prefix("AUTH_MEMORY=")).unwrap();
    assert_eq!(bytes(preset), container.bounds().memory);

    let most = |what: &str| rows.iter().find(|row| row.0.starts_with(what)).unwrap().1.unwrap().0;
    let app = |name: &str| number("auth-service/src/app.rs", &format!("const {name}_CONNECTIONS: usize ="));
    let heads = number("auth-service/src/state.rs", "const HEADS_AWAITED: (usize, usize) = (64,");
    assert_eq!(most("connections to the public listener"), heads);
    assert_eq!(most("further connections to the public"), app("PUBLIC") - heads);
    assert_eq!(most("connections to the edge listener"), app("EDGE"));
    assert_eq!(most("connections to the ops listener"), app("OPS"));
    let grpc = number("auth-service/src/app/edge_grpc.rs", "const LIMITS: Limits = Limits { connections:");
    assert_eq!(most("connections to the edge gRPC"), grpc);
    let calls = |of: &str| {
        let source = "auth-service/src/forward_auth/envoy_grpc/places.rs";
        number(source, &format!("const OF_{of}: usize ="))
    };
    assert_eq!(most("calls over gRPC"), calls("EDGES") + calls("OTHERS"));
    assert_eq!(most("known tokens"), container.setting("TOKEN_CACHE_SIZE").parse::<u64>().unwrap());
}

#[test]
fn the_threads_of_auth_service_fit_its_container_and_the_document_says_how_many_they_are() {
    let number = |name: &str| number("auth-service/src/threads.rs", &format!("pub const {name}: usize ="));
    let (preset, besides) = (number("DEFAULT_WORKERS"), number("BESIDES"));
    let needed = |workers: u64| 3 * workers + besides;
    let document = text("docs/limits.md").split_whitespace().collect::<Vec<_>>().join(" ");
    let said = [
        format!("{besides} more"),
        format!("{} with {preset} workers", needed(preset)),
        format!("{} with `WORKERS=64`", needed(64)),
        format!("`pids_limit` of the stack is {}", Container::of_auth_service().bounds().pids),
    ];
    for words in said {
        assert!(document.contains(&words), "docs/limits.md does not contain: {words}");
    }
    assert!(needed(64) <= Container::of_auth_service().bounds().pids);
}

#[test]
fn what_a_wrapper_can_be_made_to_hold_leaves_room_for_servers() {
    let rows = rows_of("## Memory of a service");
    let container = Container::of_service();
    assert!(sum_of(&rows) <= container.bounds().memory / 4 * 3);
    let row = |what: &str| rows.iter().find(|row| row.0.starts_with(what)).unwrap().1.unwrap();
    assert_eq!(row("connections").0, container.setting("MAX_CONNECTIONS").parse::<u64>().unwrap());
    let options = text("stdio-wrapper/src/config/options.rs");
    let preset = |name: &str| {
        let rest = options.split(&format!("env = \"{name}\", default_value = \"")).nth(1).unwrap();
        bytes(rest.split('"').next().unwrap())
    };
    for (what, each) in [("bodies", "MAX_BODY"), ("messages", "MAX_BODY"), ("answers", "MAX_LINE")] {
        #[expect(clippy::cast_precision_loss, reason = "the numbers are small")]
        let kibibytes = (preset(each) / KIB) as f64;
        assert!((row(what).1 - kibibytes).abs() < 1.0, "{what}");
    }
    let (lines, kibibytes) = row("the beginning of a line");
    let source = text("stdio-wrapper/src/child/reader.rs");
    assert!(source.contains(&format!("const FREE: usize = {kibibytes} << 10;")));
    let source = text("stdio-wrapper/src/log.rs");
    assert!(source.contains(&format!("const MAX_WAITING: usize = {};", row("log lines").0)));
    // Each server has a supervisor, which is also a process.
    assert!(2 * lines >= container.bounds().pids);
    // One account can use a quarter of the memory for bodies, messages and responses.
    let share = rows[1..4].iter().map(|row| row.2).sum::<u64>() * MIB / 4;
    let reserve = container.bounds().memory / number("stdio-wrapper/src/capacity.rs", "\nconst FREE: u64 =");
    assert!(share <= reserve);
    let document = text("docs/limits.md").split_whitespace().collect::<Vec<_>>().join(" ");
    // The wrapper has three quarters of the reserve.
    assert!(text("stdio-wrapper/src/capacity.rs").contains("Self::Memory => self.kept_free(most) / 4 * 3,"));
    for said in [
        format!(
            "This is {} MiB, which is less than the eighth of the memory ({} MiB)",
            share / MIB,
            reserve / MIB
        ),
        format!("can use three quarters of the reserve ({} MiB)", reserve / 4 * 3 / MIB),
        format!("The rest ({} MiB) stays free", reserve / 4 / MIB),
    ] {
        assert!(document.contains(&said), "docs/limits.md does not contain: {said}");
    }
}
