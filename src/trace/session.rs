//! Rotary's own trace: a whole session, text and routing, in one file that only ever grows at its end.
//!
//! A header, then frames: `kind u8, length u32, payload, CRC-32 u32`. A session that was killed leaves a file that reads up
//! to its last whole frame; a last frame of kind "end" tells a finished file from a cut one. Steps hold the occupancy as
//! changes against the step before, with a key frame now and then, so a token of a 48-layer model takes about 2 kB.
//! `docs/trace-format.md` has every byte. Gate weights are rounded to half precision; everything else is kept as it was.
//!
//! The reader trusts nothing: lengths are checked before use, sums before payloads, counts against the bytes that are there.

use super::routes::{Routes, RoutesHead, MAX_LAYERS};
use crate::events::{
    Ahead, Event, Eviction, ModelCard, Outcome, Phase, RequestId, RoutedExpert, Scheduling, StepRecord, StepTime, NO_SLOT,
};
use half::f16;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::path::Path;

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

/// Writes a session, frame by frame.
pub struct Writer<W: Write> {
    out: W,
    /// Occupancy after the last step that was written.
    table: Vec<u16>,
    since_key: u32,
    frame: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begin a file.
    ///
    /// # Errors
    /// When the header can't be written.
    pub fn new(mut out: W) -> io::Result<Self> {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&MAGIC);
        header[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out.write_all(&header)?;
        Ok(Self { out, table: Vec::new(), since_key: KEY_EVERY, frame: Vec::new() })
    }

    /// Write anything.
    ///
    /// # Errors
    /// When the output can't be written.
    pub fn entry(&mut self, entry: &Timed) -> io::Result<()> {
        match &entry.entry {
            Entry::Event(event) => self.event(entry.at, event),
            Entry::Question(question) => self.question(entry.at, question),
            Entry::Step(record) => self.step(entry.at, record),
        }
    }

    /// Write an event of the text lane.
    ///
    /// # Errors
    /// When the output can't be written.
    pub fn event(&mut self, at: u64, event: &Event) -> io::Result<()> {
        match event {
            // A kind of its own: readers of before know neither, and pass over kinds that they don't know.
            Event::Scheduling(scheduling) => self.json(SCHEDULING, at, scheduling),
            event => self.json(EVENT, at, event),
        }
    }

    /// Write what the person asked.
    ///
    /// # Errors
    /// When the output can't be written.
    pub fn question(&mut self, at: u64, question: &Question) -> io::Result<()> {
        self.json(QUESTION, at, question)
    }

    fn json(&mut self, kind: u8, at: u64, value: &impl Serialize) -> io::Result<()> {
        self.begin(kind);
        put(&mut self.frame, at);
        serde_json::to_writer(&mut self.frame, value)?;
        self.end()
    }

