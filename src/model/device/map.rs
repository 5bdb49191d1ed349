//! Linear maps, norms and vectors whose weights lie on the device, in their GGUF type.

use super::super::linear::Linear;
use super::super::norm::RmsNorm;
use super::super::ModelError;
use crate::gpu::params::{launch, MatJob, MatMul, MatVec, RmsNorm as RmsNormKernel};
use crate::gpu::{Address, Device, Lane, Memory};

/// A buffer of the workspace: rows of `stride` values from `at` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    pub(super) at: Address,
    pub(super) stride: usize,
}

impl Rows {
    /// The same rows, beginning `columns` values further to the right.
    pub(super) fn right(self, columns: usize) -> Self {
        Self { at: self.at.plus(columns * 4), ..self }
    }

    /// The rows from number `row` on.
    pub(super) fn down(self, row: usize) -> Self {
        Self { at: self.at.plus(row * self.stride * 4), ..self }
    }
}

/// `y = W x + b` on the device.
pub(super) struct Map {
    weight: Memory,
    bias: Option<Memory>,
    ty: u32,
    pub(super) rows: usize,
    cols: usize,
}

/// Where a map's result goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) y: Rows,
    /// Add to what is there.
    pub(super) accumulate: bool,
    /// The product is multiplied by the sigmoid of this column first.
    pub(super) scale: Option<Rows>,
}

impl Target {
    /// Overwrite.
    pub(super) fn set(y: Rows) -> Self {
        Self { y, accumulate: false, scale: None }
    }

    /// Add.
    pub(super) fn add(y: Rows) -> Self {
        Self { y, accumulate: true, scale: None }
    }
}

/// Copy values to new device memory.
pub(super) fn vector(device: &dyn Device, values: &[f32]) -> Result<Memory, ModelError> {
    bytes(device, bytemuck::cast_slice(values))
}

/// Copy bytes to new device memory.
pub(super) fn bytes(device: &dyn Device, bytes: &[u8]) -> Result<Memory, ModelError> {
    let memory = device.alloc(bytes.len())?;
    device.upload_now(Lane::Compute, memory.address(), bytes)?;
    Ok(memory)
}

impl Map {
    /// Take over a map's weights.
    pub(super) fn new(device: &dyn Device, linear: &Linear) -> Result<Self, ModelError> {
        Self::rearranged(device, linear, None)
    }

    /// With row i of the device's weights taken from row `from[i]` of the file's. Rows may be left out.
    pub(super) fn rearranged(device: &dyn Device, linear: &Linear, from: Option<&[usize]>) -> Result<Self, ModelError> {
        let (matrix, bias) = linear.parts();
        let (weight, bias, rows) = match from {
            None => (bytes(device, &matrix.bytes)?, bias.map(<[f32]>::to_vec), matrix.rows),
            Some(from) => {
                let row = matrix.bytes.len() / matrix.rows.max(1);
                let mut moved = Vec::with_capacity(from.len() * row);
                from.iter().for_each(|&r| moved.extend_from_slice(&matrix.bytes[r * row..(r + 1) * row]));
                let bias = bias.map(|b| from.iter().map(|&r| b[r]).collect());
                (bytes(device, &moved)?, bias, from.len())
            }
        };
        let bias = bias.map(|b| vector(device, &b)).transpose()?;
        Ok(Self { weight, bias, ty: matrix.ty.number(), rows, cols: matrix.cols })
    }

    /// Columns of the weights.
    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    fn job(&self, target: &Target) -> MatJob {
        MatJob {
            weight: self.weight.address(),
            bias: self.bias.as_ref().map_or(Address::NONE, Memory::address),
            y: target.y.at,
            scale: target.scale.map_or(Address::NONE, |s| s.at),
            ty: self.ty,
            rows: self.rows as u32,
            y_stride: target.y.stride as u32,
            accumulate: u32::from(target.accumulate),
            scale_stride: target.scale.map_or(0, |s| s.stride as u32),
            first_block: 0,
        }
    }
}

