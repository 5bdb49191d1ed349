use super::*;
use crate::events::{Phase, StepRecord};
use crate::gpu::params::{
    tiled, AddAnswer, AddNormed, Attention, BiasedGroupedUp, BiasedUp, ChunkAttention, Convolve, DeltaRule, ExpertsDown, ExpertsUp,
    GatedNorm, Glu, GroupedDown, GroupedUp, HeadMaps, JoinSunk, Kernel, LatentAttention, LatentRows, MatMul, MatVec, RmsNorm, Rotate,
    Route, RoutedBias, ShortConv, WindowAttention, WindowChunkAttention,
};
use crate::gpu::simulated::{Faults, Options, Simulated};
use crate::model::{open_planned, Logits, Opened};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

fn demo() -> Gguf {
    Gguf::from_static(crate::demo::gguf(), "demo").unwrap()
}

fn fixture(name: &str) -> Gguf {
    Gguf::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures").join(name).join("model.gguf")).unwrap()
}

const FIXTURES: [&str; 25] = [
    "glm-flash",
    "glm-flash-q4_k_m",
    "glm4moe",
    "glm4moe-normed",
    "qwen3vlmoe",
    "qwen2moe",
    "minimax-m2",
    "lfm2moe",
    "lfm2moe-four",
    "gemma4",
    "gemma4-dense",
    "gemma4-q4_k_m",
    "gpt-oss",
    "gpt-oss-mxfp4",
    "odd",
    "olmoe",
    "q2_k",
    "q35-odd",
    "q35-q3_k_m",
    "q35-strict",
    "q4_0",
    "q4_k_m",
    "qwen35",
    "qwen3next",
    "strict",
];

/// A device that passes for a GPU.
fn gpu(faults: Faults) -> Simulated {
    let device = Simulated::new(Options { capability: 89, driver: "580.65", ..Options::default() });
    device.fail(faults);
    device
}

fn options(device: DeviceChoice) -> LoadOptions {
    LoadOptions { device, slots: Some(4), context: Some(64), hold: When::Never, threads: Some(1), ..LoadOptions::default() }
}

fn proven(gguf: &Gguf, options: &LoadOptions, device: &Simulated) -> Result<Proven, ModelError> {
    let chosen = Chosen { device: Some(Arc::new(device.clone())), lacks: None };
    let planned = plan_on(gguf, options, u64::MAX, Some(device)).unwrap();
    prove(gguf, options, chosen, planned, &mut |_, _| true)
}

fn opened(gguf: &Gguf, options: &LoadOptions, proven: Proven) -> Opened {
    open_planned(gguf, options, proven.planned, Pool::new(1), proven.chosen.device, &mut |_, _| true).unwrap()
}

/// A prompt, a few tokens, and one.
fn talk(model: &mut Opened) -> Vec<f32> {
    let mut out = Vec::new();
    for tokens in [&[3u32, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9][..], &[7, 9, 3], &[2], &[3]] {
        model.experts.begin_step(if tokens.len() > 1 { Phase::Prefill } else { Phase::Decode }, tokens.len());
        out.extend(model.model.forward(tokens, &mut model.experts, Logits::Last, &|| false).unwrap().unwrap());
        model.experts.end_step(&mut StepRecord::default());
    }
    out
}

