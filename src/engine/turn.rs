//! One turn: from a prompt to its last token.
//!
//! A turn reads the part of the prompt that the context does not hold yet, in chunks, then generates token by
//! token. Between two steps it looks at the signals: cancel, and the slot count that the person wants. Every step
//! leaves one record on the telemetry lane.

use super::answer::Answer;
use super::date::{self, Began};
use super::drafts::Drafts;
use super::lanes::{Gone, Lanes};
use super::prompt::{borders, reusable, Prompt, PromptReader};
use super::runtime::Opened;
use super::sampling::{validate, Sampler};
use super::step::{Drawn, Read};
use super::EngineError;
use crate::events::{Event, FinishReason, Phase, Reasoning, RequestId, Sampling, StepRecord, TurnStats, When};
use crate::size::size;
use std::time::{Duration, Instant};

/// How often an answer that is held off looks at the other signals.
const HELD_LOOK: Duration = Duration::from_millis(20);

/// An open model, what its context holds, and how many steps it has made.
pub(super) struct Session {
    pub(super) opened: Opened,
    pub(super) reader: PromptReader,
    /// When the chat in the context began.
    pub(super) began: Began,
    /// Token ids in the context, as far as the engine knows.
    pub(super) cache: Vec<u32>,
    /// Steps since the model was opened.
    pub(super) steps: u64,
    /// Tokens that are read along because they are likely to come.
    pub(super) drafts: Drafts,
    /// For how long the turn at hand was held off by its pace.
    held_off: Duration,
    /// A record whose buffers can be used again, because the lane was full.
    pub(super) spare: StepRecord,
}

/// Why a turn stopped early.
pub(super) enum Halt {
    /// Nobody listens: leave the thread.
    Gone,
    /// It failed; the model's state is sound.
    Failed(EngineError),
}

