//! Speed of the products on this machine, type by type, beside what candle's own dots reach on the same bytes.

#![allow(unsafe_code)]

use super::{matmul, supported, Activations, Job, KernelError, Pool};
use crate::gguf::GgmlType;
use candle_core::quantized::k_quants::{self, GgmlType as Candle};
use half::{bf16, f16};
use std::io::Write;
use std::time::{Duration, Instant};

/// Types in the order of the table.
pub(super) const TYPES: [GgmlType; 25] = {
    use GgmlType as T;
    [
        T::F32,
        T::F16,
        T::BF16,
        T::Q8_0,
        T::Q4_0,
        T::Q4_1,
        T::Q5_0,
        T::Q5_1,
        T::Q6K,
        T::Q5K,
        T::Q4K,
        T::Q3K,
        T::Q2K,
        T::IQ4_NL,
        T::IQ4_XS,
        T::MXFP4,
        T::IQ3_S,
        T::IQ3_XXS,
        T::IQ2_S,
        T::IQ2_XS,
        T::IQ2_XXS,
        T::IQ1_M,
        T::IQ1_S,
        T::TQ2_0,
        T::TQ1_0,
    ]
};

/// `values` random weights: any bits as quants, scales of moderate size.
pub(crate) fn random_weights(ty: GgmlType, values: usize, rng: &mut fastrand::Rng) -> Vec<u8> {
    use GgmlType as T;
    let mut bytes = vec![0u8; values / ty.block_elems() * ty.block_bytes()];
    let scales: &[usize] = match ty {
        T::F32 | T::F16 | T::BF16 => {
            for to in bytes.chunks_exact_mut(ty.block_bytes()) {
                let v = rng.f32() * 2.0 - 1.0;
                match ty {
                    T::F32 => to.copy_from_slice(&v.to_le_bytes()),
                    T::F16 => to.copy_from_slice(&f16::from_f32(v).to_le_bytes()),
                    _ => to.copy_from_slice(&bf16::from_f32(v).to_le_bytes()),
                }
            }
            return bytes;
        }
        T::TQ1_0 => &[52],
        T::TQ2_0 => &[64],
        T::IQ1_M | T::MXFP4 => &[],
        T::Q4_1 | T::Q5_1 | T::Q4K | T::Q5K => &[0, 2],
        T::Q2K => &[80, 82],
        T::Q3K => &[108],
        T::Q6K => &[208],
        _ => &[0],
    };
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&rng.u64(..).to_le_bytes()[..chunk.len()]);
    }
    for block in bytes.chunks_exact_mut(ty.block_bytes()) {
        for &at in scales {
            block[at..at + 2].copy_from_slice(&f16::from_f32(rng.f32() * 0.1 - 0.02).to_le_bytes());
        }
        match ty {
            T::MXFP4 => block[0] = 118 + block[0] % 8,
            // The f16 lies in four nibbles: some power of two below one.
            T::IQ1_M => {
                for (at, nibble) in [(49, 0), (51, 0), (53, rng.u8(..)), (55, 2)] {
                    block[at] = block[at] & 15 | nibble << 4;
                }
            }
            _ => {}
        }
    }
    bytes
}

/// The tenth percentile of the time of one `call`, over about `budget`: other programs only ever add time.
fn time(budget: Duration, mut call: impl FnMut(usize)) -> f64 {
    let start = Instant::now();
    let mut times = Vec::new();
    let mut i = 0;
    while start.elapsed() < budget || times.len() < 3 {
        let t = Instant::now();
        call(i);
        times.push(t.elapsed().as_secs_f64());
        i += 1;
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 10]
}