/// Of a launch, what decides which way its kernel goes, in words.
fn ways(kernel: &'static str, params: &[u8]) -> Vec<String> {
    fn read<K: Kernel>(params: &[u8]) -> K {
        bytemuck::pod_read_unaligned(params)
    }
    // How many warps share a row.
    let share = |cols: u32| (cols / 1024).min(4).next_power_of_two();
    match kernel {
        MatVec::NAME | MatVec::FEW => {
            let k: MatVec = read(params);
            let tile = |ty| tiled(ty, k.cols);
            k.job[..k.jobs as usize]
                .iter()
                .map(|j| format!("{kernel} {} {} {} {}", j.ty, tile(j.ty), k.cols % 256, if k.gate.0 != 0 { "gated" } else { "" }))
                .chain([format!("{kernel} rows shared by {}", share(k.cols))])
                .collect()
        }
        MatMul::NAME => {
            let k: MatMul = read(params);
            vec![format!("{kernel} {} {} {}", k.job.ty, k.cols % 256, k.job.bias.0 != 0)]
        }
        Rotate::NAME => {
            let k: Rotate = read(params);
            vec![format!("{kernel} {}/{} {} {} {} {}", k.key_dim, k.value_dim, k.half, k.wide, k.q_norm.0 != 0, k.ring)]
        }
        Attention::NAME => {
            let k: Attention = read(params);
            let many = k.tokens > MatVec::TOKENS;
            vec![format!("{kernel} {}/{} {} {} {many}", k.key_dim, k.value_dim, k.wide, k.heads / k.groups)]
        }
        WindowAttention::NAME => {
            let WindowAttention { of, window, .. } = read(params);
            let many = of.tokens > MatVec::TOKENS;
            vec![format!("{kernel} {}/{} {} {} {window} {many}", of.key_dim, of.value_dim, of.wide, of.heads / of.groups)]
        }
        JoinSunk::NAME => vec![format!("{kernel} {}", read::<JoinSunk>(params).of.value_dim)],
        BiasedUp::NAME => {
            let BiasedUp { of: k, activation, bias, .. } = read(params);
            let way = format!("{kernel} {} {} {} {} {activation} {}", k.gate_ty, k.up_ty, k.cols % 256, share(k.cols), bias.0 != 0);
            vec![way, format!("{kernel} {}", k.top_k)]
        }
        BiasedGroupedUp::NAME => {
            let BiasedGroupedUp { of: k, activation, bias, .. } = read(params);
            vec![format!("{kernel} {} {} {} {activation} {}", k.gate_ty, k.up_ty, k.cols % 256, bias.0 != 0)]
        }
        RoutedBias::NAME => vec![format!("{kernel} {}", read::<RoutedBias>(params).top_k)],
        AddAnswer::NAME => vec![format!("{kernel} {}", read::<AddAnswer>(params).len % 4)],
        ChunkAttention::NAME => {
            let k: ChunkAttention = read(params);
            vec![format!("{kernel} {}/{} {} {}", k.key_dim, k.value_dim, k.heads / k.groups, k.gate.0 != 0)]
        }
        WindowChunkAttention::NAME => {
            let WindowChunkAttention { of: k, sinks, window, .. } = read(params);
            let ways = (k.heads / k.groups, k.gate.0 != 0, sinks.0 != 0, window == u32::MAX);
            vec![format!("{kernel} {}/{} {ways:?}", k.key_dim, k.value_dim)]
        }
        LatentRows::NAME => {
            let k: LatentRows = read(params);
            vec![format!("{kernel} {} {} {}", k.rank, k.turned, k.wide)]
        }
        HeadMaps::NAME => {
            let k: HeadMaps = read(params);
            vec![format!("{kernel} {} {} {}", k.ty, k.cols, k.tokens == 1)]
        }
        LatentAttention::NAME => {
            let LatentAttention { of: k } = read(params);
            let many = k.tokens > MatVec::TOKENS;
            vec![format!("{kernel} {}/{} {} {} {many}", k.key_dim, k.value_dim, k.wide, k.heads % 4 == 0)]
        }
        Convolve::NAME => vec![format!("{kernel} {}", read::<Convolve>(params).width)],
        ShortConv::NAME => vec![format!("{kernel} {}", read::<ShortConv>(params).width)],
        DeltaRule::NAME => {
            let k: DeltaRule = read(params);
            vec![format!("{kernel} {} x {}", k.key_dim, k.value_dim)]
        }
        GatedNorm::NAME => {
            let k: GatedNorm = read(params);
            vec![format!("{kernel} {} {}", k.dim, k.place.0 != 0)]
        }
        Route::NAME => {
            let k: Route = read(params);
            vec![format!("{kernel} {} of {} {} {} {}", k.top_k, k.experts, k.renormalise, k.factors.0 != 0, k.sigmoid)]
        }
        ExpertsUp::NAME => {
            let k: ExpertsUp = read(params);
            vec![format!("{kernel} {} {} {} {}", k.gate_ty, k.up_ty, k.cols % 256, share(k.cols)), format!("{kernel} {}", k.top_k)]
        }
        ExpertsDown::NAME => {
            let k: ExpertsDown = read(params);
            vec![format!("{kernel} {} {} {}", k.ty, k.cols % 256, k.top_k)]
        }
        GroupedUp::NAME => {
            let k: GroupedUp = read(params);
            vec![format!("{kernel} {} {} {}", k.gate_ty, k.up_ty, k.cols % 256)]
        }
        GroupedDown::NAME => {
            let k: GroupedDown = read(params);
            vec![format!("{kernel} {} {}", k.ty, k.cols % 256)]
        }
        RmsNorm::NAME => {
            let k: RmsNorm = read(params);
            vec![format!("{kernel} {} {}", k.len, k.limit > 0.0)]
        }
        Glu::NAME => vec![format!("{kernel} {}", read::<Glu>(params).activation)],
        AddNormed::NAME => {
            let k: AddNormed = read(params);
            vec![format!("{kernel} {} {}", k.len, k.b.0 != 0)]
        }
        other => vec![other.to_owned()],
    }
}

