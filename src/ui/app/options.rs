//! How the app is to start.

use crate::config::{Folders, Loaded};
use crate::engine::EngineHandle;
use crate::events::{LoadOptions, ModelSource};
use crate::trace::player::PlayerControl;
use crate::trace::record::Recorder;
use crate::ui::palette::ColorDepth;
use crate::ui::replay_fold::ReplayFold;
use crate::ui::state::Given;

/// What to show.
pub enum Opening {
    /// Nothing yet; `/model` opens one.
    Nothing,
    /// Open this model.
    Model(ModelSource),
    /// Play what this handle gives; it can't be asked.
    Replay(EngineHandle, PlayerControl<ReplayFold>),
}

/// Which saved chat to take up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// None: a new chat.
    #[default]
    No,
    /// The last one.
    Last,
    /// Show the list.
    Pick,
    /// The one of this name.
    Named(String),
}

/// How to start.
pub struct UiOptions {
    /// What to show.
    pub opening: Opening,
    /// How models are loaded.
    pub load: LoadOptions,
    /// The configuration, and what was wrong with it.
    pub config: Loaded,
    /// Where chats, themes and the log are.
    pub folders: Folders,
    /// Name of the theme, instead of the configuration's.
    pub theme: Option<String>,
    /// Colours, instead of what the configuration and the environment say.
    pub color: Option<ColorDepth>,
    /// Plain ASCII, whatever the locale says.
    pub ascii: bool,
    /// Which chat to take up.
    pub resume: Resume,
    /// Tokens per second of answers, 0 as fast as they can be, instead of the configuration's.
    pub pace: Option<f32>,
    /// What was said on the command line, and so is stronger than what the chat says that is taken up at the start.
    pub given: Given,
    /// Standing instruction of a new chat.
    pub system: Option<String>,
    /// Records what the engine reports and what the person asks.
    pub trace: Option<Recorder>,
}

impl UiOptions {
    /// A new chat with this model, everything else by configuration and environment.
    #[must_use]
    pub fn new(opening: Opening) -> Self {
        Self {
            opening,
            load: LoadOptions::default(),
            config: crate::config::load(),
            folders: Folders::find(),
            theme: None,
            color: None,
            ascii: false,
            resume: Resume::No,
            pace: None,
            given: Given::default(),
            system: None,
            trace: None,
        }
    }
}
