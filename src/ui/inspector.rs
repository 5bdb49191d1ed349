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
    super::sanitize::line(&flat, 24)
}

#[cfg(test)]
pub(in crate::ui) mod tests {
    use super::*;
    use crate::events::{Event, FinishReason, TextKind};
    use crate::ui::experts_state::stream::Stream;
    use crate::ui::experts_state::Shown;
    use crate::ui::message::Message;
    use crate::ui::state::Focus;
    use crate::ui::update::tests::Script;
    use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    /// A chat whose every token has its record, but for those that `dropped` names.
    pub(in crate::ui) struct Told {
        pub(in crate::ui) s: Script,
        stream: Stream,
        step: u64,
        dropped: Vec<u64>,
    }

    impl Told {
        pub(in crate::ui) fn new(dropped: &[u64]) -> Self {
            let s = Script::ready();
            Self { s, stream: Stream::new(2, 8, 2, 4, 5), step: 0, dropped: dropped.to_vec() }
        }

        /// Asks, and begins to answer with these tokens. The prompt takes one step, which chooses the first token.
        pub(in crate::ui) fn ask(&mut self, words: &[&str]) {
            self.s.say("Tell me");
            let record = self.stream.prompt(5);
            self.record(record);
            self.go_on(words);
        }

        pub(in crate::ui) fn go_on(&mut self, words: &[&str]) {
            let id = self.s.state.turn.as_ref().expect("a turn runs").id;
            for word in words {
                let text = (*word).to_owned();
                self.s.engine(Event::Text { id, text, kind: TextKind::Answer, step: self.step });
                let record = self.stream.token();
                self.record(record);
            }
            self.s.send(Message::Fold);
            self.s.send(Message::Draw);
        }

        fn record(&mut self, mut record: StepRecord) {
            self.step = record.step;
            record.time.total_us = 1000 + 100 * record.step as u32;
            if !self.dropped.contains(&record.step) {
                self.s.send(Message::Step(Box::new(record)));
            }
        }

