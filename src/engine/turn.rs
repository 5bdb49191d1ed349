//! One turn: from a prompt to its last token.
//!
//! A turn reads the part of the prompt that the context does not hold yet, in chunks, then generates token by
//! token. Between two steps it looks at the signals: cancel, and the slot count that the person wants. Every step
//! leaves one record on the telemetry lane.

use super::answer::Answer;
use super::date::{self, Began};
use super::drafts::{Came, Drafts, Plan};
use super::lanes::{Gone, Lanes};
use super::prompt::{borders, reusable, Prompt, PromptReader};
use super::runtime::Opened;
use super::sampling::{validate, Sampler, SamplingError};
use super::EngineError;
use crate::events::{Event, FinishReason, Phase, Reasoning, RequestId, Sampling, StepRecord, TurnStats, When};
use crate::model::Logits;
use crate::size::size;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

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
    /// A record whose buffers can be used again, because the lane was full.
    spare: StepRecord,
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

/// What a step reads.
#[derive(Clone, Copy)]
struct Read<'a> {
    phase: Phase,
    tokens: &'a [u32],
    /// And with it.
    plan: &'a Plan,
}

impl<'a> Read<'a> {
    /// A part of a prompt, or what is read once more.
    fn prompt(tokens: &'a [u32]) -> Self {
        Self { phase: Phase::Prefill, tokens, plan: &Plan::Alone }
    }
}

/// What a step drew.
struct Drawn {
    /// One token; with drafts that were right, several.
    tokens: VecDeque<u32>,
    /// The step.
    step: u64,
    /// Why no more could be drawn behind them, if so.
    failed: Option<SamplingError>,
}

/// What a pass gave.
struct Forward {
    /// Everything that was read, drafted tokens at the end.
    tokens: Vec<u32>,
    /// Of the last token, and of the one before each drafted one.
    logits: Vec<f32>,
    /// Time of the model's guesses.
    guessing: Duration,
}

