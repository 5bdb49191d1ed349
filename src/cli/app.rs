//! `rotary [MODEL]`: the terminal app, and what it can be told before it starts.

use super::{chats, find_model, meant, recorder, Draw, Failure, Load, Think};
use crate::config::{self, Folders};
use crate::engine::open;
use crate::engine::sampling::{defaults_from_gguf, validate};
use crate::events::LoadOptions;
use crate::ui::palette::ColorDepth;
use crate::ui::{self, Given, Opening, Resume, UiOptions};
use clap::Args;
use color_eyre::eyre;
use std::path::PathBuf;
use std::process::ExitCode;

/// `rotary [MODEL]`: the terminal app.
#[derive(Debug, Args)]
pub struct App {
    /// Model to chat with [default: the configured one, or demo]
    pub model: Option<String>,
    /// Go on with a saved chat: the latest, or the one with this id (`rotary chats` lists them)
    #[arg(long, value_name = "ID", num_args = 0..=1)]
    pub resume: Option<Option<String>>,
    /// Standing instructions of a new chat
    #[arg(long, value_name = "TEXT", conflicts_with = "resume")]
    pub system: Option<String>,
    #[allow(missing_docs)] // A comment here would become the help text of every flag group.
    #[command(flatten)]
    pub think: Think,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub draw: Draw,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub load: Load,
    /// Colours: dark, light, safe (colour-blind), ember, sixteen, mono, or a theme of your own
    #[arg(long, value_name = "NAME", help_heading = "Screen")]
    pub theme: Option<String>,
    /// Let answers come at so many tokens per second at most, to watch them; off: as fast as they can
    ///
    /// By default the embedded toy has a pace of 20, and no other model has one.
    #[arg(long, value_name = "N|off", value_parser = pace, help_heading = "Screen")]
    pub pace: Option<f32>,
    /// Draw with ASCII characters only
    #[arg(long, help_heading = "Screen")]
    pub ascii: bool,
    /// No colours (also by the variable NO_COLOR)
    #[arg(long, help_heading = "Screen")]
    pub no_color: bool,
    /// Record the session into a file for `rotary replay`
    ///
    /// Text, routing and times; routing alone if it ends in .csv. It must not exist.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub trace: Option<PathBuf>,
}

pub(super) fn app(args: &App) -> eyre::Result<ExitCode> {
    // Before there are threads.
    ui::signals::hold_stops();
    let mut config = config::load();
    let source = find_model(args.model.as_deref().or(config.config.model.as_deref()).unwrap_or("demo"), &config.config)
        .map_err(|e| args.model.as_deref().and_then(meant).map_or(e, Failure::usage))?;
    if args.draw.is_given() {
        // What the flags leave open comes from the configuration, else from the model file, whose header is read for it.
        let own = || open::map(&source).map(|gguf| defaults_from_gguf(&gguf)).map_err(Failure::from);
        let sampling = args.draw.over(config.config.sampling.clone().map_or_else(own, Ok)?);
        validate(&sampling).map_err(|e| Failure::usage(e.to_string()))?;
        config.config.sampling = Some(sampling);
    }
    config.config.thinking = args.think.no_think.then_some(false).or(config.config.thinking);
    config.config.effort = args.think.effort.or(config.config.effort);
    let resume = match &args.resume {
        None => Resume::No,
        Some(None) => Resume::Last,
        Some(Some(id)) => Resume::Named(chats::known(id)?),
    };
    let trace = args.trace.as_deref().map(recorder).transpose()?;
    ui::run(UiOptions {
        load: LoadOptions { heat: args.load.heat_folder(&config.config, || Folders::find().heat()), ..args.load.options(&config.config) },
        config,
        theme: args.theme.clone(),
        color: args.no_color.then_some(ColorDepth::Mono),
        ascii: args.ascii,
        pace: args.pace,
        resume,
        system: args.system.clone(),
        given: Given { sampling: args.draw.is_given(), thinking: args.think.no_think, effort: args.think.effort.is_some() },
        trace,
        ..UiOptions::new(Opening::Model(source))
    })
}

/// `--pace`.
fn pace(text: &str) -> Result<f32, String> {
    ui::tempo::parse(text).ok_or_else(ui::tempo::meaning)
}
