//! Checks whether the command can be run. Otherwise a mistake would be noticed only at the first call, as a
//! failure of the server.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::search_path;

/// Length of a script's first line that the kernel reads, in bytes (`execve(2)`).
const MAX_FIRST_LINE: u64 = 256;

/// The result of looking for a program at a path.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Program,
    Directory,
    /// A file that this user cannot execute.
    NotExecutable,
    Nothing,
}

/// Describes what is wrong with a program, and how to fix it. `path` is the `PATH` of the child.
/// `has_directory` is true if the child has its own working directory.
pub(super) fn problem(program: &str, path: &str, has_directory: bool) -> Option<String> {
    // A relative path is resolved in the child's own working directory, which might not exist yet.
    if program.contains('/') && !program.starts_with('/') && has_directory {
        return None;
    }
    let candidates: Vec<PathBuf> = if program.contains('/') {
        vec![PathBuf::from(program)]
    } else {
        search_path(path).map(|directory| directory.join(program)).collect()
    };
    // Like the operating system, this skips files that cannot be executed if there are other candidates
    // (`exec(3)`).
    if let Some(file) = candidates.iter().find(|file| find(file) == Found::Program) {
        return script_problem(program, file, path);
    }
    let named = |wanted: &Found| candidates.iter().find(|file| find(file) == *wanted);
    if let Some(file) = named(&Found::NotExecutable) {
        return Some(format!(
            "The command `{program}` cannot be run, because {file} is not executable by this user. Make it executable with \
             `chmod +x`, or put the program that runs it first, for example: stdio-wrapper -- python3 {file}.",
            file = file.display()
        ));
    }
    if let Some(directory) = named(&Found::Directory) {
        return Some(format!(
            "The command `{program}` cannot be run, because {} is a directory. Use a program in it.",
            directory.display()
        ));
    }
    Some(format!(
        "The command `{program}` was not found. Install it, write its full path, or pass a PATH that contains it."
    ))
}

fn find(path: &Path) -> Found {
    match path.metadata() {
        Ok(found) if found.is_dir() => Found::Directory,
        Ok(found) if found.is_file() && access(path, Access::EXEC_OK).is_ok() => Found::Program,
        Ok(_) => Found::NotExecutable,
        Err(_) => Found::Nothing,
    }
}

/// Describes what is wrong with the interpreter in the first line of a script.
fn script_problem(program: &str, file: &Path, path: &str) -> Option<String> {
    let mut start = Vec::new();
    // A file that is executable but not readable cannot be examined.
    File::open(file).ok()?.take(MAX_FIRST_LINE).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let file = file.display();
    if line.ends_with('\r') {
        return Some(format!(
            "The command `{program}` cannot be run, because the first line of {file} ends in CR LF, as on Windows. Convert the \
             file to LF line ends, for example with `sed -i 's/\\r$//' {file}`."
        ));
    }
    let mut words = line.split_ascii_whitespace();
    let interpreter = words.next()?;
    if interpreter.starts_with('/') && find(Path::new(interpreter)) != Found::Program {
        return Some(format!(
            "The command `{program}` cannot be run, because {file} is a script for {interpreter}, which is not a \
             program here. Install it, or put a program that runs the script first, for example: stdio-wrapper -- \
             python3 {file}."
        ));
    }
    // This is a line such as `#!/usr/bin/env node`.
    let name = words.next().filter(|_| interpreter.ends_with("/env"))?;
    let is_plain = !name.starts_with('-') && !name.contains(['=', '/']);
    let is_there = || search_path(path).any(|directory| find(&directory.join(name)) == Found::Program);
    (is_plain && !is_there()).then(|| {
        format!(
            "The command `{program}` cannot be run, because {file} is a script for {name}, which was not found. Install {name}, \
             or pass a PATH that contains it."
        )
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, create_dir, set_permissions, write};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Creates a directory with one file that has this text and mode.
    fn file(text: &str, mode: u32) -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("server");
        write(&path, text).unwrap();
        set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let path = path.to_str().unwrap().to_owned();
        (directory, path)
    }

    fn told(program: &str, path: &str) -> String {
        problem(program, path, false).unwrap_or_default()
    }

    #[test]
    fn what_cannot_be_executed_is_told_with_the_file_and_the_fix() {
        let (directory, path) = file("#!/bin/sh\n", 0o644);
        assert!(told(&path, "").contains("is not executable by this user. Make it"), "{}", told(&path, ""));
        let found = directory.path().to_str().unwrap();
        assert!(told("server", found).contains(&format!("because {path} is not executable")));
        assert!(told(found, "").contains("is a directory"));
        assert!(told("server", "/nowhere").contains("was not found"));
        assert!(told("/dev/null", "").contains("is not executable"));
        assert_eq!(problem("bin/server", "", true), None);
    }

    #[test]
    fn the_first_program_on_the_path_that_can_be_executed_counts() {
        let (plain, _) = file("x", 0o644);
        let directory = tempfile::tempdir().unwrap();
        create_dir(directory.path().join("server")).unwrap();
        let (good, _) = file("#!/bin/sh\n", 0o755);
        let path = std::env::join_paths([plain.path(), directory.path(), good.path()]).unwrap();
        assert_eq!(told("server", path.to_str().unwrap()), "");
    }

    #[test]
    fn a_script_needs_its_interpreter() {
        for (first, says) in [
            ("#!/bin/sh", ""),
            ("#! /bin/sh -e", ""),
            ("#!/usr/bin/env sh", ""),
            ("#!/usr/bin/env -S no-such-program --x", ""),
            ("\u{7f}ELF", ""),
            ("echo no first line for anybody", ""),
            ("#!", ""),
            ("#!/no/such/python", "a script for /no/such/python, which is not a program here"),
            ("#!/etc/passwd", "a script for /etc/passwd, which is not a program here"),
            ("#!/bin/sh\r", "ends in CR LF"),
            ("#!/usr/bin/env no-such-program", "a script for no-such-program, which was not found"),
        ] {
            let (_directory, path) = file(&format!("{first}\nexit 0\n"), 0o755);
            let told = told(&path, "/usr/bin:/bin");
            assert!(told.contains(says), "{first}: {told}");
            assert_eq!(told.is_empty(), says.is_empty(), "{first}: {told}");
        }
    }
}
