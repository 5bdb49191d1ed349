//! What the inference thread needs of an open model, as two small traits: the numbers ([`Runtime`]) and the words
//! ([`Language`]). The thread itself knows nothing of files, tensors or tokenizers, so its tests run it with fakes
//! that panic, fail or stall on purpose.

use super::warm::Keeper;
use super::EngineError;
use crate::events::{LoadOptions, Message, ModelCard, ModelSource, Reasoning, Scheduling, StepRecord};
use crate::experts::vram::{Held, Rates};
use crate::model::proof::Outcome;
use crate::model::Logits;
use crate::text::{Format, Mark};

/// A model with its experts and its context: computes steps.
pub trait Runtime: Send {
    /// One step: read `tokens` at the end of the context. Returns logits `[tokens or 1, vocab]`, empty for
    /// [`Logits::None`]; `Ok(None)` if `stop` answered true, the context then being as before.
    ///
    /// The caller has set `record.phase`; the step fills in the expert part of the record and its own times.
    fn step(
        &mut self,
        tokens: &[u32],
        logits: Logits,
        stop: &dyn Fn() -> bool,
        record: &mut StepRecord,
    ) -> Result<Option<Vec<f32>>, EngineError>;
    /// Tokens in the context.
    fn len(&self) -> usize;
    /// Whether the context is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Shorten the context to `len` tokens or to the nearest point below that it can go back to; returns the new length.
    fn truncate(&mut self, len: usize) -> usize;
    /// Steps from now on make these lengths of the context ones that `truncate` reaches exactly, as far as memory goes.
    fn mark(&mut self, _lens: &[usize]) {}
    /// Most tokens that a step of generation can read beyond the drawn one. Until the next step, [`Runtime::truncate`] reaches every length from the drawn one on.
    fn most_drafted(&self) -> usize {
        0
    }
    /// Whether the model can guess further tokens.
    fn guesses(&self) -> bool {
        false
    }
    /// What the model guesses to come after `next`, at most `most` tokens, which are to be read by the step that follows: it belongs to that step.
    fn guess(&mut self, _next: u32, _most: usize, _stop: &dyn Fn() -> bool) -> Result<Vec<u32>, EngineError> {
        Ok(Vec::new())
    }
    /// Bytes of keys, values and recurrent state in use.
    fn cache_bytes(&self) -> u64;
    /// Slots per layer now.
    fn slots(&self) -> usize;
    /// Bytes in occupied slots.
    fn slot_bytes(&self) -> u64;
    /// Change the slots per layer at a step boundary. Returns what was granted.
    fn resize(&mut self, slots: usize) -> Result<usize, EngineError>;
    /// Give layers that gain more from a slot more of them, or all the same again. Returns the slots of each layer.
    fn set_spread(&mut self, _on: bool) -> Result<Vec<u16>, EngineError> {
        Ok(Vec::new())
    }
    /// Slots of each layer while they are spread; `None` if they are to be equal.
    fn spread_now(&self) -> Option<Vec<u16>> {
        None
    }
    /// At a step boundary: spread the slots anew if it is time and pays. Returns the slots of each layer if they changed.
    fn respread(&mut self) -> Result<Option<Vec<u16>>, EngineError> {
        Ok(None)
    }
    /// How experts get slots now; `None` if there is nothing to tell.
    fn scheduling(&self) -> Option<Scheduling> {
        None
    }
    /// Whether how experts get slots has changed by itself since this was last asked.
    fn rescheduled(&mut self) -> bool {
        false
    }
    /// Between two steps: wait until the experts that are being copied into memory of the process are there. What is held, if anything.
    fn hold_all(&mut self) -> Option<Held> {
        None
    }
    /// How fast a device's link and host are, by the last measurement.
    fn rates(&self) -> Option<Rates> {
        None
    }
    /// Change the replacement policy by name.
    fn set_policy(&mut self, name: &str) -> Result<(), EngineError>;
    /// Fill slots from the heat of earlier sessions and keep it from now on. `progress` gets bytes done and in all, and answers false
    /// to give up. Returns what is to be said of it, if anything.
    fn warm_start(&mut self, _keeper: Keeper, _progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<Option<String>, EngineError> {
        Ok(None)
    }
    /// Write the heat, if it is kept. Returns what is to be said of it, if anything.
    fn keep_heat(&mut self) -> Option<String> {
        None
    }
    /// Of so many tokens that find every expert in a slot, one goes layer by layer, so that its hits are timed.
    fn time_hits_every(&mut self, _tokens: u32) {}
    /// The most tokens that one prefill step takes well.
    fn chunk(&self) -> usize {
        256
    }
}

/// Tokenizer and chat template of an open model.
pub trait Language: Send {
    /// The prompt text of a chat, ending where the assistant is to go on. What the messages spell can't become a
    /// control token of [`Language::encode`]. `now`, in seconds since 1970, is what a template that asks for the date is told.
    fn render(&self, messages: &[Message], reasoning: Reasoning, now: u64) -> Result<String, EngineError>;
    /// Token ids of `text`. With `special`, special tokens written out in it become their ids.
    fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, EngineError>;
    /// The bytes of one token as they appear in text; empty for control tokens unless `special`.
    fn token_bytes(&self, id: u32, special: bool) -> Vec<u8>;
    /// Whether this token ends a turn.
    fn is_end(&self, id: u32) -> bool;
    /// How the model marks its reasoning.
    fn format(&self) -> Format {
        Format::Think
    }
    /// The mark of that format that this token is.
    fn mark(&self, _id: u32) -> Option<Mark> {
        None
    }
    /// Whether this token ends a message of a prompt.
    fn ends_message(&self, id: u32) -> bool {
        self.is_end(id) || self.mark(id) == Some(Mark::End)
    }
    /// Vocabulary size.
    fn vocab(&self) -> usize;
    /// The token that every prompt must begin with, if any.
    fn bos(&self) -> Option<u32>;
}

/// An open model: everything a turn needs.
pub struct Opened {
    /// What the screen is told.
    pub card: ModelCard,
    /// The numbers.
    pub runtime: Box<dyn Runtime>,
    /// The words.
    pub language: Box<dyn Language>,
    /// What is to be said once it is open.
    pub notes: Vec<String>,
    /// Mapped file, for the page-cache gauge; `None` for the embedded model.
    pub mapped: Option<super::gauges::MappedFile>,
    /// Device, for its gauges; `None` on the CPU.
    pub watched: Option<super::gauges::WatchedDevice>,
    /// What came of trying the device's kernels; `None` if they were not tried.
    pub proof: Option<Outcome>,
}

/// Progress of a load: a stage in words, bytes done, bytes in all (0 if unknown). Answers false to give up.
pub type Progress<'a> = dyn FnMut(&str, u64, u64) -> bool + 'a;

/// Opens models for the thread. [`super::open::open`] in the program, fakes in tests.
pub trait Loader: Send {
    /// Open `source` as `options` ask, reporting progress.
    fn open(&mut self, source: &ModelSource, options: &LoadOptions, progress: &mut Progress<'_>) -> Result<Opened, EngineError>;
}

impl<F> Loader for F
where
    F: FnMut(&ModelSource, &LoadOptions, &mut Progress<'_>) -> Result<Opened, EngineError> + Send,
{
    fn open(&mut self, source: &ModelSource, options: &LoadOptions, progress: &mut Progress<'_>) -> Result<Opened, EngineError> {
        self(source, options, progress)
    }
}
