//! The tier as it begins: empty slots, tables, the ways up, and how fast link and host are.

use super::biases::LayerBiases;
use super::couriers::Couriers;
use super::grouped::{self, Parcel, Work};
use super::held::Holding;
use super::slabs::{Layout, Slab};
use super::staging::{self, Staging};
use super::tables::Tables;
use super::{probe, Hold, HostShare, Rates, Spare, VramOptions, VramTier, SPARE};
use crate::experts::store::{ExpertStore, ReadAhead};
use crate::experts::tier::{DeviceRows, DeviceStep};
use crate::experts::ExpertError;
use crate::gpu::{Address, Device};
use crate::kernels::Pool;
use std::sync::Arc;

impl VramTier {
    /// Empty slots in the memory of `device`, so many per layer. Measures link and host.
    ///
    /// # Errors
    /// No room.
    pub fn new(
        device: Arc<dyn Device>,
        store: ExpertStore,
        slots: usize,
        pool: Arc<Pool>,
        options: VramOptions,
    ) -> Result<Self, ExpertError> {
        // Copying would take memory's speed from what is measured.
        let still = VramOptions { hold: Hold::NEVER, ..options };
        let mut tier = Self::with_rates(device, store, slots, pool, still, Rates::NONE)?;
        if let Some(spare) = &tier.spare {
            let room = spare.memory.address();
            let Self { device, pool, store, slabs, staging, host, .. } = &mut tier;
            let layout = slabs.first().map(|s| s.layout);
            if let Some(rates) = layout.map(|l| probe::rates(&**device, pool, store, &l, staging, room, &mut host.buffers)).transpose()? {
                (tier.rates, tier.probed) = (rates, true);
            }
        }
        let Rates { fill, link, host, .. } = tier.rates;
        tracing::info!(
            fill,
            link,
            host,
            slots,
            pinned = tier.staging.bytes() + tier.couriers.bytes(),
            "expert slots on {}",
            tier.device.facts().name
        );
        tier.hold = options.hold;
        tier.begin_to_hold();
        Ok(tier)
    }

    /// The same with known rates.
    ///
    /// # Errors
    /// No room.
    pub fn with_rates(
        device: Arc<dyn Device>,
        store: ExpertStore,
        slots: usize,
        pool: Arc<Pool>,
        options: VramOptions,
        rates: Rates,
    ) -> Result<Self, ExpertError> {
        let layouts: Vec<Layout> = store.layers.iter().map(Layout::of).collect();
        let largest = layouts.iter().map(|l| l.bytes).max().unwrap_or(0);
        let slots = slots.min(store.experts);
        let d = &*device;
        let tables = Tables::new(d, store.layers.len(), store.experts)?;
        let biases = store.layers.iter().map(|l| LayerBiases::of(d, l)).collect::<Result<_, _>>()?;
        let work = Work::new(d, &store, options.rows)?;
        let (mut parcel, mut partial) = (Parcel::default(), Parcel::default());
        let none = Address::NONE;
        let longest = DeviceRows { tokens: options.rows, top_k: store.top_k, x: none, ids: none, weights: none, slots: none, y: none };
        parcel.begin(d, grouped::parcel_bytes(&longest, store.experts, store.experts))?;
        partial.begin(d, options.rows * store.hidden * 4)?;
        let slabs = layouts.iter().map(|&layout| Slab::new(d, layout, slots)).collect::<Result<Vec<_>, _>>()?;
        let half = SPARE.min(store.experts).div_ceil(2);
        let spare = match largest {
            0 => None,
            bytes => d.alloc(2 * half * bytes).ok().map(|memory| Spare { memory, bytes, half, next: 0, used: [None, None] }),
        };
        // Couriers take at most half of the page-locked memory.
        let couriers = Couriers::new(&device, if largest == 0 { 0 } else { options.couriers }, largest, options.pinned / 2);
        let staging = Staging::new(d, largest, options.pinned - couriers.bytes(), staging::MOST);
        pool.stay_awake(!couriers.is_empty(), couriers.count());
        let mut tier = Self {
            slabs,
            slots,
            biases,
            tables,
            staging,
            spare,
            work,
            parcel,
            partial,
            host: HostShare::default(),
            reading: ReadAhead::default(),
            miss: options.miss,
            rates,
            reserve: options.reserve,
            used: vec![None; store.layers.len()],
            timed: Default::default(),
            whole: [false; 2],
            moved: 0,
            later: Vec::new(),
            couriers,
            held: Holding::default(),
            hold: options.hold,
            answers: options.answers,
            probed: false,
            refused: Vec::new(),
            step: DeviceStep::default(),
            traffic: Arc::default(),
            device,
            store,
            pool,
        };
        tier.begin_to_hold();
        Ok(tier)
    }
}
