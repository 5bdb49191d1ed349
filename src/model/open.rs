//! From a file to a model that is ready to run: configuration, memory plan, weights, slots.

use super::cache::{GOES_BACK, GOES_BACK_ON_DEVICE};
use super::config::{Hybrid, ModelConfig};
use super::decoder::Decoder;
use super::device::{DeviceDecoder, Without};
use super::proof::{prove, Proven};
use super::weights::{file_name, Weights};
use super::{
    deepseek2, early, expert_weights, gemma4, glm4moe, gpt_oss, lfm2moe, minimax_m2, olmoe, predictor, qwen2moe, qwen35moe, qwen3moe,
    Model, ModelError, ARCHITECTURES,
};
use crate::events::{DeviceChoice, LoadOptions, Plan, When};
use crate::experts::budget::{self, CacheNeed, DeviceRoom, Needs, Wish};
use crate::experts::policy::Policy;
use crate::experts::schedule::comes_in_time;
use crate::experts::slots::CpuTier;
use crate::experts::store::ExpertStore;
use crate::experts::vram::{self, Hold, Traffic, VramOptions, VramTier};
use crate::experts::{ExpertError, Experts};
use crate::gguf::Gguf;
use crate::gpu::choose::{choose, Chosen};
use crate::gpu::link::upload_rate;
use crate::gpu::Device;
use crate::kernels::attention::Heads;
use crate::kernels::Pool;
use std::sync::Arc;

/// Most tokens of a pass on the CPU, which is what its buffers are planned for: longer prompts are read in chunks of this.
pub const CPU_CHUNK: usize = 256;
/// Fewest tokens that passes on a device are planned for.
const CHUNK: u64 = 512;
/// Most tokens of a pass on a device, where a chunk may send up every expert once: the longer it is, the fewer times. The longest is taken whose
/// buffers are at most this part of the device's budget.
const DEVICE_CHUNKS: [usize; 3] = [2048, 1024, CHUNK as usize];
const CHUNK_SHARE: u64 = 16;

/// How weights are bound.
#[derive(Clone)]
pub struct LoadSettings {
    /// Room for this many tokens.
    pub context: usize,
    /// Keys and values in 32-bit floats.
    pub kv_f32: bool,
    /// Positions by which layers that see a window can go back; `None`: they keep everything.
    pub goes_back: Option<usize>,
    /// Computes.
    pub pool: Arc<Pool>,
    /// The block that guesses further tokens is loaded, if the file has one.
    pub guesses: bool,
}

/// A model that is ready to run.
pub struct Opened {
    /// The model, with an empty context.
    pub model: Box<dyn Model>,
    /// Its experts, with empty slots.
    pub experts: Experts,
    /// What the metadata says.
    pub config: ModelConfig,
    /// The memory plan that was followed.
    pub plan: Plan,
    /// Bytes of one expert, per layer that has experts.
    pub expert_bytes: Vec<u64>,
    /// The device's name; `None` is the CPU.
    pub device: Option<String>,
    /// Most tokens of a pass on the device.
    pub chunk: Option<usize>,
    /// The device and what goes up to it, for gauges.
    pub traffic: Option<(Arc<dyn Device>, Arc<Traffic>)>,
    /// Why it is the CPU although this build could use a GPU.
    pub lacks: Option<String>,
}

/// Read the configuration, and refuse architectures that have no code here.
fn read<'a>(gguf: &'a Gguf) -> Result<(Weights<'a>, ModelConfig), ModelError> {
    let weights = Weights::new(gguf);
    let arch = gguf.arch()?;
    if !ARCHITECTURES.contains(&arch) {
        return Err(ModelError::Architecture { file: weights.file, arch: crate::gguf::shown(arch) });
    }
    let config = ModelConfig::read(&weights)?;
    Ok((weights, config))
}

/// Whether the head of a file says that it is a model that can be run: its architecture is known, its numbers agree. Nothing is planned
/// and nothing of the weights is read.
///
/// # Errors
/// What is missing or wrong, by name.
pub fn look(gguf: &Gguf) -> Result<(), ModelError> {
    read(gguf).map(|_| ())
}

/// Whether the file has a block that guesses further tokens, of a kind that can be run.
#[must_use]
pub fn guesses(gguf: &Gguf) -> bool {
    read(gguf).is_ok_and(|(_, config)| config.guesses)
}

