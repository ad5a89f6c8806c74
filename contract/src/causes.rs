//! Errors as text. The message of an error often states only what failed; the messages of its causes state why.

use std::error::Error;

/// An error and its causes on one line, without causes that earlier messages already include.
pub fn in_one_line(error: &(dyn Error + 'static)) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !told.contains(&message) {
            told = format!("{told}: {message}");
        }
        cause = error.source();
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{told}")]
    struct Failure {
        told: &'static str,
        source: Option<Box<Failure>>,
    }

    #[test]
    fn a_cause_is_told_once() {
        let cause = |told, source: Option<Failure>| Failure { told, source: source.map(Box::new) };
        let error = cause("cannot read a: no such file", Some(cause("no such file", None)));
        assert_eq!(
            in_one_line(&cause("POLICY_FILE", Some(error))),
            "POLICY_FILE: cannot read a: no such file"
        );
    }
}
