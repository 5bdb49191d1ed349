//! The same engine without a screen: answers, measurements and facts on standard output.

pub mod check;
pub mod reference;
pub mod replay;
pub mod simulate;
