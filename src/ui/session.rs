//! Saved chats: what is in their files. Their folder: see [`ChatStore`]; several windows on one chat: see [`Window`].

mod store;
mod window;

pub use store::{ChatStore, Listed};
pub use window::Window;

use crate::events::{Effort, Role, Sampling};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;

/// The number in `format`; files of a later one are not read.
pub const FORMAT: u32 = 1;

/// One chat, as it lies in its file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedChat {
    /// [`FORMAT`].
    pub format: u32,
    /// When it began, in UTC.
    pub created: String,
    /// When it was last saved, in UTC.
    pub updated: String,
    /// Name of the model that answered last.
    pub model: String,
    /// The standing instruction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Sampling parameters at the last turn.
    #[serde(default)]
    pub sampling: Sampling,
    /// Whether the model was to reason; `None` leaves it to the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking: Option<bool>,
    /// How long the model was to reason; `None` leaves it to the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effort: Option<Effort>,
    /// What was said, oldest first.
    pub messages: Vec<SavedMessage>,
}

/// One message of a saved chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedMessage {
    /// Who said it.
    pub role: Role,
    /// What was said.
    pub content: String,
    /// The reasoning before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
    /// How long the reasoning took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking_ms: Option<u64>,
    /// Tokens of the reasoning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking_tokens: Option<usize>,
    /// The answer was cut off: cancelled, failed, or the program ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unfinished: bool,
}

/// Why a chat could not be read or written. The message names the file.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// There is no such chat.
    #[error("there is no saved chat \"{}\"; {}", crate::text::one_line(id, 80), others(latest))]
    Unknown {
        /// What was asked for.
        id: String,
        /// Names of those that were saved last.
        latest: Vec<String>,
    },
    /// The file is not a chat.
    #[error("{path}: not a saved chat: {reason}")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, with line and column.
        reason: String,
    },
}

fn others(latest: &[String]) -> String {
    if latest.is_empty() {
        return "none has been saved yet".into();
    }
    format!("the latest are {}; /resume lists all", latest.join(", "))
}

/// The first line that the person wrote.
#[must_use]
pub fn title(chat: &SavedChat) -> Option<String> {
    let first = chat.messages.iter().find(|m| m.role == Role::User)?;
    first.content.lines().find(|l| !l.trim().is_empty()).map(|l| l.trim().to_owned())
}

/// A chat as Markdown, for `/save`.
#[must_use]
pub fn to_markdown(chat: &SavedChat) -> String {
    let mut out = format!("# {}\n\n{} · {}\n", title(chat).unwrap_or_else(|| "Chat".into()), chat.model, chat.updated);
    if let Some(system) = &chat.system {
        out.push_str(&format!("\n## Standing instruction\n\n{system}\n"));
    }
    for message in &chat.messages {
        let who = match message.role {
            Role::User => "You",
            Role::Assistant => "Model",
            Role::System => "Instruction",
            Role::Tool => "Tool",
        };
        out.push_str(&format!("\n## {who}\n\n"));
        if let Some(thinking) = &message.thinking {
            let thoughts = thinking.trim();
            out.push_str(&format!("<details><summary>Thoughts</summary>\n\n{thoughts}\n\n</details>\n\n"));
        }
        out.push_str(message.content.trim_end());
        out.push('\n');
    }
    out
}