    /// Write a step.
    ///
    /// # Errors
    /// When the output can't be written.
    pub fn step(&mut self, at: u64, r: &StepRecord) -> io::Result<()> {
        let key = self.since_key >= KEY_EVERY || self.table.len() != r.slot_of.len();
        self.begin(STEP);
        let out = &mut self.frame;
        put(out, at);
        let flag = |on: bool, bit: u64| if on { bit } else { 0 };
        put(out, flag(r.phase == Phase::Decode, DECODE) | flag(r.chosen.is_some(), CHOSEN) | flag(key, KEY));
        for n in [r.step, r.tokens.into(), r.position.into(), r.slots.into(), r.context_used.into(), r.bytes_uploaded, r.bytes_missed] {
            put(out, n);
        }
        if let Some(token) = r.chosen {
            put(out, token.into());
        }
        let t = &r.time;
        for us in [t.total_us, t.trunk_us, t.hits_us, t.misses_us, t.upload_us, t.sampling_us] {
            put(out, us.into());
        }
        put(out, r.layers() as u64);
        for layer in 0..r.layers() {
            let routed = r.layer(layer);
            put(out, routed.len() as u64);
            for e in routed {
                let outcome = match e.outcome {
                    Outcome::Miss => 0,
                    Outcome::Hit => 1,
                    Outcome::Admitted => 2,
                };
                put(out, u64::from(e.tokens) << 2 | outcome);
                put(out, e.expert.into());
                out.extend_from_slice(&f16::from_f32(e.weight).to_le_bytes());
            }
        }
        put(out, r.evicted.len() as u64);
        for e in &r.evicted {
            put(out, e.layer.into());
            put(out, e.expert.into());
        }
        if key {
            self.table.clear();
            self.table.resize(r.slot_of.len(), NO_SLOT);
            self.since_key = 0;
        }
        self.since_key += 1;
        put(out, r.slot_of.len() as u64);
        put(out, self.table.iter().zip(&r.slot_of).filter(|(a, b)| a != b).count() as u64);
        let mut last = 0;
        for (i, (old, &new)) in self.table.iter_mut().zip(&r.slot_of).enumerate() {
            if *old != new {
                *old = new;
                put(out, (i - last) as u64);
                // NO_SLOT wraps to 0.
                put(out, new.wrapping_add(1).into());
                last = i;
            }
        }
        put(out, r.ahead.len() as u64);
        for a in &r.ahead {
            put(out, a.layer.into());
            put(out, a.expert.into());
        }
        self.end()
    }

    /// Mark the file as whole and hand everything to the system.
    ///
    /// # Errors
    /// When the output can't be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.begin(END);
        self.end()?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// Hand what was written so far to the system.
    ///
    /// # Errors
    /// When the output can't be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn begin(&mut self, kind: u8) {
        self.frame.clear();
        self.frame.extend_from_slice(&[kind, 0, 0, 0, 0]);
    }

    fn end(&mut self) -> io::Result<()> {
        let length = self.frame.len() - 5;
        if length > MAX_PAYLOAD {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an entry of the session is larger than 16 MiB"));
        }
        self.frame[1..5].copy_from_slice(&(length as u32).to_le_bytes());
        let sum = crc32(&self.frame);
        self.frame.extend_from_slice(&sum.to_le_bytes());
        // One call per frame: a cut file ends inside a frame only if the system cut it.
        self.out.write_all(&self.frame)
    }
}

/// Write routing without text and occupancy as a session: the compact form of a CSV trace, or a session without its words.
/// Outcomes, and of times the length of the steps, stay as the trace has them; steps are numbered from 0 and follow each other at a tenth of a second.
///
/// # Errors
/// When the output can't be written.
pub fn write_routes<W: Write>(out: W, routes: &Routes) -> io::Result<W> {
    let mut writer = Writer::new(out)?;
    if let Some(scheduling) = &routes.head.scheduling {
        writer.event(0, &Event::Scheduling(scheduling.clone()))?;
    }
    let card = super::player::card_of(&routes.head, 0);
    writer.event(0, &Event::Ready { card: Box::new(card) })?;
    for i in 0..routes.len() {
        let mut record = routes.record(i);
        let outcomes = (0..routes.head.layers).flat_map(|l| routes.tick(i, l)).map(|r| r.outcome);
        record.routed.iter_mut().zip(outcomes).for_each(|(r, outcome)| r.outcome = outcome);
        let measured = routes.measured(i);
        (record.time.total_us, record.slots) = (measured.total_us, measured.slots);
        writer.step(i as u64 * 100_000, &record)?;
    }
    writer.finish()
}

/// Where a frame is, and what the index knows of it without decoding it.
#[derive(Clone, Copy, Debug)]
struct Frame {
    start: usize,
    length: usize,
    kind: u8,
    key: bool,
}

/// A recorded session, indexed; entries are decoded on demand, forwards and backwards.
pub struct Session {
    bytes: Vec<u8>,
    frames: Vec<Frame>,
    ending: Ending,
    head: Head,
}

