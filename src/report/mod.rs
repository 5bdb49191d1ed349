//! The same engine without a screen: answers, measurements and facts on standard output.

pub mod replay;
pub mod simulate;
