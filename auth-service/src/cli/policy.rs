//! `auth-service policy`: checks a policy file and predicts its decisions before the service uses it.

mod explain;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;

use auth_service::config::Config;
use auth_service::domain::resource::ProtectedHosts;
use auth_service::policy::{MAX_FILE_SIZE, PolicySource, parse};
use contract::causes::in_one_line;
use contract::files::read_regular;
use contract::printing::{print_error, print_line};

use super::arguments::unreadable;
use explain::{Explain, explained};

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
    /// Explain how a request would be decided, and which rule decides. Without a path, explain this for each
    /// service of the host.
    ///
    /// The email address and the groups are those of the stored account, unless one of them is given. In that case,
    /// the user needs no account. The exit code is 0 if the request would be allowed (without a path: by every
    /// service), 1 if it would be refused, and 2 if this could not be determined.
    Explain(Box<Explain>),
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
    let (mut source, hosts) = Config::policy_from_variables(std::env::vars())?;
    source.file = file.or(source.file);
    Ok((source, hosts))
}

fn text(path: &Path) -> anyhow::Result<String> {
    let bytes = read_regular(path, MAX_FILE_SIZE).map_err(|error| unreadable(path, &error))?;
    String::from_utf8(bytes)
        .with_context(|| format!("{} is not UTF-8 text; name a policy file (docs/policy.md)", path.display()))
}
