//! Routed experts of a layer by any of the three layouts that files use, bound to their place in the file.

use super::weights::Weights;
use super::ModelError;
use crate::experts::store::{Biases, HostExpert, LayerExperts, Projection};
use crate::gguf::{Bytes, TensorInfo};
use crate::kernels::rows::Activation;
use std::sync::Arc;

/// Sizes that the metadata promises.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) hidden: usize,
    pub(crate) ff: usize,
    pub(crate) experts: usize,
}

/// Gate, up and down, and where they lie for each expert.
type Matrices = ([Projection; 3], Vec<HostExpert>);

/// Whether a tensor holds routed experts (of any layout), and so is not part of the trunk.
pub(crate) fn is_routed(name: &str) -> bool {
    let Some(name) = name.strip_prefix("blk.").and_then(|n| n.split_once('.')).map(|(_, n)| n) else { return false };
    if let Some(stem) = name.strip_suffix("_exps.weight") {
        return matches!(stem, "ffn_gate" | "ffn_up" | "ffn_down" | "ffn_gate_up");
    }
    let mut parts = name.split('.');
    matches!(parts.next(), Some("ffn_gate" | "ffn_up" | "ffn_down"))
        && parts.next().is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        && parts.next() == Some("weight")
}

/// The experts of block `block`, and what is added to what each of them gives, `[experts, hidden]`, if the file has biases.
pub(crate) fn load(
    weights: &Weights<'_>,
    block: usize,
    sizes: Sizes,
    activation: Activation,
) -> Result<(LayerExperts, Option<Vec<f32>>), ModelError> {
    let (shape, experts) = matrices(weights, block, sizes)?;
    let (biases, down) = biases(weights, block, sizes)?.unzip();
    Ok((LayerExperts { shape, activation, biases: biases.map(Arc::new), experts }, down))
}

/// Shapes and bytes, by any of the layouts.
fn matrices(weights: &Weights<'_>, block: usize, sizes: Sizes) -> Result<Matrices, ModelError> {
    let Sizes { hidden, ff, experts } = sizes;
    let name = |stem: &str| format!("blk.{block}.{stem}_exps.weight");
    let one = |stem: &str, e: usize| format!("blk.{block}.{stem}.{e}.weight");
    if weights.has(&name("ffn_gate_up")) {
        return fused(weights, &name("ffn_gate_up"), &name("ffn_down"), sizes);
    }
    if weights.has(&one("ffn_gate", 0)) && !weights.has(&name("ffn_gate")) {
        return single(weights, one, sizes);
    }
    let gate = weights.checked(&name("ffn_gate"), &[hidden, ff, experts])?;
    let up = weights.checked(&name("ffn_up"), &[hidden, ff, experts])?;
    let down = weights.checked(&name("ffn_down"), &[ff, hidden, experts])?;
    let shape = [projection(gate, ff, hidden), projection(up, ff, hidden), projection(down, hidden, ff)];
    let all = [gate, up, down].map(|t| weights.gguf.bytes(t));
    let experts = (0..experts).map(|e| std::array::from_fn(|i| nth(&all[i], shape[i], e))).collect();
    Ok((shape, experts))
}

/// `ffn_gate_exps.bias` and its like: of gate and up, and of down; all three or none. Those of a fused map are halves of one.
fn biases(weights: &Weights<'_>, block: usize, sizes: Sizes) -> Result<Option<(Biases, Vec<f32>)>, ModelError> {
    let Sizes { hidden, ff, experts } = sizes;
    let name = |stem: &str| format!("blk.{block}.ffn_{stem}_exps.bias");
    let (gate, up) = if weights.has(&name("gate_up")) {
        let both = weights.stack(&name("gate_up"), 2 * ff, experts)?;
        let half = |from: usize| both.chunks_exact(2 * ff).flat_map(|b| &b[from..from + ff]).copied().collect::<Vec<_>>();
        (half(0), half(ff))
    } else if ["gate", "up", "down"].iter().any(|stem| weights.has(&name(stem))) {
        (weights.stack(&name("gate"), ff, experts)?, weights.stack(&name("up"), ff, experts)?)
    } else {
        return Ok(None);
    };
    Ok(Some((Biases::new(&gate, &up, ff), weights.stack(&name("down"), hidden, experts)?)))
}

/// Gate and up in one tensor, gate rows first.
fn fused(weights: &Weights<'_>, gate_up: &str, down: &str, sizes: Sizes) -> Result<Matrices, ModelError> {
    let Sizes { hidden, ff, experts } = sizes;
    let gate_up = weights.checked(gate_up, &[hidden, 2 * ff, experts])?;
    let down = weights.checked(down, &[ff, hidden, experts])?;
    let half = projection(gate_up, ff, hidden);
    let shape = [half, half, projection(down, hidden, ff)];
    let (both, down) = (weights.gguf.bytes(gate_up), weights.gguf.bytes(down));
    let expert = |e: usize| -> HostExpert { [nth(&both, half, 2 * e), nth(&both, half, 2 * e + 1), nth(&down, shape[2], e)] };
    Ok((shape, (0..experts).map(expert).collect()))
}

/// One tensor per expert, as files had it before experts were stacked.
fn single(weights: &Weights<'_>, name: impl Fn(&str, usize) -> String, sizes: Sizes) -> Result<Matrices, ModelError> {
    let Sizes { hidden, ff, experts } = sizes;
    let stems = [("ffn_gate", hidden, ff), ("ffn_up", hidden, ff), ("ffn_down", ff, hidden)];
    let mut shape: Option<[Projection; 3]> = None;
    let mut all = Vec::with_capacity(experts);
    for e in 0..experts {
        let mut of = Vec::with_capacity(3);
        for (stem, cols, rows) in stems {
            let tensor = weights.checked(&name(stem, e), &[cols, rows])?;
            of.push((tensor, projection(tensor, rows, cols)));
        }
        let now: [Projection; 3] = std::array::from_fn(|i| of[i].1);
        if let Some(i) = (0..3).find(|&i| shape.is_some_and(|s| s[i] != now[i])) {
            return Err(ModelError::MixedExperts { file: weights.file.clone(), tensor: of[i].0.name.clone(), ty: now[i].ty });
        }
        shape = Some(now);
        all.push(std::array::from_fn(|i| weights.gguf.bytes(of[i].0)));
    }
    // `experts` is at least 1 by the configuration.
    let shape = shape.unwrap_or([Projection { ty: crate::gguf::GgmlType::F32, rows: ff, cols: hidden }; 3]);
    Ok((shape, all))
}

fn projection(tensor: &TensorInfo, rows: usize, cols: usize) -> Projection {
    Projection { ty: tensor.ty, rows, cols }
}

/// Piece number `n` of stacked pieces; the stack's size was checked by its dimensions.
fn nth(stack: &Bytes, p: Projection, n: usize) -> Bytes {
    stack.slice(n * p.bytes()..(n + 1) * p.bytes())
}

#[cfg(test)]
mod tests {
    use super::is_routed;

    #[test]
    fn routed_experts_are_told_from_the_trunk() {
        for name in ["blk.0.ffn_gate_exps.weight", "blk.12.ffn_gate_up_exps.weight", "blk.3.ffn_down.17.weight"] {
            assert!(is_routed(name), "{name}");
        }
        for name in
            ["blk.0.ffn_gate_inp.weight", "blk.0.ffn_gate.weight", "blk.1.ffn_up_shexp.weight", "output.weight", "blk.0.ffn_gate..weight"]
        {
            assert!(!is_routed(name), "{name}");
        }
    }
}
