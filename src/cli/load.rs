//! Flags that say how a model is loaded, and what their values may be.

use super::number::{at_least_one, whole};
use crate::config::{parse_bytes, Config, Folders};
use crate::events::{DeviceChoice, LoadOptions, MissChoice, When};
use clap::Args;
use std::path::PathBuf;

/// How a model is loaded.
#[derive(Clone, Debug, Default, Args)]
pub struct Load {
    /// Memory that the whole process may use; context and slots are derived from it
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, help_heading = MEMORY)]
    pub ram: Option<u64>,
    /// Expert slots per layer [default: as many as fit]
    #[arg(long, value_name = "N", value_parser = one_slot_count, help_heading = MEMORY)]
    pub slots: Option<SlotCounts>,
    /// Give every layer as many slots (equal), or those more that gain more from one (layer)
    ///
    /// Either way they take the same bytes in all.
    #[arg(long, value_name = "HOW", value_parser = ["equal", "layer"], default_value = "equal", ignore_case = true, help_heading = MEMORY)]
    pub slots_by: String,
    /// Context length in tokens [default: what fits, at most what the model knows]
    #[arg(long, visible_alias = "context", value_name = "N", value_parser = at_least_one, help_heading = MEMORY)]
    pub ctx: Option<usize>,
    /// Which experts keep their slots: rotary, decay, lru or lfu
    #[arg(long, value_name = "NAME", value_parser = policy_name, help_heading = MEMORY)]
    pub policy: Option<String>,
    /// Keep keys and values in 32-bit floats instead of 16-bit
    #[arg(long, help_heading = MEMORY)]
    pub kv_f32: bool,
    /// Begin with empty slots, and keep nothing for the next start
    #[arg(long, help_heading = MEMORY)]
    pub cold: bool,
    /// Folder that keeps which experts were used [default: a folder of the user's, but for `run demo`]
    #[arg(long, value_name = "DIR", conflicts_with = "cold", help_heading = MEMORY)]
    pub heat: Option<PathBuf>,
    /// Threads that compute [default: physical cores]
    #[arg(long, value_name = "N", value_parser = thread_count, help_heading = COMPUTING)]
    pub threads: Option<usize>,
    /// Read likely tokens together with the drawn one: auto, always or never
    ///
    /// Those that turn out right are kept, and the answer is the same as without (on a GPU but for rounding). auto reads as many along as pay, always as many as there are.
    #[arg(long, value_name = "WHEN", value_parser = when, help_heading = COMPUTING)]
    pub draft: Option<When>,
    /// Ask the routers of the next layers early which experts a token will want: auto, always or never
    ///
    /// auto asks where experts come ahead of use; always asks for a recording, too, and takes time on the CPU.
    #[arg(long, value_name = "WHEN", value_parser = when, help_heading = COMPUTING)]
    pub foresee: Option<When>,
    /// What computes: auto, cpu, gpu, or simulated
    ///
    /// auto takes a GPU if this build can use one. simulated is the GPU's code played by the CPU, slowly.
    #[arg(long, value_name = "NAME", value_parser = device_name, help_heading = GPU)]
    pub device: Option<DeviceChoice>,
    /// GPU memory for weights, context, buffers and slots [default: what is free, less a reserve]
    ///
    /// Context and slots are derived from it.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, help_heading = GPU)]
    pub vram: Option<u64>,
    /// Who computes experts without a slot: gpu, cpu, or auto
    ///
    /// For the GPU they are copied there first. auto has both compute, as fast as each was measured.
    #[arg(long, value_name = "NAME", value_parser = miss_name, help_heading = GPU)]
    pub miss: Option<MissChoice>,
    /// Copy all experts into RAM: auto, always, or never (read from the mapped file)
    ///
    /// They lie there in huge pages, page-locked up to half of the RAM, so that misses and copies are quick. auto does it where the RAM has room.
    #[arg(long, value_name = "WHEN", value_parser = when, help_heading = GPU)]
    pub hold: Option<When>,
    /// Bring at most so many experts per look at a coming layer before a token asks for them; 0 is none
    ///
    /// Policy rotary. [default: 1 on a GPU whose link is fast enough once all experts are page-locked (--hold), else 0]
    #[arg(long, value_name = "N", value_parser = whole::<usize>, help_heading = GPU)]
    pub ahead: Option<usize>,
    /// Send a token to the GPU whole instead of layer by layer: auto, always or never
    ///
    /// It then speaks with the host through a mailbox while it runs. auto does it where the host computes misses about as fast as they could be copied; always does
    /// but with --miss gpu.
    #[arg(long, value_name = "WHEN", value_parser = when, help_heading = GPU)]
    pub mailbox: Option<When>,
    /// Try the kernels that a model uses before it is opened on the GPU: auto, always or never
    ///
    /// auto tries them once per GPU, driver and build, always at every start.
    #[arg(long, value_name = "WHEN", value_parser = when, help_heading = GPU)]
    pub prove: Option<When>,
}

