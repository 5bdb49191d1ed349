//! The link between words and experts: the token cursor, the past moment that the heatmap shows, the tint of the chat.
//!
//! The heatmap is *live* (it shows the latest step) or *paused* at the step that chose the token under the cursor. While it
//! is paused the session goes on: the chat grows, telemetry is folded, only the heatmap stands still. A paused heatmap is a
//! copy made when the cursor came, so it stays even when the log lets its step go.

use super::experts_state::{ExpertsState, Lost, Pause};
use super::routing_log::{Kept, Lookup, RoutingLog};
use super::state::State;
use super::theme::Theme;
use super::tint::{self, Scale, Tint};
use super::token_spans::Span;
use crate::events::StepRecord;
use ratatui::style::{Modifier, Style};

/// Where the cursor is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// This many tokens on, or back.
    Tokens(i64),
    /// To the next row of the chat, or the one before.
    Row(bool),
}

/// What is kept for the link.
#[derive(Clone, Debug, Default)]
pub struct Inspector {
    /// The routing of the steps.
    pub log: RoutingLog,
    /// Counts the models that were opened.
    pub epoch: u64,
    /// What the chat is tinted by.
    pub tint: Tint,
    /// Bounds of the tint's levels.
    pub scale: Scale,
    /// The heatmap at the token under the cursor; `None` is live.
    paused: Option<Box<ExpertsState>>,
}

impl Inspector {
    /// Another model begins to count its steps.
    pub fn opened(&mut self) {
        self.epoch += 1;
        self.log.clear();
        self.scale = Scale::default();
        self.paused = None;
    }

    /// Keeps a step. One that the cursor waits for is shown when it comes.
    pub fn keep(&mut self, record: &StepRecord, live: &ExpertsState) {
        self.log.push(record);
        self.scale.refresh(&self.log);
        let waited = self.pause().filter(|p| p.lost == Some(Lost::NotYet) && p.step <= record.step).cloned();
        if let Some(pause) = waited {
            self.paused = Some(Box::new(live.frozen_at(&self.log, Pause { lost: None, ..pause })));
        }
    }

    /// Become what this was when `mark` was made.
    pub fn back_to(&mut self, mark: &Self) {
        self.log.back_to(&mark.log);
        self.epoch = mark.epoch;
        self.scale = Scale::default();
        self.scale.refresh(&self.log);
    }

    /// The past moment that is shown.
    #[must_use]
    pub fn pause(&self) -> Option<&Pause> {
        self.paused.as_ref().and_then(|p| p.pause())
    }

    /// The heatmap of the past moment.
    #[must_use]
    pub fn paused(&self) -> Option<&ExpertsState> {
        self.paused.as_deref()
    }

    /// What is known of a step.
    #[must_use]
    pub fn known(&self, step: u64) -> Option<&Kept> {
        match self.log.get(step) {
            Lookup::Here(kept) => Some(kept),
            _ => None,
        }
    }
}

/// How a piece of the chat is to look, beside its own style.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Look {
    /// As it is.
    Plain,
    /// Under the token cursor.
    Cursor,
    /// In this style: a tint, or the mark of a token that used the expert under the heatmap's cursor.
    Styled(Style),
}

impl State {
    /// The heatmap that is shown: live, or the past moment.
    #[must_use]
    pub fn heatmap(&self) -> &ExpertsState {
        self.inspector.paused().unwrap_or(&self.experts)
    }

    /// Lets the heatmap that is shown do something; the other one keeps the same look.
    pub(super) fn with_heatmap<T>(&mut self, act: impl FnOnce(&mut ExpertsState) -> T) -> T {
        let Some(paused) = &mut self.inspector.paused else { return act(&mut self.experts) };
        let done = act(paused);
        self.experts.look_like(paused);
        done
    }

    /// The heatmap has the keyboard, so the chat marks the tokens that used the expert under its cursor.
    #[must_use]
    pub fn marks_expert(&self) -> Option<(usize, usize)> {
        let experts = self.heatmap();
        let known = experts.layers() > 0 && experts.experts() > 0;
        (self.context(super::state::Focus::Heatmap).focused && known).then(|| experts.cursor())
    }

    /// How a piece is to look.
    #[must_use]
    pub fn look_of(&self, span: &Span, theme: &Theme) -> Look {
        let inspector = &self.inspector;
        if inspector.pause().is_some_and(|p| (span.first..=span.last).contains(&p.step)) {
            return Look::Cursor;
        }
        if let Some((layer, expert)) = self.marks_expert() {
            let mut outcome = None;
            for step in span.first..=span.last {
                let Some(kept) = inspector.known(step) else { return Look::Styled(Style::new().add_modifier(Modifier::DIM)) };
                outcome = outcome.or(kept.outcome(layer, expert));
            }
            return outcome.map_or(Look::Plain, |o| Look::Styled(tint::mark(o, theme)));
        }
        let level = inspector.scale.level(inspector.tint, &inspector.log, (span.first, span.last));
        level.map_or(Look::Plain, |level| Look::Styled(tint::style(level, theme)))
    }

