//! The slow gauges: memory of the process, page cache, disk rate. A thread of its own samples them once a second,
//! so that they cost the inference thread nothing and stay fresh while it is idle or deep in a long step.

use crate::events::{DeviceGauges, Gauges};
use crate::experts::vram::Traffic;
use crate::gpu::Device;
use crossbeam_channel::{bounded, RecvTimeoutError, Sender};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time between two samples.
const PERIOD: Duration = Duration::from_secs(1);

/// A model file whose share in the page cache is watched.
#[derive(Clone)]
pub struct MappedFile {
    /// Bytes of all files of the model.
    pub size: u64,
    /// Estimates how many of them are in the page cache; `None` if the system can't tell. Must be cheap (a sample).
    pub resident: Arc<dyn Fn() -> Option<u64> + Send + Sync>,
}

/// A device whose memory and traffic are watched.
#[derive(Clone)]
pub struct WatchedDevice {
    /// Where the model is.
    pub device: Arc<dyn Device>,
    /// What goes up to it.
    pub traffic: Arc<Traffic>,
}

impl WatchedDevice {
    fn sample(&self, rate: &mut Rate) -> DeviceGauges {
        let memory = self.device.facts().memory;
        let sent = self.traffic.sent.load(Ordering::Relaxed);
        let watched = self.device.watched().unwrap_or_default();
        // Asking the device itself makes it give back what it keeps for later: only where nobody else tells.
        let used = watched.used.unwrap_or_else(|| self.device.free().map_or(0, |free| memory.saturating_sub(free)));
        DeviceGauges {
            used,
            memory,
            busy: watched.busy,
            received_rate: watched.received,
            sent_rate: rate.sample(Instant::now(), Some(sent)),
            queued: self.traffic.queued.load(Ordering::Relaxed),
            held: self.traffic.held.load(Ordering::Relaxed),
            locked: self.traffic.locked.load(Ordering::Relaxed),
            to_hold: self.traffic.to_hold.load(Ordering::Relaxed),
        }
    }
}

/// What the inference thread tells the sampler; written at step boundaries, read once a second.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) slots_used: AtomicU64,
    pub(super) cache_used: AtomicU64,
    file: Mutex<Option<MappedFile>>,
    device: Mutex<Option<WatchedDevice>>,
}

impl Shared {
    /// The model changed, or is gone.
    pub(super) fn watch(&self, file: Option<MappedFile>, device: Option<WatchedDevice>) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        *self.device.lock().unwrap_or_else(PoisonError::into_inner) = device;
        self.slots_used.store(0, Ordering::Relaxed);
        self.cache_used.store(0, Ordering::Relaxed);
    }
}

/// Stops the sampling thread when dropped.
pub(super) struct Sampling {
    pub(super) shared: Arc<Shared>,
    /// Sending asks for a sample at once; dropping ends the thread.
    wake: Sender<()>,
}

impl Sampling {
    /// Ask for a sample now instead of at the next second (a model was opened or closed, the slots changed).
    pub(super) fn now(&self) {
        // Full means that a sample is already on its way.
        let _ = self.wake.try_send(());
    }
}

/// Start sampling into `gauges`. The thread ends when the returned value is dropped or nobody looks any more.
pub(super) fn start(gauges: tokio::sync::watch::Sender<Gauges>) -> std::io::Result<Sampling> {
    let shared = Arc::new(Shared::default());
    let (wake, asked) = bounded::<()>(1);
    let state = shared.clone();
    std::thread::Builder::new().name("rotary-gauges".into()).spawn(move || {
        let (mut disk, mut sent) = (Rate::default(), Rate::default());
        loop {
            let file = state.file.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let device = state.device.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let sample = Gauges {
                device: device.as_ref().map(|d| d.sample(&mut sent)),
                slots_used: state.slots_used.load(Ordering::Relaxed),
                cache_used: state.cache_used.load(Ordering::Relaxed),
                file: file.as_ref().map_or(0, |f| f.size),
                page_cache: file.as_ref().and_then(|f| (f.resident)()),
                disk_rate: disk.sample(Instant::now(), read_bytes(&proc_file("/proc/self/io"))),
                ..process_memory()
            };
            drop((file, device));
            if gauges.send(sample).is_err() {
                return;
            }
            match asked.recv_timeout(PERIOD) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    })?;
    Ok(Sampling { shared, wake })
}

/// RSS, its peak and the memory that the machine could still give. Zeros where the system does not say.
#[must_use]
pub fn process_memory() -> Gauges {
    let status = proc_file("/proc/self/status");
    Gauges {
        rss: kib_field(&status, "VmRSS:"),
        rss_peak: kib_field(&status, "VmHWM:"),
        available: kib_field(&proc_file("/proc/meminfo"), "MemAvailable:"),
        ..Gauges::default()
    }
}

fn proc_file(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// `NAME   123 kB` in bytes; 0 if absent.
fn kib_field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|l| l.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|n| n.parse::<u64>().ok())
        .map_or(0, |kib| kib.saturating_mul(1024))
}

