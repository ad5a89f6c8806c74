//! `auth-service policy explain`: predicts the decision about a request to one service, or to each service of a
//! host.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use auth_service::domain::account::Group;
use auth_service::domain::client::ClientId;
use auth_service::domain::host::{HostName, split_authority};
use auth_service::domain::path::UnambiguousPath;
use auth_service::domain::resource::{ProtectedHosts, ResourceUri, Scheme};
use auth_service::operator::{self, Reply, UserRow};
use auth_service::policy::{Era, Explanation, Policy, Question, Verdict, explain, parse};

use super::{settings, text};
use crate::cli::arguments::{email, groups, username};
use crate::cli::rows::print_rows;
use crate::cli::running::run;

#[derive(Args)]
pub(crate) struct Explain {
    /// URL of the service, such as <https://mcp.example.com/notes/mcp>. Without a path, each service of the host
    /// is explained.
    #[arg(value_name = "URL", required_unless_present = "host", conflicts_with_all = ["host", "path"])]
    url: Option<String>,
    /// Login name of the user.
    #[arg(long)]
    user: String,
    /// Host of the protected service, instead of a URL.
    #[arg(long)]
    host: Option<String>,
    /// Path of the MCP endpoint on this host.
    #[arg(long, requires = "host")]
    path: Option<String>,
    /// Tool that is called.
    #[arg(long, conflicts_with = "method")]
    tool: Option<String>,
    /// MCP method, if it is not a tool call.
    #[arg(long, default_value = "tools/list")]
    method: String,
    /// Scopes of the token, separated by spaces. The default is the scopes that the service requires.
    #[arg(long)]
    scope: Option<String>,
    /// A group of the user; can be given several times.
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// The user's email address.
    #[arg(long)]
    email: Option<String>,
    /// The `client_id` of the client.
    #[arg(long, default_value = "any-client")]
    client: String,
    /// HTTP method of the request.
    #[arg(long, default_value = "POST")]
    http_method: String,
    /// Whether the client names the operation in headers (MCP 2026-07-28 and later) or only in the body.
    #[arg(long, value_enum, default_value = "modern")]
    era: EraOption,
    /// The policy file. The default is `POLICY_FILE`.
    #[arg(long)]
    file: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum EraOption {
    Modern,
    Legacy,
}

/// Explains the request, and returns whether it would be allowed.
pub(super) async fn explained(asked: Explain) -> anyhow::Result<bool> {
    let (source, hosts) = settings(asked.file.clone())?;
    let policy = match &source.file {
        None => Policy::without_file(source.allowed),
        Some(path) => {
            let parsed = parse(&text(path)?, source.allowed, hosts.as_ref());
            parsed.with_context(|| path.display().to_string())?.0
        }
    };
    let resources = Target::of(&asked)?.resources(&policy, hosts)?;
    let rules = match &source.file {
        Some(path) => path.display().to_string(),
        None => {
            "none, because neither --file nor POLICY_FILE names a policy file. If the service has one, name the same file here."
                .to_owned()
        }
    };
    let person = person(&asked).await?;
    let mut lines = vec![format!("rules: {rules}"), format!("who: {}", person.found)];
    let mut is_allowed = person.account == Account::Usable;
    for (number, resource) in resources.iter().enumerate() {
        let question = question(&asked, &policy, &person, resource)?;
        let Explanation { verdict, settings, steps } = explain(&policy, &question);
        if number == 0 {
            lines.push(settings);
        }
        // An empty line separates the services.
        lines.extend((resources.len() > 1).then(String::new));
        lines.push(format!("token: scope \"{}\" for {}", question.scope, resource.as_str()));
        lines.extend(steps);
        lines.push(format!("=> {}", outcome(person.account, &verdict)));
        is_allowed &= verdict == Verdict::Allowed;
    }
    print_rows(lines.into_iter())?;
    Ok(is_allowed)
}

fn question(
    asked: &Explain,
    policy: &Policy,
    person: &Person,
    resource: &ResourceUri,
) -> anyhow::Result<Question> {
    let scope = match &asked.scope {
        Some(text) => {
            text.parse().ok().context("--scope: this is not a list of scopes separated by spaces")?
        }
        None => policy.required_scope(resource).clone(),
    };
    Ok(Question {
        username: username(&asked.user)?,
        email: person.email.clone(),
        groups: person.groups.clone(),
        client_id: ClientId::try_from(asked.client.clone())
            .ok()
            .context("--client: this is not a valid client_id")?,
        scope,
        resource: resource.clone(),
        http_method: asked.http_method.to_ascii_uppercase(),
        method: if asked.tool.is_some() { "tools/call".to_owned() } else { asked.method.clone() },
        tool: asked.tool.clone(),
        era: match asked.era {
            EraOption::Modern => Era::Modern,
            EraOption::Legacy => Era::Legacy,
        },
    })
}

fn outcome(account: Account, verdict: &Verdict) -> &'static str {
    match verdict {
        _ if account == Account::Missing => {
            "REFUSED: there is no such account, so it has no tokens. With --group or --email, the rules are tried without an account."
        }
        _ if account == Account::Disabled => "REFUSED: the account is disabled, so its tokens are refused",
        Verdict::Allowed => "ALLOWED",
        Verdict::Refused(_) => "REFUSED by the check",
        Verdict::RefusedByWrapper => "REFUSED by stdio-wrapper, which must have IDENTITY=assertion",
    }
}

