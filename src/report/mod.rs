//! The same engine without a screen: answers, measurements and facts on standard output.

pub mod bench;
pub mod check;
pub mod convert;
pub mod curves;
pub mod diff;
pub mod doctor;
pub mod gpu_check;
pub mod inspect;
pub mod machine;
pub mod plan;
#[cfg(feature = "hub")]
pub mod pull;
pub mod reference;
pub mod replay;
pub mod run;
pub mod simulate;
