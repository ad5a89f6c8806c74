//! The edge proxies, each with the configuration that this repository ships for it.

use std::fmt::{self, Display};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::places::{has_ipv6_loopback, repository, tools_dir};
use crate::process;

/// A proxy, together with the protocol of its checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// Envoy with `ext_authz` over HTTP. This is what `scripts/up` starts by default.
    EnvoyHttp,
    /// Envoy with `ext_authz` over gRPC.
    EnvoyGrpc,
    /// nginx with the directive `auth_request`, which sends a subrequest for each check.
    Nginx,
    /// Caddy with the directives that `forward_auth` is short for.
    Caddy,
    /// Traefik with the middleware `forwardAuth`.
    Traefik,
}

/// The directory, ports and secret that a proxy's configuration refers to.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// A directory for rendered configurations and for files that the proxy writes.
    pub dir: PathBuf,
    /// The port of the proxy on the loopback addresses.
    pub port: u16,
    /// The secret that only the edge and auth-service know.
    pub secret: String,
    /// The path of the issuer, or an empty string.
    pub issuer_path: String,
    /// The name or the address of auth-service.
    pub auth_address: String,
    /// The port of auth-service for endpoints and pages.
    pub auth_public_port: u16,
    /// The port of auth-service for checks over HTTP.
    pub auth_edge_port: u16,
    /// The port of auth-service for checks over gRPC.
    pub auth_edge_grpc_port: u16,
    /// The name or the address of the service behind the check.
    pub wrapper_address: String,
    /// The port of the service behind the check.
    pub wrapper_port: u16,
    /// The maximum number of requests per second from one address.
    pub requests_per_second: u32,
}

/// The default maximum number of requests per second from one address.
pub const REQUESTS_PER_SECOND: u32 = 300;

/// The size of a burst from one address, as a multiple of its maximum number of requests per second.
pub const IN_A_ROW: u32 = 3;

/// A change to the shipped configuration: a string and its replacement.
pub type Change = (String, String);

impl Edge {
    /// All proxies, with both variants of Envoy.
    pub const ALL: [Self; 5] = [Self::EnvoyHttp, Self::EnvoyGrpc, Self::Nginx, Self::Caddy, Self::Traefik];

