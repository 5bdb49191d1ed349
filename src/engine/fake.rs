//! Small stand-ins for tests: a byte-wise language with ChatML marks, and a model that can fail, panic or stall
//! on purpose.

use super::runtime::{Language, Loader, Opened, Runtime};
use super::EngineError;
use crate::events::{Message, ModelCard, Phase, Plan, Reasoning, Role, Sampling, StepRecord};
use crate::gpu::GpuError;
use crate::model::{Logits, ModelError};
use crate::text::GUARD;

/// One token per byte (0 to 255), ChatML marks from 256 on, and a few longer tokens that its own encoder never uses.
#[derive(Default)]
pub(super) struct ByteLanguage {
    /// The template ends with an open thinking block.
    pub(super) open_thinking: bool,
    pub(super) bos: Option<u32>,
}

impl ByteLanguage {
    pub(super) const IM_START: u32 = 256;
    pub(super) const IM_END: u32 = 257;
    pub(super) const THINK: u32 = 258;
    pub(super) const THINK_END: u32 = 259;
    pub(super) const VOCAB: usize = 301;
    const MARKS: [(&'static str, u32); 4] =
        [("<|im_start|>", Self::IM_START), ("<|im_end|>", Self::IM_END), ("<think>", Self::THINK), ("</think>", Self::THINK_END)];
}

impl Language for ByteLanguage {
    fn render(&self, messages: &[Message], _reasoning: Reasoning, _now: u64) -> Result<String, EngineError> {
        let mut out = String::new();
        for m in messages {
            let role = match m.role {
                Role::System => "system",
                Role::User => "user",
                Role::Assistant => "assistant",
                Role::Tool => "tool",
            };
            let guarded = m.content.replace("<|", &format!("<{GUARD}|"));
            out += &format!("<|im_start|>{role}\n{guarded}<|im_end|>\n");
        }
        out += "<|im_start|>assistant\n";
        if self.open_thinking {
            out += "<think>\n";
        }
        Ok(out)
    }
    fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, EngineError> {
        let mut out = Vec::new();
        let mut i = 0;
        while i < text.len() {
            let mark = Self::MARKS.iter().find(|(m, _)| special && text.as_bytes()[i..].starts_with(m.as_bytes()));
            if let Some((m, id)) = mark {
                out.push(*id);
                i += m.len();
            } else if special && text[i..].starts_with(GUARD) {
                i += GUARD.len_utf8();
            } else {
                // Byte by byte would cut a guard in two.
                let n = text[i..].chars().next().map_or(1, char::len_utf8);
                out.extend(text.as_bytes()[i..i + n].iter().map(|&b| u32::from(b)));
                i += n;
            }
        }
        Ok(out)
    }
    fn token_bytes(&self, id: u32, special: bool) -> Vec<u8> {
        match id {
            0..=255 => vec![id as u8],
            // Thinking marks are "user defined" in real files: they are text.
            Self::THINK => b"<think>".to_vec(),
            Self::THINK_END => b"</think>".to_vec(),
            300 => b"he".to_vec(),
            _ if special => Self::MARKS.iter().find(|(_, t)| *t == id).map(|(m, _)| m.as_bytes().to_vec()).unwrap_or_default(),
            _ => Vec::new(),
        }
    }
    fn is_end(&self, id: u32) -> bool {
        id == Self::IM_END
    }
    fn vocab(&self) -> usize {
        Self::VOCAB
    }
    fn bos(&self) -> Option<u32> {
        self.bos
    }
}

/// What a [`Scripted`] model does when a step reads the `at`-th token of the context.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mishap {
    Error,
    Panic,
    NanLogits,
    /// A device gives a token up, once.
    GaveUp,
}

/// A model that answers with a fixed script of tokens, each after the prompt whatever that is.
pub(super) struct Scripted {
    pub(super) script: Vec<u32>,
    pub(super) mishap: Option<Mishap>,
    /// Called in every step with the phase, before anything else.
    pub(super) on_step: Box<dyn FnMut(&StepRecord) + Send>,
    pub(super) context: Vec<u32>,
    /// The context can only go back to nothing.
    pub(super) goes_back_to_nothing: bool,
    /// Its heat has something to say.
    pub(super) says_when_kept: bool,
    /// Tokens that a step may read beyond the drawn one.
    pub(super) most_drafted: usize,
    /// What it guesses, whatever comes; `None`: it does not.
    pub(super) guess: Option<Vec<u32>>,
    /// Tokens of the context that the answer follows.
    pub(super) prompt: usize,
    pub(super) slots: usize,
    pub(super) max_granted: usize,
}

impl Scripted {
    pub(super) fn new(script: Vec<u32>) -> Self {
        Self {
            script,
            mishap: None,
            on_step: Box::new(|_| {}),
            context: Vec::new(),
            goes_back_to_nothing: false,
            says_when_kept: false,
            most_drafted: 0,
            guess: None,
            prompt: 0,
            slots: 4,
            max_granted: 6,
        }
    }
}

impl Runtime for Scripted {
    fn step(
        &mut self,
        tokens: &[u32],
        logits: Logits,
        stop: &dyn Fn() -> bool,
        record: &mut StepRecord,
    ) -> Result<Option<Vec<f32>>, EngineError> {
        (self.on_step)(record);
        if stop() {
            return Ok(None);
        }
        if record.phase == Phase::Prefill && logits != Logits::None {
            self.prompt = self.context.len() + tokens.len();
        }
        assert!(record.phase == Phase::Prefill || tokens.len() <= 1 + self.most_drafted, "more than can be taken back");
        let said = (self.context.len() + 1).saturating_sub(self.prompt);
        if record.phase == Phase::Decode && said == 2 {
            match self.mishap {
                Some(Mishap::Error) => return Err(EngineError::Other("the fake model failed".into())),
                Some(Mishap::GaveUp) => {
                    self.mishap = None;
                    // What the pass has left in the context is unknown.
                    self.context.push(u32::MAX);
                    return Err(ModelError::Gpu(GpuError::GaveUp).into());
                }
                Some(Mishap::Panic) => panic!("the fake model panicked"),
                _ => {}
            }
        }
        self.context.extend_from_slice(tokens);
        record.slot_of = vec![0; 4];
        if logits == Logits::None {
            return Ok(Some(Vec::new()));
        }
        // The script may be of a larger vocabulary.
        let largest = self.script.iter().map(|&t| t as usize + 1).max();
        let vocab = ByteLanguage::VOCAB.max(largest.unwrap_or(0));
        let rows = if logits == Logits::All { tokens.len() } else { 1 };
        let mut out = vec![0.0; rows * vocab];
        for (row, after) in out.chunks_mut(vocab).zip(self.context.len() + 1 - rows..) {
            let said = after - self.prompt;
            row[self.script.get(said).copied().unwrap_or(ByteLanguage::IM_END) as usize] = 9.0;
            if self.mishap == Some(Mishap::NanLogits) && said == 2 {
                row[5] = f32::NAN;
            }
        }
        Ok(Some(out))
    }
    fn most_drafted(&self) -> usize {
        self.most_drafted
    }
    fn guesses(&self) -> bool {
        self.guess.is_some()
    }
    fn guess(&mut self, _next: u32, most: usize, stop: &dyn Fn() -> bool) -> Result<Vec<u32>, EngineError> {
        let guess = self.guess.as_deref().unwrap_or_default();
        Ok(if stop() { Vec::new() } else { guess[..most.min(guess.len())].to_vec() })
    }
    fn len(&self) -> usize {
        self.context.len()
    }
    fn truncate(&mut self, len: usize) -> usize {
        self.context.truncate(if self.goes_back_to_nothing { 0 } else { len });
        self.context.len()
    }
    fn cache_bytes(&self) -> u64 {
        self.context.len() as u64 * 8
    }
    fn slots(&self) -> usize {
        self.slots
    }
    fn slot_bytes(&self) -> u64 {
        100
    }
    fn resize(&mut self, slots: usize) -> Result<usize, EngineError> {
        self.slots = slots.min(self.max_granted);
        Ok(self.slots)
    }
    fn set_policy(&mut self, name: &str) -> Result<(), EngineError> {
        if name == "lru" {
            Ok(())
        } else {
            Err(EngineError::Other(format!("no policy is called `{name}`; there are lru")))
        }
    }
    fn keep_heat(&mut self) -> Option<String> {
        self.says_when_kept.then(|| "kept".into())
    }
    fn chunk(&self) -> usize {
        4
    }
}

/// A card for a fake model with a context of `context` tokens.
pub(super) fn card(context: usize) -> ModelCard {
    ModelCard {
        name: "fake".into(),
        arch: "fake".into(),
        toy: true,
        layers: 1,
        experts: 4,
        top_k: 1,
        vocab: ByteLanguage::VOCAB,
        context,
        expert_bytes: vec![100],
        plan: Plan { min_slots: 1, max_slots: 8, slot_step: 100, ..Plan::default() },
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        can_think: true,
        has_effort: false,
        template_fallback: false,
        device: "none".into(),
    }
}

/// A loader that opens what `make` returns.
pub(super) fn loader(mut make: impl FnMut() -> (usize, Scripted) + Send + 'static) -> impl Loader {
    move |_: &_, _: &_, progress: &mut super::runtime::Progress<'_>| {
        if !progress("fake", 1, 2) {
            return Err(EngineError::Cancelled);
        }
        let (context, model) = make();
        Ok(Opened {
            card: card(context),
            runtime: Box::new(model),
            language: Box::new(ByteLanguage::default()),
            notes: Vec::new(),
            mapped: None,
            watched: None,
            proof: None,
        })
    }
}
