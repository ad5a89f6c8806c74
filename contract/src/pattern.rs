//! Patterns for the names of tools and methods.

use memchr::memmem;

/// Whether `pattern` matches the whole of `name`. A `*` matches any text, including an empty one. Case matters,
/// as in MCP.
///
/// Any client can send a name without a token, and the name can be as long as a body. Therefore the running
/// time is proportional to the sum of both lengths, and not to their product (attack 92).
pub fn matches(pattern: &str, name: &str) -> bool {
    fits(pattern.as_bytes(), name.as_bytes(), memmem::find)
}

/// Matches the parts between stars from left to right, each after the end of the previous part. Therefore
/// `find` (text, part to find) never examines a byte of the name twice.
fn fits(pattern: &[u8], name: &[u8], mut find: impl FnMut(&[u8], &[u8]) -> Option<usize>) -> bool {
    let mut parts = pattern.split(|byte| *byte == b'*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    match rest.strip_suffix(last) {
        Some(between) => rest = between,
        None => return false,
    }
    parts.all(|part| {
        let behind = find(rest, part).and_then(|at| rest.get(at + part.len()..));
        rest = behind.unwrap_or_default();
        behind.is_some()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pattern_matches_whole_names_in_their_case() {
        for (pattern, name) in [("*", ""), ("delete_*", "delete_"), ("a*b*c", "a-b-b-c"), ("", "")] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        let others = [("delete_*", "undelete_x"), ("a*b", "a-b-c"), ("delete_*", "Delete_x"), ("", "x")];
        for (pattern, name) in others {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    /// A slow reference implementation. After each byte of the pattern, it keeps all positions in the name up to
    /// which the pattern read so far can match.
    fn means(pattern: &[u8], name: &[u8]) -> bool {
        let mut places = vec![0];
        for byte in pattern {
            places = match byte {
                b'*' => places.first().map(|first| (*first..=name.len()).collect()).unwrap_or_default(),
                _ => places.iter().filter(|at| name.get(**at) == Some(byte)).map(|at| at + 1).collect(),
            };
        }
        places.contains(&name.len())
    }

    /// The number of bytes of the name that are searched.
    fn searched(pattern: &str, name: &str) -> usize {
        let mut searched = 0;
        fits(pattern.as_bytes(), name.as_bytes(), |text, part| {
            let found = memmem::find(text, part);
            searched += found.map_or(text.len(), |at| at + part.len());
            found
        });
        searched
    }

    #[test]
    fn a092_a_long_name_costs_its_length_and_no_more() {
        for pattern in ["*a*b*c*", "*aaaaaaab*aaaaaaab*", "a*aa*aaa*b", "**************z", "*"] {
            let name = "a".repeat(45_000);
            let searched = searched(pattern, &name);
            assert!(searched <= name.len(), "{pattern}: {searched} bytes of {}", name.len());
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_it_means(pattern in "[a-c*]{1,16}", name in "[a-c]{0,64}") {
            prop_assert_eq!(matches(&pattern, &name), means(pattern.as_bytes(), name.as_bytes()));
        }

        #[test]
        fn no_byte_of_a_name_is_searched_twice(pattern in "[ab*]{1,16}", name in "[ab]{0,64}") {
            prop_assert!(searched(&pattern, &name) <= name.len());
        }

        #[test]
        fn a_star_anywhere_matches_more(name in "[a-c]{0,6}", pattern in "[a-c*]{1,6}", at in 0usize..6) {
            let at = at.min(pattern.len());
            let wider = format!("{}*{}", &pattern[..at], &pattern[at..]);
            prop_assert!(!matches(&pattern, &name) || matches(&wider, &name));
        }
    }
}
