//! The operator's socket: a Unix socket with mode 0600 in `DATA_DIR`, with one line of JSON in each
//! direction.

use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::Data;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::state::AppState;

use super::{Command, Reply, Tools, run};

const NAME: &str = "operator.sock";
/// Maximum length of a command in bytes.
const MAX_LINE_LEN: u64 = 64 * 1024;
/// Time limit for receiving a command. A command is sent as soon as its connection is there.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is checked that the socket is still in its place.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Time limit for sending the reply.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum number of connections, including those that have not sent their command yet. Further ones wait to
/// be accepted.
const MAX_CONNECTIONS: usize = 256;
/// Maximum number of concurrent commands, which limits memory use. Connections without a command take no
/// place here.
const MAX_COMMANDS: usize = 16;

/// The socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The service cannot listen on the socket.
    #[error("cannot listen for operators on {path}: {source}")]
    Listen {
        /// The path of the socket.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The running service does not answer.
    #[error(
        "the store is in use, and its owner does not answer on {path}: {source}. A running auth-service makes a socket that was \
         removed anew within a few seconds. Otherwise, is another user's auth-service running there?"
    )]
    Ask {
        /// The path of the socket.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The running service took the command, and closed the connection without a reply that can be read.
    #[error(
        "the running service took the command on {path} and did not answer it: see its log. The command may have been carried out; look before you repeat it"
    )]
    NoAnswer {
        /// The path of the socket.
        path: PathBuf,
    },
}

/// Listens for operators. Only the process that holds the store is allowed to call this, because the socket
/// of a service that was killed is replaced.
fn listen(directory: &Path) -> Result<UnixListener, SocketError> {
    let path = directory.join(NAME);
    let bind = || -> std::io::Result<UnixListener> {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Only this user can enter the directory (mode 0700), so nobody can connect before the mode is set.
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    bind().map_err(|source| SocketError::Listen { path: path.clone(), source })
}

/// A listener, and what is known of its socket.
pub struct Operators {
    directory: PathBuf,
    listener: UnixListener,
    inode: Option<u64>,
}

impl Operators {
    /// Makes the socket in `directory`.
    ///
    /// # Errors
    /// If the socket cannot be made or listened to.
    pub fn listen(directory: &Path) -> Result<Self, SocketError> {
        let listener = listen(directory)?;
        Ok(Self { directory: directory.to_owned(), listener, inode: inode(directory) })
    }

    /// Makes the socket anew if it was removed or replaced, because nobody can be disabled without it.
    fn keep(&mut self) {
        if self.inode.is_some() && inode(&self.directory) == self.inode {
            return;
        }
        match Self::listen(&self.directory) {
            Ok(anew) => {
                tracing::warn!("the operator's socket was removed or replaced, and is made anew");
                *self = anew;
            }
            Err(error) => {
                tracing::error!(%error, "the operator's socket was removed, and cannot be made anew");
            }
        }
    }
}

fn inode(directory: &Path) -> Option<u64> {
    std::fs::symlink_metadata(directory.join(NAME)).ok().map(|socket| socket.ino())
}

/// Answers operators until the service ends.
pub async fn serve(mut operators: Operators, state: Data<AppState>) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let commands = Arc::new(Semaphore::new(MAX_COMMANDS));
    // The semaphore is never closed, so acquiring does not fail.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let accepted = loop {
            tokio::select! {
                accepted = operators.listener.accept() => break accepted,
                _ = looks.tick() => operators.keep(),
            }
        };
        match accepted {
            Ok((stream, _)) => {
                let (state, commands) = (state.clone(), Arc::clone(&commands));
                tokio::spawn(async move {
                    let _place = place;
                    if answer(stream, &commands, &state).await.is_err() {
                        tracing::warn!("an operator's command was interrupted");
                    }
                });
            }
            Err(error) => {
                tracing::error!(%error, "the operator's socket failed");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, commands: &Semaphore, state: &AppState) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut received = BufReader::new(read.take(MAX_LINE_LEN));
    tokio::time::timeout(RECEIVE_TIMEOUT, received.read_line(&mut line)).await??;
    let _turn = commands.acquire().await.map_err(std::io::Error::other)?;
    let reply = match serde_json::from_str::<Command>(&line) {
        Ok(command) => {
            let budget = command.budget();
            let reply = tokio::time::timeout(budget, run(command, &tools(state))).await;
            if matches!(reply, Ok(Ok(Reply::Keys(_)))) {
                // The service uses the changed keys before the operator gets the reply.
                state.follow_keys().await;
            }
            match reply {
                Ok(reply) => reply.unwrap_or_else(|error| Reply::Refused(error.to_string())),
                Err(_) => Reply::Refused(format!(
                    "the running service did not finish the command within {} seconds; look at /ready and its log, and whether it was carried out, before you repeat it",
                    budget.as_secs()
                )),
            }
        }
        Err(error) => Reply::Refused(format!(
            "the running service does not know this command; is it of another release? {error}"
        )),
    };
    let mut text = serde_json::to_vec(&reply)?;
    text.push(b'\n');
    tokio::time::timeout(SEND_TIMEOUT, write.write_all(&text)).await?
}

fn tools(state: &AppState) -> Tools<'_> {
    Tools {
        store: state.store.as_ref(),
        passwords: &state.passwords,
        rotation: state.config.signing,
        random: state.random(),
        now: state.now(),
        progress: &|_| {},
    }
}

/// Whether a running service listens in `directory`. Its store can be another file than the one that is there
/// now, so this has to be asked before that file is opened.
pub async fn is_served(directory: &Path) -> bool {
    UnixStream::connect(directory.join(NAME)).await.is_ok()
}

/// Sends a command to the service that holds the store in `directory`, and returns its reply.
pub async fn ask(directory: &Path, command: &Command) -> Result<Reply, SocketError> {
    let path = directory.join(NAME);
    let exchange = async {
        let mut stream = UnixStream::connect(&path).await?;
        let mut text = serde_json::to_vec(command)?;
        text.push(b'\n');
        stream.write_all(&text).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(answer)
    };
    let answered = tokio::time::timeout(command.budget() + SEND_TIMEOUT, exchange)
        .await
        .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
    let answer = answered.map_err(|source| SocketError::Ask { path: path.clone(), source })?;
    serde_json::from_slice(&answer).map_err(|_| SocketError::NoAnswer { path })
}
