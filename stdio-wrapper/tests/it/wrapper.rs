//! Starts the wrapper for a test, and provides an MCP client for it.

use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

/// The test server in Python.
pub(crate) const CHILD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/children/child.py");

/// Makes the wrapper log every line from a child's standard error. Otherwise, the wrapper treats the lines before
/// the child's first response as a banner and logs only a few of them. On a busy machine, the banner can include
/// lines that the child wrote later.
pub(crate) const EVERY_LINE: &str = "--log=stdio_wrapper=debug";

const PROGRAM: &str = env!("CARGO_BIN_EXE_stdio-wrapper");

/// A running wrapper, which is stopped when this value is dropped.
pub(crate) struct Wrapper {
    process: Child,
    pub(crate) address: String,
    pub(crate) ops: String,
    log: Arc<Mutex<Vec<String>>>,
    http: reqwest::Client,
}

impl Wrapper {
    /// Starts a wrapper with these options in front of the test child with these flags.
    pub(crate) async fn start(options: &[&str], child: &[&str]) -> Self {
        let command = [&["python3", CHILD], child].concat();
        Self::run(options, &command, &[]).await
    }

    /// Starts a wrapper in front of this command, with these additional environment variables.
    pub(crate) async fn run(options: &[&str], command: &[&str], env: &[(&str, &str)]) -> Self {
        Self::launch(Command::new(PROGRAM), options, command, env).await
    }

    /// Starts a wrapper in the control groups with these `cgroup.procs` files.
    pub(crate) async fn inside(entries: &[std::path::PathBuf], options: &[&str], command: &[&str]) -> Self {
        let mut process = Command::new("sh");
        let enter: Vec<String> =
            entries.iter().map(|entry| format!("echo $$ > {}", entry.display())).collect();
        process.args(["-c", &format!("{} && exec \"$0\" \"$@\"", enter.join(" && ")), PROGRAM]);
        Self::launch(process, options, command, &[]).await
    }

    /// Starts a wrapper with this soft limit on open files, which the wrapper can raise.
    pub(crate) async fn with_files(files: u32) -> Self {
        let mut process = Command::new("sh");
        process.args(["-c", &format!("ulimit -S -n {files} && exec \"$0\" \"$@\""), PROGRAM]);
        Self::launch(process, &[], &["python3", CHILD], &[]).await
    }

    /// Starts a wrapper as a user without privileges, even if root runs the tests.
    pub(crate) async fn unprivileged(options: &[&str], command: &[&str]) -> Self {
        Self::as_user(65_534, options, command).await
    }

