//! Everything that the screen knows. Changed only by [`update`](super::update::update), read by the views.

use super::calendar;
use super::composer::Composer;
use super::experts_state::ExpertsState;
use super::inspector::Inspector;
use super::keys::{SlashCommand, Takes, COMMANDS};
use super::layout::Areas;
use super::memory_state::MemoryState;
use super::message::Moment;
use super::notice::Notice;
use super::overlay::Help;
use super::panes::{PaneContext, SlotKnob};
use super::session::{self, Listed, SavedChat, SavedMessage};
use super::tempo::Tempo;
use super::theme::Theme;
use super::transcript::{role, Item, Kind, Transcript};
use super::writer::LinkState;
use crate::events::{
    FinishReason, Gauges, LoadOptions, Message as ChatMessage, ModelCard, ModelSource, Reasoning, RequestId, Role, Sampling, Scheduling,
    StepRecord,
};
use crate::trace::difference::Difference;
use crate::trace::player::Status as PlayerStatus;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// A pane that can have the keyboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Focus {
    /// The chat and its input.
    Chat,
    /// The expert heatmap.
    Heatmap,
    /// The memory pane.
    Memory,
}

impl Focus {
    /// All, in the order of Tab.
    pub const ALL: [Self; 3] = [Self::Chat, Self::Heatmap, Self::Memory];
}

/// How the engine does.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum EngineState {
    /// No model, none asked for.
    #[default]
    Idle,
    /// A model is being opened.
    Loading {
        /// In words.
        stage: String,
        /// Bytes done.
        done: u64,
        /// Bytes in all, 0 if unknown.
        total: u64,
    },
    /// A model is open.
    Ready,
    /// The model could not be opened.
    Failed,
    /// The inference thread has ended.
    Gone,
}

/// The turn that is being answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// Its request.
    pub id: RequestId,
    /// When it was asked.
    pub asked: Instant,
    /// Prompt tokens read and in all; cleared by the first text.
    pub prefill: Option<(usize, usize)>,
    /// Cancel was asked for.
    pub cancelling: bool,
}

/// Which settings were said on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Sampling.
    pub sampling: bool,
    /// Whether the model is to reason.
    pub thinking: bool,
    /// How long.
    pub effort: bool,
}

/// What sending a message changed: if no answer comes of it, all is put back.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    /// Its place in the transcript.
    pub(super) at: usize,
    /// What stood there before.
    pub(super) replaced: Vec<Item>,
    /// The prompt that was being edited.
    pub(super) editing: Option<usize>,
    /// The chat before: name of its file, and when it began.
    pub(super) chat: (String, String),
    /// The message came from the input, and goes back there.
    pub(super) typed: bool,
}

/// A choice from a list that typing makes shorter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pick {
    /// What was typed: entries without it are left out.
    pub query: String,
    /// The selected one of those that are left.
    pub at: usize,
}

/// What lies over the panes.
#[derive(Clone, Debug, PartialEq)]
pub enum Overlay {
    /// Keys and commands.
    Help(Help),
    /// The commands; which of them are looked for.
    Palette(Pick),
    /// The saved chats; which of them are looked for.
    Chats(Vec<Listed>, Pick),
}

/// The completions of a slash command that is being typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Popup {
    /// Full lines to complete to, with a word of help.
    pub entries: Vec<(String, String)>,
    /// The selected one.
    pub selected: usize,
}

/// Telemetry is folded early when this many records wait.
pub(super) const MAX_WAITING: usize = 64;

