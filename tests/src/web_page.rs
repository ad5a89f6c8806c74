//! Shows a web page in headless Chromium, and serves the page.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use url::Url;

use crate::browser::{Person, authorize};
use crate::process::{Process, clean_command};

/// Time limit for a page. Chromium starts slowly when many tests start it at the same time.
const MAX_WAIT: Duration = Duration::from_secs(90);

/// The path of Chromium, or an error if it is not in `PATH`.
pub fn chromium() -> Result<PathBuf> {
    on_path(&["chromium", "chromium-browser", "google-chrome"])
}

/// The path of Firefox, or an error if it is not in `PATH`.
pub fn firefox() -> Result<PathBuf> {
    on_path(&["firefox", "firefox-esr"])
}

/// Finds a program in `PATH` under one of these names. The first name is also its name in `scripts/tools`.
fn on_path(names: &[&str]) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").context("there is no PATH")?;
    let mut found = std::env::split_paths(&path).flat_map(|dir| names.iter().map(move |name| dir.join(name)));
    let missing =
        || format!("there is no {0} on the PATH (`scripts/tools {0}`)", names.first().unwrap_or(&""));
    found.find(|program| program.is_file()).with_context(missing)
}

/// Shows `html` with the server's URL in `?mcp=`, from its own origin. Returns the JSON that the page posts
/// to `/seen`.
///
/// The page can post an authorization URL to `/person`. `person` then logs in and consents, and the response is
/// the URL at the page's own `/callback` to which the issuer redirects.
pub async fn show(html: &str, mcp: &str, person: &Person) -> Result<Value> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let origin = format!("http://{}", listener.local_addr()?);
    let url = Url::parse_with_params(&origin, [("mcp", mcp)])?;
    let home = TempDir::new()?;
    let profile = format!("--user-data-dir={}", home.path().display());
    let mut command = clean_command(chromium()?);
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
    ]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    command.args([&profile, "--remote-debugging-port=0", url.as_str()]).env("HOME", home.path());
    let chromium = Process::start("chromium", &mut command, home.path());
    let seen = timeout(MAX_WAIT, serve(&listener, html, &format!("{origin}/callback"), person)).await;
    seen.with_context(|| format!("the page posted nothing within {MAX_WAIT:?}\n{}", chromium.log_tail()))?
}

/// Handles one request per connection, until the page posts its result.
async fn serve(listener: &TcpListener, html: &str, callback: &str, person: &Person) -> Result<Value> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        // A browser opens connections for later use, and sends nothing on them at first.
        let Ok(Ok((line, body))) = timeout(Duration::from_secs(5), request(&mut stream)).await else {
            continue;
        };
        let (kind, answer) = if line.starts_with("POST /seen ") {
            answer(&mut stream, "text/plain", "").await?;
            return serde_json::from_str(&body).context("the result of the page is not JSON");
        } else if line.starts_with("POST /person ") {
            ("text/plain", authorize(Url::parse(&body)?, callback, person).await?.to_string())
        } else {
            ("text/html", html.to_owned())
        };
        self::answer(&mut stream, kind, &answer).await?;
    }
}

async fn request(stream: &mut TcpStream) -> Result<(String, String)> {
    let (mut received, mut buffer) = (String::new(), vec![0; 16 * 1024]);
    loop {
        if let Some((head, body)) = received.split_once("\r\n\r\n") {
            let length = head
                .to_ascii_lowercase()
                .lines()
                .find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
            if body.len() >= length.unwrap_or(0) {
                return Ok((head.lines().next().unwrap_or_default().to_owned(), body.to_owned()));
            }
        }
        let count = stream.read(&mut buffer).await?;
        anyhow::ensure!(count > 0, "the browser closed the connection");
        received.push_str(std::str::from_utf8(buffer.get(..count).unwrap_or_default())?);
    }
}

async fn answer(stream: &mut TcpStream, kind: &str, body: &str) -> Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    Ok(stream.shutdown().await?)
}
