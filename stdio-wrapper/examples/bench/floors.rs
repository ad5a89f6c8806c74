//! The compiled echo child and the bare handler that the wrapper is compared with.

use std::io::{BufRead as _, BufReader, BufWriter, Write as _};

use actix_web::{App, HttpResponse, HttpServer, web};
use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: Option<&'a str>,
    #[serde(borrow)]
    params: Option<Params<'a>>,
}

#[derive(Deserialize)]
struct Params<'a> {
    arguments: Option<Arguments>,
    #[serde(rename = "protocolVersion")]
    version: Option<&'a str>,
}

#[derive(Deserialize)]
struct Arguments {
    size: Option<usize>,
}

/// Responds to every request from a stdio client, and to `tools/call` with the requested number of bytes of text.
/// It supports either the revisions with sessions or the stateless one.
pub(crate) fn echo(is_stateless: bool) -> anyhow::Result<()> {
    let mut input = BufReader::with_capacity(64 << 10, std::io::stdin().lock());
    let mut output = BufWriter::with_capacity(64 << 10, std::io::stdout().lock());
    let mut line = String::new();
    let filling = "x".repeat(1 << 20);
    while input.read_line(&mut line)? > 0 {
        let message: Message<'_> = serde_json::from_str(&line)?;
        if let Some(id) = message.id {
            match is_stateless.then(|| stateless(&message)).flatten() {
                Some(answer) => writeln!(output, r#"{{"jsonrpc":"2.0","id":{},{answer}}}"#, id.get())?,
                None => answer(&mut output, id.get(), &message, is_stateless, &filling)?,
            }
        }
        line.clear();
        if input.buffer().is_empty() {
            output.flush()?;
        }
    }
    Ok(())
}

/// A stateless server's response to every message that is not a call.
fn stateless(message: &Message<'_>) -> Option<&'static str> {
    match message.method? {
        "tools/call" => None,
        "server/discover" => Some(
            r#""result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":0,"cacheScope":"private"}"#,
        ),
        "tools/list" => {
            Some(r#""result":{"resultType":"complete","tools":[],"ttlMs":0,"cacheScope":"private"}"#)
        }
        "initialize" => Some(
            r#""error":{"code":-32022,"message":"stateless","data":{"supported":["2026-07-28"],"requested":"2025-11-25"}}"#,
        ),
        _ => Some(r#""error":{"code":-32601,"message":"unknown"}"#),
    }
}

fn answer(
    output: &mut impl std::io::Write,
    id: &str,
    message: &Message<'_>,
    is_stateless: bool,
    filling: &str,
) -> std::io::Result<()> {
    let params = message.params.as_ref();
    if message.method == Some("initialize") {
        let version = params.and_then(|params| params.version).unwrap_or("2025-11-25");
        return writeln!(
            output,
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"protocolVersion":"{version}","capabilities":{{"tools":{{}}}},"serverInfo":{{"name":"echo","version":"{}"}}}}}}"#,
            std::process::id()
        );
    }
    if message.method == Some("tools/list") {
        let tools = r#"{"tools":[{"name":"echo","inputSchema":{"type":"object"}}]}"#;
        return writeln!(output, r#"{{"jsonrpc":"2.0","id":{id},"result":{tools}}}"#);
    }
    if message.method == Some("ping") {
        return writeln!(output, r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
    }
    let size = params
        .and_then(|params| params.arguments.as_ref())
        .and_then(|arguments| arguments.size)
        .unwrap_or(100);
    let text = filling.get(..size.min(filling.len())).unwrap_or_default();
    let kind = if is_stateless { r#""resultType":"complete","# } else { "" };
    writeln!(
        output,
        r#"{{"jsonrpc":"2.0","id":{id},"result":{{{kind}"content":[{{"type":"text","text":"{text}"}}]}}}}"#
    )
}

/// Responds to each POST with the bytes that the echo child would send, and does nothing else.
pub(crate) fn bare(port: u16) -> anyhow::Result<()> {
    let filling = "x".repeat(1 << 20);
    let small = web::Data::new([body(filling.get(..100)), body(filling.get(..1_000_000))]);
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let server =
        HttpServer::new(move || App::new().app_data(small.clone()).route("/mcp", web::post().to(handler)));
    actix_web::rt::System::new().block_on(server.workers(workers).bind(("127.0.0.1", port))?.run())?;
    Ok(())
}

fn body(text: Option<&str>) -> bytes::Bytes {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"result":{{"content":[{{"type":"text","text":"{}"}}]}}}}"#,
        text.unwrap_or_default()
    )
    .into()
}

async fn handler(request: bytes::Bytes, bodies: web::Data<[bytes::Bytes; 2]>) -> HttpResponse {
    let is_large = memchr::memmem::find(&request, b"1000000").is_some();
    let [small, large] = bodies.get_ref();
    HttpResponse::Ok().content_type("application/json").body(if is_large {
        large.clone()
    } else {
        small.clone()
    })
}
