//! Every kernel on a device against its meaning ([`super::reference`]), on random data.
//!
//! A trial is one allocation with everything a kernel is given: inputs, outputs filled with a pattern that is no number, and guards
//! between them. The device and the reference start from the same bytes; afterwards outputs must agree as far as rounding
//! lets them, what the reference left alone must still hold the pattern, and inputs and guards must not have changed by a bit.
//!
//! | file | idea |
//! |---|---|
//! | `case` | what is tried: all of it |
//! | `selection` | of that, what a model uses, with its own sizes cut down |
//! | `cases`, `pointwise`, `biased`, `latent`, `mailbox` | how the launches of a trial are laid out |
//! | `speed` | kernels at the sizes of a real model, timed |

mod biased;
mod case;
mod cases;
mod latent;
mod mailbox;
mod pointwise;
mod selection;
mod speed;

use super::device::{Address, Device, GpuError, Lane};
use super::params::{Kernel, Shape};
use super::reference::{self, HostMemory};
use half::f16;
use std::ops::Range;

pub use case::{all, Case};
pub use selection::{AttentionUse, DeltaUse, ExpertUse, LatentUse, MapUse, RouterUse, Uses};
pub use speed::{measure, Timed};

/// What an output holds before: no number in f32, in f16, and an unlikely id.
const POISON: u8 = 0xFF;
/// What lies between the pieces.
const GUARD: u8 = 0xA5;
/// Bytes between two pieces, at least.
const GAP: usize = 256;

/// How a piece is judged.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Judge {
    /// Not a bit may differ.
    Same,
    /// Numbers in f32: the largest difference, as a share of the piece's largest number, may be this.
    F32(f64),
    /// The same in f16.
    F16(f64),
    /// Between two launches of one trial: not judged.
    Between,
}

struct Piece {
    what: &'static str,
    at: Range<usize>,
    judge: Judge,
}

/// A queued kernel.
struct Launch {
    name: &'static str,
    shape: Shape,
    params: Vec<u8>,
}

fn launch<K: Kernel>(kernel: K) -> Launch {
    Launch { name: kernel.name(), shape: kernel.shape(), params: bytemuck::bytes_of(&kernel).to_vec() }
}

/// Where a piece lies, counted from the allocation's begin.
#[derive(Clone, Copy)]
struct At(usize);

impl At {
    fn of(self, base: Address) -> Address {
        base.plus(self.0)
    }
}

/// One launch, or a few that belong together, with everything they are given.
pub struct Trial {
    /// Of the kernel that is tried.
    pub kernel: &'static str,
    /// Types and sizes in words.
    pub about: String,
    image: Vec<u8>,
    pieces: Vec<Piece>,
    launches: Box<dyn Fn(Address) -> Vec<Launch>>,
}

/// What came of a trial.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The worst piece's largest difference, as a share of its largest number.
    pub error: f64,
    /// What is wrong, in words. Empty: passed.
    pub failures: Vec<String>,
}

/// Puts pieces into the image.
struct Layout {
    image: Vec<u8>,
    pieces: Vec<Piece>,
}

impl Layout {
    fn new() -> Self {
        Self { image: vec![GUARD; GAP], pieces: Vec::new() }
    }

    fn put(&mut self, what: &'static str, bytes: &[u8], judge: Judge) -> At {
        let at = self.image.len();
        self.image.extend_from_slice(bytes);
        self.pieces.push(Piece { what, at: at..self.image.len(), judge });
        let end = (self.image.len() + GAP).next_multiple_of(GAP);
        self.image.resize(end, GUARD);
        At(at)
    }

    fn input<T: bytemuck::Pod>(&mut self, what: &'static str, values: &[T]) -> At {
        self.put(what, bytemuck::cast_slice(values), Judge::Same)
    }

    /// `len` values that the kernel writes, all or some.
    fn output(&mut self, what: &'static str, len: usize, judge: Judge) -> At {
        let bytes = if matches!(judge, Judge::F16(_)) { 2 } else { 4 };
        self.put(what, &vec![POISON; len * bytes], judge)
    }

    /// Numbers that the kernel changes.
    fn changed(&mut self, what: &'static str, values: &[f32], tolerance: f64) -> At {
        self.put(what, bytemuck::cast_slice(values), Judge::F32(tolerance))
    }

    fn trial(self, kernel: &'static str, about: String, launches: impl Fn(Address) -> Vec<Launch> + 'static) -> Trial {
        Trial { kernel, about, image: self.image, pieces: self.pieces, launches: Box::new(launches) }
    }
}

