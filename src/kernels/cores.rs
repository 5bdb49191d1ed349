//! How many cores the machine has.

/// Cores of the machine, counting hyper-threads of one core once where the system says so.
pub(super) fn physical_cores() -> usize {
    let logical = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut cores = std::collections::BTreeSet::new();
    for cpu in 0..1024 {
        let base = format!("/sys/devices/system/cpu/cpu{cpu}/topology");
        let Ok(core) = std::fs::read_to_string(format!("{base}/core_id")) else { break };
        let package = std::fs::read_to_string(format!("{base}/physical_package_id")).unwrap_or_default();
        cores.insert((package, core));
    }
    if cores.is_empty() {
        logical
    } else {
        cores.len().min(logical)
    }
}
