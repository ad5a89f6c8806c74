//! Records the use of clients.

use crate::domain::client::{Client, ClientOrigin};
use crate::domain::client_use::ClientUse;
use crate::store::StoreError;
use crate::store::rules::{UseOfClient, judge_use};

use super::rows::Rows;
use super::tables::Table;
use super::writable::Writable;
use super::{clients, sole_clients};

/// Records a use. Returns the client as it is now, or `None` if it has been deleted, disabled or registered again
/// since the caller read it.
pub(super) fn note(rows: &Writable<'_>, used: &ClientUse) -> Result<Option<Client>, StoreError> {
    let known = clients::live(rows, &used.client.id, used.bounds.earliest)?;
    let judged = match judge_use(known.clone(), used, true) {
        UseOfClient::CountsForNobody(_) if !sole_clients::free(rows, used)? => judge_use(known, used, false),
        judged => judged,
    };
    match judged {
        UseOfClient::Refused => Ok(None),
        UseOfClient::Noted(client) => Ok(Some(client)),
        UseOfClient::News(client) | UseOfClient::CountsForNobody(client) => {
            rows.remove(Table::UnusedClients, &clients::unused_key(&client))?;
            let before = rows.end(Table::Clients, client.id.as_str())?;
            let end = Some(used.extend(before, used.keep_until));
            let end = end.filter(|_| client.origin != ClientOrigin::Operator);
            rows.put(Table::Clients, client.id.as_str(), &client, end)?;
            sole_clients::note(rows, &client, used)?;
            Ok(Some(client))
        }
    }
}
