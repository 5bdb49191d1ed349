//! What model to open, and how.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModelSource {
    /// The toy model that is embedded in the binary.
    Demo,
    /// A GGUF file, or the first file of a split set.
    Path(PathBuf),
}

/// How a model is to be loaded. `None` means "derive it"; the plan says what was derived.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadOptions {
    /// Budget of host memory in bytes for everything the process keeps (`--ram`).
    pub ram: Option<u64>,
    /// Slots per layer; derived from the budget when absent.
    pub slots: Option<usize>,
    /// Context length in tokens; derived when absent.
    pub context: Option<usize>,
    /// Worker threads, the calling one included; physical cores when absent.
    pub threads: Option<usize>,
    /// Replacement policy by name: `rotary`, `lru`, `lfu`.
    pub policy: Option<String>,
    /// Keep keys and values in 32-bit floats (exact comparison) instead of 16-bit.
    pub kv_f32: bool,
    /// Layers that gain more from a slot get more of them, under the same total (`--slots-by layer`).
    #[serde(default)]
    pub spread: bool,
    /// Folder that keeps which experts of a model were used, to fill its slots when it is opened again; `None` starts with empty
    /// slots and keeps nothing.
    #[serde(default)]
    pub heat: Option<PathBuf>,
    /// What computes.
    #[serde(default)]
    pub device: DeviceChoice,
    /// Budget of device memory in bytes for weights, context, buffers and slots (`--vram`).
    #[serde(default)]
    pub vram: Option<u64>,
    /// Who computes the experts that are not in a slot of the device.
    #[serde(default)]
    pub miss: MissChoice,
    /// When all experts of a model on a device are copied out of the mapped file into memory of the process, in huge pages, and page-locked as far as a set share of the RAM goes. By itself that
    /// is where the RAM has room for them and a reserve.
    #[serde(default)]
    pub hold: When,
    /// Most experts that a look at a coming layer brings before a token asks for them; `None`: what the policy does by itself.
    pub ahead: Option<usize>,
    /// When the routers of the next layers are asked before their turn which experts a token will want. By itself that is where experts come ahead of use; if always, for every generated token, and
    /// what they say is recorded; if never, what comes ahead goes by likeness of routing alone.
    #[serde(default)]
    pub foresee: When,
    /// When a token that does not find every expert in a slot is queued whole all the same, host and device speaking through a mailbox while it runs; see [`crate::gpu::talk`].
    #[serde(default)]
    pub mailbox: When,
    /// When the kernels that a model uses are tried on the GPU before it is opened there. By itself that is on a GPU, driver and build that have not passed yet; if always, at every start, and on the
    /// simulated device too.
    #[serde(default)]
    pub prove: When,
    /// File that keeps what a GPU has passed; `None` keeps nothing.
    #[serde(default)]
    pub proofs: Option<PathBuf>,
    /// When tokens that are likely to come are read together with the one that was drawn.
    #[serde(default)]
    pub draft: When,
    /// What was asked for by hand that speaks of a GPU alone, as it was written: `--vram`, `--miss`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub of_a_gpu: Vec<String>,
}

impl LoadOptions {
    /// What was asked for and has no effect because the CPU computes, in a sentence. `tried`: a GPU was tried, so how that was asked for had its effect.
    #[must_use]
    pub fn idle_on_cpu(&self, tried: bool) -> Option<String> {
        let idle: Vec<&str> = self.of_a_gpu.iter().map(String::as_str).filter(|flag| !(tried && *flag == "--prove")).collect();
        let (last, before) = idle.split_last()?;
        let (names, have) =
            if before.is_empty() { ((*last).to_owned(), "has") } else { (format!("{} and {last}", before.join(", ")), "have") };
        Some(format!("{names} {have} no effect: no GPU computes here"))
    }
}

/// What computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// A GPU if there is one that this build can use, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU, or nothing.
    Gpu,
    /// A GPU played by the CPU, slowly: every path of the GPU tier without a GPU.
    Simulated,
}

impl DeviceChoice {
    /// By the names that the command line knows.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "auto" => Self::Auto,
            "cpu" => Self::Cpu,
            "gpu" => Self::Gpu,
            "simulated" => Self::Simulated,
            _ => return None,
        })
    }
}

/// Who computes the experts that are not in a slot of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MissChoice {
    /// Both, in the proportion of the bandwidths that were measured when the model was opened.
    #[default]
    Auto,
    /// The device: they are copied to it first.
    Gpu,
    /// The host, from the mapped file.
    Cpu,
}

impl MissChoice {
    /// By the names that the command line knows.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "auto" => Self::Auto,
            "gpu" => Self::Gpu,
            "cpu" => Self::Cpu,
            _ => return None,
        })
    }
}

/// When to do what pays in some places only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// Where it is likely to pay, as far as the program can tell.
    #[default]
    Auto,
    /// Without asking whether it does.
    Always,
    /// Not at all.
    Never,
}

impl When {
    /// By the names that the command line knows.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "auto" => Self::Auto,
            "always" => Self::Always,
            "never" => Self::Never,
            _ => return None,
        })
    }
}
