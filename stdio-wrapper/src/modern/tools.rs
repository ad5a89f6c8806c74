//! The headers that the tools of a child require, according to its `tools/list`. A call is never refused
//! because of an outdated list: if the headers do not match, the list is requested again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::param_headers::ParamHeaders;
use crate::attempts::Attempts;
use crate::offload::Offload;
use crate::protocol::Code;

/// Maximum number of pages of one list.
pub(super) const MAX_PAGES: usize = 100;
/// Maximum number of lists that are kept. A list can depend on the capabilities of the client.
pub(super) const MAX_LISTS: usize = 32;
/// Maximum memory for the rules of all tools of one server, in bytes. A server that requires headers usually
/// does so for few tools.
const MAX_KEPT: usize = 1 << 20;
/// Time for which a list is used if the child does not announce changes.
const UNWATCHED_LIFE: Duration = Duration::from_secs(5);

/// The lists, by the client capabilities in the request for the list.
#[derive(Debug, Default)]
pub(super) struct Tools {
    lists: Mutex<HashMap<String, List>>,
    /// Incremented with every change that the child announces.
    pub(super) generation: AtomicU64,
    /// Whether the child has agreed to announce changes.
    is_watched: AtomicBool,
    /// Ensures that a list is requested only once if several callers wait for it.
    pub(super) reading: Attempts<String>,
}

#[derive(Debug, Clone)]
pub(super) struct List {
    pub(super) tools: Arc<HashMap<String, ParamHeaders>>,
    pub(super) read: Instant,
    pub(super) generation: u64,
}

impl Tools {
    /// Records whether the child announces changes from now on. Drops all known lists, because they might have
    /// changed without an announcement.
    pub(super) fn set_watched(&self, is_watched: bool) {
        self.invalidate();
        self.is_watched.store(is_watched, Ordering::Release);
    }

    /// Called when the child announces that its tools have changed.
    pub(super) fn invalidate(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.lists().clear();
    }

    pub(super) fn lists(&self) -> MutexGuard<'_, HashMap<String, List>> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn cached(&self, capabilities: &str, newer_than: Option<Instant>) -> Option<List> {
        let list = self.lists().get(capabilities).cloned()?;
        let is_current = list.generation == self.generation.load(Ordering::Acquire);
        let is_young = self.is_watched.load(Ordering::Relaxed) || list.read.elapsed() < UNWATCHED_LIFE;
        (is_current && is_young && newer_than.is_none_or(|then| list.read >= then)).then_some(list)
    }
}

/// A page of `tools/list`.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default, borrow)]
    tools: Vec<Tool<'a>>,
    #[serde(default, rename = "nextCursor")]
    next_cursor: Option<String>,
}

impl Page<'_> {
    /// Adds the tools of this page. Returns the params for the next page, if there is one.
    fn read_into(self, tools: &mut HashMap<String, ParamHeaders>) -> Result<Option<String>, String> {
        let size = |(name, headers): (&String, &ParamHeaders)| name.len() + headers.size();
        let mut kept: usize = tools.iter().map(size).sum();
        for tool in self.tools {
            let headers =
                tool.input_schema.map(|schema| ParamHeaders::of_text(schema.get())).unwrap_or_default();
            if headers.is_empty() {
                continue;
            }
            kept += size((&tool.name, &headers));
            if kept > MAX_KEPT {
                return Err("The tools of the MCP server require too many Mcp-Param headers.".to_owned());
            }
            tools.insert(tool.name, headers);
        }
        Ok(self.next_cursor.map(|cursor| serde_json::json!({ "cursor": cursor }).to_string()))
    }
}

pub(super) const UNREADABLE: &str = "The MCP server's list of tools cannot be read.";

/// Adds the headers that the tools of a `tools/list` result require. Returns the params for the next page, if
/// there is one.
fn read_tools(result: &str, tools: &mut HashMap<String, ParamHeaders>) -> Result<Option<String>, String> {
    let page: Page<'_> = serde_json::from_str(result).map_err(|_| UNREADABLE.to_owned())?;
    page.read_into(tools)
}

/// Like [`read_tools`], but a large list is read on another thread.
pub(crate) async fn read_tools_with(
    offload: &Offload,
    owner: &str,
    result: String,
    mut tools: HashMap<String, ParamHeaders>,
) -> Result<(HashMap<String, ParamHeaders>, Option<String>), String> {
    let length = result.len();
    let read = move || read_tools(&result, &mut tools).map(|next| (tools, next));
    offload.run_if_large(owner, length, read).await.ok_or_else(|| UNREADABLE.to_owned())?
}

#[derive(Deserialize)]
struct Tool<'a> {
    name: String,
    /// Kept as text and parsed only if needed, because a schema can be very large.
    #[serde(default, rename = "inputSchema", borrow)]
    input_schema: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(default, borrow)]
    result: Option<Page<'a>>,
    #[serde(default)]
    error: Option<Refused>,
}

#[derive(Deserialize)]
struct Refused {
    code: i64,
    #[serde(default)]
    message: String,
}

/// Like [`read_tools`], but for a whole response.
pub(super) fn read_answer(
    answer: &[u8],
    tools: &mut HashMap<String, ParamHeaders>,
) -> Result<Option<String>, String> {
    let answer: Answer<'_> = serde_json::from_slice(answer).map_err(|_| UNREADABLE.to_owned())?;
    match (answer.result, answer.error) {
        (Some(page), _) => page.read_into(tools),
        // The child does not support tools.
        (None, Some(error)) if error.code == i64::from(Code::MethodNotFound.number()) => Ok(None),
        (None, Some(error)) => Err(format!("The MCP server refused tools/list: {}", error.message)),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a109_what_is_kept_of_many_tools_has_a_limit_and_other_schemas_are_not_read() {
        let tool = |number: usize| {
            format!(
                r#"{{"name":"t{number}","inputSchema":{{"properties":{{"{}":{{"type":"string","x-mcp-header":"A"}}}}}}}}"#,
                "p".repeat(900)
            )
        };
        let page = |count: usize| {
            let tools: Vec<String> = (0..count).map(tool).collect();
            format!(r#"{{"tools":[{}],"nextCursor":"more"}}"#, tools.join(","))
        };
        let mut tools = HashMap::new();
        assert_eq!(read_tools(&page(800), &mut tools), Ok(Some(r#"{"cursor":"more"}"#.to_owned())));
        assert_eq!(tools.len(), 800);
        assert!(read_tools(&page(2000), &mut tools).unwrap_err().contains("too many"));
        let odd = r#"{"tools":[{"name":"a","inputSchema":[1e999999]},{"name":"b"},{"name":"c","inputSchema":null}]}"#;
        let mut tools = HashMap::new();
        assert_eq!(read_tools(odd, &mut tools), Ok(None));
        assert!(tools.is_empty());
    }
}
