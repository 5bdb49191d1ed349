//! Rotary's own trace: a whole session, text and routing, in one file that only ever grows at its end.
//!
//! A header, then frames: `kind u8, length u32, payload, CRC-32 u32`. A session that was killed leaves a file that reads up
//! to its last whole frame; a last frame of kind "end" tells a finished file from a cut one. Steps hold the occupancy as
//! changes against the step before, with a key frame now and then, so a token of a 48-layer model takes about 2 kB.
//! `docs/trace-format.md` has every byte. Gate weights are rounded to half precision; everything else is kept as it was.

mod bytes;
mod read;
mod write;

pub use read::{Head, Session};
pub use write::{write_routes, Writer};

use crate::events::{Event, RequestId, StepRecord};
use serde::{Deserialize, Serialize};
use std::io;

/// First bytes of the file. Not text, so that nothing takes it for some.
pub const MAGIC: [u8; 8] = *b"\x89ROTARY\n";
/// Version of the format that is written; others are refused.
pub const VERSION: u16 = 1;
const HEADER: usize = 16;
/// Bytes of a frame beside its payload: kind, length, sum.
const FRAME: usize = 9;
/// Largest payload that is written or read.
const MAX_PAYLOAD: usize = 16 << 20;
/// Steps from one key frame to the next.
const KEY_EVERY: u32 = 64;
/// Largest file that is read.
const MAX_FILE: u64 = 4 << 30;
/// Most entries of an occupancy table.
const MAX_TABLE: u64 = 1 << 24;

const END: u8 = 0;
const EVENT: u8 = 1;
const STEP: u8 = 2;
const QUESTION: u8 = 3;
const SCHEDULING: u8 = 4;

const DECODE: u64 = 1;
const CHOSEN: u64 = 2;
const KEY: u64 = 4;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// On the text lane.
    Event(Event),
    /// The person asked something. Not an event of the engine, but without it a replayed chat makes no sense.
    Question(Question),
    /// On the telemetry lane.
    Step(Box<StepRecord>),
}

/// What the person asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The request that answers it.
    pub id: RequestId,
    /// The words.
    pub text: String,
}

/// An entry with its time in microseconds since the recording began.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed {
    /// Microseconds since the recording began.
    pub at: u64,
    /// What happened.
    pub entry: Entry,
}

/// Why a file is no session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// It could not be read.
    #[error("can't read the session: {0}")]
    Io(#[from] io::Error),
    /// Something else.
    #[error("not a recorded session: the file does not begin with the mark of one")]
    NotASession,
    /// Only the mark, or not even all of the header.
    #[error("the session was cut within its header, {0} bytes from its start: nothing is recorded in it")]
    Empty(usize),
    /// From another time.
    #[error("the session has format version {0}; this program reads version {VERSION}")]
    Version(u16),
    /// Too big.
    #[error("the session has {0} bytes; at most {MAX_FILE} are read")]
    TooBig(u64),
}

/// How a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The recording was finished.
    Whole,
    /// The file ends here in the middle of the session; what came before is sound.
    Cut {
        /// Byte at which the readable part ends.
        at: usize,
    },
    /// The frame here is damaged; what came before is sound.
    Damaged {
        /// Byte at which the readable part ends.
        at: usize,
    },
}

#[cfg(test)]
mod tests;