impl Session {
    /// `draft`: when likely tokens are read along.
    pub(super) fn new(opened: Opened, draft: When) -> Self {
        let mut drafts = Drafts::default();
        drafts.when(draft);
        let reader = PromptReader::new(opened.language.as_ref());
        Self { opened, reader, began: Began::default(), cache: Vec::new(), steps: 0, drafts, spare: StepRecord::default() }
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
        let mut answer = Answer::to(&text, self.opened.language.format());
        let reason = self.decode(lanes, id, first, sampling.max_tokens, &mut sampler, &mut answer, stats);
        stats.decode_s = begin.elapsed().as_secs_f64();
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
            self.obey_slot_wish(lanes)?;
            if lanes.cancelled() {
                return Ok(FinishReason::Cancelled);
            }
            if let Some(wish) = lanes.draft_wish() {
                self.drafts.when(wish);
            }
            // No more than the answer may still have, the token that comes after them included.
            let left = if max_tokens > 0 { max_tokens - stats.generated_tokens } else { usize::MAX };
            let most = self.opened.runtime.most_drafted().min(room - 1).min(left - 1);
            let plan = self.drafts.plan(&self.cache, token, most, self.opened.runtime.guesses());
            match self.step(lanes, id, Read { phase: Phase::Decode, tokens: &[token], plan: &plan }, Some(sampler), stats)? {
                Some(more) => drawn = more,
                None => return Ok(FinishReason::Cancelled),
            }
        }
    }

    /// One step: forward, draw (if a sampler is given), record. Returns what was drawn, nothing without a sampler; `None` if it was cancelled before that, the context is then as before. A step
    /// that a device has given up is made again.
    fn step(
        &mut self,
        lanes: &mut Lanes,
        id: RequestId,
        read: Read<'_>,
        sampler: Option<&mut Sampler>,
        stats: &mut TurnStats,
    ) -> Result<Option<Drawn>, Halt> {
        let mut record = std::mem::take(&mut self.spare);
        record.step = self.steps;
        record.phase = read.phase;
        record.position = self.cache.len() as u32;
        record.chosen = None;
        record.time = crate::events::StepTime::default();

        let stop = lanes.stop();
        // Time that the process stood still is none of the step's.
        let under_way = lanes.signals.steps.begin();
        let begin = Instant::now();
        let forward = self.forward(&read, sampler.is_some(), &stop, &mut record);
        drop(under_way);
        if self.opened.runtime.rescheduled() {
            if let Some(scheduling) = self.opened.runtime.scheduling() {
                lanes.event(Event::Scheduling(scheduling))?;
            }
        }
        let Forward { tokens, mut logits, guessing } = match forward {
            Ok(Some(forward)) => forward,
            Ok(None) => {
                // A recurrent state may only go back to an earlier point than where the pass began, and a window to none but the beginning.
                let back = self.opened.runtime.truncate(self.cache.len());
                self.cache.truncate(back);
                return Ok(None);
            }
            Err(e) => {
                // What the failed pass left in the context is unknown: go back to what is known, or to nothing.
                let back = self.opened.runtime.truncate(self.cache.len());
                let lost = self.cache.split_off(back.min(self.cache.len()));
                if e.is_given_up() {
                    // Whoever gives up once goes another way from then on, so the step can be made anew.
                    let message = "the GPU waited for a second for this program and gave a token up; it is computed anew, and tokens go layer by layer from now on";
                    lanes.event(Event::Notice { message: message.into() })?;
                    return match self.read_again(lanes, id, &lost, stats)? {
                        true => self.step(lanes, id, read, sampler, stats),
                        false => Ok(None),
                    };
                }
                return Err(e.into());
            }
        };
        let before_draw = begin.elapsed();
        let drafted = &tokens[read.tokens.len()..];
        let (drawn, failed) = match sampler {
            Some(sampler) => self.draw(sampler, &mut logits, drafted),
            None => (Vec::new(), None),
        };
        let sampling = begin.elapsed().saturating_sub(before_draw);
        // The first drawn token comes after what was to be read; each further one after a drafted token that it has proved right.
        let kept = drawn.len().saturating_sub(1);
        self.cache.extend_from_slice(&tokens[..read.tokens.len() + kept]);
        let lost = if kept < drafted.len() {
            let back = self.opened.runtime.truncate(self.cache.len());
            self.cache.split_off(back.min(self.cache.len()))
        } else {
            Vec::new()
        };
        let total = begin.elapsed();

        (record.drafted, record.kept) = (drafted.len() as u16, kept as u16);
        let time = &mut record.time;
        time.total_us = micros(total);
        time.sampling_us = micros(sampling);
        let named = time.hits_us.saturating_add(time.misses_us).saturating_add(time.upload_us).saturating_add(time.sampling_us);
        time.trunk_us = time.total_us.saturating_sub(named);
        record.context_used = self.cache.len() as u32;
        record.slots = self.opened.runtime.slots().min(usize::from(u16::MAX)) as u16;
        record.chosen = drawn.last().copied().filter(|_| failed.is_none());
        if read.phase == Phase::Decode {
            let (hits, routed) = record.hits_and_routed();
            stats.hits += hits;
            stats.routed += routed;
            stats.drafted_tokens += drafted.len();
            stats.kept_tokens += kept;
        }
        let step = self.steps;
        self.steps += 1;
        lanes.level(self.opened.runtime.slot_bytes(), self.opened.runtime.cache_bytes());
        if let Some(back) = lanes.record(record) {
            self.spare = back;
        }
        // Whether that is cancelled is seen when what was drawn has been said.
        self.read_again(lanes, id, &lost, stats)?;
        if read.phase == Phase::Decode {
            // Reading again is what those drafts took, too.
            let took = if lost.is_empty() { total } else { begin.elapsed() };
            let (step_us, guess_us) = (f64::from(micros(took.saturating_sub(guessing))), f64::from(micros(guessing)));
            self.drafts.learn(matches!(read.plan, Plan::Ask(_)), &Came { drafted, drawn: &drawn, step_us, guess_us });
        }
        Ok(Some(Drawn { tokens: drawn.into(), step, failed }))
    }

    /// The pass of a step, and before it the guesses that it reads along. `None` if it was stopped.
    fn forward(
        &mut self,
        read: &Read<'_>,
        draws: bool,
        stop: &dyn Fn() -> bool,
        record: &mut StepRecord,
    ) -> Result<Option<Forward>, EngineError> {
        let begin = Instant::now();
        let runtime = &mut self.opened.runtime;
        let mut tokens = read.tokens.to_vec();
        match (read.plan, read.tokens.last()) {
            (Plan::Tokens(drafted), _) => tokens.extend_from_slice(drafted),
            (Plan::Ask(most), Some(&next)) => tokens.extend(runtime.guess(next, *most, stop)?),
            _ => {}
        }
        let guessing = begin.elapsed();
        let which = match (draws, tokens.len() > read.tokens.len()) {
            (true, true) => Logits::All,
            (true, false) => Logits::Last,
            (false, _) => Logits::None,
        };
        record.tokens = tokens.len() as u32;
        let logits = runtime.step(&tokens, which, stop, record)?;
        Ok(logits.map(|logits| Forward { tokens, logits, guessing }))
    }

    /// Draw from the logits of the token before each of the `drafted` ones and of the last, for as long as what is drawn was drafted. The first failure ends it.
    fn draw(&self, sampler: &mut Sampler, logits: &mut [f32], drafted: &[u32]) -> (Vec<u32>, Option<SamplingError>) {
        let language = &self.opened.language;
        let mut drawn = Vec::with_capacity(1 + drafted.len());
        let vocab = (logits.len() / (1 + drafted.len())).max(1);
        for (i, row) in logits.chunks_mut(vocab).enumerate() {
            let token = match sampler.draw(row) {
                Ok(token) => token,
                Err(e) => return (drawn, Some(e)),
            };
            drawn.push(token);
            // Whether a mark ends the turn is seen when it is said.
            if drafted.get(i) != Some(&token) || language.is_end(token) || language.mark(token).is_some() {
                break;
            }
        }
        (drawn, None)
    }

    /// Read once more what the context has lost, told as the reading of a prompt is. False if cancelled.
    fn read_again(&mut self, lanes: &mut Lanes, id: RequestId, lost: &[u32], stats: &mut TurnStats) -> Result<bool, Halt> {
        let (reused, chunk) = (self.cache.len(), self.opened.runtime.chunk().max(1));
        let told = |done: usize| Event::Prefill { id, done, total: reused + lost.len(), reused };
        if !lost.is_empty() {
            lanes.event(told(reused))?;
        }
        for part in lost.chunks(chunk) {
            if self.step(lanes, id, Read::prompt(part), None, stats)?.is_none() {
                return Ok(false);
            }
            lanes.event(told(self.cache.len()))?;
        }
        Ok(true)
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

fn micros(d: Duration) -> u32 {
    u32::try_from(d.as_micros()).unwrap_or(u32::MAX)
}
