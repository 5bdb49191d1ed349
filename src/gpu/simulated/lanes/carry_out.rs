//! How queued work is carried out, and how long it takes.

use super::super::memory::{joined, Seen};
use super::super::races::{Access, Clock, Space};
use super::{index, Entry, Op, State, Work};
use crate::gpu::device::GpuError;
use crate::gpu::reference::{self, ReferenceError};
use std::cell::RefCell;

impl State {
    /// Carry out a lane's work up to and with this number, and whatever it waits for; less if a kernel waits for the host.
    pub(super) fn run(&mut self, lane: usize, number: u64) {
        while self.queues[lane].entries.front().is_some_and(|e| e.number <= number) {
            let before = match self.queues[lane].entries.front().map(|e| &e.op) {
                Some(Op::Wait(mark)) => Some((index(mark.lane), mark.number)),
                Some(&Op::Free { copy, .. }) => Some((1, copy)),
                _ => None,
            };
            if let Some((other, number)) = before.filter(|(other, _)| *other != lane) {
                // Never as far as this entry: what it waits for was queued before it.
                self.run(other, number);
                if self.failed.is_none() && self.queues[other].entries.front().is_some_and(|e| e.number <= number) {
                    return;
                }
            }
            if let Some(entry) = self.queues[lane].entries.pop_front() {
                if let Some(entry) = self.carry_out(lane, entry) {
                    self.queues[lane].entries.push_front(entry);
                    return;
                }
            }
        }
    }

    /// Gives the entry back if it is a kernel that can't go on yet.
    fn carry_out(&mut self, lane: usize, entry: Entry) -> Option<Entry> {
        let begin = self.queues[lane].us.max(entry.queued_us);
        match entry.op {
            Op::Do(work) => {
                if self.failed.is_some() {
                    return None;
                }
                let mut clock = entry.clock;
                if lane == 0 {
                    clock.join(&self.heard);
                }
                match self.work(lane, clock, &work) {
                    Ok(Some(us)) => self.queues[lane].us = begin + us,
                    Ok(None) => return Some(Entry { op: Op::Do(work), ..entry }),
                    Err(e) => self.failed = Some(e),
                }
            }
            Op::Mark(mark) => {
                let _ = mark.us.set(begin);
                self.queues[lane].us = begin;
            }
            Op::Wait(mark) => self.queues[lane].us = begin.max(mark.us().unwrap_or(0.0)),
            Op::Free { at, .. } => {
                self.blocks.0.remove(&at);
                self.races.forget(Space::Device(at));
            }
        }
        None
    }

    /// Do it; how long it takes in microseconds. `None`: it waits for the host.
    fn work(&mut self, lane: usize, mut clock: Clock, work: &Work) -> Result<Option<f64>, GpuError> {
        let speeds = self.options.speeds;
        let copy = |bytes: usize, rate: f64| speeds.copy_us + bytes as f64 / rate * 1e6;
        Ok(Some(match *work {
            Work::Upload { to, ref from, ref at } => {
                let device = self.blocks.write(to, at.len())?;
                from.read(|host| device.copy_from_slice(&host[at.clone()]));
                copy(at.len(), speeds.link)
            }
            Work::Store { to, ref bytes } => {
                self.blocks.write(to, bytes.len())?.copy_from_slice(bytes);
                copy(bytes.len(), speeds.pageable)
            }
            Work::Download { from, ref to, ref at } => {
                let device = self.blocks.read(from, at.len())?;
                to.write(|host| host[at.clone()].copy_from_slice(device));
                copy(at.len(), speeds.link)
            }
            Work::Copy { from, to, bytes } => {
                let content = self.blocks.read(from, bytes)?.to_vec();
                self.blocks.write(to, bytes)?.copy_from_slice(&content);
                copy(2 * bytes, speeds.memory)
            }
            Work::Clear { at, bytes } => {
                self.blocks.write(at, bytes)?.fill(0);
                copy(bytes, speeds.memory)
            }
            Work::Launch { kernel, shape, ref params, .. } => {
                if self.faults.deadly == Some(kernel) {
                    return Err(GpuError::Driver { what: format!("kernel {kernel}"), why: "it was meant to read astray".into() });
                }
                let mut seen = Seen { blocks: &mut self.blocks, reads: RefCell::default(), writes: Vec::new(), mute: self.mute };
                match reference::run(kernel, shape, params, &mut seen) {
                    Ok(()) => {}
                    Err(ReferenceError::Waits { .. }) => return Ok(None),
                    Err(e) => return Err(GpuError::Driver { what: "a kernel".into(), why: e.to_string() }),
                }
                let (reads, writes) = (joined(seen.reads.into_inner()), joined(seen.writes));
                if self.faults.wrong == Some(kernel) {
                    // The sign of a float of either size.
                    for range in &writes {
                        self.blocks.write(range.end - 1, 1)?[0] ^= 0x80;
                    }
                }
                let mut bytes = 0;
                for (ranges, writes) in [(reads, false), (writes, true)] {
                    for range in ranges {
                        bytes += range.end - range.start;
                        let (start, block) = self.blocks.find(range.start, 0)?;
                        if !block.mailbox {
                            self.races.note(Space::Device(start), Access { agent: lane, clock, range, writes, what: kernel });
                        } else if writes {
                            self.told.join(&clock);
                        } else {
                            // What it reads there was said before.
                            self.heard.join(&self.said);
                            clock.join(&self.heard);
                        }
                    }
                }
                speeds.launch_us + bytes as f64 / speeds.memory * 1e6
            }
        }))
    }
}