/// The image as the reference sees it: at the device's own addresses.
struct Image {
    base: u64,
    bytes: Vec<u8>,
}

impl Image {
    fn range(&self, at: Address, len: usize) -> Option<Range<usize>> {
        let begin = usize::try_from(at.0.checked_sub(self.base)?).ok()?;
        let end = begin.checked_add(len)?;
        (end <= self.bytes.len()).then_some(begin..end)
    }
}

impl HostMemory for Image {
    fn bytes(&self, at: Address, len: usize) -> Option<&[u8]> {
        self.range(at, len).map(|r| &self.bytes[r])
    }
    fn bytes_mut(&mut self, at: Address, len: usize) -> Option<&mut [u8]> {
        self.range(at, len).map(|r| &mut self.bytes[r])
    }
}

impl Trial {
    /// All kernels that it launches.
    #[must_use]
    pub fn kernels(&self) -> Vec<&'static str> {
        (self.launches)(Address::default()).iter().map(|l| l.name).collect()
    }

    /// Run it on `device` and judge what it wrote.
    ///
    /// # Errors
    /// The device did not do what it was asked at all.
    pub fn run(&self, device: &dyn Device) -> Result<Outcome, GpuError> {
        let memory = device.alloc(self.image.len())?;
        let base = memory.address();
        let launches = (self.launches)(base);
        device.upload_now(Lane::Compute, base, &self.image)?;
        for l in &launches {
            device.launch(l.name, l.shape, &l.params, &[])?;
        }
        let pinned = device.pinned(self.image.len())?;
        device.download(Lane::Compute, base, &pinned, 0..self.image.len())?;
        device.sync(&device.mark(Lane::Compute)?)?;
        let mut got = Vec::new();
        pinned.read(0..self.image.len(), &mut |bytes| got.extend_from_slice(bytes));

        let mut image = Image { base: base.0, bytes: self.image.clone() };
        for l in &launches {
            let meant = reference::run(l.name, l.shape, &l.params, &mut image);
            meant.map_err(|e| GpuError::Driver { what: format!("the trial of {}", self.kernel), why: e.to_string() })?;
        }
        Ok(self.judge(&image.bytes, &got))
    }

    fn judge(&self, meant: &[u8], got: &[u8]) -> Outcome {
        let mut out = Outcome::default();
        let mut end = 0;
        for piece in &self.pieces {
            same("a guard", &meant[end..piece.at.start], &got[end..piece.at.start], &mut out);
            end = piece.at.end;
            let (meant, got) = (&meant[piece.at.clone()], &got[piece.at.clone()]);
            match piece.judge {
                Judge::Same => same(piece.what, meant, got, &mut out),
                Judge::F32(limit) => near(piece.what, &f32s(meant), &f32s(got), limit, &mut out),
                Judge::F16(limit) => near(piece.what, &f16s(meant), &f16s(got), limit, &mut out),
                Judge::Between => {}
            }
        }
        same("a guard", &meant[end..], &got[end..], &mut out);
        out
    }
}

fn same(what: &str, meant: &[u8], got: &[u8], out: &mut Outcome) {
    if let Some(i) = meant.iter().zip(got).position(|(a, b)| a != b) {
        let count = meant.iter().zip(got).filter(|(a, b)| a != b).count();
        out.failures.push(format!("{what}: {count} of {} bytes differ, the first at {i}", meant.len()));
    }
}

/// The bits beside the value: poison must stay poison, not become another NaN.
fn f32s(bytes: &[u8]) -> Vec<(u32, f64)> {
    let one = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    bytes.chunks_exact(4).map(|b| (one(b), f64::from(f32::from_bits(one(b))))).collect()
}

fn f16s(bytes: &[u8]) -> Vec<(u32, f64)> {
    let one = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
    bytes.chunks_exact(2).map(|b| (u32::from(one(b)), f64::from(f16::from_bits(one(b))))).collect()
}