/// Bind the weights of a model. Every tensor that it needs is checked for presence, shape and type.
///
/// # Errors
/// What is missing or wrong, by name.
pub fn load(gguf: &Gguf, settings: &LoadSettings) -> Result<(Box<dyn Model>, ExpertStore, ModelConfig), ModelError> {
    let (model, store, config) = bind(gguf, settings)?;
    Ok((Box::new(model), store, config))
}

pub(super) fn bind(gguf: &Gguf, settings: &LoadSettings) -> Result<(Decoder, ExpertStore, ModelConfig), ModelError> {
    let (weights, config) = read(gguf)?;
    let config = ModelConfig { guesses: config.guesses && settings.guesses, ..config };
    let (model, store) = match config.arch.as_str() {
        "qwen35moe" | "qwen35" | "qwen3next" => qwen35moe::load(&weights, &config, settings)?,
        "deepseek2" => deepseek2::load(&weights, &config, settings)?,
        "gemma4" => gemma4::load(&weights, &config, settings)?,
        "glm4moe" => glm4moe::load(&weights, &config, settings)?,
        "gpt-oss" => gpt_oss::load(&weights, &config, settings)?,
        "minimax-m2" => minimax_m2::load(&weights, &config, settings)?,
        "lfm2moe" => lfm2moe::load(&weights, &config, settings)?,
        "olmoe" => olmoe::load(&weights, &config, settings)?,
        "qwen2moe" => qwen2moe::load(&weights, &config, settings)?,
        _ => qwen3moe::load(&weights, &config, settings)?,
    };
    Ok((model, store, config))
}

/// Find the device that was asked for, or the CPU for a model that no device computes.
///
/// # Errors
/// A file that can't be run; a GPU was asked for, and there is none that this build can use, or none that computes this model.
pub fn choose_for(gguf: &Gguf, choice: DeviceChoice) -> Result<Chosen, ModelError> {
    let (_, config) = read(gguf)?;
    match (config.beyond_devices(), choice) {
        (None, _) | (_, DeviceChoice::Cpu) => Ok(choose(choice)?),
        (Some(what), DeviceChoice::Auto) => {
            tracing::info!("{what}, so the processor computes");
            // Without the tier nobody expects a GPU.
            Ok(Chosen { device: None, lacks: cfg!(feature = "cuda").then(|| what.to_owned()) })
        }
        (Some(_), DeviceChoice::Gpu | DeviceChoice::Simulated) => takes(gguf, &config).map(|()| Chosen::default()),
    }
}

/// An error for a model that no device computes.
pub(super) fn takes(gguf: &Gguf, config: &ModelConfig) -> Result<(), ModelError> {
    match config.beyond_devices() {
        None => Ok(()),
        Some(what) => Err(ModelError::NotOnDevice { file: file_name(gguf), what }),
    }
}

/// The memory plan for a model, without loading it. `available` is the memory that the machine can give, in bytes.
///
/// # Errors
/// A file that can't be run, or a budget that can't be kept.
pub fn plan(gguf: &Gguf, options: &LoadOptions, available: u64) -> Result<Plan, ModelError> {
    let chosen = choose_for(gguf, options.device)?;
    Ok(plan_on(gguf, options, available, chosen.device.as_deref())?.plan)
}

/// The same for a given device, or the CPU, to be followed by [`open_planned`]. May send some MiB to the device, for some milliseconds: what comes ahead of use, and so what the plan counts, is a matter
/// of its link.
///
/// # Errors
/// See [`plan`].
pub fn plan_on(gguf: &Gguf, options: &LoadOptions, available: u64, device: Option<&dyn Device>) -> Result<Planned, ModelError> {
    let (_, config) = read(gguf)?;
    if device.is_some() {
        takes(gguf, &config)?;
    }
    planned(gguf, &config, options, available, device)
}

/// A plan, and what follows from it.
pub struct Planned {
    /// What takes how much.
    pub plan: Plan,
    /// Most tokens of a pass.
    chunk: usize,
    /// By how many positions layers that see a window can go back.
    pub(super) goes_back: usize,
    /// The routers of later layers are made to be asked before their turn: the plan counts them.
    foresees: bool,
    /// What the device does without.
    without: Without,
}

impl Planned {
    /// Whether the routers of later layers will be asked before their turn.
    #[must_use]
    pub(super) fn foresees(&self) -> bool {
        self.foresees
    }

