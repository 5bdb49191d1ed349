//! The terminal front end: state, one pure update, panes, keys and the life of the terminal.
//!
//! ```text
//! keys, signals, engine --> message --> update(state) --> effect --> engine, files, clipboard
//!                                          |
//!                                        state --> view --> frame (bytes) --> terminal
//! ```
//!
//! [`app`] is the loop around this; [`update`] is the only place where [`state`] changes, and is pure; the
//! views only read it. [`terminal`], [`writer`] and [`signals`] own the terminal.

pub mod panes;

pub mod app;
#[cfg(test)]
mod budget;
pub mod calendar;
pub mod clipboard;
pub mod command;
pub mod composer;
pub mod editor;
pub mod encoder;
pub mod experts_state;
pub mod frames;
pub mod heatmap;
pub mod inspector;
pub mod keys;
pub mod layout;
pub mod ledger;
pub mod markdown;
pub mod memory;
pub mod memory_state;
pub mod message;
pub mod notice;
pub mod origin;
pub mod overlay;
pub mod palette;
pub mod ramp;
pub mod replay_fold;
pub mod routing_log;
pub mod sanitize;
pub mod saver;
pub mod session;
pub mod signals;
pub mod state;
pub mod status;
pub mod tempo;
pub mod terminal;
pub mod terms;
pub mod theme;
pub mod tint;
pub mod token_spans;
pub mod token_walk;
pub mod transcript;
pub mod update;
pub mod view;
pub mod wrap;
pub mod writer;

pub use app::{run, Opening, Resume, UiOptions};
pub use state::Given;
