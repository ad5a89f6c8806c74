//! Records the use of clients.

use crate::domain::client::{Client, ClientOrigin};
use crate::domain::client_use::ClientUse;
use crate::store::StoreError;
use crate::store::rules::{UseOfClient, judge_use};

use super::cells::{Cells, Found, Life};
use super::tries::Tries;
use super::{clients, sole_clients};

/// Records a use. Returns the client as it is now, or `None` if it has been deleted, disabled or registered again
/// since the caller read it.
pub(super) async fn note(cells: &Cells, used: &ClientUse) -> Result<Option<Client>, StoreError> {
    let found = read(cells, used).await?;
    note_read(cells, used, found).await
}

/// Reads the client of a use, for [`note_read`]. This lets a caller read several rows at the same time.
pub(super) async fn read(cells: &Cells, used: &ClientUse) -> Result<Option<Found<Client>>, StoreError> {
    cells.read(&cells.keys.client(&used.client.id)).await
}

/// Like [`note`], for a client that has just been read.
pub(super) async fn note_read(
    cells: &Cells,
    used: &ClientUse,
    mut found: Option<Found<Client>>,
) -> Result<Option<Client>, StoreError> {
    let id = &used.client.id;
    let mut tries = Tries::default();
    // Whether this user can still cause a client not to be counted towards any account. This is looked up only
    // once.
    let mut can_free = None;
    loop {
        tries.next().await?;
        let known = found
            .as_ref()
            .filter(|found| found.is_live(used.bounds.earliest))
            .map(|found| found.value.clone());
        let judged = judge_use(known.clone(), used, can_free.unwrap_or(true));
        if can_free.is_none() && matches!(judged, UseOfClient::CountsForNobody(_)) {
            can_free = Some(sole_clients::free(cells, used).await?);
        }
        let judged = if can_free == Some(false) { judge_use(known, used, false) } else { judged };
        match judged {
            UseOfClient::Refused => return Ok(None),
            UseOfClient::Noted(client) => return Ok(Some(client)),
            UseOfClient::News(client) | UseOfClient::CountsForNobody(client) => {
                let before = found.as_ref().and_then(Found::expiry);
                let until = used.extend(before, used.keep_until);
                let life =
                    Some(Life { until, now: used.at }).filter(|_| client.origin != ClientOrigin::Operator);
                if cells.swap(&cells.keys.client(id), found.as_ref(), &client, life).await? {
                    clients::settle(cells, id).await?;
                    sole_clients::note(cells, &client, used).await?;
                    return Ok(Some(client));
                }
                found = read(cells, used).await?;
            }
        }
    }
}
