//! The clipboard of the person's own terminal, through OSC 52: it works over SSH, where a clipboard of this
//! machine would be the wrong one. There is no answer, so nothing is known of its success.

use base64::Engine as _;

/// Terminals commonly ignore longer sequences as a whole.
pub const MAX_SEQUENCE: usize = 74_994;

/// The sequence that puts `text` on the clipboard.
///
/// # Errors
/// If it would be longer than terminals take: the bytes of text that would fit.
pub fn sequence(text: &str) -> Result<Vec<u8>, usize> {
    let most = MAX_SEQUENCE / 4 * 3 - 12;
    if text.len() > most {
        return Err(most);
    }
    let encoded = base64::engine::general_purpose::STANDARD.encode(text);
    Ok(format!("\x1b]52;c;{encoded}\x07").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_encoded_and_can_carry_no_sequence_of_its_own() {
        assert_eq!(sequence("hi\x1b\x07").unwrap(), b"\x1b]52;c;aGkbBw==\x07");
    }

    #[test]
    fn what_terminals_would_ignore_is_refused_with_the_limit() {
        let most = sequence(&"x".repeat(100_000)).unwrap_err();
        assert!(sequence(&"x".repeat(most)).unwrap().len() <= MAX_SEQUENCE);
    }
}
