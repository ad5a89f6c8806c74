//! `grant`: shows and revokes what users have allowed clients.

use anyhow::{Context, bail};
use clap::Subcommand;

use auth_service::domain::account::Username;
use auth_service::domain::grant_id::GrantId;
use auth_service::domain::resource::ResourceUri;
use auth_service::operator::{self, GrantRow, PAGE, Reply};

use super::arguments::username;
use super::rows::{ListFormat, print_list};
use super::running::run;

#[derive(Subcommand)]
pub(crate) enum GrantCommand {
    /// List the grants of a user, or of all users: identifier, user, client, scope, services, expiry, name of the
    /// client. Grants that cannot be refreshed are not listed, because they expire together with their access token.
    List {
        /// Login name of the user.
        user: Option<String>,
        #[command(flatten)]
        format: ListFormat,
    },
    /// Revoke one grant. Its tokens are refused, and the client must ask the user again.
    Revoke {
        /// The identifier of the grant, as `list` shows it.
        id: String,
    },
}

/// Runs a command that manages grants.
pub(crate) async fn grant(command: GrantCommand) -> anyhow::Result<()> {
    match command {
        GrantCommand::List { user, format } => {
            let grants = grants_of(user.as_deref().map(username).transpose()?).await?;
            print_list(&grants, format, row)
        }
        GrantCommand::Revoke { id } => {
            let id = GrantId::try_from(id).ok().context(
                "this is not the identifier of a grant; `auth-service grant list` lists all grants",
            )?;
            run(operator::Command::RevokeGrant { id }).await.map(|_| ())
        }
    }
}

async fn grants_of(username: Option<Username>) -> anyhow::Result<Vec<GrantRow>> {
    let (mut grants, mut after) = (Vec::new(), None);
    loop {
        let command = operator::Command::ListGrants { username: username.clone(), after };
        let Reply::Grants(page) = run(command).await? else {
            bail!("the service sent an unexpected reply instead of grants")
        };
        let is_last = username.is_some() || page.len() < PAGE;
        after = page.last().map(|last| last.username.clone());
        grants.extend(page);
        if is_last {
            return Ok(grants);
        }
    }
}

fn row(grant: &GrantRow) -> String {
    let resources: Vec<&str> = grant.resources.iter().map(ResourceUri::as_str).collect();
    let name = grant.client_name.as_deref().unwrap_or_default().escape_debug();
    format!(
        "{}\t{}\t{}\t{}\t{}\t{}\t{name}",
        grant.id,
        grant.username,
        grant.client_id,
        grant.scope,
        resources.join(","),
        grant.expires_at.readable()
    )
}