/// The whole state.
#[derive(Clone)]
pub struct State {
    /// Columns and rows of the terminal.
    pub size: (u16, u16),
    /// Which pane has the keyboard.
    pub focus: Focus,
    /// Which pane is shown beside the chat where there is room for one.
    pub side: Focus,
    /// The pane with the keyboard has the whole screen.
    pub whole: bool,
    /// The look.
    pub theme: Theme,
    /// Names that `/theme` knows.
    pub theme_names: Vec<String>,
    /// The chat.
    pub transcript: Transcript,
    /// The input.
    pub composer: Composer,
    /// Slash completion, if open.
    pub popup: Option<Popup>,
    /// What lies over everything.
    pub overlay: Option<Overlay>,
    /// The engine.
    pub engine: EngineState,
    /// The open model.
    pub card: Option<ModelCard>,
    /// What was last asked to be opened.
    pub source: Option<ModelSource>,
    /// With these options.
    pub load: LoadOptions,
    /// The running turn.
    pub turn: Option<Turn>,
    /// A prompt waits for the model to be open.
    pub waiting: bool,
    /// How fast answers may come.
    pub tempo: Tempo,
    /// Sampling of the next turn.
    pub sampling: Sampling,
    /// The person (or the configuration or a chat) chose the sampling, so that a model's defaults don't replace it.
    pub own_sampling: bool,
    /// Whether and how long the model is to reason.
    pub reasoning: Reasoning,
    /// Settings that the next chat that is taken up does not change.
    pub given: Given,
    /// The standing instruction.
    pub system: Option<String>,
    /// How experts get and lose slots, as the engine (or a recording) tells.
    pub scheduling: Option<Scheduling>,
    /// The slot knob.
    pub slots: SlotKnob,
    /// Heatmap.
    pub experts: ExpertsState,
    /// Memory pane.
    pub memory: MemoryState,
    /// The link between tokens and experts.
    pub inspector: Inspector,
    /// Telemetry that is not folded yet.
    pub(super) waiting_steps: Vec<StepRecord>,
    /// Tokens in the context.
    pub context_used: usize,
    /// Telemetry records lost.
    pub dropped: u64,
    /// The link to the terminal.
    pub link: LinkState,
    /// Shown one after the other.
    pub notices: VecDeque<Notice>,
    /// Name of the chat's file.
    pub chat_id: String,
    /// When the chat began.
    pub created: String,
    /// Something was said that was not given to the disk yet.
    pub(super) unsaved_words: bool,
    /// The chat could not be saved: why.
    pub unsaved: Option<String>,
    /// The prompt that is being edited, by its place in the transcript.
    pub editing: Option<usize>,
    /// What the last message changed, until something of its answer is there.
    pub(super) sent: Option<Sent>,
    pub(super) last_escape: Option<Instant>,
    pub(super) last_interrupt: Option<Instant>,
    pub(super) next_request: RequestId,
    pub(super) process: u32,
    /// A recorded trace is played, and stands here; prompts are not sent anywhere.
    pub replay: Option<PlayerStatus>,
    /// The comparison of two sides, in a replay that has two.
    pub difference: Option<Arc<Difference>>,
    /// The heatmap shows the first side alone instead.
    pub one_side: bool,
}

impl State {
    /// An empty chat without a model.
    #[must_use]
    pub fn new(theme: Theme, size: (u16, u16), process: u32, now: Moment) -> Self {
        Self {
            size,
            focus: Focus::Chat,
            side: Focus::Heatmap,
            whole: false,
            theme,
            theme_names: Vec::new(),
            transcript: Transcript::default(),
            composer: Composer::default(),
            popup: None,
            overlay: None,
            engine: EngineState::Idle,
            card: None,
            source: None,
            load: LoadOptions::default(),
            turn: None,
            waiting: false,
            tempo: Tempo::default(),
            sampling: Sampling::default(),
            own_sampling: false,
            reasoning: Reasoning::default(),
            given: Given::default(),
            system: None,
            scheduling: None,
            slots: SlotKnob::default(),
            experts: ExpertsState::default(),
            memory: MemoryState::default(),
            inspector: Inspector::default(),
            waiting_steps: Vec::new(),
            context_used: 0,
            dropped: 0,
            link: LinkState::default(),
            notices: VecDeque::new(),
            chat_id: calendar::new_id(now.wall, process),
            created: calendar::utc(now.wall),
            unsaved_words: false,
            unsaved: None,
            editing: None,
            sent: None,
            last_escape: None,
            last_interrupt: None,
            next_request: 1,
            process,
            replay: None,
            difference: None,
            one_side: false,
        }
    }

    /// The comparison that the heatmap shows. A past moment is that of the first side.
    #[must_use]
    pub fn shown_difference(&self) -> Option<&Difference> {
        let shown = !self.one_side && self.inspector.pause().is_none();
        self.difference.as_deref().filter(|d| shown && d.layers() > 0 && d.experts() > 0)
    }

