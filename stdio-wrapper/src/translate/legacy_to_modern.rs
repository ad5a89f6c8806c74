//! Presents a stateless server as one with sessions. The wrapper keeps the session state, sends the server's
//! questions to the client as requests, and receives the messages for the GET stream from a subscription.

mod listen;
mod peer;
mod rounds;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::results::{MAX_GREETING, capabilities_for_modern, tree};
use crate::child::Placeholders;
use crate::legacy::{Session, Sessions, TranslatedServer};
use crate::modern::{SERVER_INFO, Servers};
use crate::protocol::{Message, Outgoing, Text, Version, members, object, peek_requested_version, string};
use peer::Peer;

/// The translation for clients with sessions.
pub struct LegacyToModern {
    sessions: Arc<Sessions>,
    servers: Arc<Servers>,
    /// Whether the server is known to refuse the handshake.
    is_needed: AtomicBool,
}

impl LegacyToModern {
    /// Creates a translation without any sessions.
    pub fn new(sessions: Arc<Sessions>, servers: Arc<Servers>) -> Arc<Self> {
        Arc::new(Self { sessions, servers, is_needed: AtomicBool::new(false) })
    }

    /// Whether the server has already refused the handshake, so that another attempt would only take time.
    pub fn is_needed(&self) -> bool {
        self.is_needed.load(Ordering::Relaxed)
    }

    /// Opens a session for a stateless server, and responds to `initialize`. Returns `None` if the server is
    /// not stateless or cannot be reached. The client then gets the server's own response.
    pub async fn open(
        &self,
        owner: &str,
        caller: &Placeholders,
        message: &Message<'_>,
        id: &str,
    ) -> Option<(Arc<Session>, Text)> {
        let native = self.servers.native(caller).await.ok()??;
        let params = object(message.params_text()).unwrap_or("{}");
        let [declared] = members(params, ["capabilities"]).ok()?;
        // Capabilities that are too large to keep count as not declared.
        let declared = capabilities_for_modern(declared.unwrap_or("{}")).unwrap_or_else(|_| "{}".to_owned());
        let discovered = native.discover(&declared).await.ok()?;
        let offers = offers(&discovered)
            .inspect_err(|error| {
                tracing::debug!(error, "the server cannot be translated for clients with sessions");
            })
            .ok()?;
        let wanted = peek_requested_version(message).ok().flatten();
        let version = wanted.and_then(|name| Version::parse(&name)).unwrap_or(Version::LATEST);
        let text = Outgoing::Result { id, result: &greeting(&offers, version) }.bytes();
        let peer = Peer::new(Arc::clone(&self.servers), caller.clone(), owner, declared, offers);
        let server: Arc<dyn TranslatedServer> = Arc::new(peer);
        let session = self.sessions.open_translated(owner, caller, &server).ok()?;
        session.set_version(version);
        self.is_needed.store(true, Ordering::Relaxed);
        Some((session, text.into()))
    }
}

/// The parts of a result of `server/discover` that are needed. They are kept as long as the session.
fn offers(discovered: &str) -> Result<Value, String> {
    if discovered.len() > MAX_GREETING {
        let length = discovered.len();
        return Err(format!(
            "The MCP server's response to server/discover has {length} bytes. At most {MAX_GREETING} are translated."
        ));
    }
    let [capabilities, info, instructions, meta] =
        members(discovered, ["capabilities", "serverInfo", "instructions", "_meta"])
            .map_err(|error| error.to_string())?;
    let [named] = members(object(meta).unwrap_or("{}"), [SERVER_INFO]).map_err(|error| error.to_string())?;
    let mut offers = serde_json::Map::new();
    if let Some(capabilities) = capabilities {
        offers.insert("capabilities".to_owned(), tree("capabilities", capabilities)?);
    }
    if let Some(info) = named.or(info) {
        offers.insert("serverInfo".to_owned(), tree("serverInfo", info)?);
    }
    if let Some(instructions) = instructions.and_then(string) {
        offers.insert("instructions".to_owned(), instructions.into());
    }
    Ok(offers.into())
}

/// The result of `initialize`, as JSON text.
fn greeting(offers: &Value, version: Version) -> String {
    let offered = |pointer: &str| offers.pointer(pointer).cloned();
    let info = offered("/serverInfo");
    let mut result = json!({
        "protocolVersion": version.as_str(),
        "capabilities": offered("/capabilities").unwrap_or_else(|| json!({})),
        "serverInfo": info.unwrap_or_else(|| json!({"name": "unknown", "version": "0"})),
    });
    if let (Some(members), Some(instructions)) = (result.as_object_mut(), offered("/instructions")) {
        members.insert("instructions".to_owned(), instructions);
    }
    result.to_string()
}
