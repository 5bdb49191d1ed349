//! The moment that a template is told as now, where it asks: gpt-oss and others write the date into their first message.
//!
//! With another date that message differs, and with it everything that follows would be read again. So a chat that goes on
//! keeps the moment at which it began, also over midnight; what is soon read has the date of today.

use crate::events::{Message, Role};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{SystemTime, UNIX_EPOCH};

/// A chat that is not answered yet is only long with this many bytes.
const LONG: usize = 2000;

/// When the chat in the context began.
#[derive(Default)]
pub(super) struct Began {
    /// Standing instruction and first question of the chat, hashed.
    first: Option<u64>,
    /// Seconds since 1970, UTC.
    at: u64,
}

impl Began {
    /// The moment for a chat that is answered at `now`, in seconds since 1970.
    pub(super) fn of(&mut self, messages: &[Message], now: u64) -> u64 {
        let end = messages.iter().position(|m| m.role == Role::User).map_or(messages.len(), |at| at + 1);
        let mut hasher = DefaultHasher::new();
        messages[..end].iter().for_each(|m| (m.role == Role::User, &m.content).hash(&mut hasher));
        let first = Some(hasher.finish());
        let long = messages.len() > end || messages[..end].iter().map(|m| m.content.len()).sum::<usize>() > LONG;
        if !long || self.first != first {
            *self = Self { first, at: now };
        }
        self.at
    }
}

/// The program's clock: seconds since 1970, UTC.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(role: Role, content: &str) -> Message {
        Message { role, content: content.into(), thinking: None }
    }

    #[test]
    fn a_chat_that_goes_on_keeps_its_date_over_midnight() {
        let mut began = Began::default();
        let mut chat = vec![say(Role::System, "Be kind."), say(Role::User, "Hi")];
        assert_eq!(began.of(&chat, 100), 100);
        chat.extend([say(Role::Assistant, "Hello."), say(Role::User, "So?")]);
        assert_eq!(began.of(&chat, 90_000), 100);
        chat.pop();
        chat.push(say(Role::User, "Edited."));
        assert_eq!(began.of(&chat, 900_000), 100, "an edit of a later message is still the same chat");
    }

    #[test]
    fn what_is_soon_read_has_the_date_of_today() {
        let mut began = Began::default();
        let hi = [say(Role::User, "Hi")];
        assert_eq!(began.of(&hi, 100), 100);
        assert_eq!(began.of(&hi, 200), 200, "a new chat may begin as the last one did");
        let document = [say(Role::User, &"word ".repeat(1000))];
        assert_eq!(began.of(&document, 300), 300);
        assert_eq!(began.of(&document, 400), 300, "asked again, a long text is not read again");
        let other = [say(Role::User, "Hello"), say(Role::Assistant, "a"), say(Role::User, "b")];
        assert_eq!(began.of(&other, 500), 500, "another chat, taken up");
        assert_eq!(began.of(&[], 600), 600);
    }
}
