//! `--ram` is a promise about the whole process: its peak is measured on a model that is larger than the budget.
#![cfg(target_os = "linux")]

use rotary::gguf::write::Writer;
use rotary::gguf::{GgmlType, Gguf};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const HIDDEN: usize = 512;
const FF: usize = 1536;
const LAYERS: usize = 8;
const EXPERTS: usize = 16;
const HEAD: usize = 64;
/// Well below the 306 MiB of experts, and little more than the 120 MiB that the program says that it needs at least.
const BUDGET: u64 = 140 << 20;

/// Writes a file, leaving holes where there would be zeros only.
struct Sparse(File);

impl Write for Sparse {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() >= 4096 && bytes.iter().all(|&b| b == 0) {
            self.0.seek(SeekFrom::Current(bytes.len() as i64))?;
            return Ok(bytes.len());
        }
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        let end = self.0.stream_position()?;
        self.0.set_len(end)
    }
}

/// A `qwen3moe` whose routers and embeddings are random, so that its prompt asks for every expert, and whose experts are
/// zeros: they weigh as much as others in memory, and nothing on the disk.
fn write_model(path: &Path) -> u64 {
    let demo = Gguf::from_static(rotary::demo::gguf(), "demo").unwrap();
    let mut w = Writer::new("qwen3moe");
    for (key, value) in demo.metadata() {
        if key.starts_with("tokenizer.") {
            w.set(key, value.clone());
        }
    }
    let vocab = demo.tensor("token_embd.weight").unwrap().dims[1];
    for (key, value) in [
        ("block_count", LAYERS),
        ("context_length", 2048),
        ("embedding_length", HIDDEN),
        ("feed_forward_length", FF),
        ("expert_feed_forward_length", FF),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("attention.key_length", HEAD),
        ("attention.value_length", HEAD),
        ("expert_count", EXPERTS),
        ("expert_used_count", 4),
    ] {
        w.set(&format!("qwen3moe.{key}"), value);
    }
    w.set("qwen3moe.attention.layer_norm_rms_epsilon", 1e-5f32);
    let mut rng = fastrand::Rng::with_seed(3);
    let mut noise = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.f32() - 0.5).collect() };
    let ones = |n: usize| vec![1.0f32; n];
    w.f32_tensor("token_embd.weight", &[HIDDEN, vocab], &noise(HIDDEN * vocab));
    w.f32_tensor("output_norm.weight", &[HIDDEN], &ones(HIDDEN));
    for b in 0..LAYERS {
        let n = |part: &str| format!("blk.{b}.{part}.weight");
        for (part, len) in [("attn_norm", HIDDEN), ("ffn_norm", HIDDEN), ("attn_q_norm", HEAD), ("attn_k_norm", HEAD)] {
            w.f32_tensor(&n(part), &[len], &ones(len));
        }
        for (part, from, to) in [("attn_q", HIDDEN, 4 * HEAD), ("attn_k", HIDDEN, 2 * HEAD), ("attn_v", HIDDEN, 2 * HEAD)] {
            w.f32_tensor(&n(part), &[from, to], &noise(from * to));
        }
        w.f32_tensor(&n("attn_output"), &[4 * HEAD, HIDDEN], &noise(4 * HEAD * HIDDEN));
        w.f32_tensor(&n("ffn_gate_inp"), &[HIDDEN, EXPERTS], &noise(HIDDEN * EXPERTS));
        // 34 bytes hold 32 weights.
        let zeros = || vec![0u8; HIDDEN * FF * EXPERTS / 32 * 34];
        w.tensor(&n("ffn_gate_exps"), GgmlType::Q8_0, &[HIDDEN, FF, EXPERTS], zeros());
        w.tensor(&n("ffn_up_exps"), GgmlType::Q8_0, &[HIDDEN, FF, EXPERTS], zeros());
        w.tensor(&n("ffn_down_exps"), GgmlType::Q8_0, &[FF, HIDDEN, EXPERTS], zeros());
    }
    let mut out = Sparse(File::create(path).unwrap());
    w.write(&mut out).unwrap();
    out.flush().unwrap();
    path.metadata().unwrap().len()
}

/// Peak resident memory of a process that still runs, in bytes.
fn peak_of(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// Runs a long prompt and some tokens; returns the peak of the process, as seen from outside and as it says itself at
/// its end, whichever is more.
fn run(home: &Path, model: &str, context: &str, words: usize, more: &[&str]) -> u64 {
    let prompt: Vec<String> = (0..words).map(|i| format!("word{} and {}", i * 7 % 31, i * i)).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rotary"));
    command.args(["run", model, "--raw", "-p", &prompt.join(" "), "-n", "24", "--ctx", context, "--greedy", "--json"]);
    command.args(more).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in ["XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "HOME"] {
        command.env(name, home);
    }
    let mut child = command.spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        text
    });
    let (end, mut peak) = (Instant::now() + Duration::from_secs(240), 0);
    let status = loop {
        peak = peak.max(peak_of(child.id()).unwrap_or(0));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < end, "the run takes too long");
        std::thread::sleep(Duration::from_millis(10));
    };
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let text = reader.join().unwrap();
    assert!(status.success(), "{status}: {said}");
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let read: u64 = lines.iter().filter(|l| l["event"] == "step").filter_map(|l| l["tokens"].as_u64()).sum();
    assert!(read >= 100, "a prompt and some tokens were computed: {read} tokens");
    peak.max(lines.iter().find_map(|l| l["rss_peak"].as_u64()).expect("the last line tells the peak"))
}

#[test]
fn the_peak_of_a_run_obeys_the_budget_on_a_model_larger_than_it() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("large.gguf");
    let size = write_model(&model);
    assert!(size > 300 << 20, "{size}");
    let mib = |bytes: u64| bytes >> 20;

    let model = model.to_str().unwrap();
    let kept = run(folder.path(), model, "1024", 80, &["--ram", &BUDGET.to_string()]);
    assert!(kept <= BUDGET, "a peak of {} MiB with a budget of {} MiB", mib(kept), mib(BUDGET));

    // Without a budget the same run takes more: what was kept to was a limit.
    let free = run(folder.path(), model, "1024", 80, &["--slots", &EXPERTS.to_string()]);
    assert!(free > BUDGET + (32 << 20), "a peak of only {} MiB without a budget", mib(free));
    eprintln!("peak with a budget of {} MiB: {} MiB; without: {} MiB", mib(BUDGET), mib(kept), mib(free));
}

/// The toy's experts are part of the program, so their pages stay; its plan has to have room for them all the same.
#[test]
fn the_peak_of_the_embedded_model_obeys_the_least_budget_that_its_plan_takes() {
    let folder = tempfile::tempdir().unwrap();
    let plan = |ram: u64| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rotary"));
        command.args(["plan", "demo", "--ctx", "512", "--ram", &ram.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
        command.env("XDG_CONFIG_HOME", folder.path()).status().unwrap().success()
    };
    let least = (16..256).map(|mib| mib << 20).find(|&ram| plan(ram)).expect("there is a budget that is enough");
    let peak = run(folder.path(), "demo", "512", 32, &["--ram", &least.to_string()]);
    assert!(peak <= least, "a peak of {} MiB with a budget of {} MiB", peak >> 20, least >> 20);
}
