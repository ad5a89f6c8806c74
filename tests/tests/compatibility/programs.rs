//! The clients and servers, with their names, their installed versions, and the commands that start them.

use std::fs;
use std::path::Path;
use std::process::Command;

use tests::places::{binary_dir, repository, tool};
use tests::process;

/// A stock MCP client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    TypeScript1,
    TypeScript2,
    Python2,
    Go,
    GoSessions,
    Rmcp,
    McpRemote,
}

/// A stock MCP server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    FastMcp,
    TypeScript1,
    GoSessions,
    TypeScript2,
    Python2,
    Go,
    Rmcp,
}

impl Client {
    pub(crate) const ALL: [Self; 7] = [
        Self::TypeScript1,
        Self::TypeScript2,
        Self::Python2,
        Self::Go,
        Self::GoSessions,
        Self::Rmcp,
        Self::McpRemote,
    ];

    pub(crate) fn name(self) -> String {
        let (name, version) = match self {
            Self::TypeScript1 => ("TypeScript SDK", npm("npm", "@modelcontextprotocol/sdk")),
            Self::TypeScript2 => ("TypeScript SDK", npm("npm", "@modelcontextprotocol/client")),
            Self::Python2 => ("Python SDK", python("requirements.txt", "mcp")),
            Self::Go => ("Go SDK", go()),
            Self::GoSessions => return format!("Go SDK {}, with sessions", go()),
            Self::Rmcp => ("rmcp", rmcp()),
            Self::McpRemote => ("mcp-remote", npm("peers", "mcp-remote")),
        };
        format!("{name} {version}")
    }

    /// The command of the client, without its settings. `work` is a [`work_directory`].
    pub(crate) fn command(self, work: &Path) -> Command {
        let script = |name: &str| work.join("clients").join(name);
        let mut command = match self {
            Self::TypeScript1 | Self::TypeScript2 | Self::McpRemote => {
                process::clean_command(tool("node/bin/node"))
            }
            Self::Python2 => process::clean_command(tool("venv/bin/python")),
            Self::Go | Self::GoSessions => process::clean_command(tool("go/client")),
            Self::Rmcp => process::clean_command(binary_dir().join("examples/notes_client")),
        };
        match self {
            Self::TypeScript1 => {
                command.arg(script("ts-v1.mjs"));
                // With a refresh token, this SDK responds to the 403 with a refresh. A refresh does not extend the
                // scope, so the SDK gives up.
                command.env("GRANTS", "authorization_code");
            }
            Self::TypeScript2 => _ = command.arg(script("ts-v2.mjs")),
            Self::Python2 => _ = command.arg(script("python.py")),
            Self::McpRemote => {
                command.arg(script("mcp-remote.mjs"));
                command.env("MCP_REMOTE", tool("peers/node_modules/mcp-remote/dist/proxy.js"));
                let store = tempfile::tempdir_in(work).unwrap().keep();
                command.env("MCP_REMOTE_CONFIG_DIR", store);
            }
            Self::GoSessions => _ = command.arg("-sessions-only"),
            Self::Go | Self::Rmcp => {}
        }
        command
    }
}

impl Server {
    pub(crate) fn name(self) -> String {
        match self {
            Self::FastMcp => format!("FastMCP {}", python("fastmcp.txt", "fastmcp")),
            Self::TypeScript1 => format!("TypeScript SDK {}", npm("npm", "@modelcontextprotocol/sdk")),
            Self::GoSessions => format!("Go SDK {}, limited to 2025-11-25", go()),
            Self::TypeScript2 => format!("TypeScript SDK {}", npm("npm", "@modelcontextprotocol/server")),
            Self::Python2 => format!("Python SDK {}", python("requirements.txt", "mcp")),
            Self::Go => format!("Go SDK {}", go()),
            Self::Rmcp => format!("rmcp {}", rmcp()),
        }
    }

    /// The protocol revisions of the server, as worded in the document.
    pub(crate) fn era(self) -> &'static str {
        match self {
            Self::FastMcp | Self::TypeScript1 | Self::GoSessions => "sessions, up to 2025-11-25",
            Self::TypeScript2 | Self::Python2 | Self::Go | Self::Rmcp => "sessions and 2026-07-28",
        }
    }

    /// The command line of the server, which the wrapper runs. `work` is a [`work_directory`].
    pub(crate) fn command(self, work: &Path) -> Vec<String> {
        let script = |name: &str| work.join("servers").join(name).display().to_string();
        let tool = |name: &str| tool(name).display().to_string();
        match self {
            Self::FastMcp => vec![tool("fastmcp/bin/python"), script("on_fastmcp.py")],
            Self::TypeScript1 => vec![tool("node/bin/node"), script("ts-v1.mjs")],
            Self::TypeScript2 => vec![tool("node/bin/node"), script("ts-v2.mjs")],
            Self::Python2 => vec![tool("venv/bin/python"), script("on_python.py")],
            Self::Go => vec![tool("go/server")],
            Self::GoSessions => vec![tool("go/server"), "-sessions-only".to_owned()],
            Self::Rmcp => vec![binary_dir().join("examples/notes_server").display().to_string()],
        }
    }
}

/// A directory with copies of the scripts next to the packages that they import, so that the imports work as in
/// any project.
pub(crate) fn work_directory() -> tempfile::TempDir {
    let directory = tempfile::Builder::new().prefix("mcp-gate-compatibility-").tempdir().unwrap();
    let source = repository().join("tests/compatibility");
    for kind in ["clients", "servers"] {
        let copy = directory.path().join(kind);
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(source.join(kind)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
            }
        }
    }
    std::os::unix::fs::symlink(tool("npm/node_modules"), directory.path().join("node_modules")).unwrap();
    directory
}

/// The version that a `package.json` below `scripts` pins.
pub(crate) fn npm(directory: &str, package: &str) -> String {
    let file = repository().join("scripts").join(directory).join("package.json");
    let pinned: serde_json::Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    pinned["dependencies"][package].as_str().unwrap().to_owned()
}

/// The version that a file of `scripts/python` pins.
pub(crate) fn python(file: &str, package: &str) -> String {
    let text = fs::read_to_string(repository().join("scripts/python").join(file)).unwrap();
    pin(&text, &format!("{package}=="))
}

fn go() -> String {
    let text = fs::read_to_string(repository().join("tests/compatibility/go/go.mod")).unwrap();
    pin(&text, "github.com/modelcontextprotocol/go-sdk v")
}

fn rmcp() -> String {
    let text = fs::read_to_string(repository().join("Cargo.lock")).unwrap();
    let package = text.split("name = \"rmcp\"\n").nth(1).unwrap();
    pin(package, "version = ").trim_matches('"').to_owned()
}

/// The rest of the first line that starts with `beginning`.
fn pin(text: &str, beginning: &str) -> String {
    let found = text.lines().find_map(|line| line.trim().strip_prefix(beginning));
    found.unwrap_or_else(|| panic!("nothing pins {beginning}")).trim().to_owned()
}