/// Tells the ways of every launch from now on.
fn watch(device: &Simulated) -> Arc<Mutex<BTreeSet<String>>> {
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let told = seen.clone();
    device.on_launch(move |kernel, params| told.lock().unwrap().extend(ways(kernel, params)));
    seen
}

#[test]
fn every_reference_model_opens_and_launches_nothing_that_was_not_tried() {
    for name in FIXTURES.into_iter().chain(["demo"]) {
        let gguf = if name == "demo" { demo() } else { fixture(name) };
        for kv_f32 in [false, true] {
            // Without experts there are no slots.
            let slots = (!["qwen35", "gemma4-dense"].contains(&name)).then_some(2);
            let options = LoadOptions { kv_f32, slots, foresee: When::Always, ahead: Some(1), ..options(DeviceChoice::Auto) };
            let device = gpu(Faults::default());
            let tried = watch(&device);
            let proven = proven(&gguf, &options, &device).unwrap_or_else(|e| panic!("{name}: {e}"));
            let proof = proven.proof.clone().unwrap().unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!((proof.known, &proof.plain_attention), (0, &None), "{name}");
            assert!(proven.told().unwrap().contains(&format!("passed {} trials", proof.tried)), "{name}");
            let used = watch(&device);
            talk(&mut opened(&gguf, &options, proven));
            let (tried, used) = (tried.lock().unwrap(), used.lock().unwrap());
            let missing: Vec<_> = used.difference(&tried).collect();
            assert!(missing.is_empty() && used.len() > 10, "{name}: {missing:?} of {used:?}");
        }
    }
}

#[test]
fn a_gpu_with_one_wrong_kernel_gives_way_to_the_cpu_or_is_refused_if_it_was_asked_for() {
    let gguf = fixture("q35-strict");
    let mut cpu = crate::model::open(&gguf, &options(DeviceChoice::Cpu), Pool::new(1)).unwrap();
    let want = talk(&mut cpu);
    for kernel in [MatVec::NAME, MatVec::FEW, MatMul::NAME, ExpertsUp::NAME, GroupedDown::NAME, DeltaRule::NAME, Route::NAME, RmsNorm::NAME]
    {
        for (faults, how) in [
            (Faults { wrong: Some(kernel), ..Faults::default() }, "gives wrong results"),
            (Faults { deadly: Some(kernel), ..Faults::default() }, "does not run"),
        ] {
            let options = |device| LoadOptions { vram: Some(1 << 30), ..options(device) };
            let device = gpu(faults);
            let proven = proven(&gguf, &options(DeviceChoice::Auto), &device).unwrap();
            let told = proven.told().unwrap();
            for part in ["kernel `", how, "driver 580.65", "gpu-check", "computes on the processor, as it does now"] {
                assert!(told.contains(part), "{kernel}: {told}");
            }
            let lacks = proven.chosen.lacks.clone().unwrap();
            assert!(lacks.ends_with(&format!(" {how} on the GPU")) && lacks.len() < 60, "{kernel}: {lacks}");
            assert!(proven.planned.plan.device.is_none() && proven.chosen.device.is_none(), "{kernel}");
            let launched = device.launches();
            let mut model = opened(&gguf, &options(DeviceChoice::Auto), proven);
            assert_eq!(talk(&mut model), want, "{kernel}");
            assert_eq!((device.launches(), device.used(), device.pinned_used()), (launched, 0, 0), "{kernel}: it is left alone");

            for asked in [DeviceChoice::Gpu, DeviceChoice::Simulated] {
                let refused = self::proven(&gguf, &options(asked), &gpu(faults)).err().unwrap();
                let words = refused.to_string();
                assert!(matches!(refused, ModelError::Gpu(GpuError::Unproven { .. })), "{kernel}: {words}");
                assert!(words.contains(how) && words.contains("--device cpu"), "{kernel}: {words}");
            }
        }
    }
}

