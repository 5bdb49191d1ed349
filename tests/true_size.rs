//! Qwen3.6-35B-A3B at its true size: a sparse file with the real names, types, shapes and offsets, and no data. What is said of
//! such a file before anything is loaded is tested here on 21 GB that take no disk.

use rotary::engine;
use rotary::events::{Command, Event, FailureKind, LoadOptions, ModelSource, Plan, When};
use rotary::gguf::write::Writer;
use rotary::gguf::{GgmlType, Gguf};
use rotary::model;
use rotary::report::{inspect::inspect, plan::table};
use std::path::PathBuf;

const GIB: u64 = 1 << 30;
const HIDDEN: usize = 2048;
const VOCAB: usize = 248_320;
/// Layers whose down projections have more bits than the others'.
const WIDE: [usize; 3] = [34, 38, 39];
/// Bytes of an expert: gate and up in Q4_K, down in Q5_K; and in Q6_K.
const EXPERT: u64 = 2 * 589_824 + 720_896;
const WIDE_EXPERT: u64 = 2 * 589_824 + 860_160;

/// Writes the file: the types of a Q4_K_M mix that keeps the trunk in Q8_0.
fn generate(path: &std::path::Path) {
    let mut w = Writer::new("qwen35moe").with("general.name", "Qwen3.6 35B A3B").with("general.size_label", "35B-A3B");
    for (key, value) in [("general.sampling.top_k", 20usize), ("general.file_type", 15), ("general.quantization_version", 2)] {
        w.set(key, value);
    }
    w.set("general.sampling.top_p", 0.95f32);
    w.set("general.sampling.temp", 1.0f32);
    for (key, value) in [
        ("block_count", 41usize),
        ("context_length", 262_144),
        ("embedding_length", HIDDEN),
        ("attention.head_count", 16),
        ("attention.head_count_kv", 2),
        ("attention.key_length", 256),
        ("attention.value_length", 256),
        ("rope.dimension_count", 64),
        ("expert_count", 256),
        ("expert_used_count", 8),
        ("expert_feed_forward_length", 512),
        ("expert_shared_feed_forward_length", 512),
        ("ssm.conv_kernel", 4),
        ("ssm.state_size", 128),
        ("ssm.group_count", 16),
        ("ssm.time_step_rank", 32),
        ("ssm.inner_size", 4096),
        ("full_attention_interval", 4),
        ("nextn_predict_layers", 1),
    ] {
        w.set(&format!("qwen35moe.{key}"), value);
    }
    w.set("qwen35moe.attention.layer_norm_rms_epsilon", 1e-6f32);
    w.set("qwen35moe.rope.freq_base", 1e7f32);
    w.set("qwen35moe.rope.dimension_sections", vec![11u32, 11, 10, 0]);
    tokenizer(&mut w);
    tensors(&mut w);
    w.save(path).unwrap();
}

/// As many tokens as the model has, with the marks where they are; the words between are numbers.
fn tokenizer(w: &mut Writer) {
    let bytes = (0..256u32).map(|b| match b {
        33..=126 | 161..=172 | 174..=255 => char::from_u32(b).unwrap(),
        _ => char::from_u32(256 + (0..b).filter(|b| !matches!(b, 33..=126 | 161..=172 | 174..=255)).count() as u32).unwrap(),
    });
    let mut tokens: Vec<String> = bytes.map(String::from).collect();
    tokens.extend((tokens.len()..VOCAB).map(|i| format!("t{i}")));
    let mut kinds = vec![1u32; VOCAB];
    for (id, text, kind) in [
        (248_044, "<|endoftext|>", 3),
        (248_045, "<|im_start|>", 3),
        (248_046, "<|im_end|>", 3),
        (248_063, "<|fim_pad|>", 3),
        (248_064, "<|repo_name|>", 3),
        (248_065, "<|file_sep|>", 3),
        (248_068, "<think>", 4),
        (248_069, "</think>", 4),
    ] {
        text.clone_into(&mut tokens[id]);
        kinds[id] = kind;
    }
    w.set("tokenizer.ggml.model", "gpt2");
    w.set("tokenizer.ggml.pre", "qwen35");
    w.set("tokenizer.ggml.tokens", tokens);
    w.set("tokenizer.ggml.token_type", kinds);
    w.set("tokenizer.ggml.merges", Vec::<String>::new());
    w.set("tokenizer.ggml.eos_token_id", 248_046usize);
    w.set("tokenizer.ggml.bos_token_id", 248_044usize);
    w.set("tokenizer.ggml.padding_token_id", 248_055usize);
    w.set("tokenizer.ggml.add_bos_token", false);
}

