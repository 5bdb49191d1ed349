//! The screen of a replay. The player folds the session into a state of the screen as the screen itself would, so it can
//! give back any earlier one; the screen shows what it gets and keeps what is the person's: cursors, pages, what is open.

use super::experts_state::{Play, Shown};
use super::message::{Message, Moment};
use super::palette::ColorDepth;
use super::panes::SlotKnob;
use super::state::{EngineState, State};
use super::theme::Theme;
use super::transcript::{Item, Kind};
use super::update::update;
use crate::events::{Event, StepRecord, NO_SLOT};
use crate::trace::player::{Fold, Frame, Status};
use crate::trace::session::Question;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// What a screen makes of a session.
#[derive(Clone)]
pub struct ReplayFold {
    screen: Box<State>,
    /// Stands for the beginning of the session on the clock.
    began: Instant,
}

impl ReplayFold {
    /// Before the first entry.
    #[must_use]
    pub fn new() -> Self {
        let began = Instant::now();
        // Nobody looks at this one: neither theme nor size matter, but that a notice fits.
        let theme = Theme::built_in("dark", ColorDepth::Mono, true);
        let mut screen = State::new(theme, (u16::MAX, u16::MAX), 0, Moment { at: began, wall: UNIX_EPOCH });
        screen.replay = Some(Status::default());
        Self { screen: Box::new(screen), began }
    }
}

impl Default for ReplayFold {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for ReplayFold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplayFold").field("latest", &self.screen.experts.latest()).finish_non_exhaustive()
    }
}

impl Fold for ReplayFold {
    fn question(&mut self, _at: Duration, question: Question) {
        self.screen.transcript.push(Item::new(Kind::User, question.text));
    }

    fn event(&mut self, at: Duration, event: Event) {
        // Times of a file may be beyond every clock.
        let now = Moment { at: self.began.checked_add(at).unwrap_or(self.began), wall: UNIX_EPOCH };
        // There is nobody to carry out effects, and nothing that would need it.
        let _ = update(&mut self.screen, Message::Engine(event), now);
        // Nor does anybody turn this knob: it stands where the session has it.
        self.screen.slots.asked = self.screen.slots.granted;
    }

    fn step(&mut self, record: StepRecord) {
        if let Some(card) = self.screen.card.as_ref().filter(|c| c.experts > 0) {
            let tables = record.slot_of.chunks(card.experts).zip(&card.expert_bytes);
            let used = tables.map(|(t, bytes)| bytes.saturating_mul(t.iter().filter(|s| **s != NO_SLOT).count() as u64));
            let bytes = used.fold(0, u64::saturating_add);
            self.screen.memory.slots_hold(bytes);
        }
        // The slots of a simulation are not those of the card.
        if record.slots > 0 && usize::from(record.slots) != self.screen.slots.granted {
            self.screen.slots = SlotKnob::at(usize::from(record.slots));
        }
        self.screen.keep_step(record);
        self.screen.fold();
    }

    fn mark(&self) -> Self {
        let mut mark = self.clone();
        mark.screen.inspector.log = self.screen.inspector.log.mark();
        mark
    }

    fn back_to(&mut self, mark: &Self) {
        let mut inspector = std::mem::take(&mut self.screen.inspector);
        self.clone_from(mark);
        inspector.back_to(&mark.screen.inspector);
        self.screen.inspector = inspector;
    }

    fn bytes(&self) -> usize {
        self.screen.experts.bytes() + self.screen.memory.bytes() + self.screen.transcript.bytes()
    }
}

