//! Sessions in files: record, replay and simulate expert routing.
//!
//! - [`session`]: Rotary's own format, text and routing of a whole session, readable up to where a file was cut;
//! - [`record`]: the sink that writes it while a session runs;
//! - [`csv`]: reader and writer of the `route_trace v1` format that other projects publish;
//! - [`routes`]: the routing alone, as any of these sources gives it;
//! - [`along`]: as if several tokens had been read in each step;
//! - [`foretold`]: what routers foresaw of it;
//! - [`simulate`]: what other policies and slot counts would have done with that routing;
//! - [`profile`], [`roofline`]: a machine, and the tokens per second that it would make of that;
//! - [`open`]: tells the formats apart;
//! - [`scheduling`]: the policy that a recording names;
//! - [`difference`]: two sides of a comparison, step by step;
//! - [`player`]: plays a session, forwards and backwards, with no model.
//!
//! `docs/trace-format.md` describes the formats byte by byte.

pub mod along;
pub mod csv;
pub mod difference;
pub mod foretold;
mod marks;
mod moment;
pub mod open;
pub mod player;
pub mod profile;
pub mod record;
pub mod roofline;
pub mod routes;
pub mod said;
pub mod scheduling;
pub mod second;
pub mod session;
pub mod simulate;
mod simulated;

pub use routes::Routes;
