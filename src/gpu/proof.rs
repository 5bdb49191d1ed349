//! Proof that a GPU computes what a model needs: before the model is opened on it, the kernels that the model uses are tried ([`super::trial`]), in its own types of
//! weights. What passed is kept for the next start ([`Kept`]).
//!
//! Some kernels may fail: `chunk_attention` has a slower sibling that does the same, and without the mailbox's three tokens go layer by layer. After any other failure the device is not used. One whose driver has reported a fault
//! of a kernel answers every further call with that fault, so nothing but whether it does is asked of it.

mod kept;

pub use kept::Kept;

use super::device::{Device, Facts, GpuError, Lane};
use super::params::{AddAnswer, AwaitHost, ChunkAttention, Kernel, TellHost, WindowChunkAttention};
use super::trial::Case;
use std::fmt;
use std::time::{Duration, Instant};

/// What came of trying a device that can be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// Trials that it passed now.
    pub tried: usize,
    /// Trials that it had passed at an earlier start.
    pub known: usize,
    /// How long it took.
    pub took: Duration,
    /// Why chunks of a prompt must not go through `chunk_attention`, but through `attention`: a sentence.
    pub plain_attention: Option<String>,
    /// Why host and device must not speak while a token runs: a sentence.
    pub no_mailbox: Option<String>,
}

impl Proof {
    /// What is to be said of what the device does without.
    pub fn told(&self) -> impl Iterator<Item = &String> {
        self.plain_attention.iter().chain(&self.no_mailbox)
    }
}

impl fmt::Display for Proof {
    /// "the GPU's kernels passed 62 trials in 240 ms".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tried, known, took, .. } = self;
        match (tried, known) {
            (0, known) => write!(f, "the GPU's kernels have passed their {known} trials at an earlier start")?,
            (tried, 0) => write!(f, "the GPU's kernels passed {tried} trials in {} ms", took.as_millis())?,
            (tried, known) => {
                write!(f, "the GPU's kernels passed {tried} trials in {} ms, and {known} at an earlier start", took.as_millis())?;
            }
        }
        self.told().try_for_each(|why| write!(f, "; {why}"))
    }
}

/// Why a device was not proven.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Whoever waits for it gave up.
    #[error("trying the GPU's kernels was given up")]
    GivenUp,
    /// A kernel failed ([`GpuError::Unproven`]), or there was no memory to try one.
    #[error(transparent)]
    Gpu(#[from] GpuError),
}

/// Name, capability and driver.
fn named(facts: &Facts) -> String {
    let Facts { name, capability, driver, .. } = facts;
    let mut known = Vec::new();
    if *capability > 0 {
        known.push(format!("capability {}.{}", capability / 10, capability % 10));
    }
    if !driver.is_empty() {
        known.push(format!("driver {driver}"));
    }
    if known.is_empty() {
        return name.clone();
    }
    format!("{name} ({})", known.join(", "))
}

/// Try `cases` on `device`, but those that `kept` knows to have passed, unless `again`. `progress` is told how many of how many are done, and answers false to give up.
///
/// # Errors
/// A failure that the model can't do without, or [`ProofError::GivenUp`]. What had passed before is kept all the same.
pub fn prove(
    device: &dyn Device,
    cases: &[Case],
    kept: Option<&Kept>,
    again: bool,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Proof, ProofError> {
    let begin = Instant::now();
    let facts = device.facts();
    let before = kept.map(|k| k.read(facts)).unwrap_or_default();
    let wanted: Vec<&Case> = cases.iter().filter(|case| again || !before.contains(&case.number())).collect();
    let (mut passed, mut failed) = (Vec::new(), Vec::new());
    let mut proof = Proof { known: cases.len() - wanted.len(), ..Proof::default() };
    let done = wanted.iter().enumerate().try_for_each(|(i, case)| {
        if !progress(i, wanted.len()) {
            return Err(ProofError::GivenUp);
        }
        let Some(failure) = tried(device, case)? else {
            passed.push(case.number());
            return Ok(());
        };
        tracing::warn!("{}", failure.error);
        failed.push(case.number());
        let (without, then) = match case.kernel() {
            ChunkAttention::NAME | WindowChunkAttention::NAME => {
                (&mut proof.plain_attention, "so prompts go through `attention`, which is slower")
            }
            AwaitHost::NAME | TellHost::NAME | AddAnswer::NAME => (&mut proof.no_mailbox, "so tokens go layer by layer, which is slower"),
            _ => return Err(failure.error.into()),
        };
        if failure.dead {
            return Err(failure.error.into());
        }
        without.get_or_insert_with(|| instead(&failure.error, case.kernel(), then));
        Ok(())
    });
    if let Some(kept) = kept.filter(|_| !passed.is_empty() || !failed.is_empty()) {
        kept.write(facts, &passed, &failed);
    }
    done?;
    (proof.tried, proof.took) = (passed.len(), begin.elapsed());
    if !wanted.is_empty() {
        progress(wanted.len(), wanted.len());
        tracing::info!("{proof}, on {}", named(facts));
    }
    Ok(proof)
}

/// What is to be said of a kernel that is done without.
fn instead(error: &GpuError, kernel: &str, then: &str) -> String {
    let (how, why) = match error {
        GpuError::Unproven { how, gpu, why, .. } => (format!("{how} on {gpu}"), why.clone()),
        other => ("does not run".into(), other.to_string()),
    };
    format!("kernel `{kernel}` {how} ({why}), {then}; `rotary gpu-check --only {kernel}` tells more")
}

struct Failure {
    error: GpuError,
    /// The device does nothing any more.
    dead: bool,
}

/// Run one trial. `None`: passed.
fn tried(device: &dyn Device, case: &Case) -> Result<Option<Failure>, GpuError> {
    let trial = case.trial();
    let (how, why, dead) = match trial.run(device) {
        Ok(outcome) => match outcome.failures.into_iter().next() {
            None => return Ok(None),
            Some(first) => ("gives wrong results", first, false),
        },
        // Nothing is known of the kernel then.
        Err(e @ (GpuError::OutOfMemory { .. } | GpuError::Pinned { .. })) => return Err(e),
        Err(e @ GpuError::NoKernel(_)) => ("does not run", e.to_string(), false),
        Err(e) => {
            // A launch that was refused leaves the device as it was; a fault is told again by whatever comes next.
            let dead = device.mark(Lane::Compute).and_then(|mark| device.sync(&mark)).is_err();
            ("does not run", e.to_string(), dead)
        }
    };
    let kernel = format!("{} {}", case.kernel(), trial.about);
    Ok(Some(Failure { error: GpuError::Unproven { kernel, how, gpu: named(device.facts()), why }, dead }))
}

#[cfg(test)]
mod tests;