/// Where a reader of steps stands. A step is kept as changes against the one before, so reading in order is cheap; each head
/// reads in an order of its own, and a copy goes on from where it was made.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// Occupancy after the step frame before `cursor`, if it is known.
    table: Vec<u16>,
    cursor: usize,
}

impl Session {
    /// Read a file.
    ///
    /// # Errors
    /// If it can't be read or is no session; a cut or damaged one is opened up to there, see [`Session::ending`].
    pub fn open(path: &Path) -> Result<Self, SessionError> {
        let size = std::fs::metadata(path)?.len();
        if size > MAX_FILE {
            return Err(SessionError::TooBig(size));
        }
        Self::from_bytes(std::fs::read(path)?)
    }

    /// Whether these bytes begin like a session.
    #[must_use]
    pub fn is_session(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// Index a session that is in memory.
    ///
    /// # Errors
    /// If the bytes are no session.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, SessionError> {
        if !Self::is_session(&bytes) {
            return Err(SessionError::NotASession);
        }
        if bytes.len() < HEADER {
            return Err(SessionError::Empty(bytes.len()));
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != VERSION {
            return Err(SessionError::Version(version));
        }
        let mut frames: Vec<Frame> = Vec::new();
        let mut start = HEADER;
        let ending = loop {
            if start == bytes.len() {
                break Ending::Cut { at: start };
            }
            let Some(head) = bytes.get(start..start + 5) else { break Ending::Cut { at: start } };
            let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
            if length > MAX_PAYLOAD {
                break Ending::Damaged { at: start };
            }
            let Some(frame) = bytes.get(start..start + length + FRAME) else { break Ending::Cut { at: start } };
            let (body, sum) = frame.split_at(length + 5);
            if crc32(body).to_le_bytes() != sum {
                break Ending::Damaged { at: start };
            }
            if head[0] == END {
                break Ending::Whole;
            }
            // Kinds of later versions are passed over.
            if matches!(head[0], EVENT | STEP | QUESTION | SCHEDULING) {
                let mut payload = Payload { bytes: &body[5..] };
                let key = head[0] == STEP && payload.get().and_then(|_| payload.get()).is_some_and(|flags| flags & KEY != 0);
                frames.push(Frame { start: start + 5, length, kind: head[0], key });
            }
            start += length + FRAME;
        };
        let mut session = Self { bytes, frames, ending, head: Head::default() };
        // A frame with a sound sum may still be nonsense (a hostile file). Decode all once; keep what makes sense.
        let sound = (0..session.frames.len()).take_while(|&i| session.get(i).is_some()).count();
        if let Some(bad) = session.frames.get(sound) {
            session.ending = Ending::Damaged { at: bad.start - 5 };
            session.frames.truncate(sound);
        }
        Ok(session)
    }

    /// How the file ends.
    #[must_use]
    pub fn ending(&self) -> Ending {
        self.ending
    }

    /// Entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether nothing was recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Whether entry `i` is a step.
    #[must_use]
    pub fn is_step(&self, i: usize) -> bool {
        self.frames.get(i).is_some_and(|f| f.kind == STEP)
    }

    /// Time of entry `i` in microseconds since the recording began; 0 if there is none.
    #[must_use]
    pub fn time(&self, i: usize) -> u64 {
        self.frames.get(i).and_then(|&frame| self.payload(frame).get()).unwrap_or(0)
    }

    /// Entry `i`. Cheap in order; going elsewhere decodes from the last key frame on.
    pub fn get(&mut self, i: usize) -> Option<Timed> {
        let mut head = std::mem::take(&mut self.head);
        let entry = self.read(&mut head, i);
        self.head = head;
        entry
    }

    /// Entry `i`, read by a head of the caller's.
    #[must_use]
    pub fn read(&self, head: &mut Head, i: usize) -> Option<Timed> {
        let frame = *self.frames.get(i)?;
        if frame.kind != STEP {
            return text(frame.kind, self.payload(frame));
        }
        if i < head.cursor || (head.cursor..i).any(|k| self.frames[k].key) {
            head.table.clear();
            head.cursor = (0..=i).rev().find(|&k| self.frames[k].key)?;
        }
        loop {
            let k = head.cursor;
            let frame = self.frames[k];
            let mut found = None;
            if frame.kind == STEP {
                found = step(self.payload(frame), &mut head.table);
                found.as_ref()?;
            }
            head.cursor = k + 1;
            if k == i {
                return found;
            }
        }
    }

    fn payload(&self, frame: Frame) -> Payload<'_> {
        Payload { bytes: self.bytes.get(frame.start..frame.start + frame.length).unwrap_or(&[]) }
    }

