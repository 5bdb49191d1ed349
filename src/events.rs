//! The only types that the engine and the screen share.
//!
//! Commands go in; two lanes come out. The **text lane** ([`Event`]) is never lost. The **telemetry lane**
//! ([`StepRecord`]) is lossy: the engine never waits for the screen, so records may be dropped, and the
//! number of dropped records is counted and shown. Every record carries the whole occupancy, so one record
//! is enough to be right again after a gap. Slow gauges ([`Gauges`]) are "latest wins".
//!
//! Everything here is plain data without behaviour beyond small accessors.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Identifies one generation request; answers carry it so that late events of a cancelled turn can be told apart.
pub type RequestId = u64;

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModelSource {
    /// The toy model that is embedded in the binary.
    Demo,
    /// A GGUF file, or the first file of a split set.
    Path(PathBuf),
}

/// How a model is to be loaded. `None` means "derive it"; the plan says what was derived.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadOptions {
    /// Budget of host memory in bytes for everything the process keeps (`--ram`).
    pub ram: Option<u64>,
    /// Slots per layer; derived from the budget when absent.
    pub slots: Option<usize>,
    /// Context length in tokens; derived when absent.
    pub context: Option<usize>,
    /// Worker threads, the calling one included; physical cores when absent.
    pub threads: Option<usize>,
    /// Replacement policy by name: `rotary`, `lru`, `lfu`.
    pub policy: Option<String>,
    /// Keep keys and values in 32-bit floats (exact comparison) instead of 16-bit.
    pub kv_f32: bool,
    /// Layers that gain more from a slot get more of them, under the same total (`--slots-by layer`).
    #[serde(default)]
    pub spread: bool,
    /// Folder that keeps which experts of a model were used, to fill its slots when it is opened again; `None` starts with empty
    /// slots and keeps nothing.
    #[serde(default)]
    pub heat: Option<PathBuf>,
    /// What computes.
    #[serde(default)]
    pub device: DeviceChoice,
    /// Budget of device memory in bytes for weights, context, buffers and slots (`--vram`).
    #[serde(default)]
    pub vram: Option<u64>,
    /// Who computes the experts that are not in a slot of the device.
    #[serde(default)]
    pub miss: MissChoice,
    /// Whether a device's experts are copied into page-locked memory in huge pages.
    #[serde(default)]
    pub hold: HoldChoice,
    /// Most experts that a look at a coming layer brings before a token asks for them; `None`: what the policy does by itself.
    pub ahead: Option<usize>,
}

/// What computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// A GPU if there is one that this build can use, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU, or nothing.
    Gpu,
    /// A GPU played by the CPU, slowly: every path of the GPU tier without a GPU.
    Simulated,
}

impl DeviceChoice {
    /// By the names that the command line knows.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "auto" => Self::Auto,
            "cpu" => Self::Cpu,
            "gpu" => Self::Gpu,
            "simulated" => Self::Simulated,
            _ => return None,
        })
    }
}

/// Who computes the experts that are not in a slot of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MissChoice {
    /// Both, in the proportion of the bandwidths that were measured when the model was opened.
    #[default]
    Auto,
    /// The device: they are copied to it first.
    Gpu,
    /// The host, from the mapped file.
    Cpu,
}

impl MissChoice {
    /// By the names that the command line knows.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "auto" => Self::Auto,
            "gpu" => Self::Gpu,
            "cpu" => Self::Cpu,
            _ => return None,
        })
    }
}

/// Whether all experts of a model on a device are copied out of the mapped file into memory of the process: in huge pages, and page-locked as far as a set share of the RAM goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HoldChoice {
    /// If the RAM has room for them and a reserve.
    #[default]
    Auto,
    /// Without asking for room.
    Always,
    /// They are read from the mapped file.
    Never,
}

impl HoldChoice {
    /// By the names that the command line knows.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "auto" => Self::Auto,
            "always" => Self::Always,
            "never" => Self::Never,
            _ => return None,
        })
    }
}

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
    Generate { id: RequestId, messages: Vec<Message>, sampling: Sampling, thinking: Option<bool> },
    /// Continue raw text without a template.
    Complete { id: RequestId, prompt: String, sampling: Sampling },
    /// Change the replacement policy by name at the next step boundary.
    SetPolicy(String),
    /// Leave the thread; the model is dropped first.
    Shutdown,
}

