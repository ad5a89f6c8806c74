//! The command that deletes an account.

use crate::domain::account::{AccountKind, Username};
use crate::ops::audit;
use crate::store::Deletion;

use super::{CommandError, Reply, Tools, audited, no_account};

/// Deletes an account with its grants. A later account with the same name is another account: its subject differs,
/// so it inherits neither tokens nor links nor data of services that use the subject.
pub(super) async fn delete_user(username: &Username, tools: &Tools<'_>) -> Result<Reply, CommandError> {
    let store = tools.store;
    let Some(account) = store.account_named(username).await? else { return Ok(no_account(username)) };
    if account.kind == AccountKind::Machine {
        return Ok(Reply::Refused(format!(
            "{username} is the account of a client; `auth-service client delete` removes both"
        )));
    }
    // Without the account, no token and no login session is valid. Therefore it is deleted first, and a command that is
    // interrupted leaves only rows that have no effect, and that are removed when they expire.
    if store.remove_account(&account.subject).await? == Deletion::Missing {
        return Ok(no_account(username));
    }
    for grant in store.grants_of(&account.subject, tools.now).await? {
        store.revoke_grant(&grant.id).await?;
    }
    Ok(audited(&audit::Event::AccountRemoved { user: (&account).into() }))
}