    /// Starts a wrapper as this user, if root runs the tests.
    pub(crate) async fn as_user(user: u32, options: &[&str], command: &[&str]) -> Self {
        use std::os::unix::process::CommandExt as _;
        let mut process = Command::new(PROGRAM);
        if rustix::process::getuid().is_root() {
            // Root opens the program, because the other user might not be able to reach it.
            let program = std::fs::File::open(PROGRAM).unwrap();
            rustix::io::fcntl_setfd(&program, rustix::io::FdFlags::empty()).unwrap();
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&program));
            process = Command::new(path);
            process.uid(user);
            return Self::launch(process, options, command, &[]).await;
        }
        Self::launch(process, options, command, &[]).await
    }

    /// Like [`Self::unprivileged`], with this limit on open files.
    pub(crate) async fn unprivileged_with_files(files: u32, options: &[&str], command: &[&str]) -> Self {
        use std::os::unix::process::CommandExt as _;
        let program = std::fs::File::open(PROGRAM).unwrap();
        rustix::io::fcntl_setfd(&program, rustix::io::FdFlags::empty()).unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&program));
        let mut process = Command::new("sh");
        process.args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\""), &path]);
        if rustix::process::getuid().is_root() {
            process.uid(65_534);
        }
        Self::launch(process, options, command, &[]).await
    }

    async fn launch(mut process: Command, options: &[&str], command: &[&str], env: &[(&str, &str)]) -> Self {
        process.args([
            "--listen=127.0.0.1:0",
            "--ops-listen=127.0.0.1:0",
            "--log-format=json",
            "--stop-grace=500ms",
            // With the default, some responses would be event streams on a busy machine.
            "--stream-after=2s",
        ]);
        process.args(options).arg("--").args(command).envs(env.iter().copied());
        let mut process =
            process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = follow(process.stderr.take().unwrap());
        let mut wrapper =
            Self { process, address: String::new(), ops: String::new(), log, http: reqwest::Client::new() };
        wrapper.ops = wrapper.address_of("health, readiness and metrics").await;
        wrapper.address = wrapper.address_of("serving").await;
        wrapper
    }

    async fn address_of(&self, message: &str) -> String {
        let line = self.logged(message).await;
        let event: Value = serde_json::from_str(&line).unwrap();
        event["fields"]["address"].as_str().unwrap().to_owned()
    }

    /// Waits for a log line with this text, and returns the first one.
    pub(crate) async fn logged(&self, text: &str) -> String {
        for _ in 0..200 {
            if let Some(line) = self.log().into_iter().find(|line| line.contains(text)) {
                return line;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("`{text}` was not logged; the log: {:#?}", self.log());
    }

    /// All lines that have been logged so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Stops reading the log until the returned value is dropped, so that the pipe of standard error fills up.
    pub(crate) fn unread_log(&self) -> mpsc::Sender<()> {
        let log = Arc::clone(&self.log);
        let (begun, is_held) = mpsc::channel();
        let (go_on, end) = mpsc::channel();
        std::thread::spawn(move || {
            // The thread that reads the log waits for this lock.
            let _held = log.lock().unwrap();
            begun.send(()).unwrap();
            // Receiving fails when the sender is dropped.
            let _ = end.recv();
        });
        is_held.recv().unwrap();
        go_on
    }

    /// A client without a session.
    pub(crate) fn client(&self) -> Client {
        Client {
            http: self.http.clone(),
            url: format!("http://{}/mcp", self.address),
            session: None,
            headers: Vec::new(),
            server_pid: 0,
        }
    }

    /// A client with an open session of the newest revision with sessions.
    pub(crate) async fn session(&self) -> Client {
        self.client().initialize("2025-11-25").await
    }

    /// Like [`Self::session`], but on a connection that no other client uses.
    pub(crate) async fn session_of_its_own(&self) -> Client {
        Client { http: reqwest::Client::new(), ..self.client() }.initialize("2025-11-25").await
    }

    /// The value of a metric.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let text =
            self.http.get(format!("http://{}/metrics", self.ops)).send().await.unwrap().text().await.unwrap();
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        let line = line.unwrap_or_else(|| panic!("{name} is missing in {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until a metric has this value.
    pub(crate) async fn metric_becomes(&self, name: &str, wanted: u64) {
        let mut last = 0;
        for _ in 0..400 {
            last = self.metric(name).await;
            if last == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{name} is {last} instead of {wanted}");
    }

    /// Waits until a metric has at least this value.
    pub(crate) async fn metric_at_least(&self, name: &str, wanted: u64) {
        for _ in 0..400 {
            if self.metric(name).await >= wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{name} did not reach {wanted}");
    }

    /// The status of a GET on the operator's listener.
    pub(crate) async fn ops_status(&self, path: &str) -> u16 {
        self.http.get(format!("http://{}{path}", self.ops)).send().await.unwrap().status().as_u16()
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).unwrap()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Sends SIGTERM and waits until the process exits. Returns the exit code, and how long that took.
    pub(crate) async fn terminate(mut self) -> (Option<i32>, Duration) {
        let start = Instant::now();
        self.signal(rustix::process::Signal::TERM);
        while start.elapsed() < Duration::from_secs(20) {
            if let Some(status) = self.process.try_wait().unwrap() {
                return (status.code(), start.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the wrapper did not exit");
    }
}

impl Drop for Wrapper {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.pid())
            && self.process.try_wait().unwrap().is_none()
        {
            // The process might have exited since `try_wait`.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            for _ in 0..200 {
                if self.process.try_wait().unwrap().is_some() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

fn follow(stderr: std::process::ChildStderr) -> Arc<Mutex<Vec<String>>> {
    use std::io::BufRead as _;
    let log = Arc::new(Mutex::new(Vec::new()));
    let lines = Arc::clone(&log);
    std::thread::spawn(move || {
        for line in std::io::BufReader::new(stderr).lines().map_while(Result::ok) {
            lines.lock().unwrap().push(line);
        }
    });
    log
}

/// An MCP client that can also send messages that the specification forbids.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) http: reqwest::Client,
    pub(crate) url: String,
    pub(crate) session: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    /// The process id of the test child, which the child reports as its version in the response to `initialize`.
    pub(crate) server_pid: i32,
}

impl Client {
    pub(crate) fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn request(&self, method: Method) -> RequestBuilder {
        let mut request = self.http.request(method, &self.url).timeout(Duration::from_secs(60));
        if let Some(session) = &self.session {
            request = request.header("mcp-session-id", session);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request
    }

    pub(crate) async fn post(&self, body: impl Into<String>) -> Response {
        let request = self.request(Method::POST).header("content-type", "application/json");
        request
            .header("accept", "application/json, text/event-stream")
            .body(body.into())
            .send()
            .await
            .unwrap()
    }

    /// Opens a GET stream. With `last`, resumes the stream after this event.
    pub(crate) async fn get(&self, last: Option<&str>) -> Response {
        let mut request = self.request(Method::GET).header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        request.send().await.unwrap()
    }

    pub(crate) async fn delete(&self) -> u16 {
        self.request(Method::DELETE).send().await.unwrap().status().as_u16()
    }

    pub(crate) async fn try_initialize(&self, version: &str) -> Response {
        let params = json!({"protocolVersion": version, "capabilities": {"sampling": {}}, "clientInfo": {"name": "test", "version": "1"}});
        self.post(json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}).to_string())
            .await
    }

    pub(crate) async fn initialize(mut self, version: &str) -> Self {
        let response = self.try_initialize(version).await;
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
        self.session = Some(response.headers()["mcp-session-id"].to_str().unwrap().to_owned());
        let answer = answer_of(response).await;
        let version = answer["result"]["serverInfo"]["version"].as_str().unwrap_or_default();
        self.server_pid = version.parse().unwrap_or_default();
        let noted =
            self.post(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string()).await;
        assert_eq!(noted.status(), 202);
        self
    }

    /// Calls a tool of the test child with id 1, and returns the whole response.
    pub(crate) async fn call(&self, tool: &str, arguments: Value) -> Value {
        answer_of(self.post(call(1, tool, arguments)).await).await
    }

    /// Calls a tool, and returns the text of its result.
    pub(crate) async fn text(&self, tool: &str, arguments: Value) -> String {
        let answer = self.call(tool, arguments).await;
        let text = answer["result"]["content"][0]["text"].as_str();
        text.unwrap_or_else(|| panic!("no text in {answer}")).to_owned()
    }

    pub(crate) async fn status_of_ping(&self) -> u16 {
        self.post(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).await.status().as_u16()
    }
}

/// The text of a `tools/call` message.
pub(crate) fn call(id: impl Into<Value>, tool: &str, arguments: Value) -> String {
    let params = json!({"name": tool, "arguments": arguments});
    json!({"jsonrpc": "2.0", "id": id.into(), "method": "tools/call", "params": params}).to_string()
}

/// The JSON-RPC response in an HTTP response, which is JSON or an event stream.
pub(crate) async fn answer_of(response: Response) -> Value {
    let is_events = response.headers()["content-type"] == "text/event-stream";
    if !is_events {
        let text = response.text().await.unwrap();
        return serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}"));
    }
    let events = Events::new(response).rest().await;
    let answer = events.iter().find(|event| event.data.get("result").or(event.data.get("error")).is_some());
    answer.unwrap_or_else(|| panic!("no answer in {events:?}")).data.clone()
}

/// One event of an event stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) retry: Option<u64>,
    /// The data as JSON, or `Null` if there is none.
    pub(crate) data: Value,
}

/// The events of a response, one after another.
pub(crate) struct Events {
    response: Response,
    buffer: String,
}

impl Events {
    pub(crate) fn new(response: Response) -> Self {
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, buffer: String::new() }
    }

    /// Returns the next event and skips comments.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((text, rest)) =
                self.buffer.split_once("\n\n").map(|(a, b)| (a.to_owned(), b.to_owned()))
            {
                self.buffer = rest;
                if !text.starts_with(':') {
                    return Some(parse(&text));
                }
            }
            let piece = self.response.chunk().await.ok()??;
            self.buffer.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }

    /// Returns all events until the stream ends.
    pub(crate) async fn rest(mut self) -> Vec<Event> {
        let mut all = Vec::new();
        while let Some(event) = self.next().await {
            all.push(event);
        }
        all
    }
}

fn parse(text: &str) -> Event {
    let field = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
    };
    let data = field("data:").unwrap_or_default();
    Event {
        id: field("id:"),
        name: field("event:"),
        retry: field("retry:").and_then(|text| text.parse().ok()),
        data: serde_json::from_str(&data).unwrap_or(if data.is_empty() {
            Value::Null
        } else {
            Value::String(data)
        }),
    }
}

/// Whether a process exists and is not a zombie.
pub(crate) fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z')))
}

/// Waits until a process has exited.
pub(crate) async fn gone(pid: i32) {
    for _ in 0..400 {
        if !is_alive(pid) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("process {pid} has not exited");
}

impl Client {
    /// Sends another `initialize` without the session id. Returns the status.
    pub(crate) async fn try_initialize_again(mut self) -> u16 {
        self.session = None;
        self.try_initialize("2025-11-25").await.status().as_u16()
    }
}