    /// Have a device do without these; see [`super::proof`].
    pub(super) fn do_without(&mut self, without: Without) {
        self.without = without;
    }
}

/// What a link is taken for that can't be measured, bytes per second: sixteen lanes of PCIe 5.0.
const FAST_LINK: f64 = 64e9;

/// Bytes per second to the device.
fn link(device: &dyn Device) -> f64 {
    match upload_rate(device) {
        Ok(rate) => {
            tracing::info!(rate, "the link, before the plan");
            rate
        }
        Err(why) => {
            tracing::warn!(%why, "the link can't be measured before the plan, and is taken for a fast one");
            FAST_LINK
        }
    }
}

/// Whether experts could come ahead of use on a device. How much memory the machine will give is known only when the plan has been followed, so where nobody says how many come this goes by the most
/// that it can be.
fn comes_ahead(options: &LoadOptions, needs: &Needs, device: &dyn Device) -> bool {
    if options.policy.as_ref().is_some_and(|p| p.parse().ok() != Some(Policy::Rotary)) {
        return false;
    }
    if let Some(ahead) = options.ahead {
        return ahead > 0;
    }
    let ram = crate::kernels::memory::total();
    let hold = Hold::on(options.hold, ram, ram, options.ram, vram::pin_budget(ram));
    let all = needs.expert_bytes.iter().sum::<u64>() * needs.experts as u64;
    let largest = needs.expert_bytes.iter().copied().max().unwrap_or(0);
    all <= hold.room.min(hold.lock) && comes_in_time(largest, link(device))
}

/// Whether the block that guesses further tokens is to be loaded, where there is one.
pub(super) fn wants_guesses(options: &LoadOptions) -> bool {
    options.draft != When::Never
}

fn planned(
    gguf: &Gguf,
    config: &ModelConfig,
    options: &LoadOptions,
    available: u64,
    device: Option<&dyn Device>,
) -> Result<Planned, ModelError> {
    let config = &ModelConfig { guesses: config.guesses && wants_guesses(options), ..config.clone() };
    // The toy is so small that all its experts would fit anywhere; fewer slots let it show what the program is about.
    let budget = options.ram.is_some() || options.vram.is_some() && device.is_some();
    let toy = !budget && crate::demo::is_it(gguf);
    let slots = options.slots.or(toy.then_some(crate::demo::SLOTS.min(config.experts)));
    let wish = Wish { ram: options.ram, slots, context: options.context, available };
    let goes_back = if device.is_none() { GOES_BACK } else { GOES_BACK_ON_DEVICE };
    let needs = needs(gguf, config, config.cache_need(options.kv_f32, Some(goes_back)));
    let with = |early: u64, foresees: bool| -> Result<Planned, ModelError> {
        let needs = Needs { trunk: needs.trunk + early, ..needs.clone() };
        let (plan, chunk) = match device {
            None => (budget::plan(&needs, &wish)?, CPU_CHUNK),
            Some(device) => planned_on(gguf, config, options, &wish, needs, device)?,
        };
        Ok(Planned { plan, chunk, goes_back, foresees, without: Without::default() })
    };
    let without = || with(0, false);
    let asking =
        || with(early::bytes(needs.expert_bytes.len().saturating_sub(usize::from(config.guesses)), config.experts, config.hidden), true);
    match (options.foresee, device) {
        (When::Always, _) => asking(),
        // On the CPU nothing comes ahead.
        (When::Never, _) | (When::Auto, None) => without(),
        // Nor where every expert has a slot, which is known by a plan without routers alone: their own bytes may be what the last slot lacks. And a model that only just fits does without.
        (When::Auto, Some(device)) => {
            let plain = without()?;
            let useful = plain.plan.slots_per_layer < plain.plan.max_slots && comes_ahead(options, &needs, device);
            Ok(if useful { asking().unwrap_or(plain) } else { plain })
        }
    }
}

