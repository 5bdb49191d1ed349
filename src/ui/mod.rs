//! The terminal front end: state, one pure update, panes, keys and the life of the terminal.

pub mod panes;

pub mod experts_state;
pub mod heatmap;
pub mod memory;
pub mod memory_state;
pub mod palette;
pub mod ramp;
pub mod theme;
