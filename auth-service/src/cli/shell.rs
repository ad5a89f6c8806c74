//! `completions` and `man`: files for the shells and the manual of a machine on which operators work.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Command};
use clap_complete::Shell;
use contract::printing::print_line;

#[derive(Args)]
pub(crate) struct Completions {
    /// The shell.
    shell: Shell,
}

#[derive(Args)]
pub(crate) struct ManualPages {
    /// The directory, which must exist. Pages of an earlier version are replaced.
    directory: PathBuf,
}

/// Prints a script that completes the commands and options of this program.
pub(crate) fn completions(asked: &Completions, mut program: Command) -> anyhow::Result<()> {
    let mut script = Vec::new();
    let name = program.get_name().to_owned();
    clap_complete::generate(asked.shell, &mut program, name, &mut script);
    print_line(String::from_utf8(script)?.trim_end())?;
    Ok(())
}

/// Writes one manual page for each command.
pub(crate) fn manual_pages(asked: &ManualPages, program: Command) -> anyhow::Result<()> {
    let directory: &Path = &asked.directory;
    clap_mangen::generate_to(program, directory).with_context(|| {
        format!(
            "cannot write to {}; name an existing directory that this user can write to",
            directory.display()
        )
    })
}