    /// What panes may know.
    #[must_use]
    pub fn context(&self, pane: Focus) -> PaneContext<'_> {
        PaneContext {
            card: self.card.as_ref(),
            slots: &self.slots,
            dropped: self.dropped,
            generating: self.turn.is_some(),
            focused: self.focus == pane && self.overlay.is_none(),
            ascii: self.theme.ascii,
        }
    }

    /// Where everything lies on the screen.
    #[must_use]
    pub fn areas(&self) -> Areas {
        let area = ratatui::layout::Rect::new(0, 0, self.size.0, self.size.1);
        Areas::of(area, (self.focus, self.side), self.whole, |width| {
            let rows = self.composer.rows(usize::from(width)).rows.len();
            u16::try_from(rows).unwrap_or(u16::MAX)
        })
    }

    /// When [`Message::Tick`](super::message::Message::Tick) is to come.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let notice = self.notices.front().map(|n| n.until);
        notice.into_iter().chain(self.composer.deadline()).min()
    }

    /// The chat as the model reads it, up to the item before `end`.
    #[must_use]
    pub fn messages(&self) -> Vec<ChatMessage> {
        let system = self.system.iter().map(|text| ChatMessage { role: Role::System, content: text.clone(), thinking: None });
        let said = self.transcript.items().iter().filter_map(|item| {
            let role = role(item)?;
            let thinking = match &item.kind {
                Kind::Assistant { thinking: Some(t), .. } => Some(t.text.clone()),
                _ => None,
            };
            let empty = item.text.is_empty() && thinking.is_none();
            (role == Role::User || !empty).then(|| ChatMessage { role, content: item.text.clone(), thinking })
        });
        system.chain(said).collect()
    }

    /// The chat as it is saved.
    #[must_use]
    pub fn saved_chat(&self, now: Moment) -> SavedChat {
        let message = |item: &super::transcript::Item| {
            let role = role(item)?;
            let (thinking, unfinished) = match &item.kind {
                Kind::Assistant { thinking, ending } => {
                    let whole = matches!(ending, Some(e) if matches!(e.reason, FinishReason::Stop | FinishReason::Length));
                    (thinking.as_ref(), !whole)
                }
                _ => (None, false),
            };
            let empty = role == Role::Assistant && item.text.is_empty() && thinking.is_none();
            (!empty).then(|| SavedMessage {
                role,
                content: item.text.clone(),
                thinking: thinking.map(|t| t.text.clone()),
                thinking_ms: thinking.and_then(|t| t.took).map(|t| t.as_millis() as u64),
                thinking_tokens: thinking.and_then(|t| t.tokens),
                unfinished,
            })
        };
        SavedChat {
            format: session::FORMAT,
            created: self.created.clone(),
            updated: calendar::utc(now.wall),
            model: self.card.as_ref().map_or_else(String::new, |c| c.name.clone()),
            system: self.system.clone(),
            sampling: self.sampling.clone(),
            thinking: self.reasoning.on,
            effort: self.reasoning.effort,
            messages: self.transcript.items().iter().filter_map(message).collect(),
        }
    }

    /// Keeps telemetry for the next fold. True if it is time to fold.
    pub(super) fn keep_step(&mut self, record: StepRecord) -> bool {
        self.waiting_steps.push(record);
        self.waiting_steps.len() >= MAX_WAITING
    }

    /// Folds the telemetry that was kept.
    pub(super) fn fold(&mut self) {
        for record in std::mem::take(&mut self.waiting_steps) {
            self.context_used = record.context_used as usize;
            self.experts.apply(&record);
            self.inspector.keep(&record, &self.experts);
            self.memory.apply(&record);
        }
    }

    pub(super) fn gauges(&mut self, gauges: &Gauges) {
        self.memory.gauges(gauges);
    }

    /// Completions for the input, if it begins a command.
    #[must_use]
    pub fn completions(&self) -> Option<Popup> {
        let text = self.composer.text();
        if self.focus != Focus::Chat || !text.starts_with('/') || text.contains('\n') {
            return None;
        }
        let (name, argument) = match text[1..].split_once(' ') {
            None => (&text[1..], None),
            Some((name, argument)) => (name, Some(argument)),
        };
        let entries: Vec<(String, String)> = match argument {
            None => {
                let fits = |c: &&SlashCommand| c.name.starts_with(name);
                let line = |c: &SlashCommand| {
                    let space = if c.arguments.is_empty() { "" } else { " " };
                    (format!("/{}{space}{}", c.name, c.arguments), c.help.to_owned())
                };
                COMMANDS.iter().filter(fits).map(line).collect()
            }
            Some(argument) => {
                let command = COMMANDS.iter().find(|c| c.name == name)?;
                let words: Vec<String> = match command.takes {
                    Takes::Words(words) => words.iter().map(|w| (*w).to_owned()).collect(),
                    Takes::Theme => self.theme_names.clone(),
                    Takes::Nothing | Takes::Text => return None,
                };
                let fits = |w: &String| w.starts_with(argument) && w != argument;
                words.into_iter().filter(fits).map(|w| (format!("/{name} {w}"), String::new())).collect()
            }
        };
        (!entries.is_empty()).then_some(Popup { entries, selected: 0 })
    }
}
