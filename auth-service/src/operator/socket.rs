//! The operator's socket: a Unix socket with mode 0600 in `DATA_DIR`. A connection carries one command and its
//! reply, each as one line of JSON.

use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::Data;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::state::AppState;

use super::{Command, Reply, Tools, run};

const NAME: &str = "operator.sock";
/// Maximum length of a command in bytes.
const MAX_LINE_LEN: u64 = 64 * 1024;
/// Time limit for receiving a command. A client sends its command immediately after it has connected.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the service checks that the socket still exists.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Time limit for sending the reply.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum number of connections, including those without a command yet. Further connections wait to be accepted.
const MAX_CONNECTIONS: usize = 256;
/// Maximum number of concurrent commands, which limits memory use. Connections without a command do not count.
const MAX_COMMANDS: usize = 16;

/// Why the operator's socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The service cannot listen on the socket.
    #[error("cannot listen for operators on {path}: {source}")]
    Listen {
        /// The path of the socket.
        path: PathBuf,
        /// The error from the operating system.
        source: std::io::Error,
    },
    /// The running service does not respond.
    #[error(
        "the store is in use, but no auth-service responds on {path}: {source}. Another command, such as a backup, \
         might have the store open: try again when it has ended. If auth-service is running there, try again as the \
         user that it runs as; if its socket was removed, it creates a new one within a few seconds"
    )]
    Ask {
        /// The path of the socket.
        path: PathBuf,
        /// The error from the operating system.
        source: std::io::Error,
    },
    /// The running service accepted the command, but closed the connection without a readable reply.
    #[error(
        "the running service accepted the command on {path} but sent no reply: see its log. The command might have been executed, so check this before you repeat it"
    )]
    NoAnswer {
        /// The path of the socket.
        path: PathBuf,
    },
}

/// Listens on the socket, and replaces an existing one, which a killed service leaves behind. Therefore, only the
/// process that has the store open can call this.
fn listen(directory: &Path) -> Result<UnixListener, SocketError> {
    let path = directory.join(NAME);
    let bind = || -> std::io::Result<UnixListener> {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Only this Unix user can enter the directory (mode 0700), so no other user can connect before the mode is
        // set.
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    bind().map_err(|source| SocketError::Listen { path: path.clone(), source })
}

/// The listener on the operator's socket.
pub struct Operators {
    directory: PathBuf,
    listener: UnixListener,
    inode: Option<u64>,
}

impl Operators {
    /// Creates the socket in `directory`.
    ///
    /// # Errors
    /// Fails if the service cannot listen on the socket.
    pub fn listen(directory: &Path) -> Result<Self, SocketError> {
        let listener = listen(directory)?;
        Ok(Self { directory: directory.to_owned(), listener, inode: inode(directory) })
    }

    /// Creates the socket again if it has been removed or replaced. Without it, an operator could not disable an
    /// account.
    fn keep(&mut self) {
        if self.inode.is_some() && inode(&self.directory) == self.inode {
            return;
        }
        match Self::listen(&self.directory) {
            Ok(anew) => {
                tracing::warn!("the operator's socket was removed or replaced, and was created again");
                *self = anew;
            }
            Err(error) => {
                tracing::error!(%error, "the operator's socket was removed, and cannot be created again");
            }
        }
    }
}

fn inode(directory: &Path) -> Option<u64> {
    std::fs::symlink_metadata(directory.join(NAME)).ok().map(|socket| socket.ino())
}

/// Executes commands and sends the replies until the service stops.
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
    let Some(line) = command_in(read).await? else { return Ok(()) };
    let _turn = commands.acquire().await.map_err(std::io::Error::other)?;
    let reply = match serde_json::from_str::<Command>(&line) {
        Ok(command) => {
            let budget = command.budget();
            let reply = tokio::time::timeout(budget, run(command, &tools(state))).await;
            if matches!(reply, Ok(Ok(Reply::Keys(_)))) {
                // The service must use the changed keys before the operator receives the reply.
                state.follow_keys().await;
            }
            match reply {
                Ok(reply) => reply.unwrap_or_else(|error| Reply::Refused(error.to_string())),
                Err(_) => Reply::Refused(format!(
                    "the running service did not finish the command within {} seconds; see /ready and its log, and check whether the command was executed before you repeat it",
                    budget.as_secs()
                )),
            }
        }
        Err(error) => Reply::Refused(format!(
            "the running service does not know this command, perhaps because it is another version: {error}"
        )),
    };
    let mut text = serde_json::to_vec(&reply)?;
    text.push(b'\n');
    tokio::time::timeout(SEND_TIMEOUT, write.write_all(&text)).await?
}

/// The line with the command. It is `None` if the other side closes the connection without one, as
/// [`is_served`] does.
async fn command_in(read: impl AsyncRead + Unpin) -> std::io::Result<Option<String>> {
    let mut line = String::new();
    let mut received = BufReader::new(read.take(MAX_LINE_LEN));
    let length = tokio::time::timeout(RECEIVE_TIMEOUT, received.read_line(&mut line)).await??;
    Ok((length > 0).then_some(line))
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

/// Whether a running service listens in `directory`. Its store might have been replaced by another file, so this
/// must be checked before the file is opened.
pub async fn is_served(directory: &Path) -> bool {
    UnixStream::connect(directory.join(NAME)).await.is_ok()
}

/// Sends a command to the service that has the store in `directory` open, and returns its reply.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn somebody_who_only_looks_whether_the_service_runs_is_no_interrupted_command() {
        let (read, other) = tokio::io::duplex(100);
        drop(other);
        assert_eq!(command_in(read).await.unwrap(), None);
        let (read, mut other) = tokio::io::duplex(100);
        other.write_all(b"command\n").await.unwrap();
        assert_eq!(command_in(read).await.unwrap().as_deref(), Some("command\n"));
    }
}