/// What is loaded, for titles, the memory pane and the cursor card.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// `general.name` or the file's stem.
    pub name: String,
    /// `general.architecture`.
    pub arch: String,
    /// A toy that must be labelled as one.
    pub toy: bool,
    /// Layers that have routed experts, in order of appearance; index = "layer" everywhere in the telemetry.
    pub layers: usize,
    /// Routed experts per layer.
    pub experts: usize,
    /// Experts that one token uses in a layer.
    pub top_k: usize,
    /// Vocabulary size.
    pub vocab: usize,
    /// Context length granted, in tokens.
    pub context: usize,
    /// Bytes of one expert, per layer (types may differ between layers).
    pub expert_bytes: Vec<u64>,
    /// The plan that the load followed.
    pub plan: Plan,
    /// Sampling defaults of the file (`general.sampling.*`) laid over the program's.
    pub sampling: Sampling,
    /// The template knows `enable_thinking`.
    pub can_think: bool,
    /// The file has no chat template and the built-in ChatML is used.
    pub template_fallback: bool,
    /// What computes: "CPU, AVX2, 2 threads".
    pub device: String,
}

impl ModelCard {
    /// No routed experts: every weight is used for every token, and there is nothing to rotate.
    #[must_use]
    pub fn is_dense(&self) -> bool {
        self.layers == 0 || self.experts == 0
    }
}

/// The memory plan, computed and shown before anything is loaded. All sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The budget that was kept to; `None` if none was asked for.
    pub budget: Option<u64>,
    /// Weights that every token uses.
    pub trunk: u64,
    /// The part of `trunk` of which a token reads one row only: embeddings that are not the head as well.
    #[serde(default)]
    pub looked_up: u64,
    /// Keys, values and recurrent state at the granted context.
    pub cache: u64,
    /// Activations, logits and the process itself.
    pub buffers: u64,
    /// All slots of all layers.
    pub slots: u64,
    /// One slot in every layer.
    pub slot_step: u64,
    /// All routed experts of the file.
    pub experts: u64,
    /// Slots per layer.
    pub slots_per_layer: usize,
    /// Fewest slots per layer that can be set.
    pub min_slots: usize,
    /// Most slots per layer: the number of experts.
    pub max_slots: usize,
    /// Context length in tokens.
    pub context: usize,
    /// The part of `cache` that recurrent states and the copies of them take, whatever the context.
    #[serde(default)]
    pub states: u64,
    /// One slot, by layer: files mix types, so layers differ.
    #[serde(default)]
    pub slot_bytes: Vec<LayerSlot>,
    /// The sizes above are of this device's memory; `None`: of host memory.
    #[serde(default)]
    pub device: Option<String>,
    /// Host memory that the process keeps beside a device: tokenizer, embedding rows, page-locked buffers, the program itself.
    #[serde(default)]
    pub host: u64,
}

/// One slot of one layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerSlot {
    /// Block number in the file.
    pub layer: usize,
    /// Bytes of one of its experts: gate, up and down.
    pub bytes: u64,
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
    /// Tokens generated, the end token not counted.
    pub generated_tokens: usize,
    /// Of those, tokens inside the thinking block.
    pub thinking_tokens: usize,
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

/// What kind of failure a load ended with: scripts tell them apart by exit code, the screen by the remedy it offers.
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
    /// The prompt is being read.
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
    Failed { id: Option<RequestId>, message: String },
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

/// Prompt reading or token generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// A chunk of the prompt.
    Prefill,
    /// One token.
    #[default]
    Decode,
}

/// What became of one routed expert in one layer of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was in a slot.
    Hit,
    /// It was not, and stayed out.
    Miss,
    /// It was not, and got a slot in this step.
    Admitted,
}

/// One routed expert of one layer in one step. In prefill one entry stands for all tokens of the chunk
/// that chose the expert.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoutedExpert {
    /// Expert id within its layer.
    pub expert: u16,
    /// Tokens of the step that chose it (1 in decode).
    pub tokens: u16,
    /// Gate weight, summed over those tokens.
    pub weight: f32,
    /// What happened.
    pub outcome: Outcome,
}

/// An expert that lost its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eviction {
    /// Layer index.
    pub layer: u16,
    /// Expert that lost its slot.
    pub expert: u16,
}

/// An expert that got a slot before its layer's tick, because the token at hand was likely to ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ahead {
    /// Layer index.
    pub layer: u16,
    /// Expert that got a slot.
    pub expert: u16,
}

/// Where the time of a step went, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepTime {
    /// The whole step, sampling included.
    pub total_us: u32,
    /// Everything that is not named below: embeddings, attention, norms, routers, head.
    pub trunk_us: u32,
    /// Routed experts that were in slots.
    pub hits_us: u32,
    /// Routed experts computed from host memory.
    pub misses_us: u32,
    /// Copying admitted experts into slots.
    pub upload_us: u32,
    /// Drawing the token.
    pub sampling_us: u32,
}

