//! The completion script and the manual page of the program.

use std::io;

use clap::CommandFactory as _;
use clap_complete::Shell;
use contract::printing::print_line;
use stdio_wrapper::config::Options;

/// Prints a script that completes the options.
pub(super) fn completions(shell: Shell) -> io::Result<()> {
    let (mut program, mut script) = (Options::command(), Vec::new());
    let name = program.get_name().to_owned();
    clap_complete::generate(shell, &mut program, name, &mut script);
    print(&script)
}

/// Prints the manual page, in the language of man.
pub(super) fn page() -> io::Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Options::command()).render(&mut page)?;
    print(&page)
}

fn print(text: &[u8]) -> io::Result<()> {
    print_line(String::from_utf8_lossy(text).trim_end()).map(|_| ())
}
