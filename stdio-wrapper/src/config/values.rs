//! Parses sizes, booleans and lists.

/// Parses `65536`, `64KiB`, `16MiB` or `1GiB` into bytes. `K`, `M` and `G` mean the same as `KiB`, `MiB` and
/// `GiB`.
pub(super) fn size(text: &str) -> Option<u64> {
    let (digits, unit) = split_unit(text);
    let number: u64 = digits.parse().ok()?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// Parses the usual words for true and false.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// Splits a list at commas. Items are trimmed, and empty items are omitted.
pub(super) fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    (digits, unit.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_units() {
        assert_eq!(size("16MiB"), Some(16 << 20));
        assert_eq!(size("64 k"), Some(64 << 10));
        assert_eq!(size("99999999999999999999"), None);
        assert_eq!(size("1TB"), None);
    }
}