        pub(in crate::ui) fn alt(&mut self, c: char) {
            self.s.send(Message::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::ALT)));
            self.s.send(Message::Draw);
        }

        fn pause(&self) -> Pause {
            self.s.state.inspector.pause().cloned().expect("paused")
        }
    }

    pub(in crate::ui) const WORDS: [&str; 12] = ["Once", " upon", " a", " **", "time", "**", ",", " a", " cat", " sat", ".", "\n"];

    #[test]
    fn the_cursor_walks_over_the_tokens_and_the_heatmap_stands_at_their_steps() {
        let mut t = Told::new(&[]);
        t.ask(&WORDS);
        t.alt('h');
        let pause = t.pause();
        assert_eq!((pause.token, pause.of, pause.step, pause.text.as_str(), pause.lost), (12, 12, 11, "\u{b6}", None));
        (0..3).for_each(|_| t.alt(','));
        assert_eq!(t.pause().text, " cat");
        let shown = t.s.state.heatmap().latest();
        assert_eq!(shown.map(|s| s.0), Some(8));
        // The session goes on; the heatmap stands still, the count grows.
        t.go_on(&["More", " of", " it"]);
        assert_eq!((t.pause().token, t.pause().of, t.s.state.heatmap().latest()), (9, 15, shown));
        assert_eq!(t.s.state.experts.latest().map(|s| s.0), Some(15), "telemetry is folded meanwhile");
        t.alt('l');
        assert_eq!(t.pause().text, " sat");
        (0..99).for_each(|_| t.alt('.'));
        assert_eq!(t.pause().token, 15, "the last token is the end");
        (0..99).for_each(|_| t.alt('h'));
        assert_eq!((t.pause().token, t.s.state.heatmap().latest().map(|s| s.0)), (1, Some(0)), "the prompt chose the first token");
        t.alt('0');
        assert!(t.s.state.inspector.pause().is_none());
        assert_eq!(*t.s.state.heatmap().shown(), Shown::Live);
        assert_eq!(t.s.state.heatmap().latest().map(|s| s.0), Some(15));
    }

    #[test]
    fn a_token_whose_record_was_dropped_is_unknown_in_every_view() {
        let mut t = Told::new(&[3, 4]);
        t.ask(&WORDS);
        t.alt('h');
        while t.pause().step != 4 {
            t.alt('h');
        }
        assert_eq!(t.pause().lost, Some(Lost::Dropped));
        let span = Span { start: 0, end: 1, first: 4, last: 4 };
        let known = Span { first: 5, last: 5, ..span };
        t.alt('0');
        let theme = t.s.state.theme.clone();
        for tint in [Tint::Misses, Tint::Time, Tint::Entropy] {
            t.s.state.inspector.tint = tint;
            assert_eq!(t.s.state.look_of(&span, &theme), Look::Plain, "{tint:?}");
            assert!(matches!(t.s.state.look_of(&known, &theme), Look::Styled(_)), "{tint:?}");
        }
    }

    #[test]
    fn the_cursor_waits_for_a_record_that_comes_late() {
        let mut t = Told::new(&[]);
        t.ask(&["Once"]);
        let id = t.s.state.turn.as_ref().unwrap().id;
        t.s.engine(Event::Text { id, text: " upon".into(), kind: TextKind::Answer, step: 2 });
        t.alt('h');
        assert_eq!((t.pause().step, t.pause().lost), (2, Some(Lost::NotYet)));
        let record = t.stream.token();
        t.record(record);
        t.s.send(Message::Fold);
        assert_eq!((t.pause().step, t.pause().lost), (2, None));
        assert_eq!(t.s.state.heatmap().latest().map(|s| s.0), Some(2));
    }

    #[test]
    fn the_chat_marks_exactly_the_tokens_that_used_the_expert_under_the_cursor() {
        let mut t = Told::new(&[6]);
        t.ask(&WORDS);
        t.s.state.focus = Focus::Heatmap;
        let theme = t.s.state.theme.clone();
        for expert in 0..8 {
            let (layer, _) = t.s.state.experts.cursor();
            for step in 0..12 {
                let span = Span { start: 0, end: 1, first: step, last: step };
                let look = t.s.state.look_of(&span, &theme);
                match t.s.state.inspector.known(step) {
                    None => assert_eq!((step, look), (6, Look::Styled(Style::new().add_modifier(Modifier::DIM)))),
                    Some(kept) => {
                        let want = kept.outcome(layer, expert).map_or(Look::Plain, |o| Look::Styled(tint::mark(o, &theme)));
                        assert_eq!(look, want, "step {step} expert {expert}");
                    }
                }
            }
            t.s.press(KeyCode::Right);
        }
    }

    #[test]
    fn keys_of_the_heatmap_work_on_the_past_and_stay_when_it_is_left() {
        let mut t = Told::new(&[]);
        t.ask(&WORDS);
        t.alt('h');
        t.s.state.focus = Focus::Heatmap;
        t.s.press(KeyCode::Down);
        t.s.press(KeyCode::Char('s'));
        t.s.press(KeyCode::Enter);
        assert!(t.s.state.heatmap().zoomed() && t.s.state.experts.zoomed());
        let cursor = t.s.state.heatmap().cursor();
        t.alt('h');
        assert_eq!(t.s.state.heatmap().cursor(), cursor);
        t.alt('0');
        assert_eq!(t.s.state.heatmap().cursor(), cursor);
    }

    #[test]
    fn steps_of_an_earlier_model_are_not_taken_for_those_of_the_new_one() {
        let mut t = Told::new(&[]);
        t.ask(&WORDS);
        t.s.finish(FinishReason::Stop);
        t.alt('h');
        t.s.engine(Event::Ready { card: Box::new(crate::ui::update::tests::card()) });
        assert!(t.s.state.inspector.pause().is_none());
        t.stream = Stream::new(2, 8, 2, 4, 6);
        t.alt('h');
        assert!(t.s.state.inspector.pause().is_none(), "no token of this model is in the chat");
        t.ask(&["Yes", "."]);
        t.alt('h');
        assert_eq!((t.pause().token, t.pause().of, t.pause().step), (2, 2, 1));
    }

    #[test]
    fn tints_come_by_key_and_by_command() {
        let mut t = Told::new(&[]);
        t.ask(&WORDS);
        t.alt('t');
        assert_eq!(t.s.state.inspector.tint, Tint::Misses);
        t.s.say("/tint entropy");
        assert_eq!(t.s.state.inspector.tint, Tint::Entropy);
        t.s.say("/tint");
        t.s.press(KeyCode::Esc);
        t.s.say("/tint bright");
        assert_eq!(t.s.state.inspector.tint, Tint::Entropy, "an unknown name changes nothing");
        t.s.press(KeyCode::Esc);
        t.alt('t');
        assert_eq!(t.s.state.inspector.tint, Tint::Off);
    }

    #[test]
    fn a_session_without_text_is_scrubbed_step_by_step() {
        let mut t = Told::new(&[]);
        for _ in 0..30 {
            let record = t.stream.token();
            t.record(record);
        }
        t.s.send(Message::Fold);
        t.alt('h');
        assert_eq!((t.pause().token, t.pause().of, t.pause().step), (30, 30, 29));
        t.alt('k');
        assert_eq!((t.pause().token, t.pause().text.as_str()), (20, ""));
    }
}
