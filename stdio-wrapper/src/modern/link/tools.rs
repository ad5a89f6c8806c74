//! Compares `Mcp-Param-…` headers with the arguments of a call. Requests the list of tools of the child for this,
//! and keeps the headers that its tools require.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::Link;
use crate::budget::of_child;
use crate::modern::call_error::CallError;
use crate::modern::check::Request;
use crate::modern::header::Fields;
use crate::modern::param_headers::ParamHeaders;
use crate::modern::tools::{List, MAX_LISTS, MAX_PAGES, UNREADABLE, read_answer};

/// Maximum time for one page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(30);

impl Link {
    /// Checks that the arguments that a tool requires in headers have the same values in the headers and in the
    /// body.
    pub(crate) async fn check_params(
        self: &Arc<Self>,
        request: &Request<'_>,
        fields: &Fields<'_>,
        owner: &str,
    ) -> Result<(), CallError> {
        let Some(tool) = request.name.as_deref().filter(|_| request.method == "tools/call") else {
            return Ok(());
        };
        if request.arguments.is_none() && fields.params.is_empty() {
            return Ok(());
        }
        let (asked, capabilities) = (Instant::now(), request.meta.capabilities);
        let headers = self.param_headers(tool, capabilities, None).await.map_err(CallError::Child)?;
        if headers.check_request(&self.offload, owner, request, fields).await.is_ok() {
            return Ok(());
        }
        let headers = self.param_headers(tool, capabilities, Some(asked)).await.map_err(CallError::Child)?;
        Ok(headers.check_request(&self.offload, owner, request, fields).await?)
    }

    /// The headers that one tool requires. The list must have been requested after `newer_than`, if that is
    /// set. Each page of the list must arrive within the time for a request, and within [`PAGE_TIMEOUT`].
    async fn param_headers(
        self: &Arc<Self>,
        tool: &str,
        capabilities: &str,
        newer_than: Option<Instant>,
    ) -> Result<ParamHeaders, String> {
        let of = |list: &List| list.tools.get(tool).cloned().unwrap_or_default();
        if let Some(list) = self.tools.cached(capabilities, newer_than) {
            return Ok(of(&list));
        }
        let turn = self.tools.reading.turn().await;
        if let Some(list) = self.tools.cached(capabilities, newer_than) {
            return Ok(of(&list));
        }
        if let Some(why) = turn.failure() {
            return Err(why);
        }
        let generation = self.tools.generation.load(Ordering::Acquire);
        let read = Instant::now();
        let tools = match self.read_tools(capabilities).await {
            Ok(tools) => Arc::new(tools),
            Err(why) => {
                turn.failed(why.clone());
                return Err(why);
            }
        };
        let list = List { tools, read, generation };
        let headers = of(&list);
        let mut lists = self.tools.lists();
        if lists.len() >= MAX_LISTS {
            lists.clear();
        }
        lists.insert(capabilities.to_owned(), list);
        Ok(headers)
    }

    async fn read_tools(
        self: &Arc<Self>,
        capabilities: &str,
    ) -> Result<HashMap<String, ParamHeaders>, String> {
        let within = self.settings.request_timeout.min(PAGE_TIMEOUT);
        let mut tools = HashMap::new();
        let mut params = "{}".to_owned();
        for _ in 0..MAX_PAGES {
            let answer = self.ask("tools/list", &params, capabilities, within).await?;
            let (length, owner) = (answer.len(), of_child(self.child.number));
            let read = move || read_answer(&answer, &mut tools).map(|next| (tools, next));
            let read = self.offload.run_if_large(&owner, length, read).await;
            let (more, next) = read.ok_or_else(|| UNREADABLE.to_owned())??;
            tools = more;
            match next {
                Some(next) => params = next,
                None => return Ok(tools),
            }
        }
        Ok(tools)
    }
}