fn near(what: &str, meant: &[(u32, f64)], got: &[(u32, f64)], limit: f64, out: &mut Outcome) {
    let poison = |bits: u32| bits == u32::MAX || bits == 0xFFFF;
    let largest = meant.iter().map(|m| m.1.abs()).filter(|m| m.is_finite()).fold(0.0, f64::max).max(1e-30);
    let (mut unwritten, mut stray, mut odd) = (0, 0, 0);
    let mut worst = (0.0, 0);
    for (i, (m, g)) in meant.iter().zip(got).enumerate() {
        match (poison(m.0), poison(g.0)) {
            (true, true) => {}
            (true, false) => stray += 1,
            (false, true) => unwritten += 1,
            (false, false) if m.1.is_finite() && g.1.is_finite() => {
                let error = (m.1 - g.1).abs() / largest;
                if error > worst.0 {
                    worst = (error, i);
                }
            }
            // Both infinite the same way, or both no number.
            (false, false) if m.1 == g.1 || (m.1.is_nan() && g.1.is_nan()) => {}
            (false, false) => odd += 1,
        }
    }
    let all = meant.len();
    for (count, says) in
        [(unwritten, "not written"), (stray, "written that should be left alone"), (odd, "not finite, or finite where they should not be")]
    {
        if count > 0 {
            out.failures.push(format!("{what}: {count} of {all} {says}"));
        }
    }
    if worst.0 > limit {
        let (m, g) = (meant[worst.1].1, got[worst.1].1);
        out.failures.push(format!("{what}: {g} instead of {m} at {} of {all}, off by {:.1e} (allowed {limit:.0e})", worst.1, worst.0));
    }
    out.error = out.error.max(worst.0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::params::{
        Add, AddAnswer, AddNormed, Attention, AwaitHost, BiasedGroupedUp, BiasedUp, ChunkAttention, Convolve, DeltaRule, ExpertsDown,
        ExpertsUp, Finite, GatedNorm, Gather, Glu, GroupedDown, GroupedUp, HeadMaps, JoinSplits, JoinSunk, LatentAttention, LatentRows,
        MatMul, MatVec, RmsNorm, Rotate, Route, RoutedBias, ShortConv, SoftCap, TellHost, WindowAttention, WindowChunkAttention,
    };
    use crate::gpu::simulated::{Options, Simulated};

    #[test]
    fn every_kernel_is_tried_and_the_reference_passes_its_own_trials() {
        let device = Simulated::new(Options::default());
        let trials: Vec<Trial> = all(1).iter().map(Case::trial).collect();
        for name in [
            Add::NAME,
            Attention::NAME,
            ChunkAttention::NAME,
            Convolve::NAME,
            ShortConv::NAME,
            DeltaRule::NAME,
            ExpertsDown::NAME,
            ExpertsUp::NAME,
            Finite::NAME,
            GatedNorm::NAME,
            Gather::NAME,
            GroupedDown::NAME,
            GroupedUp::NAME,
            JoinSplits::NAME,
            MatMul::NAME,
            MatVec::NAME,
            MatVec::FEW,
            RmsNorm::NAME,
            Rotate::NAME,
            Route::NAME,
            Glu::NAME,
            AddNormed::NAME,
            SoftCap::NAME,
            BiasedGroupedUp::NAME,
            BiasedUp::NAME,
            JoinSunk::NAME,
            RoutedBias::NAME,
            WindowAttention::NAME,
            WindowChunkAttention::NAME,
            LatentRows::NAME,
            HeadMaps::NAME,
            LatentAttention::NAME,
            AwaitHost::NAME,
            TellHost::NAME,
            AddAnswer::NAME,
        ] {
            assert!(trials.iter().any(|t| t.kernels().contains(&name)), "{name} is not tried");
        }
        for t in &trials {
            let outcome = t.run(&device).unwrap_or_else(|e| panic!("{} {}: {e}", t.kernel, t.about));
            assert_eq!(outcome, Outcome::default(), "{} {}", t.kernel, t.about);
        }
    }

    #[test]
    fn a_wrong_an_unwritten_and_a_stray_value_are_found() {
        let mut l = Layout::new();
        let x = l.input("x", &[1.0f32; 8]);
        let y = l.changed("y", &[2.0; 8], 1e-5);
        let z = l.output("z", 4, Judge::F32(1e-5));
        let t = l.trial(Add::NAME, String::new(), move |b| vec![launch(Add { x: x.of(b), y: y.of(b), len: 8, pad: 0 })]);
        let spoiled = |at: usize, value: f32| {
            let mut got = t.image.clone();
            got[at..at + 4].copy_from_slice(&value.to_le_bytes());
            t.judge(&t.image, &got).failures
        };
        assert_eq!(t.judge(&t.image, &t.image), Outcome::default());
        assert!(spoiled(y.0, 2.5)[0].contains("2.5 instead of 2"), "{:?}", spoiled(y.0, 2.5));
        assert!(spoiled(x.0 + 4, 3.0)[0].starts_with("x: "));
        assert!(spoiled(z.0, 0.0)[0].contains("left alone"));
        assert!(spoiled(z.0 + 16, 0.0)[0].starts_with("a guard"));
        assert!(spoiled(y.0, f32::from_bits(u32::MAX))[0].contains("not written"));
    }
}
