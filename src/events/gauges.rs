//! Slow gauges, of which the latest counts.

use serde::{Deserialize, Serialize};

/// Slow gauges, sampled about once a second; the latest wins. All sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gauges {
    /// Resident set of this process.
    pub rss: u64,
    /// Peak of it.
    pub rss_peak: u64,
    /// Model file bytes that are in the page cache (sampled), if known.
    pub page_cache: Option<u64>,
    /// Size of the model file(s).
    pub file: u64,
    /// Bytes in occupied slots.
    pub slots_used: u64,
    /// Bytes of keys, values and recurrent state in use.
    pub cache_used: u64,
    /// Memory that the machine could still give.
    pub available: u64,
    /// Bytes per second that the process reads from disk.
    pub disk_rate: u64,
    /// Of the device, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceGauges>,
}

/// Memory of a device, and traffic to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceGauges {
    /// Bytes of its memory that are in use, by whomever.
    pub used: u64,
    /// Bytes of its memory.
    pub memory: u64,
    /// Bytes of experts per second that go up to it.
    pub sent_rate: u64,
    /// Copies that were under way when the last step ended.
    pub queued: u64,
    /// Bytes of experts that are held in memory of the process, in huge pages.
    #[serde(default)]
    pub held: u64,
    /// Of them, page-locked.
    #[serde(default)]
    pub locked: u64,
    /// Bytes that are to be held; 0: the experts are read from the file.
    #[serde(default)]
    pub to_hold: u64,
    /// Share of the last moments in which it computed, in percent, where the driver tells.
    pub busy: Option<u32>,
    /// Bytes per second that come over its bus, of experts and of all else, where the driver tells.
    pub received_rate: Option<u64>,
}
