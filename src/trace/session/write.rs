//! Writes a session, frame by frame.

use super::bytes::{crc32, put};
use super::{Entry, Question, Timed};
use super::{CHOSEN, DECODE, END, EVENT, HEADER, KEY, KEY_EVERY, MAGIC, MAX_PAYLOAD, QUESTION, SCHEDULING, STEP, VERSION};
use crate::events::{Event, Foreseen, Outcome, Phase, StepRecord, NO_SLOT};
use crate::trace::player::card_of;
use crate::trace::routes::Routes;
use half::f16;
use serde::Serialize;
use std::io::{self, Write};

/// Writes a session, frame by frame.
pub struct Writer<W: Write> {
    out: W,
    /// Occupancy after the last step that was written.
    table: Vec<u16>,
    since_key: u32,
    pub(super) frame: Vec<u8>,
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
        put_foreseen(out, &r.foreseen);
        put(out, r.drafted.into());
        put(out, r.kept.into());
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

    pub(super) fn begin(&mut self, kind: u8) {
        self.frame.clear();
        self.frame.extend_from_slice(&[kind, 0, 0, 0, 0]);
    }

    pub(super) fn end(&mut self) -> io::Result<()> {
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

/// What routers foresaw: most of a step where they are asked, so layer and distance are written once for all experts of rising id.
fn put_foreseen(out: &mut Vec<u8>, said: &[Foreseen]) {
    let groups = said.chunk_by(|a, b| (a.layer, a.lead) == (b.layer, b.lead) && a.expert <= b.expert);
    put(out, groups.clone().count() as u64);
    for group in groups {
        put(out, u64::from(group[0].layer) << 2 | u64::from(group[0].lead & 3));
        put(out, group.len() as u64);
        let mut last = 0;
        for f in group {
            put(out, u64::from(f.expert - last));
            out.push(f.likely);
            last = f.expert;
        }
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
    let card = card_of(&routes.head, 0);
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
