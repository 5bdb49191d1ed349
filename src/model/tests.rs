//! Whole models: the built-in one, and small made-up ones.

use super::*;
use crate::events::{LoadOptions, Phase, StepRecord};
use crate::gguf::Gguf;
use crate::kernels::Pool;

fn demo(options: &LoadOptions) -> Opened {
    let gguf = Gguf::from_static(crate::demo::gguf(), "demo").unwrap();
    open(&gguf, options, Pool::new(2)).unwrap()
}

fn step(m: &mut Opened, tokens: &[u32], phase: Phase) -> (Vec<f32>, StepRecord) {
    m.experts.begin_step(phase, tokens.len());
    let logits = m.model.forward(tokens, &mut m.experts, Logits::Last, &|| false).unwrap().unwrap();
    let mut record = StepRecord::default();
    m.experts.end_step(&mut record);
    (logits, record)
}

fn best(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
}

#[test]
fn the_demo_model_runs() {
    let mut m = demo(&LoadOptions::default());
    let (logits, record) = step(&mut m, &[1, 300, 77, 1000], Phase::Prefill);
    assert_eq!(logits.len(), m.model.vocab());
    assert_eq!(record.layers(), 6);
    let mut out = vec![best(&logits)];
    for _ in 0..8 {
        let (logits, record) = step(&mut m, &[*out.last().unwrap()], Phase::Decode);
        out.push(best(&logits));
        assert_eq!(record.layer(5).len(), 4);
    }
    eprintln!("{out:?}");
}
