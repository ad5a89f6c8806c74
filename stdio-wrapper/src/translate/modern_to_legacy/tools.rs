//! `Mcp-Param-…` headers for a server with sessions. The tools of the session determine which arguments must be
//! repeated in headers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::call;
use super::super::group::{Group, PooledSession};
use super::{ModernToLegacy, Refused};
use crate::modern::{Fields, ParamHeaders, Request, read_tools_with};
use crate::policy::{Own, Permit};

/// Time for which a list of tools is used if the child does not announce changes.
const TOOLS_LIFE: Duration = Duration::from_secs(5);
/// Maximum number of pages of one list.
const MAX_PAGES: usize = 100;

impl ModernToLegacy {
    /// Checks that the arguments that a tool requires in headers have the same values in the headers and in the
    /// body. If they do not match according to a previously known list, the list is requested again.
    pub(super) async fn check_params(
        &self,
        group: &Group,
        pooled: &PooledSession,
        request: &Request<'_>,
        fields: &Fields<'_>,
    ) -> Result<(), Refused> {
        let is_call = request.method == "tools/call" && pooled.greeting.has("/tools");
        let Some(tool) = request.name.as_deref().filter(|_| is_call) else { return Ok(()) };
        if request.arguments.is_none() && fields.params.is_empty() {
            return Ok(());
        }
        let mut was_read = false;
        loop {
            let changes = group.listeners.tool_changes();
            let tools = if let Some(tools) = pooled.tools(changes, TOOLS_LIFE) {
                tools
            } else {
                was_read = true;
                let tools = Arc::new(self.read_tools(group, pooled).await.map_err(Refused::Child)?);
                pooled.set_tools(Arc::clone(&tools), changes);
                tools
            };
            let (offload, owner) = (&self.settings.offload, &pooled.session.owner);
            let verdict = match tools.get(tool) {
                Some(headers) => headers.check_request(offload, owner, request, fields).await,
                None => Ok(()),
            };
            match verdict {
                // A call is never refused because of an outdated list.
                Err(_) if !was_read => pooled.forget_tools(),
                verdict => return Ok(verdict?),
            }
        }
    }

    async fn read_tools(
        &self,
        group: &Group,
        pooled: &PooledSession,
    ) -> Result<HashMap<String, ParamHeaders>, String> {
        let mut tools = HashMap::new();
        let mut params = "{}".to_owned();
        for _ in 0..MAX_PAGES {
            let page =
                call::ask(group, pooled, self.number(), &Permit::ours(Own::ListTools), &params).await?;
            let next;
            (tools, next) =
                read_tools_with(&self.settings.offload, &pooled.session.owner, page, tools).await?;
            match next {
                Some(next) => params = next,
                None => break,
            }
        }
        Ok(tools)
    }
}