    /// The card of the first model that was open.
    pub fn card(&mut self) -> Option<ModelCard> {
        (0..self.len()).filter(|&i| !self.is_step(i)).collect::<Vec<_>>().into_iter().find_map(|i| match self.get(i)?.entry {
            Entry::Event(Event::Ready { card }) => Some(*card),
            _ => None,
        })
    }

    /// How experts got slots in the first model that was open, as far as the file says.
    pub fn scheduling(&mut self) -> Option<Scheduling> {
        let before_steps = (0..self.len()).take_while(|&i| !self.is_step(i)).collect::<Vec<_>>();
        before_steps.into_iter().find_map(|i| match self.get(i)?.entry {
            Entry::Event(Event::Scheduling(scheduling)) => Some(scheduling),
            _ => None,
        })
    }

    /// The routing alone, turn after turn, of the first model that was open; steps that don't fit its card are left out.
    pub fn routes(&mut self) -> Option<Routes> {
        let mut routes: Option<Routes> = None;
        let scheduling = self.scheduling();
        let mut turn = 0;
        for i in 0..self.len() {
            match self.get(i)?.entry {
                Entry::Event(Event::Ready { card }) => {
                    if routes.is_some() {
                        break;
                    }
                    let scheduling = scheduling.clone();
                    routes = Some(Routes::new(RoutesHead { scheduling, ..Routes::head_of(&card) }));
                }
                Entry::Event(Event::Finished { .. }) => turn += 1,
                Entry::Step(record) => {
                    if let Some(routes) = &mut routes {
                        routes.push_record(turn, &record);
                    }
                }
                _ => {}
            }
        }
        routes
    }
}

/// An entry of the text kinds.
fn text(kind: u8, mut payload: Payload<'_>) -> Option<Timed> {
    let at = payload.get()?;
    let entry = match kind {
        EVENT => Entry::Event(serde_json::from_slice(payload.bytes).ok()?),
        // It is no part of what happened: the session can be read without.
        SCHEDULING => Entry::Event(Event::Scheduling(
            serde_json::from_slice(payload.bytes)
                .unwrap_or_else(|e: serde_json::Error| Scheduling { unread: Some(e.to_string()), ..Scheduling::default() }),
        )),
        _ => Entry::Question(serde_json::from_slice(payload.bytes).ok()?),
    };
    Some(Timed { at, entry })
}

