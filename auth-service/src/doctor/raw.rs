//! Sends requests that no HTTP library would send, byte by byte.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::rustls::pki_types::ServerName;

use super::network::Target;

/// Maximum number of bytes to read, which is enough for the head of a response.
const MAX_RESPONSE_SIZE: u64 = 64 * 1024;

/// The status and the challenge of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProbeResponse {
    pub(super) status: u16,
    pub(super) challenge: Option<String>,
}

/// The outcome of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// The service has sent a response.
    Answered(ProbeResponse),
    /// The connection failed, or was closed without a response.
    HungUp,
    /// There was no response in time, so the outcome of the request is unknown.
    Silent,
}

/// Sends `bytes` and reads the head of the response.
pub(super) async fn send(target: &Target, bytes: &[u8]) -> Reply {
    let exchange = async {
        let stream = target.dial().await.ok()?;
        match &target.tls {
            None => talk(stream, bytes).await,
            Some(connector) => {
                let name = ServerName::try_from(target.host.trim_matches(['[', ']']).to_owned()).ok()?;
                talk(connector.connect(name, stream).await.ok()?, bytes).await
            }
        }
    };
    match tokio::time::timeout(target.patience, exchange).await {
        Ok(Some(told)) => Reply::Answered(told),
        Ok(None) => Reply::HungUp,
        Err(_) => Reply::Silent,
    }
}

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> Option<ProbeResponse> {
    stream.write_all(bytes).await.ok()?;
    let mut answer = Vec::new();
    let mut limited = stream.take(MAX_RESPONSE_SIZE);
    // The body is not needed, and could be an endless stream.
    while !answer.windows(4).any(|window| window == b"\r\n\r\n") {
        if limited.read_buf(&mut answer).await.unwrap_or(0) == 0 {
            break;
        }
    }
    read(&String::from_utf8_lossy(&answer))
}

fn read(answer: &str) -> Option<ProbeResponse> {
    let head = answer.split("\r\n\r\n").next()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/")?.split(' ').nth(1)?.parse().ok()?;
    let challenge = lines.filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("www-authenticate").then(|| value.trim().to_owned())
    });
    Some(ProbeResponse { status, challenge })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_an_answer_is_read() {
        let told = read("HTTP/1.1 401 Unauthorized\r\nwww-Authenticate: Bearer x\r\n\r\nbody").unwrap();
        assert_eq!(told, ProbeResponse { status: 401, challenge: Some("Bearer x".to_owned()) });
        assert_eq!(read("HTTP/1.0 400 Bad\r\n\r\n").unwrap().status, 400);
        assert_eq!(read(""), None);
        assert_eq!(read("SSH-2.0\r\n"), None);
    }
}
