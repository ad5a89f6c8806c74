//! Processes, and a minimal HTTP/1.1 client that uses little processor time compared with the measured program.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A process that is killed when this value is dropped.
pub(crate) struct Process(tokio::process::Child);

impl Process {
    pub(crate) fn start(line: &[String]) -> anyhow::Result<Self> {
        let (program, arguments) = line.split_first().context("an empty command")?;
        let mut command = tokio::process::Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        Ok(Self(command.spawn().with_context(|| program.clone())?))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id().unwrap_or_default()
    }

    pub(crate) fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
        line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
    }

    pub(crate) fn resident_mib(&self) -> u64 {
        self.resident_kib() / 1024
    }
}

/// The processor time that a process and its children have used, in user and system mode.
#[derive(Debug, Clone, Default)]
pub(crate) struct Used {
    own: Duration,
    children: BTreeMap<u32, Duration>,
}

impl Used {
    pub(crate) fn now(id: u32) -> Self {
        // Threads of the process start its children, and the kernel lists the children of each thread.
        let threads = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
        let lists = threads.map(|thread| std::fs::read_to_string(thread.path().join("children")));
        let children: String = lists.map(Result::unwrap_or_default).collect();
        let children = children.split_whitespace().filter_map(|child| child.parse().ok());
        Self { own: used_by(id), children: children.map(|child| (child, used_by(child))).collect() }
    }

    /// The processor time that the process, and its busiest child, have used since `before`.
    pub(crate) fn since(&self, before: &Self) -> (Duration, Duration) {
        let children = self.children.iter().map(|(child, used)| {
            used.saturating_sub(before.children.get(child).copied().unwrap_or_default())
        });
        (self.own.saturating_sub(before.own), children.max().unwrap_or_default())
    }
}

fn used_by(id: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The name can contain any characters. Of the fields after it, utime and stime are the 12th and 13th
    // (proc_pid_stat(5)).
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // The kernel's unit for these fields is a hundredth of a second on every supported architecture.
    Duration::from_millis(10 * ticks)
}

/// Waits until a program listens at this address.
pub(crate) async fn wait_for(address: &str) -> anyhow::Result<()> {
    for _ in 0..200 {
        if TcpStream::connect(address).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("nothing listens on {address}")
}

pub(crate) struct Connection {
    socket: TcpStream,
    host: String,
    path: String,
    session: Option<String>,
    /// The additional header lines of every POST.
    fields: &'static str,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects and opens a session, or uses the given one.
    pub(crate) async fn open(host: &str, path: &str, session: Option<String>) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(host).await?;
        socket.set_nodelay(true)?;
        Ok(Self {
            socket,
            host: host.to_owned(),
            path: path.to_owned(),
            session,
            fields: "",
            buffer: Vec::with_capacity(1 << 16),
        })
    }

    /// Adds these header lines to every POST.
    pub(crate) fn with_fields(mut self, fields: &'static str) -> Self {
        self.fields = fields;
        self
    }

    /// The session ID, if the server has assigned one.
    pub(crate) fn session(&self) -> Option<String> {
        self.session.clone()
    }

    /// Sends `initialize` and `notifications/initialized`. Returns the response to `initialize`.
    pub(crate) async fn initialize(&mut self) -> anyhow::Result<String> {
        self.post(r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#).await?;
        let answer = String::from_utf8_lossy(&self.buffer).into_owned();
        self.post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await?;
        Ok(answer)
    }

    /// Posts a message. Returns the length of the response.
    pub(crate) async fn post(&mut self, body: &str) -> anyhow::Result<usize> {
        let fields =
            format!("{}content-type: application/json\r\ncontent-length: {}\r\n", self.fields, body.len());
        let head = self.head("POST", &fields);
        self.socket.write_all(format!("{head}{body}").as_bytes()).await?;
        self.read_answer().await
    }

    /// Whether the last response reports that the call failed.
    pub(crate) fn has_error(&self) -> bool {
        [r#""isError":true"#, r#""error":{"#]
            .iter()
            .any(|sign| memchr::memmem::find(&self.buffer, sign.as_bytes()).is_some())
    }

    /// A request head with these additional header lines.
    pub(crate) fn head(&self, method: &str, fields: &str) -> String {
        let session = self.session.as_ref().map(|id| format!("mcp-session-id: {id}\r\n")).unwrap_or_default();
        let (path, host) = (&self.path, &self.host);
        format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\naccept: application/json, text/event-stream\r\n{session}{fields}\r\n"
        )
    }

    pub(crate) fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    pub(crate) fn into_socket(self) -> TcpStream {
        self.socket
    }

    pub(crate) async fn read_answer(&mut self) -> anyhow::Result<usize> {
        self.buffer.clear();
        let head_end = loop {
            if let Some(at) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            self.fill().await?;
        };
        let head =
            String::from_utf8_lossy(self.buffer.get(..head_end).unwrap_or_default()).to_ascii_lowercase();
        if !head.starts_with("http/1.1 2") {
            bail!("{head}");
        }
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        if let Some(id) = field("mcp-session-id:") {
            // The case of a session ID matters.
            let original =
                String::from_utf8_lossy(self.buffer.get(..head_end).unwrap_or_default()).into_owned();
            self.session = original
                .lines()
                .find(|line| line.to_ascii_lowercase().contains(id))
                .and_then(|line| line.split_once(": "))
                .map(|(_, id)| id.trim().to_owned());
        }
        if let Some(length) = field("content-length:") {
            let length: usize = length.parse()?;
            while self.buffer.len() < head_end + length {
                self.fill().await?;
            }
            return Ok(length);
        }
        if field("transfer-encoding:") != Some("chunked") {
            return Ok(0);
        }
        while !self.buffer.ends_with(b"\r\n0\r\n\r\n") && self.buffer.get(head_end..) != Some(b"0\r\n\r\n") {
            self.fill().await?;
        }
        Ok(self.buffer.len() - head_end)
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        self.buffer.reserve(64 << 10);
        if self.socket.read_buf(&mut self.buffer).await? == 0 {
            bail!("the connection was closed");
        }
        Ok(())
    }
}
