//! One step of a turn: what it reads, what it draws, and the record that it leaves.
//!
//! A step of generation may read likely tokens along with the drawn one. It then draws row by row for as long as what is drawn was drafted,
//! and takes the rest back.

use super::drafts::{Came, Plan};
use super::lanes::Lanes;
use super::sampling::{Sampler, SamplingError};
use super::turn::{Halt, Session};
use super::EngineError;
use crate::events::{Event, Phase, RequestId, StepRecord, TurnStats};
use crate::model::Logits;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What a step reads.
#[derive(Clone, Copy)]
pub(super) struct Read<'a> {
    pub(super) phase: Phase,
    pub(super) tokens: &'a [u32],
    /// And with it.
    pub(super) plan: &'a Plan,
}

impl<'a> Read<'a> {
    /// A part of a prompt, or what is read once more.
    pub(super) fn prompt(tokens: &'a [u32]) -> Self {
        Self { phase: Phase::Prefill, tokens, plan: &Plan::Alone }
    }
}

/// What a step drew.
pub(super) struct Drawn {
    /// One token; with drafts that were right, several.
    pub(super) tokens: VecDeque<u32>,
    /// The step.
    pub(super) step: u64,
    /// Why no more could be drawn behind them, if so.
    pub(super) failed: Option<SamplingError>,
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
    /// One step: forward, draw (if a sampler is given), record. Returns what was drawn, nothing without a sampler; `None` if it was cancelled before that, the context is then as before. A step
    /// that a device has given up is made again.
    pub(super) fn step(
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
}

fn micros(d: Duration) -> u32 {
    u32::try_from(d.as_micros()).unwrap_or(u32::MAX)
}