/// The host and the path that the arguments name.
struct Target {
    /// The scheme of the URL. `None` if the arguments contain no URL.
    scheme: Option<Scheme>,
    /// The host with its port, as it was given.
    authority: String,
    /// `None` means each service of the host.
    path: Option<UnambiguousPath>,
}

impl Target {
    fn of(asked: &Explain) -> anyhow::Result<Self> {
        let Some(url) = &asked.url else {
            let path = asked.path.as_deref().map(path).transpose()?;
            return Ok(Self { scheme: None, authority: asked.host.clone().unwrap_or_default(), path });
        };
        let not_a_url =
            || format!("{url:?} is not the URL of a service; write https://mcp.example.com/notes/mcp");
        let (scheme, rest) = url.split_once("://").with_context(not_a_url)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            _ => bail!(not_a_url()),
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at_checked(end).with_context(not_a_url)?;
        let without_query = target.split('?').next().unwrap_or_default();
        let path = if matches!(without_query, "" | "/") { None } else { Some(path(without_query)?) };
        Ok(Self { scheme: Some(scheme), authority: authority.to_owned(), path })
    }

    /// The resource, or the resource of each service of the host.
    fn resources(
        &self,
        policy: &Policy,
        protected: Option<ProtectedHosts>,
    ) -> anyhow::Result<Vec<ResourceUri>> {
        let authority = &self.authority;
        let (host, _) = split_authority(authority).with_context(|| format!("{authority:?} is not a host"))?;
        let is_known = protected.is_some();
        let hosts = if let Some(hosts) = protected {
            hosts
        } else {
            let pattern = authority.parse().with_context(|| format!("{authority:?} is not a host"))?;
            ProtectedHosts::new(self.scheme.unwrap_or(Scheme::Https), vec![pattern])
        };
        if let Some(scheme) = self.scheme.filter(|scheme| *scheme != hosts.scheme()) {
            bail!(
                "the protected services use {}, so the check refuses {}",
                hosts.scheme().as_str(),
                scheme.as_str()
            );
        }
        let paths = match &self.path {
            Some(path) => vec![path.clone()],
            None => service_paths(policy, &host)?,
        };
        let resource = |path: &UnambiguousPath| {
            hosts.resource(&host, path).with_context(|| {
                let cause = if is_known {
                    "not one of PROTECTED_HOSTS, so the check refuses it"
                } else {
                    "not the name of one host"
                };
                format!("{authority:?} is {cause}")
            })
        };
        paths.iter().map(resource).collect()
    }
}

/// The paths of the services on a host. The last one stands for all paths that have no rule of their own.
fn service_paths(policy: &Policy, host: &HostName) -> anyhow::Result<Vec<UnambiguousPath>> {
    policy.paths_on(host.as_str()).iter().map(|text| path(text)).collect()
}

fn path(text: &str) -> anyhow::Result<UnambiguousPath> {
    let whole = if text.is_empty() { "/" } else { text };
    UnambiguousPath::of_target(whole).with_context(|| format!("the check refuses the path {text:?}"))
}

/// Whether the account of a user has tokens that are accepted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Account {
    /// The account is enabled, or the arguments describe it, or it could not be looked up.
    Usable,
    Disabled,
    Missing,
}

struct Person {
    email: Option<String>,
    groups: Vec<Group>,
    account: Account,
    /// Describes the user, and names the source of the data.
    found: String,
}

/// Returns the user that the arguments describe. If they contain neither an email address nor groups, both are
/// taken from the stored account.
async fn person(asked: &Explain) -> anyhow::Result<Person> {
    let user = &asked.user;
    let (own_email, own_groups) = (email(asked.email.clone())?, groups(asked.groups.clone())?);
    let given = own_email.is_some() || !own_groups.is_empty();
    let of = |email: Option<String>, groups: Vec<Group>, account: Account, source: &str| {
        let names: Vec<&str> = groups.iter().map(Group::as_str).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let address = email.as_deref().unwrap_or("none");
        let found = format!("{user} (email {address}; groups {names}; {source})");
        Person { email, groups, account, found }
    };
    if given {
        return Ok(of(own_email, own_groups, Account::Usable, "from the arguments"));
    }
    let wanted = username(user)?;
    Ok(match run(operator::Command::ListUsers).await {
        Ok(Reply::Users(users)) => match users.into_iter().find(|row| row.username == wanted) {
            Some(UserRow { email, groups, disabled, .. }) => {
                let account = if disabled { Account::Disabled } else { Account::Usable };
                of(email, groups, account, "from the stored account")
            }
            None => of(None, Vec::new(), Account::Missing, "there is no such account"),
        },
        Ok(_) => bail!("the service sent an unexpected reply instead of accounts"),
        Err(error) => {
            of(None, Vec::new(), Account::Usable, &format!("accounts cannot be looked up: {error:#}"))
        }
    })
}