impl State {
    /// Shows another place of the replay.
    pub(super) fn show_frame(&mut self, frame: Frame<ReplayFold>) {
        let Frame { status, fold, difference } = frame;
        let there = *fold.screen;
        let play = match &status {
            s if s.ended && !s.backwards => Play::Ended,
            s if s.paused => Play::Paused,
            s if s.backwards => Play::Backwards,
            _ => Play::Forwards,
        };
        (self.engine, self.card, self.turn) = (there.engine, there.card, there.turn);
        if status.ended && matches!(self.engine, EngineState::Loading { .. }) {
            // Nothing is loaded here that one could wait for.
            self.engine = EngineState::Loading { stage: "the recording ends before a model is open".into(), done: 0, total: 0 };
        }
        self.replay = Some(status);
        self.difference = difference;
        (self.context_used, self.scheduling) = (there.context_used, there.scheduling);
        // A wish of the person that was not answered yet stands.
        if self.slots.asked == self.slots.granted {
            self.slots.asked = there.slots.granted;
        }
        self.slots.granted = there.slots.granted;
        (self.slots.refused, self.slots.why) = (there.slots.refused, there.slots.why);
        let before = std::mem::replace(&mut self.experts, there.experts);
        self.experts.go_on_from(&before);
        self.experts.shown = Shown::Replay(play);
        let before = std::mem::replace(&mut self.memory, there.memory);
        self.memory.turn_page_of(&before);
        self.transcript.take_over(there.transcript);
        self.take_place(there.inspector);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{FinishReason, Phase, TextKind, TurnStats};
    use crate::ui::experts_state::stream::Stream;
    use proptest::prelude::*;

    /// What is told of a step: its record, and a piece of text; every now and then a turn ends and another begins.
    fn tell(fold: &mut ReplayFold, step: u64, record: &StepRecord) {
        let at = Duration::from_millis(100 * step);
        let id = step / 50;
        if step.is_multiple_of(50) {
            fold.question(at, Question { id, text: format!("question {id}") });
        }
        fold.step(record.clone());
        if record.phase == Phase::Decode {
            let kind = if step % 50 < 20 { TextKind::Thinking } else { TextKind::Answer };
            fold.event(at, Event::Text { id, text: format!("word{step} "), kind, step });
        }
        if step % 50 == 49 {
            fold.event(at, Event::Finished { id, reason: FinishReason::Stop, stats: TurnStats::default() });
        }
    }

    /// All that a person can see of it.
    fn seen(fold: &ReplayFold) -> String {
        let s = &fold.screen;
        let turn = s.turn.as_ref().map(|t| (t.id, t.prefill));
        format!("{:?}\n{:?}\n{:?}\n{turn:?} {} {:?}\n{:?}", s.experts, s.memory, s.transcript, s.context_used, s.slots, s.inspector)
    }

    #[test]
    fn the_knob_stands_where_the_steps_have_it_whatever_the_card_says() {
        let mut stream = Stream::new(2, 16, 4, 6, 1);
        let mut fold = ReplayFold::new();
        let mut card = stream.card();
        card.plan.slots_per_layer = 0;
        fold.event(Duration::ZERO, Event::Ready { card: Box::new(card) });
        fold.step(stream.token());
        assert_eq!((fold.screen.slots.asked, fold.screen.slots.granted), (6, 6));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn a_mark_gives_back_the_screen_of_its_place_and_goes_on_like_it(
            mark in 0u64..180, on in 0u64..40, target in 0u64..20, resize in 20u64..200, seed in 0u64..9,
        ) {
            let mut stream = Stream::new(3, 16, 4, 6, seed);
            let card = stream.card();
            let records: Vec<StepRecord> = (0..240)
                .map(|step| {
                    if step == resize {
                        stream.resize(9);
                    }
                    if step % 50 == 0 { stream.prompt(7) } else { stream.token() }
                })
                .collect();
            let mut walked = ReplayFold::new();
            walked.event(Duration::ZERO, Event::Ready { card: Box::new(card) });
            let mut straight = walked.clone();
            (0..mark).for_each(|s| tell(&mut walked, s, &records[s as usize]));
            let kept = walked.mark();
            // A mark may be gone on from without the original, too.
            let mut other = kept.clone();
            (mark..mark + on).for_each(|s| tell(&mut walked, s, &records[s as usize]));
            (mark..mark + target / 2).for_each(|s| tell(&mut other, s, &records[s as usize]));
            walked.back_to(&other.mark());
            let from = mark + (target / 2).min(on);
            // The log can't give back what it never had.
            prop_assume!(target / 2 <= on);
            (from..mark + target).for_each(|s| tell(&mut walked, s, &records[s as usize]));
            (0..mark + target).for_each(|s| tell(&mut straight, s, &records[s as usize]));
            prop_assert!(seen(&walked) == seen(&straight), "{} and {}", seen(&walked), seen(&straight));
        }
    }

    /// Not a test of anything: prints what going back costs in a long session.
    #[test]
    #[ignore = "takes a minute; prints times"]
    fn cost_of_a_step_back() {
        use crate::experts::policy::Policy;
        use crate::trace::open::Trace;
        use crate::trace::player::tests::frame;
        use crate::trace::player::{compare, from_session, Options, Other};
        use crate::trace::second::Simulation;
        use crate::trace::session::{Session, Writer};
        const STEPS: usize = 10_000;
        let mut stream = Stream::new(48, 128, 8, 40, 1);
        let mut writer = Writer::new(Vec::new()).unwrap();
        writer.event(0, &Event::Ready { card: Box::new(stream.card()) }).unwrap();
        for step in 0..STEPS as u64 {
            let (at, kind) = (step * 100_000, TextKind::Answer);
            writer.step(at, &stream.token()).unwrap();
            let text = if step % 40 == 39 { "end.\n\n" } else { "word " };
            writer.event(at, &Event::Text { id: 1, text: text.into(), kind, step }).unwrap();
        }
        let bytes = writer.finish().unwrap();
        let session = || Session::from_bytes(bytes.clone()).unwrap();
        let options = |simulate| Options { speed: f64::INFINITY, simulate, ..Options::default() };
        let lru = Other::Itself(Simulation { slots: None, policy: Policy::Lru });
        let simulated = options(Some((40, Policy::Rotary)));
        for (name, (handle, control)) in [
            ("recorded", from_session(session(), options(None), ReplayFold::new())),
            ("simulated beside lru", compare(Trace::Session(Box::new(session())), lru, simulated, ReplayFold::new())),
        ] {
            let began = Instant::now();
            frame(&control, |s| s.ended);
            println!("{name}: forwards {:.2} ms a step", began.elapsed().as_secs_f64() * 1e3 / STEPS as f64);
            let mut times: Vec<Duration> = (1..=1200)
                .map(|back| {
                    // As a person would press a key, or a clock would tick.
                    std::thread::sleep(Duration::from_millis(30));
                    let began = Instant::now();
                    control.step(-1);
                    frame(&control, |s| s.step == STEPS - back);
                    began.elapsed()
                })
                .collect();
            times.sort_unstable();
            let of = |share: usize| times[times.len() * share / 1000 - 1].as_secs_f64() * 1e3;
            println!("a step back: median {:.1} ms, 99 % {:.1} ms, longest {:.1} ms", of(500), of(990), of(1000));
            let began = Instant::now();
            control.seek(3000);
            frame(&control, |s| s.step == 3000);
            println!("6000 steps back at once: {:.0} ms", began.elapsed().as_secs_f64() * 1e3);
            drop(handle);
        }
    }
}
