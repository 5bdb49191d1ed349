//! How the tokens of a vocabulary spell text.

use super::alphabet::{byte_of, char_of};

/// Stands for a space in [`Spelling::Characters`] (SentencePiece's convention).
const SPACE: char = '\u{2581}';

/// How the tokens of a vocabulary spell text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// Bytes, in the alphabet of GPT-2.
    ByteLevel,
    /// Characters, with U+2581 for a space; a character that is no token is spelled in byte tokens (`<0x0A>`).
    Characters,
}

impl Spelling {
    /// The spelling of the vocabularies that `tokenizer.ggml.model` calls so; `None` if that is not known.
    pub(super) fn of_family(family: &str) -> Option<Self> {
        match family {
            "gpt2" => Some(Self::ByteLevel),
            "gemma4" => Some(Self::Characters),
            _ => None,
        }
    }

    /// Adds the spelling of `text`.
    pub(super) fn write(self, text: &str, out: &mut String) {
        match self {
            Self::ByteLevel => out.extend(text.bytes().map(char_of)),
            Self::Characters => out.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c })),
        }
    }

    /// The bytes that a plain token stands for.
    pub(super) fn bytes(self, token: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(token.len());
        for c in token.chars() {
            match self {
                Self::ByteLevel if byte_of(c).is_some() => out.extend(byte_of(c)),
                Self::Characters if c == SPACE => out.push(b' '),
                _ => out.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        out
    }

    /// The token that stands for a byte whatever is around it.
    pub(super) fn byte_token(self, byte: u8) -> String {
        match self {
            Self::ByteLevel => char_of(byte).into(),
            Self::Characters => format!("<0x{byte:02X}>"),
        }
    }
}

/// The byte that a token written `<0x0A>` stands for.
pub(super) fn named_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_stand_for_the_text_that_they_spell() {
        let text = " a  é\n\u{a0}一";
        for spelling in [Spelling::ByteLevel, Spelling::Characters] {
            let mut token = String::new();
            spelling.write(text, &mut token);
            assert_eq!(spelling.bytes(&token), text.as_bytes(), "{spelling:?}");
            assert!(!token.contains(' '));
        }
    }

    #[test]
    fn bytes_are_named_by_two_hexadecimal_digits() {
        for byte in 0..=255 {
            assert_eq!(named_byte(&Spelling::Characters.byte_token(byte)), Some(byte));
        }
        for other in ["<0x>", "<0xA>", "<0x00A>", "<0x+1>", "<0xGG>", "0x0A", "<0x0A"] {
            assert_eq!(named_byte(other), None, "{other}");
        }
    }
}
