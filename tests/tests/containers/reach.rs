//! Tests the hardening of the containers and their access to the network.

use serde_json::{Value, json};

use crate::stack::{Containers, tell};

pub(crate) fn nobody_is_root_and_nobody_writes(stack: &Containers) {
    let mut seen = 0;
    for (service, ids) in stack.containers(true) {
        for id in ids {
            let about = stack.engine.inspect(&id).unwrap();
            assert_eq!(about["HostConfig"]["ReadonlyRootfs"], true, "{service}");
            assert_eq!(about["HostConfig"]["CapDrop"], json!(["ALL"]), "{service}");
            assert!(about["HostConfig"]["Memory"].as_u64() > Some(0), "{service}");
            // `docker inspect` must not reveal a secret.
            let secret = secret_of(stack);
            assert!(!about.to_string().contains(&secret), "{service} reveals a secret");
            seen += 1;
            if about["State"]["Running"] != true {
                continue;
            }
            let users = stack.docker(&["top", &id, "-eo", "pid,uid"]);
            let users: Vec<&str> =
                users.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
            assert!(!users.is_empty() && users.iter().all(|user| *user != "0"), "{service}: {users:?}");
            // Even the engine cannot write to the root file system, and neither can a shell in the container.
            let file = stack.checkout.join("README.md").display().to_string();
            let copied = stack.engine.docker(&["cp", &file, &format!("{id}:/README.md")]);
            assert!(copied.is_err_and(|error| format!("{error:#}").contains("read-only")), "{service}");
            let written = stack.engine.docker(&[
                "exec",
                &id,
                "sh",
                "-c",
                "echo x >/x || echo x >/etc/x || echo x >/usr/x",
            ]);
            assert!(written.is_err(), "{service} can write to its root file system");
        }
    }
    assert!(seen >= 5, "{seen}");
    tell(&format!(
        "  {seen} containers: none runs as root, none can write to its root file system, none reveals a secret"
    ));
}

/// A secret that must exist only in its volume.
pub(crate) fn secret_of(stack: &Containers) -> String {
    let volume = format!("{}_auth-config:/v:ro", stack.project);
    let image = stack.setting("REDIS_IMAGE");
    let secret =
        stack.docker(&["run", "--rm", "--network=none", "-v", &volume, &image, "cat", "/v/edge-secret"]);
    assert!(secret.len() >= 43);
    secret.trim().to_owned()
}

/// Tries to connect to these hosts and ports from inside a container. Returns the reachable ones.
pub(crate) fn reached(stack: &Containers, service: &str, places: &[(String, u16)]) -> Vec<String> {
    let list = json!(places.iter().map(|(host, port)| json!([host, port])).collect::<Vec<_>>()).to_string();
    let node = "const places = JSON.parse(process.argv[1]); const net = require('net');
        Promise.all(places.map(([host, port]) => new Promise((done) => {
          const socket = net.connect({ host, port, timeout: 2000 });
          socket.on('connect', () => { socket.destroy(); done(host + ':' + port); });
          socket.on('timeout', () => { socket.destroy(); done(); });
          socket.on('error', () => done());
          setTimeout(done, 4000);
        }))).then((all) => { console.log(all.filter(Boolean).join('\\n')); process.exit(); });";
    let python = "import json, socket, sys, threading, time
def go(host, port):
    try: socket.create_connection((host, port), 2).close(); print(f'{host}:{port}', flush=True)
    except OSError: pass
all = [threading.Thread(target=go, args=place, daemon=True) for place in json.loads(sys.argv[1])]
end = time.monotonic() + 4
[one.start() for one in all]; [one.join(max(0, end - time.monotonic())) for one in all]";
    let id = stack.container(service);
    let printed = if ["clock", "time", "fetch", "git"].contains(&service) {
        stack.docker(&["exec", &id, "python3", "-c", python, &list])
    } else {
        stack.docker(&["exec", "-e", "UV_THREADPOOL_SIZE=64", &id, "node", "-e", node, &list])
    };
    printed.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// A host name that is derived from the path of a request is looked up only among the containers of the stack.
pub(crate) fn an_edge_finds_nobody_outside(stack: &Containers) {
    // The images contain Python only on an engine that the test has started.
    if !stack.engine.is_ours() {
        return;
    }
    let python = "import os, socket, sys, threading, time
def go(name):
    try: socket.getaddrinfo(name, 80); print(name, flush=True)
    except OSError: pass
all = [threading.Thread(target=go, args=(name,), daemon=True) for name in sys.argv[1:]]
end = time.monotonic() + 20
[one.start() for one in all]; [one.join(max(0, end - time.monotonic())) for one in all]
os._exit(0)";
    let mut words = vec!["exec", "", "python3", "-c", python, "auth-service", "mcp-everything", "mcp-nobody"];
    words.extend(["example.com", "example.net", "example.org"]);
    let edge = stack.container("edge");
    words[1] = &edge;
    let printed = stack.docker(&words);
    let mut found: Vec<&str> = printed.lines().collect();
    found.sort_unstable();
    assert_eq!(found, ["auth-service", "mcp-everything"]);
}

pub(crate) fn a_wrapped_server_reaches_nothing(stack: &Containers) {
    let place = |service: &str, network: &str, port| (stack.address(service, network), port);
    let mut forbidden = vec![
        place("redis", "store", 6379),
        place("auth-service", "check", 9001),
        place("auth-service", "check", 9000),
        place("auth-service", "store", 9001),
        place("auth-service", "outbound", 9001),
        place("auth-service", "outbound", 9000),
        place("everything", "lane-1", 8081),
    ];
    for name in ["redis", "auth-service", "docker-api"] {
        let port = [("redis", 6379), ("auth-service", 9001)].iter().find(|(of, _)| *of == name);
        forbidden.push((name.to_owned(), port.map_or(2375, |(_, port)| *port)));
    }
    if stack.containers(false).contains_key("docker-api") {
        forbidden.push(place("docker-api", "docker-api", 2375));
    }
    // The first service has no access to the internet, but the other two do.
    let running = stack.containers(false);
    for service in ["everything", "clock", "fetch"].into_iter().filter(|name| running.contains_key(*name)) {
        let mut forbidden = forbidden.clone();
        for neighbour in ["everything", "clock", "fetch", "memory"] {
            if neighbour == service || !running.contains_key(neighbour) {
                continue;
            }
            let about = stack.engine.inspect(&stack.container(neighbour)).unwrap();
            for network in about["NetworkSettings"]["Networks"].as_object().unwrap().values() {
                forbidden.push((network["IPAddress"].as_str().unwrap().to_owned(), 8080));
            }
            forbidden.extend([neighbour.to_owned(), format!("mcp-{neighbour}")].map(|name| (name, 8080)));
        }
        assert_eq!(reached(stack, service, &forbidden), Vec::<String>::new(), "reached from {service}");
        // The same method finds a permitted address.
        assert_eq!(reached(stack, service, &[("edge".to_owned(), 8082)]), ["edge:8082"], "{service}");
    }
    // At that address, only the key set is available.
    let keys = "fetch('http://edge:8082/jwks').then(async (keys) => {
        const other = await Promise.all(['/authorize', '/token', '/everything/mcp', '/verify/traefik', '/ping', '/api/rawdata'].map(
          async (path) => (await fetch('http://edge:8082' + path)).status));
        console.log(JSON.stringify([keys.status, (await keys.json()).keys.length, ...other]));
      })";
    let printed = stack.docker(&["exec", &stack.container("everything"), "node", "-e", keys]);
    assert_eq!(printed.trim(), "[200,1,404,404,404,404,404,404]");
    tell("  a wrapped server reaches only the keys, and neither Redis nor auth-service nor its neighbours");
}

