//! How a model marks its reasoning, and the control tokens that it does so with.

use super::{gemma, harmony};

/// How a model marks its reasoning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// With `<think>` and `</think>`, which are text; or not at all.
    #[default]
    Think,
    /// Messages with channels (gpt-oss): see [`super::HarmonySplitter`].
    Harmony,
    /// Channels in the answer (Gemma 4): see [`super::GemmaSplitter`].
    Gemma,
}

impl Format {
    /// The format of a vocabulary, which has these control tokens.
    pub(super) fn of(is_control: impl Fn(&str) -> bool) -> Self {
        let all = |names: &[&str]| names.iter().all(|name| is_control(name));
        match () {
            () if all(&harmony::NEEDED) => Self::Harmony,
            () if all(&gemma::NEEDED) => Self::Gemma,
            () => Self::Think,
        }
    }

    /// The marks that are control tokens, as vocabularies spell them.
    pub(super) fn spellings(self) -> &'static [(&'static str, Mark)] {
        match self {
            Self::Think => &[],
            Self::Harmony => &harmony::SPELLINGS,
            Self::Gemma => &gemma::SPELLINGS,
        }
    }
}

/// What a control token of a format does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// `<|start|>`, `<|turn>`: a message begins, with the role.
    Start,
    /// `<|channel|>`, `<|channel>`: the name of the channel follows.
    Channel,
    /// `<|constrain|>`: the form of the message follows.
    Constrain,
    /// `<|message|>`: the header is over.
    Message,
    /// `<|end|>`, `<|return|>`, `<|call|>`, `<turn|>`: the message is over.
    End,
    /// `<channel|>`: the channel is over, and the message goes on.
    ChannelEnd,
    /// `<|tool_call>`: the call of a tool follows.
    Call,
    /// `<tool_call|>`: the call is over.
    CallEnd,
}
