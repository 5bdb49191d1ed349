//! The only types that the engine and the screen share.
//!
//! Commands go in; two lanes come out. The **text lane** ([`Event`]) is never lost. The **telemetry lane**
//! ([`StepRecord`]) is lossy: the engine never waits for the screen, so records may be dropped, and the
//! number of dropped records is counted and shown. Every record carries the whole occupancy, so one record
//! is enough to be right again after a gap. Slow gauges ([`Gauges`]) are "latest wins".
//!
//! Everything here is plain data without behaviour beyond small accessors.

mod card;
mod gauges;
mod load;
mod reasoning;
mod step;

pub use card::{Blocks, LayerSlot, ModelCard, Plan};
pub use gauges::{DeviceGauges, Gauges};
pub use load::{DeviceChoice, LoadOptions, MissChoice, ModelSource, When};
pub use reasoning::{Effort, Reasoning};
pub use step::{Ahead, Eviction, Foreseen, Outcome, Phase, RoutedExpert, StepRecord, StepTime, NO_SLOT};

use serde::{Deserialize, Serialize};

/// Identifies one generation request; answers carry it so that late events of a cancelled turn can be told apart.
pub type RequestId = u64;

/// Who said a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Standing instructions.
    System,
    /// The person at the keyboard.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

/// One message of a chat, as the template sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who said it.
    pub role: Role,
    /// What was said, without markup of the template.
    pub content: String,
    /// The reasoning that preceded the answer, where the model has such a block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
}

/// How the next token is drawn from the logits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this fraction as likely as the best; 0 keeps all.
    pub min_p: f32,
    /// Divides (multiplies, if negative) the logits of tokens seen before; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from the logits of tokens seen before; 0 is off.
    pub presence_penalty: f32,
    /// Seed of the random draw; `None` takes a fresh one, which the turn's stats report.
    pub seed: Option<u64>,
    /// Most tokens to generate; 0 is "until the context is full".
    pub max_tokens: usize,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.7,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            seed: None,
            max_tokens: 0,
        }
    }
}

/// What the screen (or a report) asks of the engine. Cancelling and the slot target are atomics on the
/// engine's handle, because they must act in the middle of a command.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "a variant's line tells of its fields")]
pub enum Command {
    /// Close the model at hand, if any, and load another.
    Open { source: ModelSource, options: LoadOptions },
    /// Answer this chat. The engine reuses whatever prefix of it is already in its cache.
    Generate { id: RequestId, messages: Vec<Message>, sampling: Sampling, reasoning: Reasoning },
    /// Continue raw text without a template.
    Complete { id: RequestId, prompt: String, sampling: Sampling },
    /// Change the replacement policy by name at the next step boundary.
    SetPolicy(String),
    /// Leave the thread; the model is dropped first.
    Shutdown,
}

/// Which part of an answer a piece of text belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextKind {
    /// The answer itself.
    Answer,
    /// Reasoning between the model's thinking marks.
    Thinking,
}

/// Why a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FinishReason {
    /// The model ended its turn.
    Stop,
    /// `max_tokens` was reached.
    Length,
    /// The context is full.
    ContextFull,
    /// The person cancelled.
    Cancelled,
    /// An error event came before.
    Failed,
}

/// Counts and times of one finished turn.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TurnStats {
    /// Tokens of the rendered prompt.
    pub prompt_tokens: usize,
    /// Of those, tokens that were already in the cache and not read again.
    pub reused_tokens: usize,
    /// Of those, tokens that were not read because the turn ended before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unread_tokens: usize,
    /// Tokens generated, the end token not counted.
    pub generated_tokens: usize,
    /// Of those, tokens inside the thinking block.
    pub thinking_tokens: usize,
    /// Tokens that were read along because they were likely to come, and those of them that were then drawn.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub drafted_tokens: usize,
    /// See `drafted_tokens`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub kept_tokens: usize,
    /// Wall time of the prompt in seconds.
    pub prefill_s: f64,
    /// Wall time of the generation in seconds.
    pub decode_s: f64,
    /// Routed experts found in a slot, and all routed experts, over the decode steps of this turn.
    pub hits: u64,
    /// See `hits`.
    pub routed: u64,
    /// The seed that was used.
    pub seed: u64,
}

impl TurnStats {
    /// Tokens of the prompt that this turn read.
    #[must_use]
    pub fn read_tokens(&self) -> usize {
        self.prompt_tokens.saturating_sub(self.reused_tokens).saturating_sub(self.unread_tokens)
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// What kind of failure a load or a turn ended with: scripts tell them apart by exit code, the screen by the remedy it offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureKind {
    /// The file is missing, damaged, or of a kind that can't be run.
    File,
    /// The budget or the machine has too little memory.
    Memory,
    /// The load options make no sense for this model (more slots than experts, more context than it knows).
    Options,
    /// The person gave up.
    Cancelled,
    /// The prompt of a turn is longer than the context.
    Context,
    /// Everything else.
    #[default]
    Other,
}

/// The text lane. Never lost, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[allow(missing_docs, reason = "a variant's line tells of its fields")]
pub enum Event {
    /// Loading goes on: a stage in words, bytes done and in all (0 if unknown).
    Loading { stage: String, done: u64, total: u64 },
    /// A model is open.
    Ready { card: Box<ModelCard> },
    /// The model could not be opened; the engine is idle and another can be tried.
    LoadFailed { message: String, kind: FailureKind },
    /// The prompt is being read; within an answer, what the context has lost of it and of the answer is read again.
    Prefill { id: RequestId, done: usize, total: usize, reused: usize },
    /// Text of one token, or a part of it, cut at grapheme borders. `step` names the step that chose the token; tokens
    /// without a whole grapheme of their own share the next piece, whose `step` is then that of the last of them.
    Text { id: RequestId, text: String, kind: TextKind, step: u64 },
    /// The turn is over.
    Finished { id: RequestId, reason: FinishReason, stats: TurnStats },
    /// A change of the slot count was carried out, in full, in part or not at all.
    Slots { asked: usize, granted: usize, why: Option<String> },
    /// Slots of each layer from now on, under the same total; empty if all are the same again. `why` says why it can't be.
    Spread { slots: Vec<u16>, why: Option<String> },
    /// How experts get slots from now on. It comes before the `Ready` of a model, and whenever that changes.
    Scheduling(Scheduling),
    /// Something failed; the engine goes on. `id` is the turn that failed, if one did.
    Failed {
        id: Option<RequestId>,
        message: String,
        #[serde(default)]
        kind: FailureKind,
    },
    /// Something worth a line on the screen.
    Notice { message: String },
}

/// Who decides which experts have slots, and how readily newcomers get them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scheduling {
    /// The policy by name; of a recording, whatever its file says.
    pub policy: String,
    /// Slots per layer; 0 if that is not known.
    pub slots: u16,
    /// A newcomer replaces a resident only with more than its worth times this; `None` is the policy's own way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// Most replacements per layer and generated token; `None` is the policy's own way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_tick: Option<u32>,
    /// Most replacements per layer and chunk of a prompt; `None` is the policy's own way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_prefill_tick: Option<u32>,
    /// Most experts that a look at a coming layer brings; `None` is the policy's own way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ahead: Option<u32>,
    /// What a file says could not be read, for this reason.
    #[serde(skip)]
    pub unread: Option<String>,
}
