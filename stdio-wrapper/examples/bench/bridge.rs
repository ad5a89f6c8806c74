//! The smallest possible bridge between HTTP and a child's pipes. It writes the body to the child unchanged and
//! returns the next line. It does not parse, check or limit anything. With the same machine, HTTP library,
//! pipes, child and load generator, no bridge can be faster.

use std::collections::VecDeque;
use std::process::Stdio;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use actix_web::{App, HttpResponse, HttpServer, web};
use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

struct Bridge {
    input: OnceLock<pipe::Sender>,
    /// The callers that are waiting for a response, in the order of their requests. The child responds in this
    /// order.
    waiting: Mutex<VecDeque<oneshot::Sender<Bytes>>>,
}

/// Serves one child on `port` with this number of threads.
pub(crate) fn serve(port: u16, workers: usize, command: &[String]) -> anyhow::Result<()> {
    let (program, arguments) = command.split_first().context("an empty command")?;
    let mut child = std::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let input = child.stdin.take().context("no input")?;
    let output = child.stdout.take().context("no output")?;
    // The pipe has the size that the wrapper uses.
    let _ = rustix::pipe::fcntl_setpipe_size(&output, 1 << 20);
    let bridge = web::Data::new(Bridge { input: OnceLock::new(), waiting: Mutex::default() });
    let pipes = Arc::new(Mutex::new(Some((input, output))));
    let server = HttpServer::new(move || {
        // Only the first thread gets the pipes.
        if let Some((input, output)) = pipes.lock().unwrap_or_else(PoisonError::into_inner).take()
            && let (Ok(input), Ok(output)) =
                (pipe::Sender::from_owned_fd(input.into()), pipe::Receiver::from_owned_fd(output.into()))
        {
            let _ = bridge.input.set(input);
            actix_web::rt::spawn(read(bridge.clone().into_inner(), output));
        }
        App::new().app_data(bridge.clone()).route("/mcp", web::post().to(handler))
    });
    let server = server.workers(workers).tcp_nodelay(true).bind(("127.0.0.1", port))?;
    actix_web::rt::System::new().block_on(server.run())?;
    child.kill()?;
    Ok(())
}

async fn handler(body: Bytes, bridge: web::Data<Bridge>) -> HttpResponse {
    let wants_answer = memchr::memmem::find(&body, b"\"id\":").is_some();
    let (sender, answer) = oneshot::channel();
    let mut line = Vec::with_capacity(body.len() + 1);
    line.extend_from_slice(&body);
    line.push(b'\n');
    {
        let mut waiting = bridge.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // The pipe has space for everything that the load generator sends at the same time.
        if !bridge.input.get().is_some_and(|input| matches!(input.try_write(&line), Ok(n) if n == line.len()))
        {
            return HttpResponse::ServiceUnavailable().finish();
        }
        if !wants_answer {
            return HttpResponse::Accepted().finish();
        }
        waiting.push_back(sender);
    }
    match answer.await {
        Ok(line) => HttpResponse::Ok().content_type("application/json").body(line),
        Err(_) => HttpResponse::BadGateway().finish(),
    }
}

async fn read(bridge: Arc<Bridge>, mut output: pipe::Receiver) {
    let mut buffer = BytesMut::new();
    let mut scanned = 0;
    loop {
        buffer.reserve(if buffer.len() < 16 << 10 { 16 << 10 } else { 1 << 20 });
        if !matches!(output.read_buf(&mut buffer).await, Ok(1..)) {
            return;
        }
        while let Some(at) = memchr::memchr(b'\n', buffer.get(scanned..).unwrap_or_default()) {
            let line = buffer.split_to(scanned + at + 1).freeze();
            scanned = 0;
            let sender = bridge.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            // If the caller has disconnected, the response is not needed.
            let _ = sender.map(|sender| sender.send(line));
        }
        scanned = buffer.len();
    }
}
