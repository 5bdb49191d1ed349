use super::*;
use crate::gguf::GgmlType;
use crate::gpu::params::{Attention, Glu, MatVec};
use crate::gpu::simulated::{Faults, Options, Simulated};
use crate::kernels::rows::Activation;

/// Small ones, as a model may ask for.
fn cases() -> Vec<Case> {
    let (dims, heads) = ((64, 48), (4, 2));
    vec![
        Case::Glu { activation: Activation::SwiGlu },
        Case::ChunkAttention { dims, heads, position: 3, tokens: 9, splits: 1, gated: true },
        Case::Attention { wide: false, dims, heads, position: 3, tokens: 9, splits: 1, gated: true },
        Case::MatVec { types: [GgmlType::Q8_0, GgmlType::F32], tokens: 1, cols: 64, rows: 5, split: 0 },
        Case::MatVec { types: [GgmlType::Q8_0, GgmlType::F32], tokens: 7, cols: 64, rows: 5, split: 0 },
    ]
}

/// Passes for a GPU.
fn gpu(driver: &'static str, kernels: &'static str) -> Simulated {
    Simulated::new(Options { capability: 89, driver, kernels, ..Options::default() })
}

fn broken(faults: Faults) -> Simulated {
    let device = gpu("580.65", "k");
    device.fail(faults);
    device
}

fn try_all(device: &Simulated, kept: Option<&Kept>, again: bool) -> Result<Proof, ProofError> {
    let proof = prove(device, &cases(), kept, again, &mut |_, _| true);
    assert_eq!((device.used(), device.pinned_used()), (0, 0), "everything is given back");
    proof
}

#[test]
fn what_has_passed_is_tried_once_per_gpu_driver_and_kernels() {
    let folder = tempfile::tempdir().unwrap();
    let kept = Kept::new(&folder.path().join("proofs"));
    let tried = |device: &Simulated, again| {
        let proof = try_all(device, Some(&kept), again).unwrap();
        assert_eq!((proof.tried == 0, proof.tried + proof.known), (device.launches() == 0, 5));
        proof.tried
    };
    assert_eq!(tried(&gpu("580.65", "k"), false), 5);
    assert_eq!(tried(&gpu("580.65", "k"), false), 0);
    assert_eq!(tried(&gpu("580.65", "k"), true), 5, "asked to");
    assert_eq!(tried(&gpu("590.10", "k"), false), 5, "another driver");
    assert_eq!(tried(&gpu("580.65", "other"), false), 5, "other kernels");
    assert_eq!(tried(&gpu("580.65", "k"), false), 0, "the first is still known");
    std::fs::write(folder.path().join("proofs"), "{\"version\":1,\"proofs\":[{}]}").unwrap();
    assert_eq!(tried(&gpu("580.65", "k"), false), 5, "a damaged file");
    let more = [cases(), vec![Case::Add]].concat();
    let proof = prove(&gpu("580.65", "k"), &more, Some(&kept), false, &mut |_, _| true).unwrap();
    assert_eq!((proof.tried, proof.known), (1, 5), "another model");
    assert!(proof.to_string().contains("passed 1 trials in") && proof.to_string().contains("5 at an earlier"), "{proof}");
}

#[test]
fn a_wrong_kernel_is_named_with_the_gpu_the_driver_and_the_remedy_and_never_kept() {
    let folder = tempfile::tempdir().unwrap();
    let kept = Kept::new(&folder.path().join("proofs"));
    for kernel in [Glu::NAME, "join_splits", Attention::NAME, MatVec::NAME, MatVec::FEW] {
        for _ in 0..2 {
            let device = broken(Faults { wrong: Some(kernel), ..Faults::default() });
            let error = try_all(&device, Some(&kept), false).unwrap_err().to_string();
            let tried = if kernel == "join_splits" { Attention::NAME } else { kernel };
            for part in [
                &*format!("kernel `{tried} "),
                "gives wrong results",
                "simulated (capability 8.9, driver 580.65)",
                "gpu-check",
                "--device cpu",
            ] {
                assert!(error.contains(part), "{kernel}: {error}");
            }
        }
    }
    assert_eq!(try_all(&gpu("580.65", "k"), Some(&kept), false).unwrap().known, 4, "those passed where another one was broken");
    let device = broken(Faults { wrong: Some(MatVec::FEW), ..Faults::default() });
    assert_eq!(try_all(&device, Some(&kept), false).unwrap().tried, 0, "what was kept counts");
    assert!(try_all(&device, Some(&kept), true).is_err());
    assert!(try_all(&device, Some(&kept), false).is_err(), "and no more, once it failed");
}

