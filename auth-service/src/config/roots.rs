//! Checks the files of trusted certificates that libraries read on their own. The libraries would block forever on
//! a pipe, and their errors name neither the file nor the variable.

use std::io::{Error, ErrorKind, Result};
use std::path::Path;

use contract::files::read_regular;

use super::Problems;

/// Maximum length of a certificate file, in bytes. The files of Linux distributions have about 250 kB.
const MAX_FILE_SIZE: usize = 8 << 20;
/// Maximum number of entries in a certificate directory. The directories of Linux distributions have about 400
/// entries.
const MAX_ENTRIES: usize = 10_000;

/// The variable that names a file of certificates in PEM.
pub(super) const FILE: &str = "SSL_CERT_FILE";
/// The variable that names directories of certificate files, separated by colons.
pub(super) const DIRECTORIES: &str = "SSL_CERT_DIR";

pub(super) fn check(file: Option<&str>, directories: Option<&str>, problems: &mut Problems) {
    let advice = "Set it to where the system keeps the certificates that it trusts, in PEM, or remove it";
    if let Some(path) = file
        && let Err(error) = read_regular(Path::new(path), MAX_FILE_SIZE)
    {
        problems.add(FILE, format_args!("cannot read {path}: {error}. {advice}"));
    }
    for path in std::env::split_paths(directories.unwrap_or_default()) {
        if let Err(error) = look_at(&path) {
            problems.add(DIRECTORIES, format_args!("cannot read {}: {error}. {advice}", path.display()));
        }
    }
}

/// Checks a directory. It does not open the files, because there are many, and the libraries open only regular
/// files.
fn look_at(directory: &Path) -> Result<()> {
    if directory.as_os_str().is_empty() {
        return Ok(());
    }
    for (seen, entry) in directory.read_dir()?.enumerate() {
        let path = entry?.path();
        let refused = |why: String| Error::new(ErrorKind::InvalidInput, format!("{}: {why}", path.display()));
        if seen >= MAX_ENTRIES {
            return Err(refused(format!("there are more than {MAX_ENTRIES} entries")));
        }
        // The libraries also skip dangling links and files that are not regular.
        let Ok(found) = path.metadata() else { continue };
        if found.is_file() && found.len() > u64::try_from(MAX_FILE_SIZE).unwrap_or(u64::MAX) {
            return Err(refused(format!("it is longer than {MAX_FILE_SIZE} bytes")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn problems(file: Option<&str>, directories: Option<&str>) -> String {
        let mut problems = Problems::default();
        check(file, directories, &mut problems);
        problems.found.join("\n")
    }

    #[test]
    fn certificates_are_in_regular_files_and_anything_else_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let (inside, pipe) = (directory.path().join("certificates"), directory.path().join("pipe"));
        fs::create_dir(&inside).unwrap();
        let good = inside.join("ca.pem");
        fs::write(&good, "-----BEGIN CERTIFICATE-----\n").unwrap();
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        for path in [text(&pipe), "/dev/zero".to_owned(), text(&inside), "/nonexistent".to_owned()] {
            let found = problems(Some(&path), None);
            assert!(found.starts_with(&format!("SSL_CERT_FILE: cannot read {path}: ")), "{found}");
        }
        assert_eq!(problems(Some(&text(&good)), Some(&text(&inside))), "");
        assert_eq!(
            problems(None, Some(&text(directory.path()))),
            "",
            "a pipe in the directory is not opened"
        );
        fs::File::create(inside.join("large.pem")).unwrap().set_len(1 << 40).unwrap();
        for path in [text(&inside), text(&good), "/nonexistent".to_owned()] {
            let found = problems(None, Some(&format!("{}:{path}", text(directory.path()))));
            assert!(found.starts_with(&format!("SSL_CERT_DIR: cannot read {path}: ")), "{found}");
        }
    }
}
