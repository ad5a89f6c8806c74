//! Placeholders in the arguments, the environment and the working directory of a child.

/// Placeholder for the subject of the caller.
pub(crate) const SUBJECT: &str = "{subject}";
/// Placeholder for the user name of the caller.
pub(crate) const USER: &str = "{user}";
/// Placeholder for a group of the caller.
pub(crate) const GROUP: &str = "{group}";
pub(crate) const PLACEHOLDERS: [&str; 3] = [SUBJECT, USER, GROUP];

/// Bytes other than letters and digits that are not escaped in a caller's value.
const PLAIN: &[u8] = b"_@.-";
/// The first character of the escape sequence for all other bytes of a value.
pub(crate) const ESCAPE: u8 = b'=';

/// Whether a byte of a value is left unescaped.
pub(crate) fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || PLAIN.contains(&byte)
}

/// A piece of a string that can contain placeholders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece<'t> {
    Text(&'t str),
    Placeholder(&'static str),
    /// A word in braces that is not a placeholder.
    Unknown(&'t str),
    /// The word of `{=word}`, which results in the literal text `{word}`.
    Literal(&'t str),
}

/// Whether `text` contains a placeholder.
pub(crate) fn is_in(text: &str) -> bool {
    PLACEHOLDERS.iter().any(|name| text.contains(name))
}

/// Replaces placeholders from left to right, so that a placeholder in a value is not replaced. `value` is
/// called with each placeholder. Returns its first error.
pub(crate) fn replace<E>(
    text: &str,
    mut value: impl FnMut(&'static str) -> Result<String, E>,
) -> Result<String, E> {
    let mut out = String::with_capacity(text.len());
    for piece in pieces(text) {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Placeholder(name) => out.push_str(&value(name)?),
            Piece::Unknown(word) | Piece::Literal(word) => {
                out.push('{');
                out.push_str(word);
                out.push('}');
            }
        }
    }
    Ok(out)
}

/// Finds a word in braces that was probably meant as a placeholder. With a misspelt placeholder, callers would
/// share data that must be separate. `${word}` (shells) and `{{word}}` (templates) are not reported. Strings with
/// spaces are scripts or sentences, where words in braces are common (`awk '{print}'`). In these, the word must
/// begin like a placeholder.
pub(super) fn misspelt(text: &str) -> Option<&str> {
    let is_prose = text.contains(char::is_whitespace);
    let begins_like_one = |word: &str| {
        PLACEHOLDERS.iter().any(|name| name.get(1..3).is_some_and(|start| word.starts_with(start)))
    };
    let mut before = "";
    for piece in pieces(text) {
        match piece {
            Piece::Text(text) => before = text,
            Piece::Unknown(word) if !before.ends_with(['$', '{']) && (!is_prose || begins_like_one(word)) => {
                return Some(word);
            }
            _ => before = "",
        }
    }
    None
}

/// Finds two different placeholders that are separated only by characters that values can also contain. If so,
/// two callers with different values can get the same string: `{user}-{group}` is `ann-b-c` for `ann` in `b-c` and
/// for `ann-b` in `c`.
pub(super) fn ambiguous(text: &str) -> Option<(&'static str, &'static str)> {
    let mut before = None;
    for piece in pieces(text) {
        match piece {
            Piece::Text(text) if text.bytes().all(|byte| is_plain(byte) || byte == ESCAPE) => {}
            // Values contain no braces.
            Piece::Text(_) | Piece::Unknown(_) | Piece::Literal(_) => before = None,
            Piece::Placeholder(name) => match before.replace(name) {
                Some(other) if other != name => return Some((other, name)),
                _ => {}
            },
        }
    }
    None
}

fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut all = Vec::new();
    let (mut rest, mut searched) = (text, 0);
    while let Some(at) = rest.get(searched..).and_then(|left| left.find('{')).map(|at| at + searched) {
        let (before, braces) = rest.split_at(at);
        let Some((piece, after)) = braced(braces) else {
            searched = at + 1;
            continue;
        };
        all.extend([Piece::Text(before), piece]);
        (rest, searched) = (after, 0);
    }
    all.push(Piece::Text(rest));
    all
}

/// Parses the braces at the beginning of a string. Returns the piece and the rest of the string.
fn braced(text: &str) -> Option<(Piece<'_>, &str)> {
    let (inner, after) = text.strip_prefix('{')?.split_once('}')?;
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let known = PLACEHOLDERS.iter().find(|name| name.trim_matches(['{', '}']) == inner);
    let piece = match (known, inner.strip_prefix('=')) {
        (Some(name), _) => Piece::Placeholder(name),
        (None, Some(word)) if is_word(word) => Piece::Literal(word),
        (None, None) if is_word(inner) => Piece::Unknown(inner),
        _ => return None,
    };
    Some((piece, after))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn a_word_in_braces_that_is_no_placeholder_is_found_and_what_others_use_braces_for_is_not() {
        for (text, word) in [
            ("--db={subjct}.db", "subjct"),
            ("{{subject}/{usr}", "usr"),
            ("/data/{user_name}", "user_name"),
            ("{{{email}", ""),
            ("sh x; cat /data/{usr}", "usr"),
        ] {
            let wanted = (!word.is_empty()).then_some(word);
            assert_eq!(misspelt(text), wanted, "{text}");
        }
        for text in [
            "{subject}{user}{group}",
            r#"{"a":1}"#,
            r#"{"a":{"b":[]}}"#,
            "{}",
            "{0}",
            "{Name}",
            "{a,b}",
            "{{name}}",
            "${name}",
            "{=name}",
            "awk '{print}' x",
            "Greet {name} well",
            "{",
            "}{",
        ] {
            assert_eq!(misspelt(text), None, "{text}");
        }
    }

    #[test]
    fn two_placeholders_need_something_between_them_that_no_value_has() {
        for (text, pair) in [
            ("{user}{group}", (USER, GROUP)),
            ("/data/{user}-{group}/x", (USER, GROUP)),
            ("{subject}@{user}", (SUBJECT, USER)),
            ("{group}=_.{user}", (GROUP, USER)),
            ("{user}/{user}.Team9.{subject}", (USER, SUBJECT)),
            ("{user}-{user}-{group}", (USER, GROUP)),
        ] {
            assert_eq!(ambiguous(text), Some(pair), "{text}");
        }
        for text in [
            "{user}",
            "{user}-{user}",
            "{user}/{group}",
            "{user}+{group}",
            "{user}-,-{group}:{subject}",
            "{user} of {group}",
            "{user}é{group}",
            "{user}{=of}{group}",
            r#"{"user":"{user}","group":"{group}"}"#,
        ] {
            assert_eq!(ambiguous(text), None, "{text}");
        }
    }

    #[test]
    fn placeholders_are_replaced_and_everything_else_stays() {
        let filled = |text: &str| {
            let Ok(filled) = replace(text, |name| Ok::<_, Infallible>(name.to_uppercase()));
            filled
        };
        assert_eq!(filled("é{user}/{{group}}${subject}"), "é{USER}/{{GROUP}}${SUBJECT}");
        assert_eq!(filled("{=user} {={user}} {x} {=} {=X} {"), "{user} {={USER}} {x} {=} {=X} {");
        assert_eq!(filled(r#"{"a":"{user}"}"#), r#"{"a":"{USER}"}"#);
    }
}
