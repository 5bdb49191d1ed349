//! What a tick does once the host knows the routing: its misses, here and there, and its admissions.

use super::grouped::{self, Many, Slots};
use super::{split, VramTier};
use crate::experts::schedule::LayerPlan;
use crate::experts::tier::{DeviceRows, Grouped, TierTime};
use crate::experts::{ExpertError, Routing};
use crate::gpu::params::{launch, Add, ExpertsUp};
use crate::gpu::{Lane, Mark};
use std::time::Instant;

/// A routed expert that is in no slot.
#[derive(Clone, Copy)]
struct Missed {
    group: usize,
    /// The one that it gets in this tick.
    slot: Option<u16>,
}

impl VramTier {
    /// What is in no slot, in the order in which it would go up: the admitted first, then experts of many tokens.
    fn missed(&self, layer: usize, grouped: &Grouped, plan: &LayerPlan, came: &[(usize, u16)]) -> Vec<Missed> {
        let mut missed: Vec<Missed> = (0..grouped.groups.len())
            .filter(|&g| self.tables.slot(layer, grouped.groups[g].expert).is_none() && came.iter().all(|c| c.0 != g))
            .map(|group| {
                let expert = grouped.groups[group].expert;
                Missed { group, slot: plan.swaps.iter().find(|s| s.expert == expert).map(|s| s.slot) }
            })
            .collect();
        missed.sort_by_key(|m| (m.slot.is_none(), std::cmp::Reverse(grouped.groups[m.group].pairs.len())));
        missed
    }

    /// See [`super::super::tier::DeviceTier::rest`].
    #[allow(clippy::too_many_arguments)]
    pub(super) fn tick(
        &mut self,
        layer: usize,
        rows: &DeviceRows,
        host_rows: &[f32],
        routing: &Routing,
        grouped: &Grouped,
        plan: &LayerPlan,
        time: &mut TierTime,
    ) -> Result<u64, ExpertError> {
        self.catch_up()?;
        let came = self.came(layer, grouped)?;
        let device = self.device.clone();
        let device = &*device;
        let few = rows.tokens <= ExpertsUp::TOKENS as usize;
        let bytes = self.slabs[layer].layout.bytes as u64;
        let own = self.slots_of(layer);

        let absent = self.missed(layer, grouped, plan, &came);
        for m in &absent {
            self.reading.expect(&self.store.layers[layer].experts[usize::from(grouped.groups[m.group].expert)]);
        }
        let tokens: Vec<usize> = absent.iter().map(|m| grouped.groups[m.group].pairs.len()).collect();
        let mut up = split(self.miss, &tokens, bytes, &self.rates);
        if !few && !self.work.fits(rows.tokens * rows.top_k) {
            up = 0;
        }
        let (up, down) = absent.split_at(up);
        let (arriving, passing) = up.split_at(up.iter().take_while(|m| m.slot.is_some()).count());
        let passing = if self.spare.is_some() { passing } else { &[] };
        let mut on_host: Vec<usize> = down.iter().chain(&up[arriving.len() + passing.len()..]).map(|m| m.group).collect();

        self.make_way(layer, &plan.swaps)?;
        if let Some(used) = self.used[layer].as_ref().filter(|_| !plan.swaps.is_empty()) {
            device.wait(Lane::Copy, used)?;
        }
        self.parcel.begin(device, grouped::parcel_bytes(rows, grouped.groups.len(), passing.len() + came.len()))?;
        let many = (!few).then(|| Many::begin(device, &mut self.parcel, grouped)).transpose()?;
        if let Some(many) = &many {
            // Residents first: they can run while the rest is on its way. If there is no room to run them, the host does.
            let resident: Vec<(usize, u16)> =
                (0..grouped.groups.len()).filter_map(|g| self.tables.slot(layer, grouped.groups[g].expert).map(|slot| (g, slot))).collect();
            if self.work.fits(rows.tokens * rows.top_k) {
                let begin = device.mark(Lane::Compute)?;
                many.run(device, &self.work, &mut self.parcel, &own, rows, grouped, &resident)?;
                self.timed[0].push((begin, device.mark(Lane::Compute)?));
            } else {
                on_host.extend(resident.iter().map(|r| r.0));
            }
        }

        if self.work.fits(rows.tokens * rows.top_k) {
            self.run_batch(&own, rows, grouped, many.as_ref(), &came, None)?;
        } else {
            on_host.extend(came.iter().map(|c| c.0));
        }

        let start = Instant::now();
        let mut ready = None;
        let mut here: Vec<(usize, u16)> = Vec::new();
        for m in arriving {
            let (expert, slot) = (grouped.groups[m.group].expert, m.slot.unwrap_or(0));
            match self.admit(layer, expert, slot)? {
                Some(mark) => {
                    ready = Some(mark);
                    here.push((m.group, slot));
                }
                None => on_host.push(m.group),
            }
        }
        self.run_batch(&own, rows, grouped, many.as_ref(), &here, ready)?;
        if let Some((half, stride)) = self.spare.as_ref().map(|s| (s.half, s.bytes)) {
            for batch in passing.chunks(half) {
                let Some(spare) = &mut self.spare else { break };
                let which = spare.next;
                spare.next = 1 - which;
                let base = spare.memory.at(which * half * stride, half * stride);
                if let Some(used) = spare.used[which].take() {
                    device.wait(Lane::Copy, &used)?;
                }
                let mut here: Vec<(usize, u16)> = Vec::new();
                let mut ready = None;
                for m in batch {
                    match self.send(layer, grouped.groups[m.group].expert, base.plus(here.len() * stride))? {
                        Some(mark) => {
                            ready = Some(mark);
                            here.push((m.group, here.len() as u16));
                        }
                        None => on_host.push(m.group),
                    }
                }
                let slots = Slots { base, stride, ..own };
                self.run_batch(&slots, rows, grouped, many.as_ref(), &here, ready)?;
                if let Some(spare) = &mut self.spare {
                    spare.used[which] = Some(device.mark(Lane::Compute)?);
                }
            }
        }
        time.upload += start.elapsed();
        if let Some(many) = many {
            many.gather(device, &self.work, &mut self.parcel, rows, grouped, &on_host)?;
        }

        let missed = on_host.len() as u64 * self.store.layers[layer].expert_bytes();
        if !on_host.is_empty() {
            let start = Instant::now();
            on_host.sort_unstable();
            self.host_share(layer, rows, host_rows, routing, grouped, &on_host)?;
            time.misses += start.elapsed();
        }

        let used = device.mark(Lane::Compute)?;
        self.parcel.end(&used);
        self.partial.end(&used);
        self.used[layer] = Some(used);
        let there = |expert| arriving.iter().any(|m| grouped.groups[m.group].expert == expert);
        self.put_off(layer, plan.swaps.iter().filter(|s| !there(s.expert)).map(|s| (s.expert, s.slot)), false);
        Ok(missed)
    }