/// Tests the filter of the Docker API from the network of the edge.
pub(crate) fn the_filter_answers_what_traefik_asks_and_nothing_else(stack: &Containers) {
    let id = stack.container("everything");
    let network = format!("{}_docker-api", stack.project);
    let script = format!(
        "import urllib.request as u, urllib.error as e, json
def ask(method, path):
    try: return u.urlopen(u.Request('http://docker-api:2375' + path, method=method, data=b'{{}}' if method == 'POST' else None), timeout=5).status
    except e.HTTPError as error: return error.code
    except OSError as error: return str(error)
print(json.dumps([ask(*a) for a in [('GET','/version'),('GET','/v1.40/containers/json'),('GET','/containers/{id}/json'),
  ('GET','/info'),('GET','/images/json'),('GET','/containers/{id}/logs?stdout=1'),('GET','/containers/{id}/archive?path=/'),('GET','/volumes'),('GET','/secrets'),
  ('POST','/containers/{id}/kill'),('POST','/containers/create'),('POST','/containers/{id}/exec'),('DELETE','/containers/{id}'),
  ('GET','/version/../images/json'),('GET','/containers/json/../../images/json'),('GET','/%69mages/json'),('GET','//version'),('PUT','/version'),('OPTIONS','/version')]]))"
    );
    let python = stack.setting("PYTHON_IMAGE");
    let printed = stack.docker(&["run", "--rm", "--network", &network, &python, "python3", "-c", &script]);
    let answers: Vec<Value> = serde_json::from_str(&printed).unwrap();
    assert_eq!(answers[..3], [200, 200, 200].map(Value::from), "{printed}");
    assert!(answers[3..].iter().all(|answer| [400, 403, 404].map(Value::from).contains(answer)), "{printed}");
    tell(&format!(
        "  the filter in front of the Docker socket: {} requests allowed, {} refused",
        3,
        answers.len() - 3
    ));
}

pub(crate) fn figures(stack: &Containers) {
    let mut total = 0.0;
    let ids: Vec<String> = stack.containers(false).into_values().flatten().collect();
    let mut words = vec!["stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}"];
    words.extend(ids.iter().map(String::as_str));
    for line in stack.docker(&words).lines() {
        let (name, usage) = line.split_once(' ').unwrap();
        let used = usage.split(" /").next().unwrap();
        let number: f64 = used.trim_end_matches(|c: char| c.is_alphabetic()).parse().unwrap();
        total += if used.ends_with("GiB") {
            number * 1024.0
        } else if used.ends_with("KiB") {
            number / 1024.0
        } else {
            number
        };
        tell(&format!("FIGURE memory, idle: {name} {used}"));
    }
    tell(&format!("FIGURE memory, idle, the whole stack: {total:.0} MiB"));
    // The programs of a release are static and need no system libraries. The programs of this test need them.
    if stack.setting("PROGRAM_BASE") != "scratch" {
        tell(
            "  (debug programs on a Debian system, not the images of a release: scripts/bench stack shows those)",
        );
    }
    for service in ["auth-service", "everything", "edge", "redis", "setup"] {
        let about = stack.engine.inspect(&stack.container(service)).unwrap();
        let image = stack.engine.inspect(about["Image"].as_str().unwrap()).unwrap();
        let size = image["Size"].as_f64().unwrap() / 1e6;
        tell(&format!(
            "FIGURE image of {service}: {size:.1} MB ({})",
            about["Config"]["Image"].as_str().unwrap()
        ));
    }
}
