//! The values of options. Wrong values are not reported through clap, because clap reports only the first error.

use std::ffi::OsStr;
use std::marker::PhantomData;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Command, Error, ValueEnum};

/// The value of an option. If it is wrong, `value` is a substitute that only serves to check the other options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given<T> {
    pub(super) value: T,
    /// One sentence for each mistake.
    pub(super) problems: Vec<String>,
}

impl<T> Given<T> {
    /// The value, or one sentence for each mistake.
    pub fn checked(&self) -> Result<&T, &[String]> {
        if self.problems.is_empty() { Ok(&self.value) } else { Err(&self.problems) }
    }

    /// The value, if it is not wrong.
    pub(super) fn known(&self) -> Option<&T> {
        self.checked().ok()
    }
}

/// A value that is wrong.
pub(super) struct Wrong<T> {
    /// The value with which the other options are checked.
    pub(super) instead: T,
    /// The rest of a sentence for each mistake. The sentence begins with the name of the variable, and the rest begins
    /// with a space if one is needed.
    pub(super) predicates: Vec<String>,
}

impl<T> Wrong<T> {
    /// Creates the only problem, with the wrong `text`. `why` states what the text is not, and what to do.
    pub(super) fn is(text: &str, why: &str, instead: T) -> Self {
        Self { instead, predicates: vec![format!(" is `{text}`, which is not {why}")] }
    }
}

/// Parses the value of an option with a function to which the trimmed text is passed.
pub(super) struct Typed<T, F> {
    parse: F,
    of: PhantomData<fn() -> T>,
}

impl<T, F: Clone> Clone for Typed<T, F> {
    fn clone(&self) -> Self {
        Self { parse: self.parse.clone(), of: PhantomData }
    }
}

/// Creates a parser from a function.
pub(super) fn typed<T, F>(parse: F) -> Typed<T, F>
where
    F: Fn(&str) -> Result<T, Wrong<T>> + Clone + Send + Sync + 'static,
{
    Typed { parse, of: PhantomData }
}

impl<T, F> TypedValueParser for Typed<T, F>
where
    T: Clone + Send + Sync + 'static,
    F: Fn(&str) -> Result<T, Wrong<T>> + Clone + Send + Sync + 'static,
{
    type Value = Given<T>;

    fn parse_ref(&self, command: &Command, argument: Option<&Arg>, value: &OsStr) -> Result<Given<T>, Error> {
        let text = StringValueParser::new().parse_ref(command, argument, value)?;
        Ok((self.parse)(text.trim()).map_or_else(
            |wrong| Given { value: wrong.instead, problems: named(argument, wrong.predicates) },
            |value| Given { value, problems: Vec::new() },
        ))
    }
}

/// Parses one of the names of an enum. `--help` lists them.
#[derive(Clone)]
pub(super) struct Choice<T>(PhantomData<fn() -> T>);

pub(super) fn choice<T: ValueEnum>() -> Choice<T> {
    Choice(PhantomData)
}

impl<T: ValueEnum + Default + Send + Sync + 'static> TypedValueParser for Choice<T> {
    type Value = Given<T>;

    fn parse_ref(&self, command: &Command, argument: Option<&Arg>, value: &OsStr) -> Result<Given<T>, Error> {
        let parse = |text: &str| {
            T::from_str(text, false).map_err(|_| {
                let names: Vec<String> = names::<T>().map(|name| name.get_name().to_owned()).collect();
                let why = format!("one of the choices. Write one of: {}.", names.join(", "));
                Wrong::is(text, &why, T::default())
            })
        };
        typed(parse).parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(names::<T>()))
    }
}

fn names<T: ValueEnum + 'static>() -> impl Iterator<Item = PossibleValue> {
    T::value_variants().iter().filter_map(ValueEnum::to_possible_value)
}

/// Makes sentences that begin with the name of the option's variable.
fn named(argument: Option<&Arg>, predicates: Vec<String>) -> Vec<String> {
    let name = argument.and_then(Arg::get_env).and_then(OsStr::to_str).unwrap_or("The value");
    predicates.into_iter().map(|predicate| format!("{name}{predicate}")).collect()
}