/// One row of candle's own dots over the same bytes, on one thread, in seconds per matrix.
fn candle(ty: GgmlType, sets: &[Vec<u8>], rows: usize, x: &[f32], budget: Duration) -> Option<f64> {
    fn dots<T: Candle>(sets: &[Vec<u8>], rows: usize, x: &[f32], budget: Duration) -> f64 {
        let mut y = vec![T::VecDotType::zeros(); x.len() / T::VecDotType::BLCK_SIZE];
        T::VecDotType::from_float(x, &mut y);
        let per_row = x.len() / T::BLCK_SIZE;
        let mut out = vec![0.0; rows];
        time(budget, |i| {
            let bytes = &sets[i % sets.len()];
            assert_eq!(bytes.len(), rows * per_row * size_of::<T>());
            assert_eq!(bytes.as_ptr().align_offset(align_of::<T>()), 0);
            // SAFETY: size and alignment were just checked; candle's blocks are plain integers and halves, in the layout of the file.
            let w: &[T] = unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), rows * per_row) };
            for (o, w) in out.iter_mut().zip(w.chunks_exact(per_row)) {
                *o = T::vec_dot(x.len(), w, &y);
            }
            std::hint::black_box(&out);
        })
    }
    use GgmlType as T;
    let run = match ty {
        T::Q4_0 => dots::<k_quants::BlockQ4_0>,
        T::Q4_1 => dots::<k_quants::BlockQ4_1>,
        T::Q5_0 => dots::<k_quants::BlockQ5_0>,
        T::Q5_1 => dots::<k_quants::BlockQ5_1>,
        T::Q8_0 => dots::<k_quants::BlockQ8_0>,
        T::Q2K => dots::<k_quants::BlockQ2K>,
        T::Q3K => dots::<k_quants::BlockQ3K>,
        T::Q4K => dots::<k_quants::BlockQ4K>,
        T::Q5K => dots::<k_quants::BlockQ5K>,
        T::Q6K => dots::<k_quants::BlockQ6K>,
        _ => return None,
    };
    Some(run(sets, rows, x, budget))
}

/// Print a table of `[4096, 2048]` products for 1 to 128 tokens, with `budget` for each cell; of all types if `types` is empty.
/// Weights rotate through more memory than the caches hold, as experts do.
///
/// # Errors
/// `out` can't be written.
pub fn bench(pool: &Pool, types: &[GgmlType], budget: Duration, out: &mut dyn Write) -> std::io::Result<()> {
    const ROWS: usize = 4096;
    const COLS: usize = 2048;
    writeln!(out, "{}, {} threads, [{ROWS}, {COLS}], p10", super::instruction_set(), pool.threads())?;
    writeln!(out, "| type | 1 token GB/s | 1 token GMAC/s | 2 | 4 | 8 | 32 | 128 tokens GMAC/s | candle dot, 1 thread, GB/s |")?;
    writeln!(out, "| --- | --- | --- | --- | --- | --- | --- | --- | --- |")?;
    let mut rng = fastrand::Rng::with_seed(7);
    let types = if types.is_empty() { &TYPES } else { types };
    for &ty in types.iter().filter(|&&ty| supported(ty)) {
        let bytes = ROWS * COLS / ty.block_elems() * ty.block_bytes();
        let first = random_weights(ty, ROWS * COLS, &mut rng);
        let sets = vec![first; (192usize << 20).div_ceil(bytes)];
        let mut x = Activations::default();
        let mut line = format!("| {ty:?} |");
        for tokens in [1usize, 2, 4, 8, 32, 128] {
            let values: Vec<f32> = (0..tokens * COLS).map(|_| rng.f32() - 0.5).collect();
            x.set(&values, tokens, COLS);
            let mut y = vec![0.0; tokens * ROWS];
            let mut result: Result<(), KernelError> = Ok(());
            let s = time(budget, |i| {
                let weights = &sets[i % sets.len()];
                result = matmul(pool, &mut x, &mut [Job { ty, rows: ROWS, weights, pick: None, out: &mut y }]);
            });
            result.map_err(std::io::Error::other)?;
            if tokens == 1 {
                line += &format!(" {:.1} |", bytes as f64 / s / 1e9);
            }
            line += &format!(" {:.1} |", (ROWS * COLS * tokens) as f64 / s / 1e9);
        }
        let values: Vec<f32> = (0..COLS).map(|_| rng.f32() - 0.5).collect();
        match candle(ty, &sets, ROWS, &values, budget) {
            Some(s) => writeln!(out, "{line} {:.1} |", bytes as f64 / s / 1e9)?,
            None => writeln!(out, "{line} - |")?,
        }
    }
    Ok(())
}