/// A step; `table` is the occupancy before it and becomes that after it.
fn step(mut p: Payload<'_>, table: &mut Vec<u16>) -> Option<Timed> {
    let at = p.get()?;
    let flags = p.get()?;
    let mut r = StepRecord {
        phase: if flags & DECODE != 0 { Phase::Decode } else { Phase::Prefill },
        step: p.get()?,
        tokens: p.small()?,
        position: p.small()?,
        slots: p.small()?,
        context_used: p.small()?,
        bytes_uploaded: p.get()?,
        bytes_missed: p.get()?,
        ..StepRecord::default()
    };
    if flags & CHOSEN != 0 {
        r.chosen = Some(p.small()?);
    }
    r.time = StepTime {
        total_us: p.small()?,
        trunk_us: p.small()?,
        hits_us: p.small()?,
        misses_us: p.small()?,
        upload_us: p.small()?,
        sampling_us: p.small()?,
    };
    let layers = p.count(1, MAX_LAYERS as u64)?;
    r.ends.reserve_exact(layers);
    for _ in 0..layers {
        let routed = p.count(4, u64::from(u16::MAX))?;
        r.routed.reserve(routed);
        for _ in 0..routed {
            let code: u32 = p.small()?;
            r.routed.push(RoutedExpert {
                tokens: u16::try_from(code >> 2).ok()?,
                outcome: match code & 3 {
                    0 => Outcome::Miss,
                    1 => Outcome::Hit,
                    2 => Outcome::Admitted,
                    _ => return None,
                },
                expert: p.small()?,
                weight: f16::from_le_bytes(p.take()?).to_f32(),
            });
        }
        r.ends.push(u32::try_from(r.routed.len()).ok()?);
    }
    for _ in 0..p.count(2, MAX_TABLE)? {
        r.evicted.push(Eviction { layer: p.small()?, expert: p.small()? });
    }
    let size = usize::try_from(p.get().filter(|n| *n <= MAX_TABLE && *n <= layers as u64 * u64::from(NO_SLOT))?).ok()?;
    if flags & KEY != 0 {
        table.clear();
        table.resize(size, NO_SLOT);
    } else if table.len() != size {
        return None;
    }
    let mut i = 0usize;
    for _ in 0..p.count(2, MAX_TABLE)? {
        i = i.checked_add(usize::try_from(p.get()?).ok()?)?;
        *table.get_mut(i)? = p.small::<u16>()?.wrapping_sub(1);
    }
    r.slot_of.clone_from(table);
    // Files that were written before experts came ahead end here.
    if !p.bytes.is_empty() {
        for _ in 0..p.count(2, MAX_TABLE)? {
            r.ahead.push(Ahead { layer: p.small()?, expert: p.small()? });
        }
    }
    Some(Timed { at, entry: Entry::Step(Box::new(r)) })
}

/// Append a number, seven bits per byte, lowest first (LEB128).
fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// The rest of a payload.
struct Payload<'a> {
    bytes: &'a [u8],
}

impl Payload<'_> {
    /// A number as [`put`] writes it.
    fn get(&mut self) -> Option<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.take()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return None;
            }
            n |= bits << shift;
            if byte < 0x80 {
                return Some(n);
            }
        }
        None
    }

    /// A number that fits a smaller type.
    fn small<T: TryFrom<u64>>(&mut self) -> Option<T> {
        T::try_from(self.get()?).ok()
    }

    /// A count of things that take at least `least` bytes each: never more than the rest can hold.
    fn count(&mut self, least: usize, most: u64) -> Option<usize> {
        let n = self.get().filter(|n| *n <= most)?;
        usize::try_from(n).ok().filter(|n| *n <= self.bytes.len() / least)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(*head)
    }
}