    /// The name of the proxy's program and of its log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EnvoyHttp | Self::EnvoyGrpc => "envoy",
            Self::Nginx => "nginx",
            Self::Caddy => "caddy",
            Self::Traefik => "traefik",
        }
    }

    /// The path of the program. The error reports that the program is missing, and how to install it.
    pub fn program(self) -> Result<PathBuf, String> {
        let name = self.name();
        let named = std::env::var_os(format!("{}_BIN", name.to_uppercase())).map(PathBuf::from);
        let installed = [tools_dir().join(name)];
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Debian installs nginx in a directory that is only in the `PATH` of root.
        let on_path =
            std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]).map(|dir| dir.join(name));
        let found = named.into_iter().chain(installed).chain(on_path).find(|program| program.is_file());
        found.ok_or_else(|| format!("there is no {name}; run scripts/tools {name}"))
    }

    /// Writes the shipped configuration with its placeholders filled in. Returns the command that runs the proxy
    /// with that configuration. Panics if a string to be replaced is not found.
    #[track_caller]
    pub fn command(self, around: &Surroundings, changes: &[Change]) -> Command {
        let program = self.program().unwrap_or_else(|why| panic!("{why}"));
        let values = self.values(around);
        let mut found = 0;
        let mut written = |template: &str| {
            let (text, hits) = rendered(template, &values, changes);
            found += hits;
            let name = Path::new(template).file_stem().expect("a template has a name");
            // Traefik reads all files of a directory.
            let dynamic = matches!(template, "traefik/dynamic.yaml.in" | "traefik/service.yaml.in");
            let dir = if dynamic { around.dir.join("traefik") } else { around.dir.clone() };
            fs::create_dir_all(&dir).expect("a directory can be created");
            let file = dir.join(name);
            fs::write(&file, text).expect("the configuration can be written");
            file
        };
        let mut command = process::clean_command(program);
        match self {
            Self::EnvoyHttp | Self::EnvoyGrpc => {
                let grpc = self == Self::EnvoyGrpc;
                let template =
                    if grpc { "compose/envoy/envoy-grpc.yaml.in" } else { "compose/envoy/envoy.yaml.in" };
                command.arg("-c").arg(written(template));
                command.args(["--disable-hot-restart", "--log-level", "warning", "--concurrency", "1"]);
            }
            Self::Nginx => {
                fs::create_dir_all(around.dir.join("nginx")).expect("a directory can be created");
                command.arg("-p").arg(&around.dir).arg("-e").arg("stderr");
                command.arg("-c").arg(written("compose/nginx/nginx.conf.in"));
            }
            Self::Caddy => {
                let file = written("compose/caddy/Caddyfile.in");
                command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
                command.env("XDG_DATA_HOME", &around.dir).env("XDG_CONFIG_HOME", &around.dir);
            }
            Self::Traefik => {
                written("traefik/dynamic.yaml.in");
                written("traefik/service.yaml.in");
                command.arg(format!("--configFile={}", written("traefik/traefik.yaml.in").display()));
            }
        }
        assert_eq!(found, changes.len(), "the text of a change is not in the configuration of {self}");
        command
    }

    fn values(self, around: &Surroundings) -> Vec<(&'static str, String)> {
        let port = around.port;
        let v6 = has_ipv6_loopback();
        let mut values = vec![
            ("EDGE_PORT", port.to_string()),
            ("EDGE_SECRET", around.secret.clone()),
            ("ISSUER_PATH", around.issuer_path.clone()),
            ("AUTH_ADDRESS", around.auth_address.clone()),
            ("AUTH_PUBLIC_PORT", around.auth_public_port.to_string()),
            ("AUTH_EDGE_PORT", around.auth_edge_port.to_string()),
            ("AUTH_EDGE_GRPC_PORT", around.auth_edge_grpc_port.to_string()),
            ("WRAPPER_ADDRESS", around.wrapper_address.clone()),
            ("WRAPPER_PORT", around.wrapper_port.to_string()),
            ("EDGE_ADDRESS", "127.0.0.1".to_owned()),
            ("REQUESTS_PER_ADDRESS", "512".to_owned()),
            ("REQUESTS_PER_SECOND", around.requests_per_second.to_string()),
            ("REQUESTS_IN_A_ROW", (IN_A_ROW * around.requests_per_second).to_string()),
        ];
        match self {
            Self::EnvoyHttp | Self::EnvoyGrpc => {
                let second = format!(
                    r#"{{ address: {{ socket_address: {{ address: "::1", port_value: {port} }} }} }}"#
                );
                values.push(("EDGE_ADDITIONAL_ADDRESSES", if v6 { second } else { String::new() }));
                values.push(("MCP_MATCH", "path: /mcp".to_owned()));
                values.push(("MCP_CLUSTER", "stdio-wrapper".to_owned()));
                let more = ["MORE_LISTENERS", "MORE_FILTERS", "MORE_CLUSTERS", "MCP_HOST"];
                values.extend(more.map(|name| (name, String::new())));
            }
            Self::Nginx => {
                values.push(("RUN_DIR", around.dir.join("nginx").display().to_string()));
                let second = format!("listen [::1]:{port} default_server reuseport;");
                values.push(("EDGE_ADDITIONAL_LISTEN", if v6 { second } else { String::new() }));
                values.extend(
                    [
                        ("MCP_LOCATION", "= /mcp"),
                        ("MCP_URI", "/mcp"),
                        ("TO_WRAPPER", "stdio_wrapper"),
                        ("TO_CHECK", "auth_service_edge"),
                        ("TO_AUTH_SERVICE", "auth_service_public"),
                        ("MORE_HTTP", ""),
                    ]
                    .map(|(name, value)| (name, value.to_owned())),
                );
            }
            Self::Caddy => {
                values.push(("EDGE_SITE", format!("http://:{port}")));
                values.push(("MCP_URI", "/mcp".to_owned()));
                values.push(("EDGE_BIND", if v6 { "127.0.0.1 ::1" } else { "127.0.0.1" }.to_owned()));
            }
            Self::Traefik => {
                values.push(("TRUSTED_IPS", String::new()));
                values.push(("DYNAMIC_DIR", around.dir.join("traefik").display().to_string()));
                let second = format!(r#"edge-ipv6: {{ <<: *edge, address: "[::1]:{port}" }}"#);
                values.push(("MORE_ENTRY_POINTS", if v6 { second } else { String::new() }));
                values.extend(["TLS", "MORE_PROVIDERS"].map(|name| (name, String::new())));
            }
        }
        values
    }
}

impl Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EnvoyHttp => "Envoy over HTTP",
            Self::EnvoyGrpc => "Envoy over gRPC",
            Self::Nginx => "nginx",
            Self::Caddy => "Caddy",
            Self::Traefik => "Traefik",
        })
    }
}

/// Fills in the placeholders of a template of the repository, like `scripts/up`. Also returns the number of
/// changes whose text was found.
#[track_caller]
fn rendered(template: &str, values: &[(&str, String)], changes: &[Change]) -> (String, usize) {
    let file = repository().join(template);
    let mut text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut hits = 0;
    for (from, to) in changes {
        if text.contains(from.as_str()) {
            hits += 1;
            text = text.replace(from.as_str(), to);
        }
    }
    for (name, value) in values {
        text = text.replace(&format!("@{name}@"), value);
    }
    let unfilled = text
        .split('@')
        .skip(1)
        .find(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'));
    assert_eq!(unfilled, None, "{template} has a placeholder without a value");
    (text, hits)
}
