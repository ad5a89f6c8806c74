//! `issuer-suite ISSUER` checks an OAuth authorization server for MCP from outside, and prints the result of each
//! check.

use std::process::ExitCode;

use clap::Parser;

use tests::browser::{FormNames, Person};
use tests::suite::{Options, run};

/// Checks an OAuth authorization server that serves MCP clients, from outside.
///
/// Every check names the section of the specification, or the number of the attack in docs/attacks.md.
/// The suite registers clients and logs in many times, so run it only against a server that you are allowed
/// to test. The exit code is 0 if no check fails, 1 if one fails, and 2 if there was nothing to check.
#[derive(Parser)]
struct Arguments {
    /// The issuer identifier, exactly as in its metadata.
    issuer: String,
    /// The user name to log in with. Without it, checks that need an authorization code are skipped.
    #[arg(long, requires = "password")]
    user: Option<String>,
    /// The password of that account. Other users of this machine can see it, so use a test account.
    #[arg(long, env = "ISSUER_SUITE_PASSWORD", hide_env_values = true)]
    password: Option<String>,
    /// The URL of an MCP server behind the issuer. Without it, no `resource` is sent, and no token is tried.
    #[arg(long)]
    resource: Option<String>,
    /// A public client, for issuers without dynamic registration.
    #[arg(long)]
    client_id: Option<String>,
    /// The redirect URI of that client.
    #[arg(long, requires = "client_id")]
    redirect_uri: Option<String>,
    /// Name of the field for the user name in the login form.
    #[arg(long, default_value = "username")]
    user_field: String,
    /// Name of the field for the password in the login form.
    #[arg(long, default_value = "password")]
    password_field: String,
    /// The field of the consent form that allows the request, as NAME=VALUE.
    #[arg(long, default_value = "decision=allow")]
    consent: String,
    /// Print the results as JSON.
    #[arg(long)]
    json: bool,
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the command's result")]
async fn main() -> ExitCode {
    let asked = Arguments::parse();
    let (name, value) = asked.consent.split_once('=').unwrap_or((&asked.consent, ""));
    let names = FormNames {
        username: asked.user_field,
        password: asked.password_field,
        consent: (name.to_owned(), value.to_owned()),
    };
    let person = asked.user.zip(asked.password);
    let options = Options {
        person: person.map(|(user, password)| Person::new(&user, &password).at_forms(names)),
        resource: asked.resource,
        client_id: asked.client_id,
        redirect_uri: asked.redirect_uri,
    };
    match run(&asked.issuer, options).await {
        Ok(report) => {
            match serde_json::to_string_pretty(&report) {
                Ok(text) if asked.json => println!("{text}"),
                _ => println!("{report}"),
            }
            if report.failed().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("issuer-suite: {error:#}");
            ExitCode::from(2)
        }
    }
}