impl From<Gone> for Halt {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl<E: Into<EngineError>> From<E> for Halt {
    fn from(e: E) -> Self {
        Self::Failed(e.into())
    }
}

/// What is to be read.
pub(super) enum Request<'a> {
    Chat { messages: &'a [crate::events::Message], reasoning: Reasoning },
    Raw(&'a str),
}

impl Session {
    /// `draft`: when likely tokens are read along.
    pub(super) fn new(opened: Opened, draft: When) -> Self {
        let mut drafts = Drafts::default();
        drafts.when(draft);
        let reader = PromptReader::new(opened.language.as_ref());
        Self {
            opened,
            reader,
            began: Began::default(),
            cache: Vec::new(),
            steps: 0,
            drafts,
            held_off: Duration::ZERO,
            spare: StepRecord::default(),
        }
    }

    /// Run a turn to its end, and say why it ended; [`Event::Finished`] is left to the caller. The stats gathered so far are left in
    /// `stats` either way.
    pub(super) fn turn(
        &mut self,
        lanes: &mut Lanes,
        id: RequestId,
        request: &Request<'_>,
        sampling: &Sampling,
        stats: &mut TurnStats,
    ) -> Result<FinishReason, Halt> {
        validate(sampling)?;
        if lanes.cancelled() {
            return Ok(FinishReason::Cancelled);
        }
        let Prompt { text, tokens: prompt } = match request {
            Request::Chat { messages, reasoning } => {
                let now = self.began.of(messages, date::now());
                self.reader.chat(self.opened.language.as_ref(), messages, *reasoning, now, &self.cache)?
            }
            Request::Raw(text) => self.reader.raw(self.opened.language.as_ref(), (*text).to_owned(), &self.cache)?,
        };
        let context = self.opened.card.context;
        if prompt.is_empty() {
            return Err(EngineError::EmptyPrompt.into());
        }
        // One more than the prompt, or there is no room for an answer.
        if prompt.len() >= context {
            return Err(EngineError::ContextOverflow { prompt: prompt.len(), context }.into());
        }
        let mut sampler = Sampler::new(sampling, &prompt);
        stats.seed = sampler.seed();
        stats.prompt_tokens = prompt.len();

        let begin = Instant::now();
        let first = self.prefill(lanes, id, &prompt, &mut sampler, stats);
        stats.prefill_s = begin.elapsed().as_secs_f64();
        let Some(first) = first? else {
            return Ok(FinishReason::Cancelled);
        };
        self.drafts.begin_answer();

        let begin = Instant::now();
        self.held_off = Duration::ZERO;
        let mut answer = Answer::to(&text, self.opened.language.format());
        let reason = self.decode(lanes, id, first, sampling.max_tokens, &mut sampler, &mut answer, stats);
        stats.decode_s = begin.elapsed().saturating_sub(self.held_off).as_secs_f64();
        // Text that waited for the rest of a character comes out even if the turn failed.
        for (kind, text, step) in answer.end() {
            lanes.event(Event::Text { id, text, kind, step })?;
        }
        reason
    }

    /// Read what is new of the prompt. Returns the first token of the answer; `None` if cancelled.
    fn prefill(
        &mut self,
        lanes: &mut Lanes,
        id: RequestId,
        prompt: &[u32],
        sampler: &mut Sampler,
        stats: &mut TurnStats,
    ) -> Result<Option<Drawn>, Halt> {
        let wanted = reusable(prompt, &self.cache);
        let reused = self.opened.runtime.truncate(wanted).min(wanted);
        self.cache.truncate(reused);
        self.drafts.cut(reused);
        stats.reused_tokens = reused;
        stats.unread_tokens = prompt.len() - reused;
        lanes.event(Event::Prefill { id, done: reused, total: prompt.len(), reused })?;

        self.opened.runtime.mark(&borders(self.opened.language.as_ref(), prompt));
        let chunk = self.opened.runtime.chunk().max(1);
        let mut at = reused;
        while at < prompt.len() {
            self.obey_slot_wish(lanes)?;
            if lanes.cancelled() {
                return Ok(None);
            }
            let end = prompt.len().min(at + chunk);
            let last = end == prompt.len();
            let Some(drawn) = self.step(lanes, id, Read::prompt(&prompt[at..end]), last.then_some(&mut *sampler), stats)? else {
                return Ok(None);
            };
            at = end;
            stats.unread_tokens = prompt.len() - at;
            lanes.event(Event::Prefill { id, done: at, total: prompt.len(), reused })?;
            if last {
                return Ok(Some(drawn));
            }
        }
        Ok(None)
    }

    /// Generate from `token`, the first of the answer, on.
    #[allow(clippy::too_many_arguments)]
    fn decode(
        &mut self,
        lanes: &mut Lanes,
        id: RequestId,
        first: Drawn,
        max_tokens: usize,
        sampler: &mut Sampler,
        answer: &mut Answer,
        stats: &mut TurnStats,
    ) -> Result<FinishReason, Halt> {
        // What the last step drew: one token, or those drafted ones too that turned out right.
        let mut drawn = first;
        loop {
            let Some(token) = drawn.tokens.pop_front() else {
                return drawn.failed.map_or(Ok(FinishReason::Cancelled), |e| Err(e.into()));
            };
            if self.opened.language.is_end(token) {
                return Ok(FinishReason::Stop);
            }
            stats.generated_tokens += 1;
            if answer.is_thinking() {
                stats.thinking_tokens += 1;
            }
            let (language, step) = (&self.opened.language, drawn.step);
            let certain = match language.mark(token) {
                Some(mark) => answer.mark(mark, step),
                None => answer.take(&language.token_bytes(token, false), step),
            };
            for (kind, text, step) in certain {
                lanes.event(Event::Text { id, text, kind, step })?;
            }
            if answer.is_over() {
                return Ok(FinishReason::Stop);
            }
            if max_tokens > 0 && stats.generated_tokens >= max_tokens {
                return Ok(FinishReason::Length);
            }
            if !drawn.tokens.is_empty() || drawn.failed.is_some() {
                continue;
            }
            let room = self.opened.card.context.saturating_sub(self.cache.len() + 1);
            if room == 0 {
                return Ok(FinishReason::ContextFull);
            }
            if !self.is_due(lanes)? {
                return Ok(FinishReason::Cancelled);
            }
            if let Some(wish) = lanes.draft_wish() {
                self.drafts.when(wish);
            }
            // No more than the answer may still have, the token that comes after them included.
            let left = if max_tokens > 0 { max_tokens - stats.generated_tokens } else { usize::MAX };
            // Who wants to watch them come, wants them one by one.
            let at_once = if lanes.signals.tempo.is_free() { self.opened.runtime.most_drafted() } else { 0 };
            let most = at_once.min(room - 1).min(left - 1);
            let plan = self.drafts.plan(&self.cache, token, most, self.opened.runtime.guesses());
            match self.step(lanes, id, Read { phase: Phase::Decode, tokens: &[token], plan: &plan }, Some(sampler), stats)? {
                Some(more) => drawn = more,
                None => return Ok(FinishReason::Cancelled),
            }
        }
    }

    /// Wait until the next token may come, and carry out what is wished for meanwhile. False if the turn is cancelled.
    fn is_due(&mut self, lanes: &mut Lanes) -> Result<bool, Gone> {
        let begin = Instant::now();
        let mut held = true;
        while held && !lanes.cancelled() {
            held = !lanes.signals.tempo.next(HELD_LOOK);
            if held {
                self.obey_slot_wish(lanes)?;
            }
        }
        self.held_off += begin.elapsed();
        self.obey_slot_wish(lanes)?;
        Ok(!lanes.cancelled())
    }

    /// Carry out the wish for slots by layer, or look at them again if it is time.
    fn obey_spread_wish(&mut self, lanes: &mut Lanes) -> Result<(), Gone> {
        let runtime = &mut self.opened.runtime;
        let slots = match lanes.spread_wish() {
            // While too little was seen to differ, all are the same, and the word for that would be "off".
            Some(on) => runtime.set_spread(on).map(|slots| Some(if on { slots } else { Vec::new() })),
            None => runtime.respread(),
        };
        match slots {
            Ok(None) => Ok(()),
            Ok(Some(slots)) => lanes.event(Event::Spread { slots, why: None }),
            Err(e) => lanes.event(Event::Spread { slots: Vec::new(), why: Some(e.to_string()) }),
        }
    }

    /// Carry out the slot count that the person wants, if there is a wish; answered by [`Event::Slots`].
    pub(super) fn obey_slot_wish(&mut self, lanes: &mut Lanes) -> Result<(), Gone> {
        self.obey_spread_wish(lanes)?;
        let Some(asked) = lanes.slot_wish() else { return Ok(()) };
        let plan = &self.opened.card.plan;
        let (least, most) = (plan.min_slots.max(1), plan.max_slots.max(1));
        let wanted = asked.clamp(least.min(most), most);
        let before = self.opened.runtime.slots();
        let (granted, why) = match self.opened.runtime.resize(wanted) {
            Ok(granted) if granted == asked => (granted, None),
            Ok(granted) if asked > most => (granted, Some(format!("a layer has {most} experts"))),
            Ok(granted) if asked < least => (granted, Some(format!("one token uses {least} experts of a layer"))),
            Ok(granted) => {
                let more = (wanted.saturating_sub(granted)) as u64 * plan.slot_step;
                (granted, Some(format!("{} more for slots could not be had", size(more))))
            }
            Err(e) => (self.opened.runtime.slots(), Some(e.to_string())),
        };
        tracing::info!(asked, before, granted, "slots per layer");
        lanes.event(Event::Slots { asked, granted, why })?;
        if let Some(slots) = self.opened.runtime.spread_now() {
            lanes.event(Event::Spread { slots, why: None })?;
        }
        lanes.level(self.opened.runtime.slot_bytes(), self.opened.runtime.cache_bytes());
        lanes.sample_now();
        Ok(())
    }
}
