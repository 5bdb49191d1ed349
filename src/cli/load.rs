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
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub ram: Option<u64>,
    /// Expert slots per layer [default: as many as fit]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub slots: Option<usize>,
    /// Whether every layer has as many slots (equal), or those that gain more from a slot have more (layer), in the same bytes
    #[arg(long, value_name = "HOW", value_parser = ["equal", "layer"], default_value = "equal")]
    pub slots_by: String,
    /// Context length in tokens [default: what fits, at most what the model knows]
    #[arg(long, visible_alias = "context", value_name = "N", value_parser = at_least_one)]
    pub ctx: Option<usize>,
    /// Threads that compute [default: physical cores]
    #[arg(long, value_name = "N", value_parser = thread_count)]
    pub threads: Option<usize>,
    /// Which experts keep their slots: rotary, decay, lru or lfu
    #[arg(long, value_name = "NAME", value_parser = policy_name)]
    pub policy: Option<String>,
    /// Keep keys and values in 32-bit floats instead of 16-bit
    #[arg(long)]
    pub kv_f32: bool,
    /// Begin with empty slots, and keep nothing for the next start
    #[arg(long)]
    pub cold: bool,
    /// Folder that keeps which experts were used [default: a folder of the user's, but for `run demo`]
    #[arg(long, value_name = "DIR", conflicts_with = "cold")]
    pub heat: Option<PathBuf>,
    /// What computes: auto (a GPU if this build can use one), cpu, gpu, or simulated (the GPU's code played by the CPU, slowly)
    #[arg(long, value_name = "NAME", value_parser = device_name)]
    pub device: Option<DeviceChoice>,
    /// GPU memory for weights, context, buffers and slots; context and slots are derived from it [default: what is free, less a reserve]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub vram: Option<u64>,
    /// Who computes experts without a slot on the GPU: gpu (copied there first), cpu, or auto (both, as fast as each was measured)
    #[arg(long, value_name = "NAME", value_parser = miss_name)]
    pub miss: Option<MissChoice>,
    /// On a GPU, whether all experts are copied into RAM in huge pages, page-locked up to half of the RAM, so that misses and copies are quick: auto (if the RAM has room), always, or never (read from the mapped file)
    #[arg(long, value_name = "WHEN", value_parser = when)]
    pub hold: Option<When>,
    /// Bring at most this many experts per look at a coming layer before a token asks for them (policy rotary); 0 is none [default: 1 on a GPU whose link is fast enough once all experts are page-locked (--hold), else 0]
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    pub ahead: Option<usize>,
    /// Whether the routers of the next layers are asked before their turn which experts a token will want: auto (where experts come ahead), always (also for a recording; on the CPU it takes time), or never
    #[arg(long, value_name = "WHEN", value_parser = when)]
    pub foresee: Option<When>,
    /// Whether a token goes to the GPU whole, which then speaks with the host through a mailbox while it runs, instead of layer by layer: auto (where the host computes misses about as fast as they could be copied), always (but with --miss gpu), or never
    #[arg(long, value_name = "WHEN", value_parser = when)]
    pub mailbox: Option<When>,
    /// Whether the kernels that a model uses are tried on the GPU before it is opened there: auto (once per GPU, driver and build), always (at every start), or never
    #[arg(long, value_name = "WHEN", value_parser = when)]
    pub prove: Option<When>,
    /// Whether tokens that are likely to come are read together with the one that was drawn, and kept where they turn out right, without which the answer would be the same (on a GPU but for rounding): auto (as many as pay), always (as many as there are), or never
    #[arg(long, value_name = "WHEN", value_parser = when)]
    pub draft: Option<When>,
}

impl Load {
    /// Flags laid over the configuration.
    #[must_use]
    pub fn options(&self, config: &Config) -> LoadOptions {
        LoadOptions {
            ram: self.ram.or(config.ram),
            slots: self.slots,
            context: self.ctx,
            threads: self.threads.or(config.threads),
            policy: self.policy.clone().or_else(|| config.policy.clone()),
            kv_f32: self.kv_f32,
            heat: None,
            spread: self.slots_by == "layer",
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
    DeviceChoice::from_name(name).ok_or_else(|| "write auto, cpu, gpu or simulated".to_owned())
}

fn miss_name(name: &str) -> Result<MissChoice, String> {
    MissChoice::from_name(name).ok_or_else(|| "write auto, gpu or cpu".to_owned())
}

fn when(name: &str) -> Result<When, String> {
    When::from_name(name).ok_or_else(|| "write auto, always or never".to_owned())
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
