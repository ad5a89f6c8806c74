//! HTTP as bytes on a socket, for requests that no HTTP library would send unchanged.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// Time limit for the first response.
const PATIENCE: Duration = Duration::from_secs(4);
/// Time limit for each further response.
const MORE: Duration = Duration::from_millis(500);

/// An HTTP/1.1 response, as it was read from the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawAnswer {
    /// The HTTP status code, such as 401.
    pub status: u16,
    /// The status line and the headers.
    pub head: String,
    /// The body, without the framing of chunks.
    pub body: String,
}

impl RawAnswer {
    /// All values of a header.
    pub fn values(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }
}

/// A complete request head with exactly these headers.
pub fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> String {
    let mut text = format!("{method} {target} HTTP/1.1\r\n");
    for (name, value) in headers {
        text.extend([*name, ": ", *value, "\r\n"]);
    }
    text + "\r\n"
}

/// Sends bytes to a loopback port. Reads at most `most` responses, until the connection ends or no more data
/// arrives.
pub async fn talk(port: u16, bytes: &[u8], most: usize) -> Vec<RawAnswer> {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else {
        return Vec::new();
    };
    // A proxy that refuses a request can close the connection before the whole request is sent.
    stream.write_all(bytes).await.ok();
    let mut deadline = Instant::now() + PATIENCE;
    let (mut received, mut answers) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; 16 * 1024];
    loop {
        while let Some((answer, length)) = parsed(&received) {
            received.drain(..length);
            if answer.status >= 200 || answer.status == 101 {
                answers.push(answer);
                deadline = Instant::now() + MORE;
            }
        }
        if answers.len() >= most {
            return answers;
        }
        match timeout_at(deadline, stream.read(&mut buffer)).await {
            Ok(Ok(count)) if count > 0 => received.extend_from_slice(&buffer[..count]),
            _ => break,
        }
    }
    // The body of the last response ends with the connection, or the response was cut off.
    if let Some(end) = end_of_head(&received) {
        let head = String::from_utf8_lossy(&received[..end]).into_owned();
        if let Some(status) = status(&head) {
            let body = String::from_utf8_lossy(&received[end..]).into_owned();
            answers.push(RawAnswer { status, head, body });
        }
    }
    answers
}

/// Sends one request with [`talk`]. Returns the response, if there is one.
pub async fn ask(port: u16, method: &str, target: &str, headers: &[(&str, &str)]) -> Option<RawAnswer> {
    talk(port, head(method, target, headers).as_bytes(), 1).await.into_iter().next()
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

fn status(head: &str) -> Option<u16> {
    head.split(' ').nth(1)?.get(..3)?.parse().ok()
}

/// The complete response at the start of these bytes, and its length.
pub(crate) fn parsed(bytes: &[u8]) -> Option<(RawAnswer, usize)> {
    let end = end_of_head(bytes)?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = status(&head)?;
    let mut answer = RawAnswer { status, head, body: String::new() };
    if status < 200 || status == 204 || status == 304 {
        return Some((answer, end));
    }
    if let Some(length) =
        answer.values("content-length").first().and_then(|length| length.parse::<usize>().ok())
    {
        let body = bytes.get(end..end + length)?;
        answer.body = String::from_utf8_lossy(body).into_owned();
        return Some((answer, end + length));
    }
    if !answer.values("transfer-encoding").contains(&"chunked") {
        return None;
    }
    let mut at = end;
    loop {
        let rest = bytes.get(at..)?;
        let line = rest.windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?.trim(), 16).ok()?;
        let chunk = rest.get(line + 2..line + 2 + size + 2)?;
        at += line + 2 + size + 2;
        if size == 0 {
            return Some((answer, at));
        }
        answer.body.push_str(&String::from_utf8_lossy(&chunk[..size]));
    }
}
