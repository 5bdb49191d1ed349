//! A token that is queued whole though not everything is in slots: host and device speak with each other while it runs ([`Talk`]), and nothing is asked of the driver between its layers but copies into
//! slots, and whether they are there.
//!
//! The schedule is that of a token that goes layer by layer. Its arithmetic, too, but that whatever is in no slot is computed on the host.

use super::layer::{mix, DeviceLayer};
use super::{DeviceDecoder, Logits, ModelError, Pass, Recorded};
use crate::experts::Experts;
use crate::gpu::talk::Talk;
use crate::gpu::{Device, GpuError, Lane};

/// The recording.
#[derive(Default)]
pub(super) struct AnsweredToken {
    recorded: Recorded,
    /// The number of the slots that it names, and whether routers of later layers are asked in it.
    of: Option<(u64, bool)>,
    /// The device can't: nobody tries again.
    never: bool,
    /// Room for what is told.
    heard: Vec<u32>,
}

/// Lets the device go however the host's part ends, and waits for it.
struct Speaking<'a> {
    device: &'a dyn Device,
    talk: &'a Talk,
}

impl Drop for Speaking<'_> {
    fn drop(&mut self) {
        self.talk.let_go();
        if let Err(e) = self.device.mark(Lane::Compute).and_then(|mark| self.device.sync(&mark)) {
            tracing::debug!("the device did not come to rest: {e}");
        }
    }
}

/// What came of a pass, `None` if it was stopped.
type Passed = Option<Vec<f32>>;

impl DeviceDecoder {
    /// A pass of one token under such slots. `None`: it can't be done, and the token is to go layer by layer. Whether to stop is looked at once, before anything is queued.
    pub(super) fn answered_token(
        &mut self,
        token: u32,
        slots: u64,
        experts: &mut Experts,
        wanted: Logits,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Passed>, ModelError> {
        // Loading a kernel might wait for the device to come to rest.
        if !self.known || self.answered.never {
            return Ok(None);
        }
        if self.state_bytes == 0 && stop() {
            return Ok(Some(None));
        }
        let asks = self.foresees && experts.asks_routers();
        let Self { device, embedding, rotation, layers, head, work, answered, talk, .. } = self;
        let device = &**device;
        let AnsweredToken { recorded, of, never, heard } = answered;
        let Some(talk) = talk else { return Ok(None) };
        if of.replace((slots, asks)) != Some((slots, asks)) {
            *recorded = Recorded::default();
        }
        let pass =
            Pass { device, work, tokens: 1, seen: self.len + 1, x: work.x(1), h: work.h(1), halves: rotation.halves(), again: true, asks };
        let (named, known): (&Experts, &Talk) = (experts, talk);
        let recording = recorded.recording(&pass, &mut || {
            for layer in layers.iter_mut() {
                let DeviceLayer { mixer_norm, mixer, join, feed_forward, .. } = layer;
                mix(&pass, mixer_norm, mixer, join, None)?;
                feed_forward.answered(&pass, known, named)?;
            }
            head.project(device, work, pass.x, 1)?;
            Ok(work.fetch(device, 1, false)?)
        });
        // Launch by launch the host might have to wait until the device, which waits for the host, has taken some.
        let Some(recording) = recording else {
            *never = true;
            return Ok(None);
        };
        for layer in layers.iter_mut() {
            if let Some(past) = layer.mixer.past_mut() {
                past.keep_place()?;
            }
        }
        let turn = talk.next_turn();
        work.begin(device, 1, self.len, turn, &rotation.tables(self.len, 1), &mut |rows| embedding.fill(&[token], rows))?;
        let done = {
            let speaking = Speaking { device, talk };
            let queued = device.replay(recording).map_err(ModelError::from);
            queued.and_then(|()| layers.iter().try_for_each(|layer| layer.feed_forward.answer(&pass, speaking.talk, experts, heard)))
        };
        let done = match talk.gave_up() {
            // Once is enough: a program that has no processor to run on has none in the next token either.
            true => {
                *never = true;
                tracing::warn!("{}", GpuError::GaveUp);
                Err(GpuError::GaveUp.into())
            }
            false => done,
        };
        // The device is at rest, and slots may be overwritten. Whatever came of the token, its states have moved on: whoever cuts the context after a failure must find them so.
        for layer in layers.iter_mut() {
            if let Some(past) = layer.mixer.past_mut() {
                past.advance(1);
            }
        }
        let marked = experts.device_queued();
        if let Err(e) = done {
            experts.device_broke_off();
            return Err(e);
        }
        marked?;
        let mut out = Vec::new();
        let finished = work.finish(device, 1, false, &mut out)?;
        match wanted {
            Logits::None => Ok(Some(Some(Vec::new()))),
            Logits::Last | Logits::All => self.numbers(out, finished.finite, false).map(|logits| Some(Some(logits))),
        }
    }
}