    /// Back to the latest step.
    pub(super) fn go_live(&mut self) {
        self.inspector.paused = None;
    }

    /// A replay stands at another place, with what is kept there. The token cursor stays, if its token is there.
    pub(super) fn take_place(&mut self, there: Inspector) {
        let same = self.inspector.epoch == there.epoch;
        (self.inspector.epoch, self.inspector.log, self.inspector.scale) = (there.epoch, there.log, there.scale);
        let Some(pause) = self.inspector.pause().cloned() else { return };
        let known = !matches!(self.inspector.log.get(pause.step), Lookup::NotYet);
        if !same || (!known && self.transcript.token_place(there.epoch, pause.step).is_none()) {
            self.inspector.paused = None;
        } else if known && pause.lost == Some(Lost::NotYet) {
            self.pause_at(pause.step);
        }
    }

    /// Moves the token cursor. From live it begins at the latest token. False if there is nothing to go to. The layout must
    /// be up to date.
    pub(super) fn move_token(&mut self, to: Move) -> bool {
        let epoch = self.inspector.epoch;
        let of = self.transcript.token_count(epoch);
        if of == 0 {
            return self.move_step(to);
        }
        let here = self.inspector.pause().map(|p| p.step);
        let at = here.and_then(|step| self.transcript.token_place(epoch, step));
        let step = match (&at, to) {
            // Where the chat was cut meanwhile, the cursor begins anew.
            (None, _) => self.transcript.token_step(epoch, of),
            (Some((_, number)), Move::Tokens(by)) => {
                let number = number.saturating_add_signed(by).clamp(1, of);
                self.transcript.token_step(epoch, number)
            }
            (Some((place, _)), Move::Row(down)) => self.transcript.token_in_next_row(epoch, place, down).or(here),
        };
        let Some(step) = step else { return false };
        self.pause_at(step);
        if let Some((place, _)) = self.transcript.token_place(epoch, step) {
            self.transcript.reveal_token(epoch, &place);
        }
        true
    }

    /// In a session without text the kept steps stand for the tokens.
    fn move_step(&mut self, to: Move) -> bool {
        let by = match to {
            Move::Tokens(by) => by,
            Move::Row(down) => [-10, 10][usize::from(down)],
        };
        let log = &self.inspector.log;
        let Some(last) = log.len().checked_sub(1) else { return false };
        let at = self.inspector.pause().map(|p| log.iter().position(|k| k.step >= p.step).unwrap_or(last));
        let at = at.map_or(last, |at| at.saturating_add_signed(isize::try_from(by).unwrap_or(0)).min(last));
        let step = log.iter().nth(at).map(|k| k.step);
        step.is_some_and(|step| {
            self.pause_at(step);
            true
        })
    }

    fn pause_at(&mut self, step: u64) {
        let mut pause = Pause { step, ..Pause::default() };
        self.number(&mut pause);
        let live = self.inspector.paused().unwrap_or(&self.experts);
        self.inspector.paused = Some(Box::new(live.frozen_at(&self.inspector.log, pause)));
    }

    /// Says which token of how many a step is.
    fn number(&self, pause: &mut Pause) {
        let epoch = self.inspector.epoch;
        pause.of = self.transcript.token_count(epoch);
        match self.transcript.token_place(epoch, pause.step) {
            Some((place, number)) => {
                pause.token = number;
                pause.text = shown(self.transcript.token_text(&place));
            }
            None if pause.of == 0 => {
                let log = &self.inspector.log;
                let behind = log.iter().rev().take_while(|k| k.step > pause.step).count() as u64;
                pause.of = log.let_go() + log.len() as u64;
                pause.token = pause.of.saturating_sub(behind);
            }
            // It is no longer in the chat.
            None => pause.token = 0,
        }
    }

    /// Brings the count of tokens up to date, which goes on while the heatmap stands still.
    pub(super) fn refresh_pause(&mut self) {
        let Some(mut pause) = self.inspector.pause().cloned() else { return };
        self.number(&mut pause);
        if let Some(paused) = &mut self.inspector.paused {
            paused.set_pause(pause);
        }
    }
}

/// A token's text for a line: marks for line breaks, quotes around it so that its spaces are seen.
fn shown(text: &str) -> String {
    let flat: String = text.chars().map(|c| if c == '\n' { '\u{b6}' } else { c }).collect();
    super::sanitize::one_line(&flat, 24)
}

#[cfg(test)]
pub(in crate::ui) mod tests;
