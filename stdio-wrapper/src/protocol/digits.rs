//! Finds numbers with so many digits that a parser refuses the whole message. Python does not convert integers
//! of more than 4300 digits, and its SDK silently drops messages that it cannot parse.

/// Maximum number of consecutive digits in a number.
pub const MAX_DIGITS: usize = 4000;

/// Whether a number in `text` (which must be JSON) has more than [`MAX_DIGITS`] consecutive digits.
pub fn has_endless_number(text: &[u8]) -> bool {
    // A longer run covers at least one of these positions, so only these must be examined.
    let places = (0..text.len()).step_by(MAX_DIGITS / 2);
    places.filter(|at| is_digit(text.get(*at))).any(|at| run(text, at) > MAX_DIGITS) && has_run_outside(text)
}

fn is_digit(byte: Option<&u8>) -> bool {
    byte.is_some_and(u8::is_ascii_digit)
}

/// The length of the run of digits around a position. It counts at most one digit more than the maximum on each
/// side.
fn run(text: &[u8], at: usize) -> usize {
    let count = |digits: &mut dyn Iterator<Item = &u8>| {
        digits.take(MAX_DIGITS + 1).take_while(|byte| byte.is_ascii_digit()).count()
    };
    let (before, after) = text.split_at(at.min(text.len()));
    count(&mut before.iter().rev()) + count(&mut after.iter())
}

/// Whether a number has too many digits. Only text outside strings is examined, because a string can contain any
/// number of digits.
fn has_run_outside(text: &[u8]) -> bool {
    let mut rest = text;
    let mut digits = 0;
    while let Some((byte, tail)) = rest.split_first() {
        rest = if *byte == b'"' { super::depth::after_string(tail) } else { tail };
        digits = if byte.is_ascii_digit() { digits + 1 } else { 0 };
        if digits > MAX_DIGITS {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_counted_in_numbers_and_not_in_texts() {
        let long = "7".repeat(MAX_DIGITS + 1);
        for padding in [0, 1, 1999, 2000, 5000] {
            let padding = "x".repeat(padding);
            assert!(has_endless_number(format!(r#"{{"{padding}":[-{long}]}}"#).as_bytes()));
            assert!(!has_endless_number(format!(r#"{{"{padding}":["{long}\"{long}",1]}}"#).as_bytes()));
            let allowed = long.get(1..).unwrap();
            assert!(!has_endless_number(format!(r#"{{"{padding}":{allowed}.{allowed}}}"#).as_bytes()));
        }
    }
}
