//! A token that finds every expert in a slot. The device needs nothing of the host between its layers, so all of them and the head are queued at once,
//! and recorded as one piece of work.
//!
//! The routing of all layers is told once, when the last of them is through (or comes down with the logits, from a device that has no mailbox). Then every layer's tick runs, beside the head on the
//! device, the same as ever and in the same order, so whoever looks at schedules, records and heat sees no difference. What the recording names stays where it is, but for the slots: when they have moved, it is made anew.
//! Where a driver can't record, the launches are queued one by one, still without a wait between them.

use super::layer::{mix, DeviceLayer};
use super::{DeviceDecoder, Logits, ModelError, Pass, Recorded};
use crate::experts::Experts;
use crate::gpu::params::launch;
use crate::gpu::talk::Talk;

/// The recording.
#[derive(Default)]
pub(super) struct WholeToken {
    recorded: Recorded,
    /// The number of the slots that it names; see [`Experts::whole_token`].
    slots: Option<u64>,
}

impl DeviceDecoder {
    /// A pass of one token under such slots. `None` if it was stopped, which is looked at once, before anything is queued.
    pub(super) fn whole_token(
        &mut self,
        token: u32,
        slots: u64,
        experts: &mut Experts,
        wanted: Logits,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<f32>>, ModelError> {
        if self.state_bytes == 0 && stop() {
            return Ok(None);
        }
        let Self { device, embedding, rotation, layers, head, work, whole, known, talk, .. } = self;
        let device = &**device;
        for layer in layers.iter_mut() {
            if let Some(past) = layer.mixer.past_mut() {
                past.keep_place()?;
            }
        }
        // Copies that the tables stand for are waited for here, before anything that is recorded.
        let tables = layers.iter().map(|l| l.feed_forward.table(experts)).collect::<Result<Vec<_>, _>>()?;
        let turn = talk.as_mut().map_or(0, Talk::next_turn);
        work.begin(device, 1, self.len, turn, &rotation.tables(self.len, 1), &mut |rows| embedding.fill(&[token], rows))?;
        if whole.slots.replace(slots) != Some(slots) {
            whole.recorded = Recorded::default();
        }
        let pass = Pass {
            device,
            work,
            tokens: 1,
            seen: self.len + 1,
            x: work.x(1),
            h: work.h(1),
            halves: rotation.halves(),
            again: *known,
            asks: false,
        };
        let in_slots: &Experts = experts;
        let queued = whole.recorded.play(&pass, || {
            for (layer, &table) in layers.iter_mut().zip(&tables) {
                let DeviceLayer { mixer_norm, mixer, join, feed_forward, .. } = layer;
                mix(&pass, mixer_norm, mixer, join, None)?;
                feed_forward.whole(&pass, table, in_slots)?;
            }
            match talk.as_ref() {
                Some(talk) => launch(device, &work.tell_choices(talk), &[])?,
                None => work.fetch_choices(device)?,
            }
            head.project(device, work, pass.x, 1)?;
            Ok(work.fetch(device, 1, false)?)
        });
        // Also of a token that broke off: slots may be read until this mark.
        let marked = experts.device_queued();
        // How far the states of a token that broke off have moved nobody knows, so they must not count as those of before.
        for layer in layers.iter_mut() {
            if let Some(past) = layer.mixer.past_mut() {
                past.advance(1);
            }
        }
        queued?;
        marked?;
        *known = true;
        let mut tick = |choices: &[u32]| layers.iter().try_for_each(|layer| layer.feed_forward.tick(work, choices, experts));
        let early = talk.as_ref().map(|talk| tick(&work.hear_choices(device, talk)?));
        let mut out = Vec::new();
        // Also of a token whose ticks fail: nothing that was queued may still write page-locked memory.
        let finished = work.finish(device, 1, false, &mut out)?;
        match early {
            Some(done) => done?,
            None => tick(&work.choices())?,
        }
        match wanted {
            Logits::None => Ok(Some(Vec::new())),
            Logits::Last | Logits::All => self.numbers(out, finished.finite, false).map(Some),
        }
    }
}

#[cfg(test)]
mod tests;