fn tensors(w: &mut Writer) {
    use GgmlType::{BF16, F32, Q4K, Q5K, Q6K, Q8_0};
    w.hole("token_embd.weight", Q8_0, &[HIDDEN, VOCAB]);
    w.hole("output.weight", Q6K, &[HIDDEN, VOCAB]);
    w.hole("output_norm.weight", F32, &[HIDDEN]);
    for b in 0..41 {
        let n = |part: &str| format!("blk.{b}.{part}");
        w.hole(&n("attn_norm.weight"), F32, &[HIDDEN]);
        w.hole(&n("post_attention_norm.weight"), F32, &[HIDDEN]);
        if (b + 1) % 4 == 0 || b == 40 {
            for (part, cols, rows) in [("q", HIDDEN, 8192), ("k", HIDDEN, 512), ("v", HIDDEN, 512), ("output", 4096, HIDDEN)] {
                w.hole(&n(&format!("attn_{part}.weight")), Q8_0, &[cols, rows]);
            }
            w.hole(&n("attn_q_norm.weight"), F32, &[256]);
            w.hole(&n("attn_k_norm.weight"), F32, &[256]);
        } else {
            for (part, cols, rows) in [("attn_qkv", HIDDEN, 8192), ("attn_gate", HIDDEN, 4096), ("ssm_out", 4096, HIDDEN)] {
                w.hole(&n(&format!("{part}.weight")), Q8_0, &[cols, rows]);
            }
            w.hole(&n("ssm_alpha.weight"), F32, &[HIDDEN, 32]);
            w.hole(&n("ssm_beta.weight"), F32, &[HIDDEN, 32]);
            w.hole(&n("ssm_conv1d.weight"), F32, &[4, 8192]);
            w.hole(&n("ssm_dt.bias"), F32, &[32]);
            w.hole(&n("ssm_a"), F32, &[32]);
            w.hole(&n("ssm_norm.weight"), F32, &[128]);
        }
        w.hole(&n("ffn_gate_inp.weight"), if b == 40 { BF16 } else { F32 }, &[HIDDEN, 256]);
        w.hole(&n("ffn_gate_exps.weight"), Q4K, &[HIDDEN, 512, 256]);
        w.hole(&n("ffn_up_exps.weight"), Q4K, &[HIDDEN, 512, 256]);
        w.hole(&n("ffn_down_exps.weight"), if WIDE.contains(&b) { Q6K } else { Q5K }, &[512, HIDDEN, 256]);
        w.hole(&n("ffn_gate_inp_shexp.weight"), if b == 40 { BF16 } else { F32 }, &[HIDDEN]);
        w.hole(&n("ffn_gate_shexp.weight"), Q8_0, &[HIDDEN, 512]);
        w.hole(&n("ffn_up_shexp.weight"), Q8_0, &[HIDDEN, 512]);
        w.hole(&n("ffn_down_shexp.weight"), Q8_0, &[512, HIDDEN]);
    }
    w.hole("blk.40.nextn.eh_proj.weight", Q8_0, &[2 * HIDDEN, HIDDEN]);
    for part in ["enorm", "hnorm", "shared_head_norm"] {
        w.hole(&format!("blk.40.nextn.{part}.weight"), F32, &[HIDDEN]);
    }
}