/// `read_bytes` of `/proc/self/io`: what really came from the disk, page faults of mapped files included.
fn read_bytes(io: &str) -> Option<u64> {
    io.lines().find_map(|l| l.strip_prefix("read_bytes:")).and_then(|n| n.trim().parse().ok())
}

/// Turns a growing count into a rate between two samples.
#[derive(Default)]
struct Rate {
    last: Option<(Instant, u64)>,
}

impl Rate {
    fn sample(&mut self, now: Instant, count: Option<u64>) -> u64 {
        let Some(count) = count else { return 0 };
        let rate = match self.last {
            Some((then, before)) if now > then => (count.saturating_sub(before) as f64 / (now - then).as_secs_f64()) as u64,
            _ => 0,
        };
        self.last = Some((now, count));
        rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_files_are_read_in_bytes_and_absence_is_zero() {
        let status = "Name:\trotary\nVmHWM:\t  2048 kB\nVmRSS:\t     12 kB\n";
        assert_eq!(kib_field(status, "VmRSS:"), 12 * 1024);
        assert_eq!(kib_field(status, "VmHWM:"), 2048 * 1024);
        assert_eq!(kib_field(status, "VmSwap:"), 0);
        assert_eq!(kib_field("VmRSS:\tmany kB", "VmRSS:"), 0);
        assert_eq!(read_bytes("rchar: 5\nread_bytes: 4096\nwrite_bytes: 1\n"), Some(4096));
    }

    #[test]
    fn a_rate_is_bytes_per_second_between_samples() {
        let (mut rate, t) = (Rate::default(), Instant::now());
        assert_eq!(rate.sample(t, Some(1000)), 0, "nothing to compare with");
        assert_eq!(rate.sample(t + Duration::from_secs(2), Some(5000)), 2000);
        assert_eq!(rate.sample(t + Duration::from_secs(3), Some(5000)), 0);
    }

    #[test]
    fn samples_carry_what_the_engine_wrote_and_the_thread_ends_with_its_owner() {
        let (tx, mut rx) = tokio::sync::watch::channel(Gauges::default());
        let sampling = start(tx).unwrap();
        let simulated = crate::gpu::simulated::Simulated::new(crate::gpu::simulated::Options { memory: 4096, ..Default::default() });
        let held = simulated.alloc(1024).unwrap();
        let watched = WatchedDevice { device: Arc::new(simulated), traffic: Arc::default() };
        watched.traffic.queued.store(3, Ordering::Relaxed);
        let file = MappedFile { size: 77, resident: Arc::new(|| Some(33)) };
        sampling.shared.watch(Some(file), Some(watched));
        sampling.shared.slots_used.store(5, Ordering::Relaxed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let wait = async {
                loop {
                    sampling.now();
                    rx.changed().await.unwrap();
                    let g = rx.borrow_and_update().clone();
                    if g.file == 77 {
                        assert_eq!((g.page_cache, g.slots_used), (Some(33), 5));
                        assert_eq!(
                            g.device,
                            Some(DeviceGauges {
                                used: held.len() as u64,
                                memory: 4096,
                                sent_rate: 0,
                                queued: 3,
                                ..DeviceGauges::default()
                            })
                        );
                        if cfg!(target_os = "linux") {
                            assert!(g.rss > 0 && g.rss_peak >= g.rss && g.available > 0, "{g:?}");
                        }
                        break;
                    }
                }
            };
            tokio::time::timeout(Duration::from_secs(20), wait).await.expect("a sample with the file");
            drop(sampling);
            let gone = async { while rx.changed().await.is_ok() {} };
            tokio::time::timeout(Duration::from_secs(20), gone).await.expect("the thread ends");
        });
    }
}
