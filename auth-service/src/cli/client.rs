//! `client`: manages clients.

use anyhow::{Context, bail};
use clap::Subcommand;

use auth_service::domain::client::{ClientId, ClientOrigin};
use auth_service::domain::clock::UnixTime;
use auth_service::operator::{self, ClientRow, PAGE, Reply};
use contract::printing::{Reader, print_line};

use super::add_client::AddClient;
use super::rows::{ListFormat, print_list, print_rows};
use super::running::run;

#[derive(Subcommand)]
pub(crate) enum ClientCommand {
    /// Add a client that does not register itself, such as a machine or a resource server. Prints its
    /// identifier and its secret.
    Add(AddClient),
    /// List all clients: identifier, kind, last use, state, name.
    List(ListFormat),
    /// Show the registration of one client.
    Show {
        #[command(flatten)]
        format: ListFormat,
        /// The `client_id` of the client.
        #[arg(allow_hyphen_values = true)]
        id: String,
    },
    /// Disable a client. Until it is enabled again, it gets no tokens, and its tokens are refused. The tokens are
    /// not deleted: after `enable`, those that have not expired are valid again.
    Disable {
        /// The `client_id` of the client.
        #[arg(allow_hyphen_values = true)]
        id: String,
    },
    /// Re-enable a client. Its tokens become valid again.
    Enable {
        /// The `client_id` of the client.
        #[arg(allow_hyphen_values = true)]
        id: String,
    },
    /// Delete a client and all of its grants.
    Delete {
        /// The `client_id` of the client.
        #[arg(allow_hyphen_values = true)]
        id: String,
    },
}

/// Runs a command that manages clients.
pub(crate) async fn client(command: ClientCommand) -> anyhow::Result<()> {
    let id = |text: String| ClientId::try_from(text).context("this is not a valid client_id");
    match command {
        ClientCommand::Add(asked) => print_added(&run(operator::Command::AddClient(asked.read()?)).await?),
        ClientCommand::List(format) => list_clients(format).await,
        ClientCommand::Show { format, id: text } => {
            print_client(&run(operator::Command::ShowClient { id: id(text)? }).await?, format)
        }
        ClientCommand::Disable { id: text } => {
            run(operator::Command::SwitchClient { id: id(text)?, disabled: true }).await.map(|_| ())
        }
        ClientCommand::Enable { id: text } => {
            run(operator::Command::SwitchClient { id: id(text)?, disabled: false }).await.map(|_| ())
        }
        ClientCommand::Delete { id: text } => {
            run(operator::Command::DeleteClient { id: id(text)? }).await.map(|_| ())
        }
    }
}

fn print_added(reply: &Reply) -> anyhow::Result<()> {
    let Reply::ClientAdded { id, secret } = reply else {
        bail!("the service sent an unexpected reply instead of a client")
    };
    let secret = secret.as_ref().map(|secret| format!("\nclient_secret: {secret}")).unwrap_or_default();
    print_line(format_args!("client_id: {id}{secret}"))?;
    Ok(())
}

async fn list_clients(format: ListFormat) -> anyhow::Result<()> {
    let mut after = None;
    // A JSON array is printed as a whole, and a table page by page.
    let mut all = Vec::new();
    loop {
        let Reply::Clients(page) = run(operator::Command::ListClients { after }).await? else {
            bail!("the service sent an unexpected reply instead of clients")
        };
        let next = (page.len() == PAGE).then(|| page.last().map(|last| last.id.clone())).flatten();
        if format.json {
            all.extend(page);
            match next {
                Some(_) => after = next,
                None => return print_list(&all, format, |_| String::new()),
            }
            continue;
        }
        let rows = page.iter().map(|client| {
            let state = if client.disabled { "disabled" } else { "active" };
            let name = client.name.as_deref().unwrap_or_default().escape_debug();
            format!("{}\t{}\t{}\t{state}\t{name}", client.id, kind(client), used(client.last_used_at))
        });
        let reader = print_rows(rows)?;
        match next {
            Some(_) if reader == Reader::Present => after = next,
            _ => return Ok(()),
        }
    }
}

fn print_client(reply: &Reply, format: ListFormat) -> anyhow::Result<()> {
    let Reply::Clients(clients) = reply else {
        bail!("the service sent an unexpected reply instead of a client")
    };
    if format.json {
        return print_list(clients, format, |_| String::new());
    }
    let rows = clients.iter().flat_map(|client| {
        let facts = [
            format!("client_id:     {}", client.id),
            format!("kind:          {}", kind(client)),
            format!("name:          {}", client.name.as_deref().unwrap_or_default().escape_debug()),
            format!("known since:   {}", client.issued_at.readable()),
            format!("last used:     {}", used(client.last_used_at)),
            format!("state:         {}", if client.disabled { "disabled" } else { "active" }),
        ];
        facts.into_iter().chain(client.redirect_uris.iter().map(|uri| format!("redirect URI:  {uri}")))
    });
    print_rows(rows)?;
    Ok(())
}

fn kind(client: &ClientRow) -> &'static str {
    match (client.origin, client.confidential) {
        (ClientOrigin::MetadataDocument, _) => "document",
        (ClientOrigin::Operator, _) => "operator",
        (ClientOrigin::Registration, true) => "confidential",
        (ClientOrigin::Registration, false) => "public",
    }
}

fn used(at: Option<UnixTime>) -> String {
    at.map_or_else(|| "never".to_owned(), UnixTime::readable)
}
