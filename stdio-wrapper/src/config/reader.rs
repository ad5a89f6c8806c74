//! Collects the problems with the values of options.

use super::given::Given;

/// Looks up a variable in the wrapper's own environment.
pub(super) type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

/// Takes the values of options, and collects all problems with them.
#[derive(Debug, Default)]
pub(super) struct Reader {
    problems: Vec<String>,
}

impl Reader {
    /// The settings, or all problems with them.
    pub(super) fn or_problems<T>(self, settings: T) -> Result<T, Vec<String>> {
        if self.problems.is_empty() { Ok(settings) } else { Err(self.problems) }
    }

    pub(super) fn problem(&mut self, sentence: impl Into<String>) {
        self.problems.push(sentence.into());
    }

    /// The value of an option. If it is wrong, the result only serves to check the other options.
    pub(super) fn take<T: Clone>(&mut self, given: &Given<T>) -> T {
        self.problems.extend(given.problems.iter().cloned());
        given.value.clone()
    }
}