#[test]
fn prompts_go_through_the_sibling_of_chunk_attention_where_that_fails() {
    let cases = [("q35-strict", ChunkAttention::NAME), ("gpt-oss", WindowChunkAttention::NAME), ("gemma4", WindowChunkAttention::NAME)];
    for (name, kernel) in cases {
        let gguf = fixture(name);
        let options = LoadOptions { miss: crate::events::MissChoice::Gpu, ahead: Some(0), ..options(DeviceChoice::Gpu) };
        let run = |faults| {
            let device = gpu(faults);
            let proven = proven(&gguf, &options, &device).unwrap();
            let told = proven.told().unwrap();
            let used = watch(&device);
            let logits = talk(&mut opened(&gguf, &options, proven));
            let used = used.lock().unwrap();
            (logits, told, used.iter().any(|way| way.starts_with(kernel)))
        };
        let whole = run(Faults::default());
        for faults in [Faults { wrong: Some(kernel), ..Faults::default() }, Faults { refused: Some(kernel), ..Faults::default() }] {
            let without = run(faults);
            assert_eq!((whole.2, without.2), (true, false), "{name}");
            assert!(without.1.contains("prompts go through `attention`") && !whole.1.contains("`attention`"), "{}", without.1);
            assert!(whole.0.iter().zip(&without.0).all(|(a, b)| (a - b).abs() < 1e-3), "{name}: the same logits");
        }
    }
}

#[test]
fn nothing_is_tried_where_nobody_wants_it() {
    let gguf = fixture("strict");
    let wrong = Faults { wrong: Some(MatVec::NAME), ..Faults::default() };
    let tried = |device: &Simulated, prove| {
        let proven = proven(&gguf, &LoadOptions { prove, ..options(DeviceChoice::Gpu) }, device);
        assert!(proven.as_ref().is_ok_and(|p| p.chosen.device.is_some() && p.told().is_none()) || device.launches() > 0);
        proven.is_err()
    };
    let real = || gpu(wrong);
    let simulated = || {
        let device = Simulated::new(Options::default());
        device.fail(wrong);
        device
    };
    assert_eq!([When::Never, When::Auto, When::Always].map(|prove| tried(&real(), prove)), [false, true, true]);
    assert_eq!([When::Never, When::Auto, When::Always].map(|prove| tried(&simulated(), prove)), [false, false, true]);
    let none = Chosen { device: None, lacks: Some("no CUDA driver".into()) };
    let planned = plan_on(&gguf, &options(DeviceChoice::Auto), u64::MAX, None).unwrap();
    let on_cpu =
        prove(&gguf, &LoadOptions { prove: When::Always, ..options(DeviceChoice::Auto) }, none, planned, &mut |_, _| true).unwrap();
    assert_eq!((on_cpu.proof, on_cpu.chosen.lacks.as_deref()), (None, Some("no CUDA driver")));
}

#[test]
fn a_second_start_tries_nothing_and_says_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let options = |prove| LoadOptions { prove, proofs: Some(folder.path().join("state/proofs.json")), ..options(DeviceChoice::Gpu) };
    let tried = |name: &str, prove| {
        let device = gpu(Faults::default());
        let proven = proven(&fixture(name), &options(prove), &device).unwrap();
        assert_eq!(proven.told().is_some(), device.launches() > 0);
        proven.proof.map(|p| p.map(|p| (p.tried, p.known)).unwrap())
    };
    let (first, none) = tried("strict", When::Auto).unwrap();
    assert_eq!(none, 0);
    assert_eq!(tried("strict", When::Auto), Some((0, first)));
    assert_eq!(tried("strict", When::Never), None);
    assert_eq!(tried("strict", When::Always), Some((first, 0)));
    let (new, known) = tried("q4_k_m", When::Auto).unwrap();
    assert!(new > 0 && known > 0, "another model tries what is new to the GPU: {new}, and {known} are known");
}
