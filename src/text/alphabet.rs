//! The byte-level alphabet of GPT-2: every byte has a printable character, so that BPE can work on text.

/// The character that stands for a byte: printable Latin-1 stands for itself, the rest follows from U+0100 on.
pub(super) fn char_of(byte: u8) -> char {
    let shifted = match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u32::from(byte),
        0x00..=0x20 => 0x100 + u32::from(byte),
        0x7f..=0xa0 => 0x100 + 0x21 + u32::from(byte - 0x7f),
        0xad => 0x100 + 0x21 + 0x22,
    };
    char::from_u32(shifted).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte that a character stands for.
pub(super) fn byte_of(c: char) -> Option<u8> {
    let byte = match c as u32 {
        v @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => v,
        v @ 0x100..=0x120 => v - 0x100,
        v @ 0x121..=0x142 => v - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_character_of_its_own() {
        for byte in 0..=255u8 {
            let c = char_of(byte);
            assert_eq!(byte_of(c), Some(byte));
            assert!(!c.is_control() && !c.is_whitespace());
        }
        assert_eq!((char_of(b' '), char_of(b'\n'), char_of(b'a')), ('Ġ', 'Ċ', 'a'));
        assert_eq!(byte_of('一'), None);
    }
}