fn planned_on(
    gguf: &Gguf,
    config: &ModelConfig,
    options: &LoadOptions,
    wish: &Wish,
    needs: Needs,
    device: &dyn Device,
) -> Result<(Plan, usize), ModelError> {
    let free = device.free()?;
    let room = options.vram.unwrap_or(free).min(free) / CHUNK_SHARE;
    let fits = |chunk: &usize| device_buffers(config, &needs, *chunk) <= room;
    let chunk = DEVICE_CHUNKS.into_iter().find(fits).unwrap_or(CHUNK as usize).min(config.context);
    let needs = on_device(gguf, config, needs, chunk);
    let largest = needs.expert_bytes.iter().copied().max().unwrap_or(0);
    let staging = vram::staging_bytes(largest, vram::pin_budget(crate::kernels::memory::total()));
    let pinned = staging + DeviceDecoder::pinned_bytes(config, chunk);
    let room = DeviceRoom { name: device.facts().name.clone(), free, budget: options.vram, pinned };
    Ok((budget::plan_on_device(&needs, wish, &room)?, chunk))
}

/// Bytes of device memory besides weights, context and slots, for passes of so many tokens.
fn device_buffers(config: &ModelConfig, needs: &Needs, chunk: usize) -> u64 {
    let chunk = chunk.min(config.context);
    let largest = needs.expert_bytes.iter().copied().max().unwrap_or(0).next_multiple_of(256) + 3 * 256;
    let tier = match needs.experts {
        0 => 0,
        experts => vram::overhead(needs.expert_bytes.len(), experts, config.top_k, config.hidden, config.expert_ff, largest, chunk),
    };
    DeviceDecoder::buffer_bytes(config, chunk) + tier
}

/// What of it lies on a device: the embedding table stays in the file unless it is the head too, and the slots' own buffers come on top.
fn on_device(gguf: &Gguf, config: &ModelConfig, needs: Needs, chunk: usize) -> Needs {
    let size = |name: &str| gguf.tensor(name).map_or(0, |t| t.size() as u64);
    let own = if config.guesses { size(&predictor::own_table(config)) } else { 0 };
    let table = own + if gguf.tensor("output.weight").is_some() { size("token_embd.weight") } else { 0 };
    Needs { trunk: needs.trunk - table, buffers: device_buffers(config, &needs, chunk), ..needs }
}

/// What the model takes, from its header alone.
fn needs(gguf: &Gguf, config: &ModelConfig, cache: CacheNeed) -> Needs {
    let mut trunk = 0;
    let mut per_layer: Vec<u64> = vec![0; config.loaded()];
    for t in gguf.tensors() {
        let block = t.name.strip_prefix("blk.").and_then(|n| n.split('.').next()).and_then(|n| n.parse::<usize>().ok());
        if block.is_some_and(|b| b >= config.loaded()) {
            // Guesses further tokens, and nobody asks it.
            continue;
        }
        if !expert_weights::is_routed(&t.name) {
            trunk += t.size() as u64;
            continue;
        }
        if let Some(bytes) = block.and_then(|b| per_layer.get_mut(b)) {
            *bytes += t.size() as u64;
        }
    }
    let with_experts = per_layer.into_iter().enumerate().filter(|(_, bytes)| *bytes > 0);
    let (expert_layers, expert_bytes) = with_experts.map(|(layer, bytes)| (layer, bytes / config.experts.max(1) as u64)).unzip();
    let of_heads = |h: Heads| h.query * (2 * h.key_dim + h.value_dim) + h.groups * 2 * (h.key_dim + h.value_dim);
    let attention = match config.latent {
        Some(latent) => latent.row_values(),
        None => (0..config.blocks).map(|b| of_heads(config.heads_of(b))).max().unwrap_or(0),
    };
    let recurrent = config.hybrid.as_ref().map_or(0, Hybrid::row_values);
    // Beside experts, or in their place: the feed-forward, and rows for both.
    let beside = config.arch == "gemma4";
    let dense = if config.experts == 0 || beside { 3 * config.dense_ff } else { 0 };
    let routed = config.top_k * (2 * config.hidden + 3 * config.expert_ff) + 3 * config.shared_ff;
    // Layers that have a dense feed-forward in their place.
    let lead = if config.leading_dense > 0 { 3 * config.dense_ff } else { 0 };
    let row = if beside { 12 } else { 8 } * config.hidden + attention.max(recurrent) + routed.max(lead) + dense;
    // Rows of the last pass, and what the block that guesses makes of them first.
    let row = row + if config.guesses { 5 * config.hidden } else { 0 };
    let states = config.hybrid.as_ref().map_or(0, |h| h.state_bytes() * (1 + h.snapshots() as u64));
    let head = gguf.tensors().any(|t| t.name == "output.weight");
    let table = gguf.tensors().find(|t| t.name == "token_embd.weight").filter(|_| head);
    Needs {
        trunk,
        looked_up: table.map_or(0, |t| t.size() as u64),
        cache,
        buffers: row as u64 * 4 * CPU_CHUNK.min(config.context) as u64 + config.vocab as u64 * 4 * 3,
        states,
        vocab: config.vocab as u64,
        expert_bytes,
        expert_layers,
        experts: config.experts,
        context: config.context,
    }
}

