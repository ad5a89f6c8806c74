//! The commands for grants: what users have allowed clients.

use serde::{Deserialize, Serialize};

use crate::domain::account::{Account, Username};
use crate::domain::client::ClientId;
use crate::domain::clock::UnixTime;
use crate::domain::grant::Grant;
use crate::domain::grant_id::GrantId;
use crate::domain::resource::ResourceUri;
use crate::domain::scope::Scope;
use crate::ops::audit;

use super::{CommandError, PAGE, Reply, Tools, audited, no_account};

/// A grant as it is shown to operators.
#[derive(Debug, Serialize, Deserialize)]
pub struct GrantRow {
    /// The identifier of the grant, which is no secret.
    pub id: GrantId,
    /// The login name of the user who has given the grant.
    pub username: Username,
    /// The client that received the grant.
    pub client_id: ClientId,
    /// The name that the client gave itself.
    pub client_name: Option<String>,
    /// What the client is allowed to do.
    pub scope: Scope,
    /// The services for which the grant is valid.
    pub resources: Vec<ResourceUri>,
    /// The time at which the grant was given.
    pub created_at: UnixTime,
    /// The time at which the grant expires unless it is refreshed.
    pub expires_at: UnixTime,
}

/// Lists the grants of one user, or of the users after `after`, that can be refreshed. Others expire together with
/// their access token. A user's grants are never on two pages.
pub(super) async fn list(
    username: Option<&Username>,
    after: Option<&Username>,
    tools: &Tools<'_>,
) -> Result<Reply, CommandError> {
    let accounts = match username {
        Some(name) => match tools.store.account_named(name).await? {
            Some(account) => vec![account],
            None => return Ok(no_account(name)),
        },
        None => tools.store.accounts().await?,
    };
    let mut rows = Vec::new();
    for account in accounts.iter().filter(|account| after.is_none_or(|after| account.username > *after)) {
        if rows.len() >= PAGE {
            break;
        }
        of_account(account, tools, &mut rows).await?;
    }
    Ok(Reply::Grants(rows))
}

async fn of_account(
    account: &Account,
    tools: &Tools<'_>,
    rows: &mut Vec<GrantRow>,
) -> Result<(), CommandError> {
    let grants = tools.store.grants_of(&account.subject, tools.now).await?;
    for Grant { id, client_id, scope, resources, created_at, expires_at, .. } in grants {
        let client = tools.store.client(&client_id, tools.now).await?;
        rows.push(GrantRow {
            id,
            username: account.username.clone(),
            client_name: client.and_then(|client| client.metadata.display.client_name),
            client_id,
            scope,
            resources,
            created_at,
            expires_at,
        });
    }
    Ok(())
}

/// Revokes one grant. All tokens that were issued from it are refused from now on.
pub(super) async fn revoke(id: &GrantId, tools: &Tools<'_>) -> Result<Reply, CommandError> {
    let Some(grant) = tools.store.grant(id, tools.now).await? else {
        return Ok(Reply::Refused(format!(
            "there is no grant {id}; `auth-service grant list` lists all grants"
        )));
    };
    tools.store.revoke_grant(id).await?;
    Ok(audited(&audit::Event::GrantRemoved {
        grant_id: id,
        subject: &grant.subject,
        client_id: &grant.client_id,
    }))
}
