//! The terminal front end: state, one pure update, panes, keys and the life of the terminal.

pub mod panes;