/// CRC-32 as in gzip and PNG (polynomial 0xEDB88320).
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0u32; 256];
        let mut i = 0;
        while i < 256 {
            let mut c = i as u32;
            let mut bit = 0;
            while bit < 8 {
                c = if c & 1 == 1 { c >> 1 ^ 0xEDB8_8320 } else { c >> 1 };
                bit += 1;
            }
            table[i] = c;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |c, &b| c >> 8 ^ TABLE[usize::from(c as u8 ^ b)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{FinishReason, TextKind, TurnStats};
    use proptest::prelude::*;

    fn record(step: u64, seed: u64) -> StepRecord {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut r = StepRecord {
            step,
            phase: if step == 0 { Phase::Prefill } else { Phase::Decode },
            tokens: 1,
            position: step as u32,
            chosen: (step > 0).then_some(7),
            slots: 3,
            bytes_uploaded: rng.u64(..),
            bytes_missed: 1 << 40,
            context_used: 9,
            time: StepTime { total_us: 1000, trunk_us: 300, ..StepTime::default() },
            slot_of: (0..2 * 16).map(|_| if rng.u8(0..4) == 0 { rng.u16(0..3) } else { NO_SLOT }).collect(),
            ..StepRecord::default()
        };
        for _ in 0..2 {
            for _ in 0..rng.usize(0..4) {
                let outcome = [Outcome::Hit, Outcome::Miss, Outcome::Admitted][rng.usize(0..3)];
                r.routed.push(RoutedExpert { expert: rng.u16(0..16), tokens: rng.u16(1..), weight: 0.25, outcome });
            }
            r.ends.push(r.routed.len() as u32);
        }
        r.evicted.push(Eviction { layer: 1, expert: 15 });
        r.ahead.push(Ahead { layer: 1, expert: 3 });
        r
    }

    fn session(steps: u64) -> Vec<Timed> {
        let mut entries = vec![Timed { at: 0, entry: Entry::Question(Question { id: 1, text: "why?".into() }) }];
        for i in 0..steps {
            entries.push(Timed { at: 10 + i * 300, entry: Entry::Step(Box::new(record(i, i))) });
            let text = Event::Text { id: 1, text: "wörd ".into(), kind: TextKind::Answer, step: i };
            entries.push(Timed { at: 20 + i * 300, entry: Entry::Event(text) });
        }
        let end = Event::Finished { id: 1, reason: FinishReason::Stop, stats: TurnStats::default() };
        entries.push(Timed { at: 1 << 35, entry: Entry::Event(end) });
        entries
    }

    fn write(entries: &[Timed]) -> Vec<u8> {
        let mut w = Writer::new(Vec::new()).unwrap();
        entries.iter().for_each(|e| w.entry(e).unwrap());
        w.finish().unwrap()
    }

    fn all(session: &mut Session) -> Vec<Timed> {
        (0..session.len()).map(|i| session.get(i).unwrap()).collect()
    }

    #[test]
    fn a_session_reads_back_as_it_was_written() {
        let entries = session(200);
        let mut read = Session::from_bytes(write(&entries)).unwrap();
        assert_eq!(read.ending(), Ending::Whole);
        assert_eq!(all(&mut read), entries);
    }

    #[test]
    fn entries_can_be_read_in_any_order() {
        let entries = session(200);
        let mut read = Session::from_bytes(write(&entries)).unwrap();
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..400 {
            let i = rng.usize(0..entries.len());
            assert_eq!(read.get(i).as_ref(), Some(&entries[i]));
        }
    }

    /// Where each frame of a whole file ends, from its bytes alone.
    fn frame_ends(bytes: &[u8]) -> Vec<usize> {
        let mut at = HEADER;
        std::iter::from_fn(|| {
            let length = bytes.get(at + 1..at + 5)?;
            at += FRAME + u32::from_le_bytes(length.try_into().unwrap()) as usize;
            Some(at)
        })
        .collect()
    }

    #[test]
    fn a_file_cut_at_any_byte_reads_exactly_the_entries_that_are_whole() {
        // More than one key frame.
        let entries = session(70);
        let whole = write(&entries);
        let ends = frame_ends(&whole);
        assert_eq!((ends.len(), ends.last()), (entries.len() + 1, Some(&whole.len())));
        for length in 0..whole.len() {
            let cut = whole[..length].to_vec();
            if length < HEADER {
                assert!(matches!(Session::from_bytes(cut), Err(SessionError::NotASession | SessionError::Empty(_))), "{length}");
                continue;
            }
            let mut read = Session::from_bytes(cut).unwrap();
            let sound = ends.iter().take_while(|&&end| end <= length).count();
            let start = if sound == 0 { HEADER } else { ends[sound - 1] };
            assert_eq!((read.ending(), read.len()), (Ending::Cut { at: start }, sound), "cut at {length}");
            // All of them at a border, the last one elsewhere.
            let from = if length == start { 0 } else { sound.saturating_sub(1) };
            for (i, entry) in entries.iter().enumerate().take(sound).skip(from) {
                assert_eq!(read.get(i).as_ref(), Some(entry), "cut at {length}");
            }
        }
    }

    #[test]
    fn other_files_and_versions_are_refused() {
        let mut bytes = write(&[]);
        bytes[8] = 9;
        assert!(matches!(Session::from_bytes(bytes), Err(SessionError::Version(9))));
        assert!(matches!(Session::from_bytes(b"GGUF............".to_vec()), Err(SessionError::NotASession)));
    }

    #[test]
    fn a_session_names_its_policy_and_the_rest_is_read_whatever_that_says() {
        let told = Scheduling { policy: "lru".into(), slots: 9, ..Scheduling::default() };
        let mut entries = vec![Timed { at: 0, entry: Entry::Event(Event::Scheduling(told.clone())) }];
        entries.extend(session(20));
        let mut read = Session::from_bytes(write(&entries)).unwrap();
        assert_eq!((read.ending(), all(&mut read) == entries, read.scheduling()), (Ending::Whole, true, Some(told)));
        for odd in [r#"{"policy":5}"#, r#"{"slots":-1}"#, r#"{"slots":1e99}"#, r#"{"margin":"much"}"#, "[]x", "", "\u{0}\x1b[2J"] {
            let mut w = Writer::new(Vec::new()).unwrap();
            w.begin(SCHEDULING);
            put(&mut w.frame, 0);
            w.frame.extend_from_slice(odd.as_bytes());
            w.end().unwrap();
            session(20).iter().for_each(|e| w.entry(e).unwrap());
            let mut read = Session::from_bytes(w.finish().unwrap()).unwrap();
            assert_eq!((read.ending(), read.len()), (Ending::Whole, session(20).len() + 1), "{odd}");
            assert!(read.scheduling().unwrap().unread.is_some(), "{odd}");
        }
    }

    #[test]
    fn a_reader_of_before_passes_over_the_policy() {
        // Its kind is none of those that such a reader knows: the frames beside it are as they were.
        let with = {
            let mut entries = vec![Timed { at: 0, entry: Entry::Event(Event::Scheduling(Scheduling::default())) }];
            entries.extend(session(9));
            write(&entries)
        };
        let ends = frame_ends(&with);
        assert!(with[HEADER] > QUESTION);
        assert_eq!([&with[..HEADER], &with[ends[0]..]].concat(), write(&session(9)));
    }

    #[test]
    fn the_sum_is_the_common_crc_32() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    proptest! {
        #[test]
        fn damage_never_changes_what_comes_before_it(at in 0usize..5000, flip in 1u8..) {
            let entries = session(8);
            let mut bytes = write(&entries);
            let at = HEADER + at % (bytes.len() - HEADER);
            bytes[at] ^= flip;
            let mut read = Session::from_bytes(bytes).unwrap();
            prop_assert_ne!(read.ending(), Ending::Whole);
            let got = all(&mut read);
            prop_assert_eq!(&got[..], &entries[..got.len()]);
        }

        /// Sums that fit, contents that don't: what a hostile file would hold.
        #[test]
        fn no_payload_makes_it_panic(kind in 0u8..6, payload in prop::collection::vec(any::<u8>(), 0..300), repeat in 1usize..3) {
            let mut w = Writer::new(Vec::new()).unwrap();
            for _ in 0..repeat {
                w.begin(kind);
                w.frame.extend_from_slice(&payload);
                w.end().unwrap();
            }
            let mut read = Session::from_bytes(w.finish().unwrap()).unwrap();
            let _ = (read.card(), read.routes(), all(&mut read));
        }
    }
}