struct Big {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn big() -> Big {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Qwen3.6-35B-A3B-Q4_K_M.gguf");
    generate(&path);
    Big { _folder: folder, path }
}

fn plan(gguf: &Gguf, options: &LoadOptions, available: u64) -> Result<Plan, String> {
    model::plan(gguf, options, available).map_err(|e| e.to_string())
}

/// Without the block that guesses further tokens.
fn ram(gib: f64) -> LoadOptions {
    LoadOptions { ram: Some((gib * GIB as f64) as u64), draft: When::Never, ..LoadOptions::default() }
}

#[test]
fn a_file_of_21_gb_takes_no_disk_and_inspect_tells_what_is_in_it() {
    let big = big();
    let gguf = Gguf::open(&big.path).unwrap();
    assert!((22 * GIB..25 * GIB).contains(&(gguf.len() + 2 * GIB)), "{} bytes", gguf.len());
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let disk = std::fs::metadata(&big.path).unwrap().blocks() * 512;
        assert!(disk < 64 << 20, "{disk} bytes on the disk");
    }
    let seen = inspect(&gguf);
    assert_eq!(seen.architecture.as_deref(), Some("qwen35moe"));
    assert_eq!(seen.unsupported, Vec::<String>::new());
    let mut types: Vec<(&str, usize)> = seen.types.iter().map(|t| (t.name.as_str(), t.tensors)).collect();
    types.sort_unstable();
    assert_eq!(types, [("bf16", 2), ("f32", 368), ("q4_K", 82), ("q5_K", 38), ("q6_K", 4), ("q8_0", 259)], "as in the published file");
    assert_eq!(seen.experts.len(), 41);
    for line in &seen.experts {
        let bytes = if WIDE.contains(&line.layer) { WIDE_EXPERT } else { EXPERT };
        assert_eq!((line.experts, line.bytes_each, line.predicts), (256, bytes, line.layer == 40), "{line:?}");
    }
    let text = seen.to_string();
    for line in ["layers 0-33", "layer 34", "layers 35-37", "layers 38-39", "q4_K q6_K", "guesses further tokens"] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn the_file_says_how_to_sample_and_where_answers_end() {
    let big = big();
    let gguf = Gguf::open(&big.path).unwrap();
    let tokenizer = rotary::text::Tokenizer::from_gguf(&gguf).unwrap();
    assert_eq!(tokenizer.ends().collect::<Vec<_>>(), [248_044, 248_046, 248_063, 248_064, 248_065]);
    let s = engine::sampling::defaults_from_gguf(&gguf);
    assert_eq!((s.temperature, s.top_k, s.top_p), (1.0, 20, 0.95));
}

#[test]
fn what_a_gpu_has_to_prove_for_it_is_little_and_has_all_its_types() {
    use rotary::gpu::trial::Case;
    use GgmlType::{Q4K, Q5K, Q6K};
    let big = big();
    let gguf = Gguf::open(&big.path).unwrap();
    let cases = model::proof::cases(&gguf, &LoadOptions::default(), true).unwrap();
    assert!(cases.len() < 80, "{}", cases.len());
    for down in [Q5K, Q6K] {
        let of = |c: &&Case| matches!(c, Case::Experts { types, .. } | Case::Grouped { types, .. } if *types == [Q4K, Q4K, down]);
        assert_eq!(cases.iter().filter(of).count(), 3, "{down}");
    }
    let attention = |c: &Case| matches!(c, Case::ChunkAttention { dims: (256, 256), gated: true, .. });
    assert!(cases.iter().any(attention) && cases.iter().any(|c| matches!(c, Case::DeltaRule { dims: (128, 128), .. })), "{cases:?}");
    // Numbers that the reference reads of weights, rows by columns: some millions, where the model has 35 billion.
    let read: u64 = cases
        .iter()
        .map(|c| match *c {
            Case::MatVec { cols, rows, .. } | Case::MatMul { cols, rows, .. } => u64::from(cols) * u64::from(rows),
            Case::Experts { hidden, inner, out, top_k, tokens, .. } => {
                u64::from(inner) * u64::from(2 * hidden + out) * u64::from(tokens * top_k)
            }
            Case::Grouped { hidden, inner, out, .. } => 3 * u64::from(inner) * u64::from(2 * hidden + out),
            _ => 0,
        })
        .sum();
    assert!(read < 100_000_000, "{read}");
}

#[test]
fn the_plan_keeps_every_budget_and_shows_slots_of_each_size() {
    let big = big();
    let gguf = Gguf::open(&big.path).unwrap();
    let mut slots = Vec::new();
    for gib in [4.0, 6.3, 8.0, 12.0, 16.0, 24.0] {
        let budget = (gib * GIB as f64) as u64;
        let p = plan(&gguf, &ram(gib), 0).unwrap();
        let used = p.trunk + p.cache + p.buffers + p.window + p.slots;
        assert!(used <= budget && (used + p.slot_step > budget || p.slots_per_layer == 256), "{gib} GiB: {p:?}");
        // 40 of 41 layers: the prediction block is not loaded. Slots are counted in whole pages.
        assert_eq!(p.slot_bytes.len(), 40);
        assert_eq!(p.slot_step, 37 * EXPERT.next_multiple_of(4096) + 3 * WIDE_EXPERT.next_multiple_of(4096));
        assert_eq!(p.experts, 256 * (37 * EXPERT + 3 * WIDE_EXPERT));
        // 30 states of 32 heads of 128 x 128, and 3 rows of the convolution, with six copies; 20 kB of keys and values a token.
        let state = 30 * 4 * (32 * 128 * 128 + 3 * 8192);
        assert_eq!(p.states, 7 * state);
        assert_eq!(p.cache - p.states, 20_480 * p.context as u64);
        slots.push(p.slots_per_layer);
    }
    assert!(slots.windows(2).all(|w| w[0] < w[1]), "{slots:?}");
    assert!((4..40).contains(&slots[0]) && *slots.last().unwrap() == 256, "{slots:?}");
    let text = table(&plan(&gguf, &ram(8.0), 0).unwrap());
    for line in ["1.8 MiB  for one slot of layers 0-33, 35-37", "1.9 MiB  for one slot of layers 34, 38-39", "recurrent states and copies"]
    {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn the_block_that_guesses_is_counted_as_one_more_layer_where_it_is_wanted() {
    let big = big();
    let gguf = Gguf::open(&big.path).unwrap();
    let without = plan(&gguf, &ram(8.0), 0).unwrap();
    let with = plan(&gguf, &LoadOptions { draft: When::Auto, ..ram(8.0) }, 0).unwrap();
    assert_eq!((with.slot_bytes.len(), with.slot_bytes[40].layer, with.slot_bytes[40].bytes), (41, 40, EXPERT));
    assert_eq!(with.slot_step - without.slot_step, EXPERT.next_multiple_of(4096));
    assert_eq!(with.experts - without.experts, 256 * EXPERT);
    assert_eq!(with.states, without.states);
    let per_token = |p: &Plan| (p.cache - p.states) / p.context as u64;
    assert_eq!(per_token(&with) - per_token(&without), 2048, "two heads of 256 values, for keys and for values, in 16 bits");
    // Attention, the shared expert, the map of two rows to one, a router and its like.
    let trunk: u64 = gguf.tensors().filter(|t| t.name.starts_with("blk.40.") && !t.name.contains("_exps.")).map(|t| t.size() as u64).sum();
    assert!(trunk > 40_000_000);
    assert_eq!(with.trunk - without.trunk, trunk);
    let used = with.trunk + with.cache + with.buffers + with.window + with.slots;
    assert!(used <= 8 * GIB && with.slots_per_layer < without.slots_per_layer + 1, "{with:?}");
}

#[test]
fn what_does_not_fit_is_refused_with_the_numbers_and_what_would() {
    let big = big();
    let gguf = Gguf::open(&big.path).unwrap();
    let small = plan(&gguf, &ram(2.0), 0).unwrap_err();
    assert!(small.starts_with("2.00 GiB are not enough for this model: it needs") && small.contains("--ram"), "{small}");
    // The whole context takes 5 GiB. What fits beside one slot per layer is named, and does fit.
    let long = LoadOptions { context: Some(262_144), ..ram(6.0) };
    let text = plan(&gguf, &long, 0).unwrap_err();
    assert!(text.contains("context of 262144 tokens 5."), "{text}");
    let fits: usize = text.rsplit("lower --ctx to ").next().unwrap().split(',').next().unwrap().parse().unwrap();
    assert!((60_000..262_144).contains(&fits), "{text}");
    assert_eq!(plan(&gguf, &LoadOptions { context: Some(fits), ..ram(6.0) }, 0).unwrap().context, fits);
    assert!(plan(&gguf, &LoadOptions { context: Some(fits + 1), ..ram(6.0) }, 0).is_err());
    let all = plan(&gguf, &LoadOptions { context: Some(262_144), ..ram(12.0) }, 0).unwrap();
    assert_eq!(all.context, 262_144);
    // Without a budget the machine decides: a small one gets fewer slots, and a shorter context than asked for is never given.
    let laptop = plan(&gguf, &LoadOptions::default(), 12 * GIB).unwrap();
    assert!(laptop.slots_per_layer < 128 && laptop.context >= 512, "{laptop:?}");
    assert!(plan(&gguf, &LoadOptions { context: Some(262_144), ..LoadOptions::default() }, 8 * GIB).is_err());
    let more = plan(&gguf, &LoadOptions { context: Some(262_145), ..LoadOptions::default() }, 64 * GIB).unwrap_err();
    assert!(more.contains("262145") && more.contains("at most 262144"), "{more}");
    let slots = plan(&gguf, &LoadOptions { slots: Some(257), ..LoadOptions::default() }, 64 * GIB).unwrap_err();
    assert!(slots.contains("257 slots per layer are more than the 256 experts"), "{slots}");
}

#[test]
fn the_engine_refuses_before_it_reads_21_gb() {
    let big = big();
    let mut engine = engine::spawn();
    engine.commands.send(Command::Open { source: ModelSource::Path(big.path.clone()), options: ram(1.5) }).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    loop {
        let next = async { tokio::time::timeout(std::time::Duration::from_secs(60), engine.events.recv()).await };
        match runtime.block_on(next).expect("an answer in time").expect("the thread is there") {
            Event::Loading { stage, .. } => assert!(stage.contains("checking"), "{stage}"),
            Event::LoadFailed { message, kind } => {
                assert_eq!(kind, FailureKind::Memory);
                assert!(message.contains("1.50 GiB are not enough"), "{message}");
                return;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_file_cut_short_is_refused_by_the_tensor_that_is_missing() {
    let big = big();
    let whole = std::fs::metadata(&big.path).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&big.path).unwrap().set_len(whole - GIB).unwrap();
    let text = Gguf::open(&big.path).expect_err("half a download").to_string();
    assert!(text.contains("Qwen3.6-35B-A3B-Q4_K_M.gguf") && text.contains("blk."), "{text}");
}