/// One step of the engine. Fixed in size for a given model and slot count.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Counts steps since the model was opened, from 0; a gap means dropped records.
    pub step: u64,
    /// Prompt or generation.
    pub phase: Phase,
    /// Tokens in this step (1 in decode).
    pub tokens: u32,
    /// Position of the first of them in the context.
    pub position: u32,
    /// The token that this step chose (decode and last prefill chunk only).
    pub chosen: Option<u32>,
    /// Slots per layer in force during the step.
    pub slots: u16,
    /// `routed[ends[l-1]..ends[l]]` are layer l's experts, best gate first in decode.
    pub ends: Vec<u32>,
    /// All routed experts, layer after layer.
    pub routed: Vec<RoutedExpert>,
    /// Experts that lost their slot.
    pub evicted: Vec<Eviction>,
    /// Experts that got a slot before they were asked for; those that were then asked for are hits.
    #[serde(default)]
    pub ahead: Vec<Ahead>,
    /// Occupancy after the step: `slot_of[layer * experts + expert]`, [`NO_SLOT`] if none.
    pub slot_of: Vec<u16>,
    /// Time split.
    pub time: StepTime,
    /// Bytes copied into slots.
    pub bytes_uploaded: u64,
    /// Bytes of experts read from host memory to compute misses.
    pub bytes_missed: u64,
    /// Tokens in the context after the step.
    pub context_used: u32,
}

/// Marks an expert without a slot in [`StepRecord::slot_of`].
pub const NO_SLOT: u16 = u16::MAX;

impl StepRecord {
    /// Layers in this record.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.ends.len()
    }

    /// The routed experts of one layer; empty for a layer out of range.
    #[must_use]
    pub fn layer(&self, layer: usize) -> &[RoutedExpert] {
        let Some(&end) = self.ends.get(layer) else {
            return &[];
        };
        let start = if layer == 0 { 0 } else { self.ends[layer - 1] };
        self.routed.get(start as usize..end as usize).unwrap_or(&[])
    }

    /// Experts that came ahead, and those of them that were asked for in the same step.
    #[must_use]
    pub fn ahead_and_asked(&self) -> (usize, usize) {
        let asked = |a: &&Ahead| self.layer(usize::from(a.layer)).iter().any(|r| r.expert == a.expert);
        (self.ahead.len(), self.ahead.iter().filter(asked).count())
    }

    /// Hits and routed experts, each counted once per token that chose it.
    #[must_use]
    pub fn hits_and_routed(&self) -> (u64, u64) {
        self.routed.iter().fold((0, 0), |(hits, all), r| {
            let n = u64::from(r.tokens);
            (hits + if r.outcome == Outcome::Hit { n } else { 0 }, all + n)
        })
    }
}

/// Slow gauges, sampled about once a second; the latest wins. All sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gauges {
    /// Resident set of this process.
    pub rss: u64,
    /// Peak of it.
    pub rss_peak: u64,
    /// Model file bytes that are in the page cache (sampled), if known.
    pub page_cache: Option<u64>,
    /// Size of the model file(s).
    pub file: u64,
    /// Bytes in occupied slots.
    pub slots_used: u64,
    /// Bytes of keys, values and recurrent state in use.
    pub cache_used: u64,
    /// Memory that the machine could still give.
    pub available: u64,
    /// Bytes per second that the process reads from disk.
    pub disk_rate: u64,
    /// Of the device, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceGauges>,
}

/// Memory of a device, and traffic to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceGauges {
    /// Bytes of its memory that are in use, by whomever.
    pub used: u64,
    /// Bytes of its memory.
    pub memory: u64,
    /// Bytes of experts per second that go up to it.
    pub sent_rate: u64,
    /// Copies that were under way when the last step ended.
    pub queued: u64,
    /// Bytes of experts that are held in memory of the process, in huge pages.
    #[serde(default)]
    pub held: u64,
    /// Of them, page-locked.
    #[serde(default)]
    pub locked: u64,
    /// Bytes that are to be held; 0: the experts are read from the file.
    #[serde(default)]
    pub to_hold: u64,
    /// Share of the last moments in which it computed, in percent, where the driver tells.
    pub busy: Option<u32>,
    /// Bytes per second that come over its bus, of experts and of all else, where the driver tells.
    pub received_rate: Option<u64>,
}
