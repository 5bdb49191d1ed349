//! What is in a model file: metadata, tensor types, expert sizes, and what could not be run.

mod parameters;

pub use parameters::Parameters;

use crate::gguf::{shown, Gguf, GgufError, TensorInfo};
use crate::kernels;
use crate::model::{self, ARCHITECTURES};
use crate::size::size;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// The facts of one model file (or split set).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// The file, or the first of a set.
    pub file: String,
    /// Number of files.
    pub parts: usize,
    /// Bytes of all files.
    pub bytes: u64,
    /// GGUF version.
    pub version: u32,
    /// Tells this file from another; not a checksum.
    pub fingerprint: String,
    /// `general.architecture`.
    pub architecture: Option<String>,
    /// What the model weighs.
    pub parameters: Parameters,
    /// Metadata in file order, long values shortened, control characters escaped.
    pub metadata: Vec<(String, String)>,
    /// One line per tensor type, most bytes first.
    pub types: Vec<TypeLine>,
    /// One line per layer with routed experts.
    pub experts: Vec<ExpertLine>,
    /// There is a block that guesses further tokens when the model runs.
    pub guesses: bool,
    /// Why the file can't be run; empty if nothing speaks against it.
    pub unsupported: Vec<String>,
}

/// All tensors of one type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TypeLine {
    /// ggml's name.
    pub name: String,
    /// Tensors of this type.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Whether it can be computed with.
    pub computable: bool,
}

/// The routed experts of one layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExpertLine {
    /// Block number.
    pub layer: usize,
    /// Experts in the layer.
    pub experts: usize,
    /// Bytes of one expert: gate, up and down.
    pub bytes_each: u64,
    /// Types of its tensors.
    pub types: String,
    /// The layer predicts further tokens; unless it can guess for this program (`Inspection::guesses`), it is left out when the model runs.
    pub predicts: bool,
}

/// Look at an open file.
#[must_use]
pub fn inspect(gguf: &Gguf) -> Inspection {
    let mut by_type: BTreeMap<_, TypeLine> = BTreeMap::new();
    for t in gguf.tensors() {
        let line = by_type.entry(t.ty).or_insert_with(|| TypeLine {
            name: t.ty.to_string(),
            tensors: 0,
            bytes: 0,
            computable: kernels::supported(t.ty),
        });
        line.tensors += 1;
        line.bytes += t.size() as u64;
    }
    let mut types: Vec<TypeLine> = by_type.into_values().collect();
    types.sort_by_key(|line| std::cmp::Reverse(line.bytes));
    let experts = experts(gguf);
    Inspection {
        file: gguf.name().display().to_string(),
        parts: gguf.parts().len(),
        bytes: gguf.len(),
        version: gguf.version(),
        fingerprint: gguf.fingerprint(),
        architecture: gguf.arch().ok().map(shown),
        parameters: Parameters::of(gguf, &experts),
        metadata: gguf.metadata().map(|(key, value)| (shown(key), value.summary())).collect(),
        types,
        experts,
        guesses: model::guesses(gguf),
        unsupported: unsupported(gguf),
    }
}

/// Expert tensors by layer: stacked (`ffn_up_exps`), or one tensor per expert (`ffn_up.3`).
fn experts(gguf: &Gguf) -> Vec<ExpertLine> {
    #[derive(Default)]
    struct Layer {
        experts: usize,
        bytes: u64,
        types: Vec<String>,
    }
    let mut layers: BTreeMap<usize, Layer> = BTreeMap::new();
    for t in gguf.tensors() {
        let Some((layer, count)) = expert_tensor(t) else { continue };
        let entry = layers.entry(layer).or_default();
        entry.experts = entry.experts.max(count);
        entry.bytes += t.size() as u64;
        let name = t.ty.to_string();
        if !entry.types.contains(&name) {
            entry.types.push(name);
        }
    }
    layers
        .into_iter()
        .map(|(layer, l)| ExpertLine {
            layer,
            experts: l.experts,
            bytes_each: l.bytes / l.experts.max(1) as u64,
            types: l.types.join(" "),
            predicts: gguf.tensor(&format!("blk.{layer}.nextn.eh_proj.weight")).is_some(),
        })
        .collect()
}

/// Layer of an expert tensor, and how many experts are known from it.
fn expert_tensor(t: &TensorInfo) -> Option<(usize, usize)> {
    let (layer, rest) = t.name.strip_prefix("blk.")?.split_once('.')?;
    let layer = layer.parse().ok()?;
    let rest = rest.strip_prefix("ffn_")?.strip_suffix(".weight")?;
    let (part, number) = rest.split_once('.').unwrap_or((rest, ""));
    match part {
        "gate_exps" | "up_exps" | "down_exps" | "gate_up_exps" if number.is_empty() => Some((layer, *t.dims.get(2)?)),
        "gate" | "up" | "down" => Some((layer, number.parse::<usize>().ok()?.checked_add(1)?)),
        _ => None,
    }
}