/// Several maps over the same rows: one launch for a few rows, one per map for many.
pub(super) fn apply(device: &dyn Device, x: Rows, tokens: usize, maps: &[(&Map, Target)]) -> Result<(), ModelError> {
    apply_gated(device, x, None, tokens, maps)
}

/// Whether such a map of one token takes its row as the product of two others.
pub(super) fn takes_gate(map: &Map, tokens: usize) -> bool {
    tokens == 1 && MatVec::tiled(map.ty, map.cols as u32)
}

/// The same of `silu(gate) * x`, if there is a gate: only where [`takes_gate`] says so.
pub(super) fn apply_gated(
    device: &dyn Device,
    x: Rows,
    gate: Option<Rows>,
    tokens: usize,
    maps: &[(&Map, Target)],
) -> Result<(), ModelError> {
    let Some((first, _)) = maps.first() else { return Ok(()) };
    debug_assert!(gate.is_none() || maps.iter().all(|(m, _)| takes_gate(m, tokens)));
    let (cols, x_stride) = (first.cols as u32, x.stride as u32);
    debug_assert!(maps.iter().all(|(m, _)| m.cols == first.cols));
    if tokens > MatVec::TOKENS as usize {
        for (map, target) in maps {
            launch(device, &MatMul { x: x.at, cols, tokens: tokens as u32, x_stride, pad: 0, job: map.job(target) }, &[])?;
        }
        return Ok(());
    }
    for maps in maps.chunks(MatVec::JOBS) {
        let split = MatVec::split(maps.iter().map(|(m, _)| m.rows as u32).sum(), cols);
        let gate = gate.map_or(Address::NONE, |g| g.at);
        let mut kernel =
            MatVec { x: x.at, gate, cols, tokens: tokens as u32, x_stride, jobs: maps.len() as u32, split, ..MatVec::default() };
        for (i, (map, target)) in maps.iter().enumerate() {
            kernel.job[i] = MatJob { first_block: kernel.blocks, ..map.job(target) };
            kernel.blocks += kernel.blocks_of(map.ty, map.rows as u32);
        }
        launch(device, &kernel, &[])?;
    }
    Ok(())
}

/// A root-mean-square norm on the device.
pub(super) struct Norm {
    weight: Memory,
    pub(super) len: usize,
    pub(super) eps: f32,
}

impl Norm {
    pub(super) fn new(device: &dyn Device, norm: &RmsNorm) -> Result<Self, ModelError> {
        let (weight, eps) = norm.parts();
        Ok(Self { weight: vector(device, weight)?, len: weight.len(), eps })
    }

    pub(super) fn weight(&self) -> Address {
        self.weight.address()
    }

    /// Whole rows of [`Norm::len`] values, clamped first if there is a limit.
    pub(super) fn apply(&self, device: &dyn Device, x: Rows, y: Rows, tokens: usize, limit: Option<f32>) -> Result<(), ModelError> {
        self.apply_pieces(device, x, y, tokens, 1, limit)
    }

    /// The same for each of `pieces` pieces of a row, which lie side by side.
    pub(super) fn apply_pieces(
        &self,
        device: &dyn Device,
        x: Rows,
        y: Rows,
        tokens: usize,
        pieces: usize,
        limit: Option<f32>,
    ) -> Result<(), ModelError> {
        let kernel = RmsNormKernel {
            x: x.at,
            weight: self.weight(),
            y: y.at,
            rows: tokens as u32,
            pieces: pieces as u32,
            len: self.len as u32,
            x_stride: x.stride as u32,
            x_piece: self.len as u32,
            y_stride: y.stride as u32,
            eps: self.eps,
            limit: limit.unwrap_or(0.0),
        };
        Ok(launch(device, &kernel, &[])?)
    }
}
