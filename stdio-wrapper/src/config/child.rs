//! The settings of the child.

use std::convert::Infallible;
use std::path::Path;

use clap::CommandFactory as _;

use super::options::Options;
use super::reader::{Environment, Reader};
use super::{Child, command, placeholders};

/// Variables that every child gets.
const ALWAYS_PASSED: [&str; 4] = ["PATH", "HOME", "LANG", "TZ"];

pub(super) fn read(read: &mut Reader, options: &Options, environment: Environment<'_>) -> Child {
    let env = child_environment(read, options, environment);
    check_command(read, options, &env);
    check_ambiguous(read, options, &env);
    let limit = |number: u64| (number > 0).then_some(number);
    Child {
        command: options.command.clone(),
        env,
        cwd: child_directory(read, options),
        max_memory: limit(read.take(&options.child_memory)),
        max_cpu: limit(read.take(&options.child_cpu)),
        max_processes: limit(read.take(&options.child_processes)),
        max_files: limit(read.take(&options.child_files)),
        isolation: read.take(&options.child_isolation),
        stderr_rate: read.take(&options.stderr_rate),
        stop_grace: read.take(&options.stop_grace),
    }
}

fn child_environment(
    read: &mut Reader,
    options: &Options,
    environment: Environment<'_>,
) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = ALWAYS_PASSED
        .iter()
        .filter_map(|name| environment(name).map(|value| ((*name).to_owned(), value)))
        .collect();
    // The wrapper's own settings are never passed on by name (attack 111).
    let own: Vec<String> = Options::command()
        .get_arguments()
        .filter_map(|argument| argument.get_env().and_then(|name| name.to_str()).map(str::to_owned))
        .collect();
    for item in options.child_env.iter().map(|item| item.trim()).filter(|item| !item.is_empty()) {
        let (name, value) = match item.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (item, environment(item)),
        };
        if name.is_empty() || item.contains('\0') {
            read.problem(format!(
                "CHILD_ENV (--env) has `{item}`, which has no name. Write NAME or NAME=VALUE."
            ));
        } else if !item.contains('=') && own.iter().any(|setting| setting == name) {
            read.problem(format!(
                "CHILD_ENV (--env) passes {name}, which is a setting of the wrapper. If the child needs a variable of that name, write {name}=VALUE."
            ));
        } else if let Some(value) = value {
            // A variable that is passed on by name was not written for this program, so its value is not
            // checked for placeholders.
            if item.contains('=') {
                check_placeholders(read, &format!("CHILD_ENV (--env) {name}"), &value);
            }
            env.retain(|(known, _)| known != name);
            env.push((name.to_owned(), value));
        } else {
            read.problem(format!("CHILD_ENV (--env) passes {name}, but the wrapper has no such variable. Set it, or write {name}=VALUE."));
        }
    }
    env
}

fn check_command(read: &mut Reader, options: &Options, env: &[(String, String)]) {
    let Some(program) = options.command.first().filter(|program| !program.is_empty()) else {
        read.problem("No command was given, so there is no MCP server to run. Put it after --, for example: stdio-wrapper -- mcp-server-time.".to_owned());
        return;
    };
    for argument in options.command.iter().skip(1) {
        check_placeholders(read, "The command", argument);
    }
    let path = env.iter().find(|(name, _)| name == "PATH").map_or("", |(_, value)| value.as_str());
    if let Some(problem) = command::problem(program, path, options.child_cwd.value.is_some()) {
        read.problem(problem);
    }
}

/// Refuses unknown placeholders, and returns whether there was none. The error message does not contain the string
/// that was checked, because it can be a secret.
fn check_placeholders(read: &mut Reader, place: &str, text: &str) -> bool {
    let misspelt = placeholders::misspelt(text);
    if let Some(word) = misspelt {
        read.problem(format!(
            "{place} has `{{{word}}}`, which is not a placeholder. The placeholders are {}. Correct it, or \
             write `{{={word}}}` if the MCP server must receive `{{{word}}}`.",
            placeholders::PLACEHOLDERS.join(", ")
        ));
    }
    misspelt.is_none()
}

/// Refuses strings that can become the same for two callers although the values of their placeholders differ,
/// because these callers would share data. Placeholders are also replaced in variables that are passed on by name.
/// The error message does not contain the string that was checked, because it can be a secret.
fn check_ambiguous(read: &mut Reader, options: &Options, env: &[(String, String)]) {
    let arguments = options.command.iter().skip(1).map(|text| ("The command".to_owned(), text));
    let variables = env.iter().map(|(name, text)| (format!("The variable {name} of the child"), text));
    let directory = options.child_cwd.value.iter().map(|text| ("CHILD_CWD".to_owned(), text));
    for (place, text) in arguments.chain(variables).chain(directory) {
        if let Some((one, other)) = placeholders::ambiguous(text) {
            read.problem(format!(
                "{place} has `{one}` and `{other}` separated only by characters that values can contain, so two callers could get the \
                 same text and share data that is meant for one: `{{user}}-{{group}}` is `ann-b-c` for `ann` in `b-c` and for `ann-b` in `c`. Values have letters, \
                 digits, `_`, `@`, `.`, `-` and `=`. Put another character between the two, such as `/`, `+`, `,` or `:`."
            ));
        }
    }
}

fn child_directory(read: &mut Reader, options: &Options) -> Option<String> {
    let directory = read.take(&options.child_cwd)?;
    if !check_placeholders(read, "CHILD_CWD", &directory) {
        return Some(directory);
    }
    let Ok(plain) = placeholders::replace(&directory, |name| Ok::<_, Infallible>(name.to_owned()));
    if !placeholders::is_in(&directory) && !Path::new(&plain).is_dir() {
        read.problem(format!(
            "CHILD_CWD is `{directory}`, which is not a directory. Create it, or use another one."
        ));
    }
    Some(directory)
}