/// Headings of the help.
const MEMORY: &str = "Memory and slots";
const COMPUTING: &str = "Computing";
const GPU: &str = "GPU";

/// Slots per layer, in the order in which they were written: one count, and for `rotary bench` several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotCounts(pub Vec<usize>);

fn one_slot_count(text: &str) -> Result<SlotCounts, String> {
    at_least_one(text).map(|n| SlotCounts(vec![n]))
}

/// Counts by commas.
pub(super) fn slot_counts(text: &str) -> Result<SlotCounts, String> {
    text.split(',').map(|count| at_least_one(count.trim())).collect::<Result<_, _>>().map(SlotCounts)
}

impl Load {
    /// Flags laid over the configuration.
    #[must_use]
    pub fn options(&self, config: &Config) -> LoadOptions {
        LoadOptions {
            ram: self.ram.or(config.ram),
            slots: self.slots.as_ref().and_then(|slots| slots.0.first().copied()),
            context: self.ctx,
            threads: self.threads.or(config.threads),
            policy: self.policy.clone().or_else(|| config.policy.clone()),
            kv_f32: self.kv_f32,
            heat: None,
            spread: self.slots_by.eq_ignore_ascii_case("layer"),
            device: self.device.or(config.device).unwrap_or_default(),
            vram: self.vram.or(config.vram),
            miss: self.miss.unwrap_or_default(),
            hold: self.hold.or(config.hold).unwrap_or_default(),
            ahead: self.ahead,
            foresee: self.foresee.unwrap_or_default(),
            mailbox: self.mailbox.unwrap_or_default(),
            prove: self.prove.or(config.prove).unwrap_or_default(),
            proofs: Some(Folders::find().proofs()),
            draft: self.draft.or(config.draft).unwrap_or_default(),
            of_a_gpu: self.of_a_gpu(),
        }
    }

    fn of_a_gpu(&self) -> Vec<String> {
        let given = [
            ("--vram", self.vram.is_some()),
            ("--miss", self.miss.is_some()),
            ("--hold", self.hold.is_some()),
            ("--ahead", self.ahead.is_some()),
            ("--prove", self.prove.is_some()),
        ];
        given.into_iter().filter(|g| g.1).map(|(flag, _)| flag.to_owned()).collect()
    }

    /// Where heat is kept: the folder that was named, else the user's unless he wants none. Commands that measure don't ask.
    #[must_use]
    pub fn heat_folder(&self, config: &Config, usual: impl FnOnce() -> PathBuf) -> Option<PathBuf> {
        if self.cold {
            return None;
        }
        self.heat.clone().or_else(|| config.warm_start.then(usual))
    }
}

pub(crate) fn device_name(name: &str) -> Result<DeviceChoice, String> {
    DeviceChoice::from_name(&name.to_lowercase()).ok_or_else(|| "write auto, cpu, gpu or simulated".to_owned())
}

fn miss_name(name: &str) -> Result<MissChoice, String> {
    MissChoice::from_name(&name.to_lowercase()).ok_or_else(|| "write auto, gpu or cpu".to_owned())
}

fn when(name: &str) -> Result<When, String> {
    When::from_name(&name.to_lowercase()).ok_or_else(|| "write auto, always or never".to_owned())
}

fn thread_count(text: &str) -> Result<usize, String> {
    match at_least_one(text)? {
        n if n > 1024 => Err("more than 1024 threads can't be meant".into()),
        n => Ok(n),
    }
}

fn policy_name(text: &str) -> Result<String, String> {
    text.parse::<crate::experts::policy::Policy>().map(|p| p.name().to_owned()).map_err(|e| e.to_string())
}