#[test]
fn without_chunk_attention_its_sibling_does_the_same() {
    for (faults, how) in [
        (Faults { wrong: Some(ChunkAttention::NAME), ..Faults::default() }, "gives wrong results"),
        (Faults { refused: Some(ChunkAttention::NAME), ..Faults::default() }, "does not run"),
    ] {
        let proof = try_all(&broken(faults), None, false).unwrap();
        let said = proof.plain_attention.clone().unwrap();
        for part in [how, "`chunk_attention`", "driver 580.65", "`attention`", "gpu-check --only chunk_attention"] {
            assert!(said.contains(part), "{said}");
        }
        assert_eq!(proof.tried, 4);
        assert!(proof.to_string().ends_with(&said));
    }
    let both = Faults { refused: Some(ChunkAttention::NAME), wrong: Some(Attention::NAME), ..Faults::default() };
    assert!(try_all(&broken(both), None, false).is_err(), "neither can be used");
}

#[test]
fn without_the_mailbox_tokens_go_layer_by_layer() {
    let cases = [
        Case::Glu { activation: Activation::SwiGlu },
        Case::AwaitHost { words: 8, said: true },
        Case::TellHost { words: 8 },
        Case::AddAnswer { len: 8, missed: true },
    ];
    for kernel in [AwaitHost::NAME, TellHost::NAME, AddAnswer::NAME] {
        let device = broken(Faults { wrong: Some(kernel), ..Faults::default() });
        let proof = prove(&device, &cases, None, false, &mut |_, _| true).unwrap();
        let said = proof.no_mailbox.clone().unwrap();
        assert!(said.contains(kernel) && said.contains("layer by layer"), "{said}");
        assert_eq!((proof.tried, proof.plain_attention), (3, None));
    }
}

#[test]
fn a_device_that_a_kernel_has_brought_down_is_asked_for_nothing_more() {
    for kernel in [ChunkAttention::NAME, MatVec::NAME] {
        let device = broken(Faults { deadly: Some(kernel), ..Faults::default() });
        let error = try_all(&device, None, false).unwrap_err().to_string();
        assert!(error.contains(&format!("kernel `{kernel} ")) && error.contains("does not run") && error.contains("astray"), "{error}");
        // Up to the fault: SwiGLU, then what is in front of the kernel.
        assert_eq!(device.launches(), if kernel == MatVec::NAME { 5 } else { 2 });
    }
}

#[test]
fn too_little_memory_proves_nothing_of_a_kernel() {
    for faults in [Faults { alloc: Some(2), ..Faults::default() }, Faults { pinned: Some(0), ..Faults::default() }] {
        let error = try_all(&broken(faults), None, false).unwrap_err();
        assert!(matches!(error, ProofError::Gpu(GpuError::OutOfMemory { .. } | GpuError::Pinned { .. })), "{error}");
    }
}

#[test]
fn trials_are_counted_and_can_be_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let kept = Kept::new(&folder.path().join("proofs"));
    let mut told = Vec::new();
    let device = gpu("580.65", "k");
    let given_up = prove(&device, &cases(), Some(&kept), false, &mut |done, of| {
        told.push((done, of));
        done < 2
    });
    assert_eq!((given_up, told), (Err(ProofError::GivenUp), vec![(0, 5), (1, 5), (2, 5)]));
    let mut told = Vec::new();
    prove(&device, &cases(), Some(&kept), false, &mut |done, of| {
        told.push((done, of));
        true
    })
    .unwrap();
    assert_eq!(told, [(0, 3), (1, 3), (2, 3), (3, 3)], "what had passed is kept");
}
