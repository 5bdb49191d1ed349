//! A running token and the host speak with each other.
//!
//! All launches of a token are queued at once, or recorded, with two places in each layer of experts at which the device may have to wait: it wants the layer's table of slots before it
//! routes, and what the host computed of experts in no slot before it goes on to the next layer. They speak through a [`Mailbox`]: the host *opens* a layer (its table), the device
//! *tells* what it routed and the rows, the host *answers* with sums, if it had to. That way takes no call of the driver; around it the host queues copies into slots, waits for those that a layer's table stands for, and asks how the device does when it hears nothing.
//!
//! Everything that is said has a number: `turn`, which is another one for every token and goes up with it, plus the layer. So the kernels' parameters are the same in every token, and a
//! word once said is never taken for a later one. Each layer is opened after the one before it has been told and answered, so one place for each kind of message is enough.
//!
//! A host that fails must let the device go ([`Talk::let_go`]), or it would wait for ever: dropping does. A process may also be stopped in the middle of a token, for hours. Most devices wait.
//! One whose driver ends kernels that run for seconds ([`Facts::impatient`](super::device::Facts::impatient)) gives the token up first: then no kernel of it waits any more, the host finds so when the token is at rest
//! ([`Talk::gave_up`]), and what came of it is worth nothing.

use super::device::{record, Device, GpuError, Lane, Mailbox};
use super::params::{launch, AddAnswer, AwaitHost, TellHost};
use super::Address;
use std::ops::Range;
use std::sync::atomic::{fence, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Where the words lie, each in a line of its own: what the host says when it opens a layer, when it answers; what the device says when it has told.
const OPENED: usize = 0;
const ANSWERED: usize = 128;
const TOLD: usize = 256;
/// What the device says when it has given a token up.
const GIVEN_UP: usize = 384;
/// Where the first message lies; each begins at a multiple of this.
const ALIGN: usize = 512;
/// The host asks how the device does after so many looks at a word that did not come.
const LOOKS: u32 = 1 << 13;
/// Of a greeting: kernels that tell, for each that waits, so that there are as many in all as a token has; and how long either side may take for all of it.
const TELLS: usize = 15;
const PATIENCE: Duration = Duration::from_secs(1);
/// Microseconds that a kernel waits for the host before it gives up, where it must not wait without limit: drivers that have one allow kernels two seconds (Windows) and more. A host that computes
/// answers within milliseconds.
const KERNELS_WAIT: u32 = 1_000_000;

/// See the module's text.
pub struct Talk {
    mailbox: Mailbox,
    turn: u32,
    /// Layers of a token.
    steps: u32,
    table: Range<usize>,
    told: Range<usize>,
    answer: Range<usize>,
    /// Microseconds that a kernel waits at most; 0: without limit.
    patience: u32,
}

impl Talk {
    /// For tokens with so many layers of so many experts; the device tells up to `told` bytes, and answers have `hidden` values.
    ///
    /// # Errors
    /// The device has no such memory.
    pub fn new(device: &dyn Device, steps: usize, experts: usize, told: usize, hidden: usize) -> Result<Self, GpuError> {
        let mut at = ALIGN;
        let mut take = |bytes: usize| {
            let begin = at;
            at = (at + bytes).next_multiple_of(ALIGN);
            begin..begin + bytes
        };
        let (table, told, answer) = (take(experts * 4), take(told), take(hidden * 4));
        let steps = u32::try_from(steps).unwrap_or(u32::MAX).max(1);
        // Words are zero: nothing of the first turn has been said.
        let patience = if device.facts().impatient { KERNELS_WAIT } else { 0 };
        Ok(Self { mailbox: device.mailbox(at)?, turn: 1, steps, table, told, answer, patience })
    }

    fn at(&self, byte: usize) -> Address {
        self.mailbox.address().plus(byte)
    }

    /// Waits until the host has opened a layer, whose table then is at `to`. `turn`: where the device has the token's [`Talk::next_turn`].
    #[must_use]
    pub fn await_table(&self, turn: Address, layer: usize, to: Address) -> AwaitHost {
        let Self { patience, .. } = *self;
        let (words, step, given_up) = ((self.table.len() / 4) as u32, layer as u32, self.at(GIVEN_UP));
        AwaitHost { word: self.at(OPENED), turn, from: self.at(self.table.start), to, given_up, words, step, patience, pad: 0 }
    }

    /// Tells the host so many bytes from there on.
    ///
    /// # Panics
    /// More than there is room for, or no whole words: a mistake of this program.
    #[must_use]
    pub fn tell(&self, turn: Address, layer: usize, from: Address, bytes: usize) -> TellHost {
        assert!(bytes <= self.told.len() && bytes.is_multiple_of(4), "{bytes} of {}", self.told.len());
        TellHost { word: self.at(TOLD), turn, from, to: self.at(self.told.start), words: (bytes / 4) as u32, step: layer as u32 }
    }

    /// Adds the host's sums to `y`, if one of `pairs` slots is none.
    #[must_use]
    pub fn add_answer(&self, turn: Address, layer: usize, slots: Address, pairs: usize, y: Address) -> AddAnswer {
        let Self { patience, .. } = *self;
        let (len, from, given_up) = ((self.answer.len() / 4) as u32, self.at(self.answer.start), self.at(GIVEN_UP));
        AddAnswer { word: self.at(ANSWERED), turn, slots, from, y, given_up, pairs: pairs as u32, len, step: layer as u32, patience }
    }

    /// Speak as a token would, with as many kernels recorded as one, before any token relies on it: that what is written on one side is seen on the other while a kernel runs, and that queueing such
    /// a recording does not wait for it, is asked of this device and not of a manual.
    ///
    /// # Errors
    /// The device can't record, or one side did not hear the other in time.
    pub fn greet(&mut self, device: &dyn Device) -> Result<(), GpuError> {
        let bytes = self.table.len().min(self.told.len()) / 4 * 4;
        let (turn, table) = (device.alloc(4)?, device.alloc(self.table.len().max(4))?);
        device.upload_now(Lane::Compute, turn.address(), &self.next_turn().to_ne_bytes())?;
        let talk: &Self = self;
        let layers = 0..talk.steps as usize;
        let recording = record(device, || {
            layers.clone().try_for_each(|layer| {
                launch(device, &talk.await_table(turn.address(), layer, table.address()), &[])?;
                (0..TELLS).try_for_each(|_| launch(device, &talk.tell(turn.address(), layer, table.address(), bytes), &[]))
            })
        })?;
        // Weights may still be on their way up.
        device.sync(&device.mark(Lane::Compute)?)?;
        let greeted = std::thread::scope(|scope| {
            let (over, waits) = mpsc::channel::<()>();
            // Should queueing wait for the device: it waits for nobody any more.
            scope.spawn(move || {
                if waits.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                    talk.let_go()
                }
            });
            let greeted = device.replay(&recording).and_then(|()| {
                let (mut heard, until) = (Vec::new(), Instant::now() + 2 * PATIENCE);
                layers.clone().try_for_each(|layer| {
                    let words: Vec<i32> = (0..talk.table.len() as i32 / 4).map(|i| i ^ (layer as i32 + 1) << 16).collect();
                    talk.open(layer, &words);
                    talk.hear_until(device, layer, bytes, &mut heard, Some(until))?;
                    let expected: &[u32] = bytemuck::cast_slice(&words[..bytes / 4]);
                    if heard == expected {
                        return Ok(());
                    }
                    Err(GpuError::Driver { what: "the mailbox".into(), why: format!("what was said of layer {layer} did not come back") })
                })
            });
            drop(over);
            talk.let_go();
            greeted
        });
        let rests = device.mark(Lane::Compute).and_then(|mark| device.sync(&mark));
        greeted.and(rests)
    }

    /// A new token begins, the one before being at rest; the number that goes up with it.
    pub fn next_turn(&mut self) -> u32 {
        // Words that nobody waited for are not left behind by half of all numbers.
        self.let_go();
        self.turn = self.turn.wrapping_add(self.steps);
        self.turn
    }

    fn number(&self, layer: usize) -> u32 {
        self.turn.wrapping_add(layer as u32)
    }

    /// The layer's table, and that it may be read.
    pub fn open(&self, layer: usize, table: &[i32]) {
        self.mailbox.write(self.table.start, bytemuck::cast_slice(&table[..self.table.len() / 4]));
        self.mailbox.say(OPENED, self.number(layer));
    }

    /// Wait until the device has told of a layer; the first so many bytes of that go into `heard`, as words.
    ///
    /// # Errors
    /// The device failed, gave the token up, or came to rest without a word.
    pub fn hear(&self, device: &dyn Device, layer: usize, bytes: usize, heard: &mut Vec<u32>) -> Result<(), GpuError> {
        self.hear_until(device, layer, bytes, heard, None)
    }

    fn hear_until(
        &self,
        device: &dyn Device,
        layer: usize,
        bytes: usize,
        heard: &mut Vec<u32>,
        until: Option<Instant>,
    ) -> Result<(), GpuError> {
        let number = self.number(layer);
        let said = || self.mailbox.heard(TOLD).wrapping_sub(number) as i32 >= 0;
        let mut looks = 0u32;
        while !said() {
            looks = looks.wrapping_add(1);
            // Also soon after it was queued: a driver may gather work until it is asked for.
            if (looks == 64 || looks.is_multiple_of(LOOKS)) && !device.working()? && !said() {
                return Err(GpuError::Driver { what: "a token".into(), why: format!("it ended without a word of layer {layer}") });
            }
            if looks.is_multiple_of(LOOKS) && until.is_some_and(|until| Instant::now() > until) {
                return Err(GpuError::Driver { what: "the mailbox".into(), why: format!("nothing was heard of layer {layer} in time") });
            }
            std::hint::spin_loop();
        }
        heard.resize(bytes.min(self.told.len()) / 4, 0);
        self.mailbox.read(self.told.start, bytemuck::cast_slice_mut(heard));
        // A device that has given up waits for nobody to read this before it tells of the next layer.
        if self.gave_up() {
            return Err(GpuError::GaveUp);
        }
        Ok(())
    }

    /// The sums of what the host computed of a layer.
    pub fn answer(&self, layer: usize, sums: &[f32]) {
        self.mailbox.write(self.answer.start, bytemuck::cast_slice(&sums[..self.answer.len() / 4]));
        self.mailbox.say(ANSWERED, self.number(layer));
    }

    /// Whether a kernel of the token has waited for too long. The token's results, and the states it leaves, are worth nothing then.
    #[must_use]
    pub fn gave_up(&self) -> bool {
        // What was read before is looked at no later than the word.
        fence(Ordering::Acquire);
        self.mailbox.heard(GIVEN_UP) == self.turn
    }

    /// The device need not wait for anything more of this token. After a failure its results are worth nothing.
    pub fn let_go(&self) {
        let last = self.number(self.steps as usize - 1);
        // In no layer that was not opened anything is in a slot, so that none is read that may be written.
        self.mailbox.write(self.table.start, &vec![0xFF; self.table.len()]);
        self.mailbox.say(OPENED, last);
        self.mailbox.say(ANSWERED, last);
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.let_go();
    }
}
