//! Which characters can be shown in text that comes from a stranger.

use std::ops::RangeInclusive;

/// Whether a character is visible or a space, and does not change the writing direction. Any other character could
/// make one text look like another.
pub fn is_visible(letter: char) -> bool {
    !letter.is_control() && !INVISIBLE.iter().any(|range| range.contains(&letter))
}

/// Zero-width characters, and characters without a visible glyph: those with the property
/// `Default_Ignorable_Code_Point` (Unicode 17, DerivedCoreProperties.txt), line and paragraph separators,
/// interlinear annotation marks, and two symbols that are blank.
const INVISIBLE: [RangeInclusive<char>; 19] = [
    '\u{ad}'..='\u{ad}',
    '\u{34f}'..='\u{34f}',
    '\u{61c}'..='\u{61c}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{200b}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    // The next two are the blank Braille pattern and the musical null notehead.
    '\u{2800}'..='\u{2800}',
    '\u{1d159}'..='\u{1d159}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{fff0}'..='\u{fffc}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e0fff}',
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a020_characters_without_a_glyph_or_that_change_the_direction_are_not_visible() {
        // All default-ignorable characters (Unicode 17, DerivedCoreProperties.txt), and the blank symbols.
        let ranges = [
            0xad..=0xad,
            0x34f..=0x34f,
            0x61c..=0x61c,
            0x115f..=0x1160,
            0x17b4..=0x17b5,
            0x180b..=0x180f,
            0x200b..=0x200f,
            0x202a..=0x202e,
            0x2060..=0x206f,
            0x3164..=0x3164,
            0xfe00..=0xfe0f,
            0xfeff..=0xfeff,
            0xffa0..=0xffa0,
            0xfff0..=0xfff8,
            0x1bca0..=0x1bca3,
            0x1d173..=0x1d17a,
            0xe0000..=0xe0fff,
            0x2028..=0x2029,
            0x2800..=0x2800,
            0xfff9..=0xfffc,
            0x1d159..=0x1d159,
        ];
        for c in ranges.into_iter().flatten().filter_map(char::from_u32) {
            assert!(!is_visible(c), "U+{:04X}", u32::from(c));
        }
        for c in "\u{0}\t\r\n\u{1b}\u{9b}".chars() {
            assert!(!is_visible(c), "U+{:04X}", u32::from(c));
        }
        for c in "aé ü\u{301}クロ클К\u{a0}…".chars() {
            assert!(is_visible(c), "U+{:04X}", u32::from(c));
        }
    }
}
