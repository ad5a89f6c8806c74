//! `auth-service policy`: checks a policy file and predicts its decisions before the service uses it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};

use auth_service::config::Config;
use auth_service::domain::account::Group;
use auth_service::domain::client::ClientId;
use auth_service::domain::path::UnambiguousPath;
use auth_service::domain::resource::{ProtectedHosts, ResourceUri, Scheme};
use auth_service::operator::{self, Reply, UserRow};
use auth_service::policy::{
    Era, Explanation, MAX_FILE_SIZE, Policy, PolicySource, Question, Verdict, explain, parse,
};
use contract::causes::in_one_line;
use contract::files::read_regular;
use contract::printing::{print_error, print_line};

use super::arguments::{email, groups, unreadable, username};
use super::rows::print_rows;
use super::running::run;

#[derive(Subcommand)]
pub(crate) enum PolicyCommand {
    /// Read a policy file, and print all problems with their lines.
    ///
    /// If `PROTECTED_HOSTS` is set, it also warns about rules that apply to no request. The exit code is 0 if the
    /// file can be used (warnings go to standard error), 1 if it cannot, and 2 if it could not be read.
    Check {
        /// The file. The default is `POLICY_FILE`.
        file: Option<PathBuf>,
    },
    /// Explain how a request would be decided, and which rule decides.
    ///
    /// The email address and the groups are those of the stored account, unless one of them is given. In that case,
    /// the user needs no account. The exit code is 0 if the request would be allowed, 1 if it would be refused, and 2
    /// if this could not be determined.
    Explain(Box<Explain>),
}

#[derive(Args)]
pub(crate) struct Explain {
    /// Login name of the user.
    #[arg(long)]
    user: String,
    /// Host of the protected service.
    #[arg(long)]
    host: String,
    /// Path of the MCP endpoint.
    #[arg(long, default_value = "/mcp")]
    path: String,
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

/// Runs a command that examines policy files.
pub(crate) async fn policy(command: PolicyCommand) -> ExitCode {
    let outcome = match command {
        PolicyCommand::Check { file } => check(file),
        PolicyCommand::Explain(asked) => explained(*asked).await,
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            print_error(format_args!("auth-service: {}", in_one_line(error.as_ref())));
            ExitCode::from(2)
        }
    }
}

fn check(file: Option<PathBuf>) -> anyhow::Result<bool> {
    let (source, hosts) = settings(file)?;
    let path = source.file.context("pass the path of a policy file, or set POLICY_FILE")?;
    match parse(&text(&path)?, source.allowed, hosts.as_ref()) {
        Ok((_, warnings)) => {
            for warning in &warnings {
                print_error(format_args!("warning: {}: {warning}", path.display()));
            }
            let warnings = super::doctor::counted(warnings.len(), "warning");
            print_line(format_args!("{}: good, {warnings}", path.display()))?;
            Ok(true)
        }
        Err(problems) => {
            print_error(format_args!("{}: {problems}", path.display()));
            Ok(false)
        }
    }
}

/// The sources of the rules, and the protected hosts if the environment sets them.
fn settings(file: Option<PathBuf>) -> anyhow::Result<(PolicySource, Option<ProtectedHosts>)> {
    let (mut source, site) = Config::policy_from_variables(std::env::vars())?;
    source.file = file.or(source.file);
    Ok((source, site.map(|site| site.protected_hosts)))
}

fn text(path: &Path) -> anyhow::Result<String> {
    let bytes = read_regular(path, MAX_FILE_SIZE).map_err(|error| unreadable(path, &error))?;
    String::from_utf8(bytes)
        .with_context(|| format!("{} is not UTF-8 text; name a policy file (docs/policy.md)", path.display()))
}

async fn explained(asked: Explain) -> anyhow::Result<bool> {
    let (source, hosts) = settings(asked.file.clone())?;
    let policy = match &source.file {
        None => Policy::without_file(source.allowed),
        Some(path) => {
            let parsed = parse(&text(path)?, source.allowed, hosts.as_ref());
            parsed.with_context(|| path.display().to_string())?.0
        }
    };
    let person = person(&asked).await?;
    let resource = resource(&asked, hosts)?;
    let scope = match &asked.scope {
        Some(text) => {
            text.parse().ok().context("--scope: this is not a list of scopes separated by spaces")?
        }
        None => policy.required_scope(&resource).clone(),
    };
    let method = if asked.tool.is_some() { "tools/call".to_owned() } else { asked.method };
    let question = Question {
        username: username(&asked.user)?,
        email: person.email,
        groups: person.groups,
        client_id: ClientId::try_from(asked.client)
            .ok()
            .context("--client: this is not a valid client_id")?,
        scope,
        resource,
        http_method: asked.http_method.to_ascii_uppercase(),
        method,
        tool: asked.tool,
        era: match asked.era {
            EraOption::Modern => Era::Modern,
            EraOption::Legacy => Era::Legacy,
        },
    };
    let rules = match &source.file {
        Some(path) => path.display().to_string(),
        None => {
            "none, because neither --file nor POLICY_FILE names a policy file. If the service has one, name the same file here."
                .to_owned()
        }
    };
    let Explanation { verdict, steps } = explain(&policy, &question);
    let mut lines = vec![
        format!("rules: {rules}"),
        format!("who: {}", person.found),
        format!("token: scope \"{}\" for {}", question.scope, question.resource.as_str()),
    ];
    lines.extend(steps);
    let decision = match verdict {
        _ if person.account == Account::Missing => {
            "REFUSED: there is no such account, so it has no tokens. With --group or --email, the rules are tried without an account."
        }
        _ if person.account == Account::Disabled => {
            "REFUSED: the account is disabled, so its tokens are refused"
        }
        Verdict::Allowed => "ALLOWED",
        Verdict::Refused(_) => "REFUSED by the check",
        Verdict::RefusedByWrapper => "REFUSED by stdio-wrapper, which must have IDENTITY=assertion",
    };
    lines.push(format!("=> {decision}"));
    print_rows(lines.into_iter())?;
    Ok(verdict == Verdict::Allowed && person.account == Account::Usable)
}

fn resource(asked: &Explain, hosts: Option<ProtectedHosts>) -> anyhow::Result<ResourceUri> {
    let path = UnambiguousPath::of_target(&asked.path)
        .with_context(|| format!("--path: the check refuses {:?}", asked.path))?;
    let is_known = hosts.is_some();
    let hosts = if let Some(hosts) = hosts {
        hosts
    } else {
        let pattern =
            asked.host.parse().with_context(|| format!("--host: {:?} is not a host", asked.host))?;
        ProtectedHosts::new(Scheme::Https, vec![pattern])
    };
    let (host, _) = auth_service::domain::host::split_authority(&asked.host)
        .with_context(|| format!("--host: {:?} is not a host", asked.host))?;
    hosts.resource(&host, &path).with_context(|| {
        let cause = if is_known {
            "not one of PROTECTED_HOSTS, so the check refuses it"
        } else {
            "not the name of one host"
        };
        format!("--host: {:?} is {cause}", asked.host)
    })
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
