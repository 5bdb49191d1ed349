//! Reads a session: an index of its frames, each decoded when it is asked for, forwards and backwards.
//!
//! It trusts nothing: lengths are checked before use, sums before payloads, counts against the bytes that are there.

use super::bytes::{crc32, Payload};
use super::{Ending, Entry, SessionError, Timed};
use super::{CHOSEN, DECODE, END, EVENT, FRAME, HEADER, KEY, MAGIC, MAX_FILE, MAX_PAYLOAD, MAX_TABLE, QUESTION, SCHEDULING, STEP, VERSION};
use crate::events::{Ahead, Event, Eviction, Foreseen, ModelCard, Outcome, Phase, RoutedExpert, Scheduling, StepRecord, StepTime, NO_SLOT};
use crate::experts::schedule::LEAD;
use crate::trace::routes::{Routes, RoutesHead, MAX_LAYERS};
use half::f16;
use std::path::Path;

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

    /// The routing alone, turn after turn, of the first model that was open; steps that don't fit its card are left out. What it says of how experts
    /// got slots is what held for most generated tokens: a device brings experts ahead only once all are in reach of its copies.
    pub fn routes(&mut self) -> Option<Routes> {
        let mut routes: Option<Routes> = None;
        let first = self.scheduling();
        let mut now = first.clone();
        // Each way to give slots, with the tokens that were generated under it.
        let mut held: Vec<(Scheduling, usize)> = Vec::new();
        let mut turn = 0;
        for i in 0..self.len() {
            match self.get(i)?.entry {
                Entry::Event(Event::Ready { card }) => {
                    if routes.is_some() {
                        break;
                    }
                    routes = Some(Routes::new(Routes::head_of(&card)));
                }
                Entry::Event(Event::Scheduling(told)) => now = Some(told),
                Entry::Event(Event::Finished { .. }) => turn += 1,
                Entry::Step(record) => {
                    if let Some(routes) = &mut routes {
                        routes.push_record(turn, &record);
                    }
                    if let (Phase::Decode, Some(now)) = (record.phase, &now) {
                        match held.iter_mut().find(|(way, _)| way == now) {
                            Some((_, tokens)) => *tokens += 1,
                            None => held.push((now.clone(), 1)),
                        }
                    }
                }
                _ => {}
            }
        }
        let most = held.iter().map(|(_, tokens)| *tokens).max();
        let scheduling = held.into_iter().find(|(_, tokens)| Some(*tokens) == most).map(|(way, _)| way).or(first);
        routes.map(|mut routes| {
            routes.head = RoutesHead { scheduling, ..routes.head };
            routes
        })
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
    // And files that were written before routers were asked ahead of their turn, here.
    if !p.bytes.is_empty() {
        r.foreseen = foreseen(&mut p)?;
    }
    // And files that were written before tokens were read along, here.
    if !p.bytes.is_empty() {
        (r.drafted, r.kept) = (p.small()?, p.small()?);
        // What can't be is taken for the most that can.
        r.drafted = r.drafted.min(u16::try_from(r.tokens.saturating_sub(1)).unwrap_or(u16::MAX));
        r.kept = r.kept.min(r.drafted);
    }
    Some(Timed { at, entry: Entry::Step(Box::new(r)) })
}

/// What routers foresaw, group after group: a layer from a distance.
fn foreseen(p: &mut Payload<'_>) -> Option<Vec<Foreseen>> {
    let mut said = Vec::new();
    for _ in 0..p.count(2, MAX_TABLE)? {
        let code: u32 = p.small()?;
        let (layer, lead) = (u16::try_from(code >> 2).ok()?, (code & 3) as u8);
        if !(1..=LEAD).contains(&usize::from(lead)) {
            return None;
        }
        let experts = p.count(2, u64::from(u16::MAX))?;
        said.reserve(experts);
        let mut expert = 0u16;
        for _ in 0..experts {
            expert = expert.checked_add(p.small()?)?;
            let [likely] = p.take()?;
            said.push(Foreseen { layer, lead, expert, likely });
        }
    }
    Some(said)
}