    /// Compute groups whose experts lie in these slots, after the copies that `ready` stands for.
    #[allow(clippy::too_many_arguments)]
    fn run_batch(
        &mut self,
        slots: &Slots,
        rows: &DeviceRows,
        grouped: &Grouped,
        many: Option<&Many>,
        here: &[(usize, u16)],
        ready: Option<Mark>,
    ) -> Result<(), ExpertError> {
        if here.is_empty() {
            return Ok(());
        }
        if let Some(ready) = ready {
            self.device.wait(Lane::Compute, &ready)?;
        }
        match many {
            Some(many) => many.run(&*self.device, &self.work, &mut self.parcel, slots, rows, grouped, here)?,
            None => {
                let of = |pair: u32| here.iter().find(|(g, _)| grouped.groups[*g].pairs.contains(&(pair as usize))).map(|h| i32::from(h.1));
                let table: Vec<i32> = grouped.pair_of.iter().map(|&pair| of(pair).unwrap_or(-1)).collect();
                let table = self.parcel.put(&*self.device, bytemuck::cast_slice(&table))?;
                let used: Vec<u16> = here.iter().map(|h| h.1).collect();
                self.work.few(&*self.device, slots, rows, table, &used)?;
            }
        }
        Ok(())
    }

    /// The host's experts, weighted and summed for every token, then added to `y` on the device.
    fn host_share(
        &mut self,
        layer: usize,
        rows: &DeviceRows,
        host_rows: &[f32],
        routing: &Routing,
        grouped: &Grouped,
        mine: &[usize],
    ) -> Result<(), ExpertError> {
        self.host.grouped.pick(grouped, mine);
        let y = self.host_sums(layer, rows.tokens, host_rows, routing)?;
        let bytes: &[u8] = bytemuck::cast_slice(&y);
        self.partial.begin(&*self.device, bytes.len())?;
        let x = self.partial.put(&*self.device, bytes)?;
        let len = u32::try_from(y.len()).unwrap_or(u32::MAX);
        launch(&*self.device, &Add { x, y: rows.y, len, pad: 0 }, &[])?;
        Ok(())
    }
}