fn unsupported(gguf: &Gguf) -> Vec<String> {
    let mut out = Vec::new();
    match gguf.arch() {
        Ok(arch) if ARCHITECTURES.contains(&arch) => {}
        Ok(arch) => out.push(format!("architecture {} is not supported; known are {}", shown(arch), ARCHITECTURES.join(", "))),
        Err(e) => out.push(e.to_string()),
    }
    for t in gguf.tensors().filter(|t| !kernels::supported(t.ty)) {
        out.push(format!("tensor {} is {}, which can't be computed here", shown(&t.name), t.ty));
        if out.len() > 8 {
            out.push("and more tensors like these".into());
            break;
        }
    }
    match crate::text::Tokenizer::from_gguf(gguf) {
        Ok(_) => {}
        // Without any tokenizer it is a bare model, which is no fault of the file's tokenizer.
        Err(crate::text::TextError::Gguf(GgufError::MissingKey { key, .. })) => out.push(format!("the tokenizer lacks {key}")),
        Err(e) => out.push(e.to_string()),
    }
    out
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", shown(&self.file))?;
        writeln!(f, "  {}, {}", self.architecture.as_deref().unwrap_or("no architecture"), self.parameters)?;
        let file_type = self.parameters.file_type.as_ref().map_or_else(String::new, |name| format!("{name}, "));
        writeln!(f, "  {file_type}{:.1} bits per weight, {}", self.parameters.bits_each, size(self.bytes))?;
        let files = if self.parts == 1 { "1 file".into() } else { format!("{} files", self.parts) };
        writeln!(f, "  GGUF version {}, {files}, fingerprint {}", self.version, self.fingerprint)?;
        writeln!(f, "\nmetadata")?;
        let widest = self.metadata.iter().map(|(k, _)| k.len()).max().unwrap_or(0).min(48);
        for (key, value) in &self.metadata {
            writeln!(f, "  {key:<widest$}  {value}")?;
        }
        writeln!(f, "\ntensors")?;
        for t in &self.types {
            let note = if t.computable { "" } else { "  can't be computed here" };
            writeln!(f, "  {:<8} {:>6} {:>12}{note}", t.name, t.tensors, size(t.bytes))?;
        }
        if !self.experts.is_empty() {
            writeln!(f, "\nexperts")?;
        }
        // Neighbouring layers that are alike share a line.
        let mut rest = self.experts.as_slice();
        while let Some(first) = rest.first() {
            let alike = |l: &&ExpertLine| ExpertLine { layer: first.layer, ..(*l).clone() } == *first;
            let n = rest.iter().take_while(alike).count();
            let layers = if n == 1 { format!("layer {}", first.layer) } else { format!("layers {}-{}", first.layer, rest[n - 1].layer) };
            let note = match (first.predicts, self.guesses) {
                (true, true) => "  guesses further tokens",
                (true, false) => "  predicts further tokens, left out",
                (false, _) => "",
            };
            writeln!(f, "  {layers:<14} {:>4} x {:>11}  {}{note}", first.experts, size(first.bytes_each), first.types)?;
            rest = &rest[n..];
        }
        if self.guesses && self.experts.is_empty() {
            writeln!(f, "\na block behind the layers guesses further tokens")?;
        }
        for why in &self.unsupported {
            writeln!(f, "\ncan't be run: {why}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::write::Writer;
    use crate::gguf::{Bytes, GgmlType};

    fn look(file: &Writer) -> Inspection {
        inspect(&Gguf::from_bytes(Bytes::from_vec(file.to_bytes()), "m.gguf").unwrap())
    }

    #[test]
    fn the_demo_model_is_described_without_objections() {
        let seen = inspect(&Gguf::from_static(crate::demo::gguf(), "demo").unwrap());
        assert_eq!(seen.architecture.as_deref(), Some("qwen3moe"));
        assert_eq!(seen.unsupported, Vec::<String>::new());
        assert_eq!((seen.experts.len(), seen.experts[0].experts), (6, 32));
        let tensors: u64 = seen.types.iter().map(|t| t.bytes).sum();
        assert!(tensors < seen.bytes && tensors > seen.bytes / 2);
        let text = seen.to_string();
        assert!(text.contains("layers 0-5") && text.lines().all(|l| l.chars().count() < 400), "{text}");
    }

    #[test]
    fn stacked_and_single_experts_are_both_counted() {
        let mut file = Writer::new("llama");
        file.tensor("blk.0.ffn_up_exps.weight", GgmlType::Q8_0, &[32, 2, 4], vec![0; 34 * 8]);
        for e in 0..3 {
            file.tensor(&format!("blk.1.ffn_up.{e}.weight"), GgmlType::Q4_0, &[32, 2], vec![0; 36]);
        }
        let seen = look(&file);
        assert_eq!(seen.experts[0], ExpertLine { layer: 0, experts: 4, bytes_each: 68, types: "q8_0".into(), predicts: false });
        assert_eq!(seen.experts[1], ExpertLine { layer: 1, experts: 3, bytes_each: 36, types: "q4_0".into(), predicts: false });
    }

    #[test]
    fn what_can_not_run_is_said_and_nothing_steers_the_terminal() {
        let mut file = Writer::new("mamba\u{1b}[2J").with("general.name", "a\u{7}b");
        file.tensor("x", GgmlType::NVFP4, &[64], vec![0; 36]);
        let text = look(&file).to_string();
        assert!(
            text.contains("architecture mamba") && text.contains("tensor x is nvfp4") && text.contains("lacks tokenizer.ggml.model"),
            "{text}"
        );
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
    }
}