/// Plan, load, and set up the slots, on the device that the options name, once it is proven ([`super::proof`]).
///
/// # Errors
/// See [`load`] and [`plan`].
pub fn open(gguf: &Gguf, options: &LoadOptions, pool: Arc<Pool>) -> Result<Opened, ModelError> {
    let chosen = choose_for(gguf, options.device)?;
    let planned = plan_on(gguf, options, crate::kernels::memory::available(), chosen.device.as_deref())?;
    let Proven { chosen, planned, .. } = prove(gguf, options, chosen, planned, &mut |_, _| true)?;
    let opened = open_planned(gguf, options, planned, pool, chosen.device, &mut |_, _| true)?;
    Ok(Opened { lacks: chosen.lacks, ..opened })
}

/// The same on a given device, or on the CPU. While a device takes the trunk over, `progress` is told layers done and in all; it answers false to
/// give up.
///
/// # Errors
/// See [`load`] and [`plan`]; from the device.
pub fn open_on(
    gguf: &Gguf,
    options: &LoadOptions,
    pool: Arc<Pool>,
    device: Option<Arc<dyn Device>>,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Opened, ModelError> {
    let planned = plan_on(gguf, options, crate::kernels::memory::available(), device.as_deref())?;
    open_planned(gguf, options, planned, pool, device, progress)
}

/// The same by a plan that was made for these options and this device.
///
/// # Errors
/// See [`open_on`].
pub fn open_planned(
    gguf: &Gguf,
    options: &LoadOptions,
    planned: Planned,
    pool: Arc<Pool>,
    device: Option<Arc<dyn Device>>,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Opened, ModelError> {
    let policy = match &options.policy {
        Some(name) => name.parse::<Policy>().map_err(ExpertError::from)?,
        None => Policy::default(),
    };
    let Planned { plan, chunk: longest, goes_back, foresees, mut without } = planned;
    without.mailbox |= options.mailbox == When::Never;
    let settings = LoadSettings {
        context: plan.context,
        kv_f32: options.kv_f32,
        goes_back: Some(goes_back),
        pool: pool.clone(),
        guesses: wants_guesses(options),
    };
    let (mut decoder, store, config) = bind(gguf, &settings)?;
    if foresees {
        decoder.ask_early()?;
    }
    let (expert_bytes, experts) = (store.expert_bytes(), config.experts);
    let name = device.as_ref().map(|d| d.facts().name.clone());
    let (mut traffic, mut chunk) = (None, None);
    let (model, experts): (Box<dyn Model>, Experts) = match device {
        None => {
            let tier = CpuTier::new(store, pool, budget::window(&plan))?;
            (Box::new(decoder), Experts::new(Box::new(tier), expert_bytes.clone(), experts, &plan, policy))
        }
        Some(device) => {
            let model = DeviceDecoder::new(decoder, &config, device.clone(), longest, without, progress)?;
            let ram = crate::kernels::memory::total();
            let pinned = vram::pin_budget(ram);
            let vram = VramOptions {
                miss: options.miss,
                pinned,
                reserve: vram::RESERVE,
                rows: model.chunk(),
                couriers: vram::couriers_for(pool.threads()),
                hold: Hold::on(options.hold, ram, crate::kernels::memory::obtainable(), options.ram, pinned),
                answers: options.mailbox,
            };
            let tier = VramTier::new(device.clone(), store, plan.slots_per_layer, pool, vram)?;
            traffic = Some((device, tier.traffic()));
            chunk = Some(vram.rows);
            (Box::new(model), Experts::on_device(Box::new(tier), expert_bytes.clone(), experts, &plan, policy))
        }
    };
    let mut experts = experts;
    if config.guesses {
        experts.set_last_apart();
    }
    experts.set_ahead(options.ahead);
    experts.ask_routers(options.foresee, config.top_k);
    Ok(Opened { model, experts, config, plan, expert_bytes, device: name, traffic, chunk, lacks: None })
}
