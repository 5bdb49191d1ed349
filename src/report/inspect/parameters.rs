//! How many parameters a model has, how many of them a token uses, and in how many bits they lie.

use super::{expert_tensor, ExpertLine};
use crate::gguf::{shown, Gguf};
use serde::Serialize;
use std::fmt;

/// What a model weighs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Parameters {
    /// Weights of all tensors.
    pub total: u64,
    /// Those that one token uses: all but the experts that it does not choose and layers that only guess further tokens. Embeddings count whole.
    pub active: u64,
    /// Experts per layer, and those of them that a token uses; nothing if the file does not say.
    pub chosen: Option<(u64, u64)>,
    /// Mean bits of a weight.
    pub bits_each: f64,
    /// `general.file_type` by name: what most of the file is quantized to.
    pub file_type: Option<String>,
}

impl Parameters {
    /// Of a file whose layers with experts are these.
    pub(super) fn of(gguf: &Gguf, layers: &[ExpertLine]) -> Self {
        let key = |name: &str| gguf.arch().ok().and_then(|arch| gguf.u64(&format!("{arch}.{name}")).ok().flatten());
        let chosen = key("expert_count").zip(key("expert_used_count")).filter(|(all, used)| *used <= *all && *all > 0);
        let guesses = |name: &str| {
            let block = name.strip_prefix("blk.").and_then(|n| n.split('.').next()).and_then(|n| n.parse::<usize>().ok());
            block.is_some_and(|b| layers.iter().any(|l| l.layer == b && l.predicts))
        };
        let (mut total, mut active, mut bytes) = (0u64, 0u64, 0u64);
        for t in gguf.tensors() {
            let weights = t.elements() as u64;
            total = total.saturating_add(weights);
            bytes = bytes.saturating_add(t.size() as u64);
            active = active.saturating_add(match (expert_tensor(t), chosen) {
                _ if guesses(&t.name) => 0,
                (Some(_), Some((all, used))) => (u128::from(weights) * u128::from(used) / u128::from(all)) as u64,
                _ => weights,
            });
        }
        let bits_each = bytes as f64 * 8.0 / total.max(1) as f64;
        let file_type =
            gguf.get("general.file_type").map(|v| v.as_u64().and_then(name_of).map_or_else(|| shown(&v.summary()), str::to_owned));
        Self { total, active, chosen, bits_each, file_type }
    }
}

/// "30.5 B", "17.2 M", "940".
fn count(n: u64) -> String {
    match n {
        0..1_000_000 => n.to_string(),
        1_000_000..1_000_000_000 => format!("{:.1} M", n as f64 / 1e6),
        _ => format!("{:.1} B", n as f64 / 1e9),
    }
}

impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} parameters", count(self.total))?;
        match self.chosen {
            Some((all, used)) if self.active < self.total => {
                write!(f, ", {} of them used by a token ({used} of {all} experts in a layer)", count(self.active))
            }
            _ if self.active < self.total => write!(f, ", {} of them used by a token", count(self.active)),
            _ => Ok(()),
        }
    }
}

/// Names of `general.file_type`, as `llama_ftype` of llama.cpp's `llama.h` numbers them.
fn name_of(number: u64) -> Option<&'static str> {
    Some(match number {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        19 => "IQ2_XXS",
        20 => "IQ2_XS",
        21 => "Q2_K_S",
        22 => "IQ3_XS",
        23 => "IQ3_XXS",
        24 => "IQ1_S",
        25 => "IQ4_NL",
        26 => "IQ3_S",
        27 => "IQ3_M",
        28 => "IQ2_S",
        29 => "IQ2_M",
        30 => "IQ4_XS",
        31 => "IQ1_M",
        32 => "BF16",
        36 => "TQ1_0",
        37 => "TQ2_0",
        38 => "MXFP4_MOE",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::inspect;
    use super::*;
    use crate::gguf::write::Writer;
    use crate::gguf::{Bytes, GgmlType};

    #[test]
    fn the_experts_that_a_token_does_not_choose_are_not_active() {
        let mut file = Writer::new("qwen3moe").with("qwen3moe.expert_count", 4usize).with("qwen3moe.expert_used_count", 1usize);
        file.set("general.file_type", 15usize);
        file.f32_tensor("token_embd.weight", &[32, 2], &[0.0; 64]);
        file.tensor("blk.0.ffn_up_exps.weight", GgmlType::Q8_0, &[32, 2, 4], vec![0; 34 * 8]);
        let seen = inspect(&Gguf::from_bytes(Bytes::from_vec(file.to_bytes()), "m.gguf").unwrap());
        let p = &seen.parameters;
        assert_eq!((p.total, p.active, p.chosen, p.file_type.as_deref()), (64 + 256, 64 + 64, Some((4, 1)), Some("Q4_K_M")));
        assert!((p.bits_each - (256.0 + 272.0) * 8.0 / 320.0).abs() < 1e-9);
        let text = seen.to_string();
        assert!(text.contains("qwen3moe, 320 parameters, 128 of them used by a token (1 of 4 experts in a layer)"), "{text}");
        assert!(text.contains("Q4_K_M, 13.2 bits per weight"), "{text}");
    }

    #[test]
    fn counts_read_well_and_an_unknown_file_type_is_its_number() {
        assert_eq!([940, 17_200_000, 30_500_000_000].map(count), ["940", "17.2 M", "30.5 B"]);
        let mut file = Writer::new("x\u{1b}");
        file.set("general.file_type", 4040usize);
        let seen = inspect(&Gguf::from_bytes(Bytes::from_vec(file.to_bytes()), "m.gguf").unwrap());
        assert_eq!((seen.parameters.total, seen.parameters.file_type.as_deref()), (0, Some("4040")));
        assert!(seen.to_string().chars().all(|c| c == '\n' || !c.is_control()));
    }
}
