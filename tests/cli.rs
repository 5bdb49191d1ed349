//! The command line as scripts see it: messages, exit codes, output.

use rotary::gguf::write::Writer;
use rotary::gguf::{GgmlType, Gguf};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The program, with configuration and data in an own empty folder.
struct Program {
    home: tempfile::TempDir,
}

/// What came of it.
#[derive(Debug)]
struct Outcome {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Outcome {
    fn from(o: Output) -> Self {
        Self {
            code: o.status.code().unwrap_or(-1),
            out: String::from_utf8(o.stdout).expect("standard output is UTF-8"),
            err: String::from_utf8(o.stderr).expect("standard error is UTF-8"),
        }
    }
}

impl Program {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_rotary"));
        c.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for name in ["XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "HOME"] {
            c.env(name, self.home.path());
        }
        c.env_remove("RUST_BACKTRACE").env_remove("RUST_LOG");
        c
    }

    fn run(&self, args: &[&str]) -> Outcome {
        self.command(args).output().unwrap().into()
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.home.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Run a short generation with this model, expecting it to be refused; returns the message.
    fn refused(&self, path: &Path, code: i32) -> String {
        let o = self.run(&["run", path.to_str().unwrap(), "-p", "hi", "-n", "4", "--quiet"]);
        assert_eq!(o.code, code, "{o:?}");
        assert_eq!(o.out, "", "nothing on standard output");
        assert_eq!(o.err.trim_end().lines().count(), 1, "one line, no trace: {}", o.err);
        assert!(o.err.starts_with("rotary: "), "{}", o.err);
        o.err
    }
}

/// The embedded model, taken apart so that it can be broken.
fn demo(change: impl Fn(&mut Writer), tensor: impl Fn(&str, &mut Vec<usize>, &mut Vec<u8>) -> bool) -> Vec<u8> {
    let gguf = Gguf::from_static(rotary::demo::gguf(), "demo").unwrap();
    let mut w = Writer::empty();
    for (key, value) in gguf.metadata() {
        w.set(key, value.clone());
    }
    change(&mut w);
    for t in gguf.tensors() {
        let (mut dims, mut data) = (t.dims.clone(), gguf.bytes(t).to_vec());
        if tensor(&t.name, &mut dims, &mut data) {
            w.tensor(&t.name, t.ty, &dims, data);
        }
    }
    w.to_bytes()
}

fn contains_all(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }
}

#[test]
fn a_device_is_chosen_by_name_and_a_missing_gpu_is_said_with_the_remedy() {
    let p = Program::new();
    let say =
        |device: &str| p.run(&["run", "demo", "--device", device, "-p", "Hello! What does a fox eat?", "--greedy", "-n", "12", "--quiet"]);
    let (cpu, simulated) = (say("cpu"), say("simulated"));
    assert_eq!((cpu.code, simulated.code), (0, 0), "{cpu:?} {simulated:?}");
    assert_eq!(cpu.out, simulated.out, "the same words from the GPU's code, played by the CPU");
    let plan = p.run(&["plan", "demo", "--device", "simulated", "--vram", "64MiB"]);
    assert!(plan.out.contains("memory plan, on ") && plan.out.contains("of a budget of 64.0 MiB"), "{plan:?}");
    assert!(!plan.out.contains("--hold"), "every expert has a slot: {plan:?}");
    let some = p.run(&["plan", "demo", "--device", "simulated", "--slots", "12"]);
    assert!(some.out.contains("copied into RAM where there is room for all (--hold)"), "{some:?}");
    let little = p.run(&["plan", "demo", "--device", "simulated", "--vram", "2MiB"]);
    assert!(little.code == 4 && little.err.contains("raise --vram"), "{little:?}");
    assert!(p.run(&["plan", "demo", "--device", "tpu"]).err.contains("auto, cpu, gpu or simulated"));
    let bench = |hold| p.run(&["bench", "demo", "--device", "simulated", "--hold", hold, "--prompt", "4", "--gen", "2", "--repeat", "1"]);
    assert!(bench("always").out.contains("experts held in 0.0 GiB of huge pages, page-locked\n"));
    assert!(!bench("never").out.contains("held") && bench("perhaps").err.contains("auto, always or never"));
    let proven =
        |prove| p.run(&["bench", "demo", "--device", "simulated", "--prove", prove, "--prompt", "4", "--gen", "2", "--repeat", "1"]);
    let always = proven("always");
    assert!(always.code == 0 && always.out.contains("the GPU's kernels passed ") && always.out.contains(" trials in "), "{always:?}");
    let kept = std::fs::read_to_string(p.home.path().join("rotary/gpu-proofs.json")).unwrap();
    assert!(kept.contains("\"gpu\":\"simulated\""), "{kept}");
    assert!(!proven("auto").out.contains("trials") && proven("perhaps").err.contains("auto, always or never"));
    let on_cpu = p.run(&["plan", "demo", "--device", "cpu", "--prove", "always"]);
    assert!(on_cpu.err.contains("--prove has no effect: no GPU computes here"), "{on_cpu:?}");
    let check = p.run(&["gpu-check", "--device", "simulated", "--model", "demo", "--only", "attention"]);
    assert!(check.code == 0 && check.out.contains("chunk_attention") && check.out.contains(" trials, 0 wrong, in "), "{check:?}");
    // Here is no GPU, or no code for one; where there is one this is the same as the CPU's.
    let gpu = say("gpu");
    assert!(gpu.code == 0 && gpu.out == cpu.out || gpu.code == 1 && gpu.err.contains("--device cpu"), "{gpu:?}");
}

#[test]
fn no_file_is_told_with_what_there_is_instead() {
    let p = Program::new();
    contains_all(&p.refused(Path::new("missing-model"), 3), &["missing-model", "no such file", "demo", "pull"]);
    contains_all(&p.refused(Path::new("/nowhere/model.gguf"), 3), &["/nowhere/model.gguf"]);
}

#[test]
fn a_directory_an_empty_file_and_files_of_another_kind_are_refused() {
    let p = Program::new();
    contains_all(&p.refused(p.home.path(), 3), &["folder"]);
    contains_all(&p.refused(&p.file("empty.gguf", b""), 3), &["empty.gguf"]);
    contains_all(
        &p.refused(&p.file("picture.gguf", b"\x89PNG\r\n\x1a\n and so on, for long enough to hold a header"), 3),
        &["picture.gguf", "GGUF"],
    );
}

#[test]
fn a_truncated_file_is_refused_and_says_so() {
    let p = Program::new();
    let whole = rotary::demo::gguf();
    for (name, keep) in [("header.gguf", 100), ("half.gguf", whole.len() / 2), ("almost.gguf", whole.len() - 1000)] {
        let message = p.refused(&p.file(name, &whole[..keep]), 3);
        contains_all(&message, &[name]);
    }
}

#[test]
fn an_unsupported_architecture_names_itself_and_the_supported_ones() {
    let p = Program::new();
    let file = p.file("other.gguf", &demo(|w| w.set("general.architecture", "mamba"), |_, _, _| true));
    contains_all(&p.refused(&file, 3), &["other.gguf", "mamba", "qwen3moe", "olmoe"]);
}

#[test]
fn an_unknown_pre_tokenizer_is_an_error_and_no_guess() {
    let p = Program::new();
    let file = p.file("pre.gguf", &demo(|w| w.set("tokenizer.ggml.pre", "martian"), |_, _, _| true));
    contains_all(&p.refused(&file, 3), &["pre.gguf", "tokenizer.ggml.pre", "martian"]);
}

#[test]
fn a_missing_tensor_is_named() {
    let p = Program::new();
    let file = p.file("hole.gguf", &demo(|_| {}, |name, _, _| name != "blk.2.attn_k.weight"));
    contains_all(&p.refused(&file, 3), &["hole.gguf", "blk.2.attn_k.weight", "download"]);
}

#[test]
fn a_tensor_of_wrong_shape_is_named_with_both_shapes() {
    let p = Program::new();
    let file = p.file(
        "shape.gguf",
        &demo(
            |_| {},
            |name, dims, data| {
                if name == "output_norm.weight" {
                    dims[0] /= 2;
                    data.truncate(data.len() / 2);
                }
                true
            },
        ),
    );
    contains_all(&p.refused(&file, 3), &["shape.gguf", "output_norm.weight", "expected"]);
}

#[test]
fn a_tensor_full_of_nan_is_an_error_and_no_text() {
    let p = Program::new();
    let gguf = Gguf::from_static(rotary::demo::gguf(), "demo").unwrap();
    let norm = "blk.1.attn_norm.weight";
    assert_eq!(gguf.require(norm).unwrap().ty, GgmlType::F32);
    let file = p.file(
        "nan.gguf",
        &demo(
            |_| {},
            |name, _, data| {
                if name == norm {
                    for x in data.chunks_exact_mut(4) {
                        x.copy_from_slice(&f32::NAN.to_le_bytes());
                    }
                }
                true
            },
        ),
    );
    contains_all(&p.refused(&file, 1), &["not a number", "damaged"]);
}

#[test]
fn a_budget_too_small_is_refused_with_the_numbers() {
    let p = Program::new();
    let o = p.run(&["run", "demo", "-p", "hi", "--ram", "1MiB"]);
    assert_eq!((o.code, o.out.as_str()), (4, ""), "{o:?}");
    contains_all(&o.err, &["1.0 MiB", "needs", "--ram"]);
    let o = p.run(&["plan", "demo", "--ram", "1MiB"]);
    assert_eq!(o.code, 4, "{o:?}");
}

#[test]
fn options_that_contradict_the_model_are_a_usage_error() {
    let p = Program::new();
    let o = p.run(&["run", "demo", "-p", "hi", "--slots", "33"]);
    assert_eq!(o.code, 2, "{o:?}");
    contains_all(&o.err, &["33", "32"]);
    assert_eq!(p.run(&["run", "demo", "-p", "hi", "--ctx", "99999999"]).code, 2);
}

#[test]
fn wrong_arguments_are_explained_with_code_2() {
    let p = Program::new();
    for (args, says) in [
        (vec!["run"], "MODEL"),
        (vec!["run", "demo", "-p", "x", "--ram", "lots"], "8GiB"),
        (vec!["run", "demo", "-p", "x", "--policy", "best"], "lru"),
        (vec!["run", "demo", "-p", "-", "-p", "-"], "only once"),
        (vec!["bench", "demo", "--repeat", "0"], "at least 1"),
        (vec!["--no-such-flag"], "--no-such-flag"),
        (vec!["run", "demo", "-p", "x", "--top-p", "7"], "top_p is 7"),
    ] {
        let o = p.run(&args);
        assert_eq!(o.code, 2, "{args:?}: {o:?}");
        assert!(o.err.contains(says), "{args:?}: {}", o.err);
    }
}

#[test]
fn without_a_terminal_the_app_says_what_works_instead() {
    let o = Program::new().run(&["demo"]);
    assert_eq!(o.code, 2, "{o:?}");
    contains_all(&o.err, &["terminal", "rotary run"]);
}

#[test]
fn the_prompt_comes_from_standard_input_and_bad_input_is_refused() {
    let p = Program::new();
    let feed = |bytes: &[u8]| -> Outcome {
        let mut child = p.command(&["run", "demo", "-p", "-", "-n", "3", "--greedy", "--quiet"]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        child.wait_with_output().unwrap().into()
    };
    let given = p.run(&["run", "demo", "-p", "Tell me a story.", "-n", "3", "--greedy", "--quiet"]);
    assert_eq!(given.code, 0, "{given:?}");
    assert_eq!(feed(b"Tell me a story.").out, given.out);
    assert_eq!(feed(b"  \n").code, 2);
    let o = feed(b"abc\xff");
    assert_eq!(o.code, 2);
    contains_all(&o.err, &["UTF-8", "byte 3"]);
}

#[test]
fn a_greedy_answer_is_repeatable_and_figures_go_to_standard_error() {
    let p = Program::new();
    let args = ["run", "demo", "-p", "Tell me a story about a cat.", "-n", "12", "--greedy", "--slots", "4"];
    let (a, b) = (p.run(&args), p.run(&args));
    assert_eq!((a.code, &a.out), (0, &b.out), "{a:?}");
    assert!(a.out.ends_with('\n') && a.out.trim().len() > 10, "{a:?}");
    contains_all(&a.err, &["toy", "4 slots per layer", "tokens/s", "seed"]);
}

#[test]
fn json_lines_carry_every_event_and_step() {
    let p = Program::new();
    let o = p.run(&["run", "demo", "-p", "Hello!", "-p", "And now?", "-n", "6", "--greedy", "--json"]);
    assert_eq!((o.code, o.err.as_str()), (0, ""), "{o:?}");
    let lines: Vec<serde_json::Value> = o.out.lines().map(|l| serde_json::from_str(l).expect("each line is JSON")).collect();
    let kinds: Vec<&str> = lines.iter().map(|l| l["event"].as_str().unwrap()).collect();
    for kind in ["loading", "ready", "prefill", "step", "text", "finished", "end"] {
        assert!(kinds.contains(&kind), "{kind} is missing: {kinds:?}");
    }
    let finished: Vec<&serde_json::Value> = lines.iter().filter(|l| l["event"] == "finished").collect();
    assert_eq!(finished.len(), 2);
    assert!(
        finished[1]["stats"]["reused_tokens"].as_u64() > finished[0]["stats"]["prompt_tokens"].as_u64(),
        "the second turn reuses the first"
    );
    let steps = kinds.iter().filter(|k| **k == "step").count() as u64;
    let end = lines.last().unwrap();
    let made = 1 + lines.iter().filter(|l| l["event"] == "step").map(|l| l["step"].as_u64().unwrap()).max().unwrap();
    assert_eq!(steps + end["dropped"].as_u64().unwrap(), made);
}

#[test]
fn a_reader_that_leaves_early_ends_the_program_quietly() {
    let p = Program::new();
    let mut child = p.command(&["run", "demo", "-p", "Tell me a story.", "--greedy", "--json", "-n", "400"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    lines.read_line(&mut first).unwrap();
    drop(lines);
    let o: Outcome = child.wait_with_output().unwrap().into();
    assert_eq!((o.code, o.err.as_str()), (0, ""), "{o:?}");
}

#[test]
#[cfg(unix)]
fn an_interrupt_cancels_with_130() {
    let p = Program::new();
    let mut child =
        p.command(&["run", "demo", "-p", "Tell me a long story.", "--json", "--temperature", "2", "--seed", "1"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line_with = |lines: &mut dyn Iterator<Item = std::io::Result<String>>, what: &str| {
        lines.map(Result::unwrap).find(|l| l.contains(what)).unwrap_or_else(|| panic!("no {what}"))
    };
    line_with(&mut lines, "\"event\":\"text\"");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let finished = line_with(&mut lines, "\"event\":\"finished\"");
    // A turn of this toy is short: it may have ended by itself just before the signal.
    let code = child.wait().unwrap().code();
    if finished.contains("cancelled") {
        assert_eq!(code, Some(130));
    } else {
        assert!(matches!(code, Some(0 | 130)), "{finished}");
    }
}

#[test]
fn bench_prints_figures_for_people_and_for_programs() {
    let p = Program::new();
    let args = ["bench", "demo", "--prompt", "16", "--gen", "8", "--repeat", "2", "--slots", "3"];
    let o = p.run(&args);
    assert_eq!(o.code, 0, "{o:?}");
    contains_all(&o.out, &["memory plan", "prompt", "generation", "tokens/s", "hit rate", "3 of 32 experts", "peak memory", " planned"]);
    let o = p.run(&[&args[..], &["--json"]].concat());
    let f: serde_json::Value = serde_json::from_str(&o.out).unwrap();
    assert!(f["prompt_tps"]["mean"].as_f64().unwrap() > 0.0 && f["gen_tps"]["mean"].as_f64().unwrap() > 0.0);
    let hits = f["hit_rate"].as_f64().unwrap();
    assert!(hits > 0.0 && hits < 1.0, "three of 32 slots hit sometimes: {hits}");
    let first = f["first_hit_rate"].as_f64().unwrap();
    assert!(first > 0.0 && first < 1.0, "{first}");
    // What belongs to no model is told to be idle.
    let o = p.run(&["bench", "demo", "--prompt", "4", "--gen", "2", "--repeat", "1", "--types", "q4_K"]);
    assert!(o.code == 0 && o.err.contains("--types has no effect: it belongs to --kernels"), "{o:?}");
}

#[test]
fn bench_sweeps_slots_and_prompts_in_one_table_of_any_format() {
    let p = Program::new();
    let args = ["bench", "demo", "--prompt", "8,16", "--gen", "4", "--repeat", "1", "--slots", "4,32", "--threads", "1"];
    let o = p.run(&args);
    assert_eq!(o.code, 0, "{o:?}");
    let rows: Vec<Vec<&str>> = o.out.lines().map(|l| l.split_whitespace().collect()).collect();
    contains_all(&o.out, &["demo, rotary ", "1 thread, 1 run each", "from empty %"]);
    assert_eq!(rows[2..6].iter().map(|r| (r[0], r[1])).collect::<Vec<_>>(), [("4", "8"), ("4", "16"), ("32", "8"), ("32", "16")]);
    let format = |name: &str| p.run(&[&args[..], &["--format", name]].concat()).out;
    assert_eq!(format("md").lines().filter(|l| l.starts_with("| ")).count(), 1 + 4);
    assert_eq!(format("csv").lines().count(), 1 + 4);
    let json: serde_json::Value = serde_json::from_str(&format("json")).unwrap();
    let all: Vec<f64> = json.as_array().unwrap().iter().map(|f| f["hit_rate"].as_f64().unwrap()).collect();
    assert!(all.len() == 4 && all[2] > all[0] && all[3] > all[1], "more slots hit more: {all:?}");
    assert_eq!(json[0]["build"], concat!("rotary ", env!("CARGO_PKG_VERSION")));
    let file = p.home.path().join("t.rotary");
    let o = p.run(&[&args[..], &["--trace", file.to_str().unwrap()]].concat());
    assert!(o.code == 2 && o.err.contains("a single run") && !file.exists(), "{o:?}");
}

#[test]
fn what_does_not_fit_into_the_context_of_a_model_names_the_flag_and_what_fits() {
    let p = Program::new();
    let o = p.run(&["bench", "demo", "--prompt", "9999"]);
    assert_eq!((o.code, o.out.as_str()), (2, ""), "{o:?}");
    contains_all(&o.err, &["--prompt 9999", "context of 512", "at most --prompt 510"]);
    let o = p.run(&["bench", "demo", "--prompt", "500", "--repeat", "1"]);
    assert_eq!(o.code, 0, "{o:?}");
    contains_all(&o.err, &["--gen 11: the context of 512 holds no more"]);
}

#[test]
fn models_and_chats_are_listed_and_a_chat_that_is_none_is_refused_before_the_screen() {
    let p = Program::new();
    let (models, chats) = (p.run(&["models"]), p.run(&["chats"]));
    assert_eq!((models.code, models.out.as_str(), chats.code, chats.out.as_str()), (0, "", 0, ""), "{models:?} {chats:?}");
    contains_all(&(models.err + &chats.err), &["rotary pull", "no chat has been saved yet"]);
    std::fs::create_dir_all(p.home.path().join("rotary/models/owner")).unwrap();
    p.file("rotary/models/owner/tiny.gguf", &[0; 2048]);
    std::fs::create_dir_all(p.home.path().join("rotary/chats")).unwrap();
    let chat = r#"{"format":1,"created":"2026-01-02T03:04:05Z","updated":"2026-01-02T03:04:05Z","model":"toy",
        "messages":[{"role":"user","content":"Hello \u001b[2Jfox"}]}"#;
    p.file("rotary/chats/20260102T030405-1-a.json", chat.as_bytes());
    let o = p.run(&["models"]);
    contains_all(&o.out, &["owner/tiny", "2.0 KiB", "tiny.gguf"]);
    let json: serde_json::Value = serde_json::from_str(&p.run(&["models", "--json"]).out).unwrap();
    assert_eq!((json[0]["name"].as_str(), json[0]["bytes"].as_u64()), (Some("owner/tiny"), Some(2048)));
    let o = p.run(&["chats"]);
    assert_eq!(o.code, 0, "{o:?}");
    contains_all(&o.out, &["20260102T030405-1-a", "2026-01-02 03:04 UTC", "fox"]);
    assert!(o.out.chars().all(|c| c == '\n' || !c.is_control()), "{o:?}");
    let o = p.run(&["--resume", "zzz"]);
    assert_eq!((o.code, o.out.as_str()), (2, ""), "{o:?}");
    contains_all(&o.err, &["there is no saved chat \"zzz\"", "20260102T030405-1-a", "rotary chats"]);
    let o = p.run(&["demo", "--temperature", "-1"]);
    assert!(o.code == 2 && o.err.contains("temperature"), "flags of the app are looked at before the screen: {o:?}");
}

#[test]
fn help_is_a_command_too_and_other_programs_words_are_understood() {
    let p = Program::new();
    let o = p.run(&["help"]);
    assert!(o.code == 0 && o.out.contains("Exit codes:"), "{o:?}");
    let o = p.run(&["help", "bench"]);
    assert_eq!(o.code, 0, "{o:?}");
    contains_all(&o.out, &["Usage: rotary bench [OPTIONS] <MODEL>", "rotary bench --kernels", "--slots <N,…>"]);
    for (word, meant) in [("list", "rotary models"), ("ru", "rotary run"), ("download", "rotary pull")] {
        let o = p.run(&[word]);
        assert!(o.code == 2 && o.err.contains(&format!("did you mean `{meant}`")), "{o:?}");
    }
}

#[test]
fn the_plan_and_the_doctor_answer() {
    let p = Program::new();
    let o = p.run(&["plan", "demo", "--slots", "5"]);
    assert_eq!(o.code, 0, "{o:?}");
    contains_all(&o.out, &["trunk", "5 of 32 experts per layer"]);
    let plan: serde_json::Value = serde_json::from_str(&p.run(&["plan", "demo", "--json"]).out).unwrap();
    assert_eq!(plan["max_slots"], 32);
    let o = p.run(&["doctor"]);
    assert_eq!(o.code, 0, "{o:?}");
    contains_all(&o.out, &["processor", "memory", "config", "demo", "opens"]);
}

#[test]
fn inspect_tells_what_is_in_a_file_and_refuses_what_is_none() {
    let p = Program::new();
    let o = p.run(&["inspect", "demo"]);
    assert_eq!(o.code, 0, "{o:?}");
    contains_all(&o.out, &["qwen3moe", "memory plan"]);
    let file = p.file("other.gguf", &demo(|w| w.set("general.architecture", "mamba"), |_, _, _| true));
    let o = p.run(&["inspect", file.to_str().unwrap()]);
    assert_eq!(o.code, 0, "a sound file of an unsupported kind can still be looked into: {o:?}");
    contains_all(&o.out, &["mamba", "no memory plan"]);
    assert_eq!(p.run(&["inspect", p.file("empty.gguf", b"").to_str().unwrap()]).code, 3);
}

#[test]
fn a_session_is_recorded_once_and_can_be_looked_into() {
    let p = Program::new();
    let file = p.home.path().join("talk.rotary");
    let file = file.to_str().unwrap();
    let args = ["record", file, "demo", "-p", "Hello!", "-n", "5", "--greedy", "--quiet", "--policy", "lru", "--slots", "9"];
    let o = p.run(&args);
    assert_eq!(o.code, 0, "{o:?}");
    let o = p.run(&["replay", "--summary", file]);
    assert_eq!(o.code, 0, "{o:?}");
    contains_all(&o.out, &["recorded session", "1 finished", "6 layers x 32", "policy      lru\n"]);
    let o = p.run(&args);
    assert_eq!(o.code, 2, "nothing is overwritten: {o:?}");
    contains_all(&o.err, &["talk.rotary", "another name", "--force"]);
    let o = p.run(&[&args[..], &["--force"]].concat());
    assert_eq!(o.code, 0, "{o:?}");
    let o = p.run(&["simulate", file]);
    assert_eq!(o.code, 0, "{o:?}");
    contains_all(&o.out, &["rotary", "belady", "recorded under lru\n"]);
    let o = p.run(&["simulate", file, "--diff", "recorded", "slots=12"]);
    assert_eq!(o.code, 0, "{o:?}");
    contains_all(&o.out, &["A  recorded under lru, 9 slots", "B  lru, 12 slots"]);
    let o = p.run(&["simulate", file, "--diff", "recorded", "lfu"]);
    contains_all(&o.out, &["A  recorded under lru, 9 slots", "B  lfu, 9 slots"]);
    let other = p.home.path().join("other.rotary");
    let other = other.to_str().unwrap();
    assert_eq!(p.run(&["record", other, "demo", "-p", "Where is the fox?", "-n", "5", "--greedy", "-q"]).code, 0);
    let different = "the two say different things: differences are of the text, too";
    for (args, differ) in [
        (["simulate", "--diff", file, other], true),
        (["simulate", "--diff", file, file], false),
        (["replay", "--summary", file, other], true),
        (["replay", "--summary", file, file], false),
    ] {
        let o = p.run(&args);
        assert!(o.code == 0 && o.out.contains(different) == differ, "{args:?}: {o:?}");
    }
    let bare = p.home.path().join("bare.rotary");
    assert_eq!(p.run(&["convert", file, bare.to_str().unwrap()]).code, 0);
    contains_all(&p.run(&["replay", "--summary", bare.to_str().unwrap()]).out, &["policy      lru\n"]);
}

#[test]
fn a_recording_that_fails_leaves_no_file_and_one_that_would_hide_a_model_is_refused() {
    let p = Program::new();
    let path = |name: &str| p.home.path().join(name).to_str().unwrap().to_owned();
    let file = path("d.rotary");
    for more in [vec!["--slots", "99"], vec!["--ram", "1MiB"]] {
        let o = p.run(&[vec!["record", &file, "demo", "-p", "x"], more].concat());
        assert!(o.code != 0 && !Path::new(&file).exists(), "{o:?}");
    }
    let long = "word ".repeat(2000);
    let o = p.run(&["record", &file, "demo", "-p", &long, "-q"]);
    assert!(o.code != 0 && !Path::new(&file).exists(), "a prompt that can't be held is no recording: {o:?}");
    let o = p.command(&["record", "demo", "c.rotary", "-p", "x"]).current_dir(p.home.path()).output().unwrap();
    let o = Outcome::from(o);
    assert!(o.code == 2 && !p.home.path().join("demo").exists(), "{o:?}");
    contains_all(&o.err, &["demo names a model", "rotary record c.rotary demo"]);
    // --force replaces recordings alone.
    let model = p.file("some.bin", b"GGUF and more than sixteen bytes");
    let o = p.run(&["record", model.to_str().unwrap(), "demo", "-p", "x", "--force"]);
    assert!(o.code == 2 && model.metadata().unwrap().len() == 32, "{o:?}");
    contains_all(&o.err, &["some.bin is no recording"]);
    let o = p.run(&["record", &path("no/where.rotary"), "demo", "-p", "x"]);
    assert!(o.code == 2 && o.err.contains("there is no folder"), "{o:?}");
    assert!(p.run(&["record", &file, "demo", "--trace", &path("f.rotary")]).err.contains("--trace"), "it is not offered");
}

#[test]
fn a_pipe_is_read_beside_a_prompt_only_if_that_is_asked_for() {
    let p = Program::new();
    let args = ["run", "demo", "-p", "Hello!", "-n", "3", "--greedy"];
    // One that nobody writes into and nobody closes would be waited for for ever.
    let mut child = p.command(&args).stdin(Stdio::piped()).spawn().unwrap();
    let held = child.stdin.take();
    let o = Outcome::from(child.wait_with_output().unwrap());
    drop(held);
    assert!(o.code == 0 && !o.err.contains("piped in"), "{o:?}");
    let mut child = p.command(&args).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"and this").unwrap();
    let o = Outcome::from(child.wait_with_output().unwrap());
    assert!(o.code == 0 && o.err.contains("not read beside -p; --stdin puts it behind"), "{o:?}");
}

#[test]
fn what_is_piped_in_comes_behind_the_prompt_and_an_empty_prompt_is_an_error() {
    let p = Program::new();
    let say = |args: &[&str], piped: &str| {
        let more = ["run", "demo", "--greedy", "-n", "8", "--json"];
        let mut child = p.command(&[&more[..], args].concat()).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(piped.as_bytes()).unwrap();
        let o = Outcome::from(child.wait_with_output().unwrap());
        let tokens = o.out.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok()).find(|l| l["event"] == "finished");
        (o, tokens.map(|l| l["stats"]["prompt_tokens"].as_u64().unwrap()))
    };
    let (alone, both) = (say(&["-p", "Read this:"], ""), say(&["--stdin", "-p", "Read this:"], "A fox eats."));
    assert_eq!((alone.0.code, both.0.code), (0, 0), "{alone:?} {both:?}");
    assert!(both.1.unwrap() > alone.1.unwrap(), "{:?} {:?}", alone.1, both.1);
    assert_eq!(say(&["-p", "Read this:\n\nA fox eats."], "").1, both.1, "after a blank line");
    for empty in ["", " "] {
        let o = say(&["-p", empty], "").0;
        assert!(o.code == 2 && o.err.contains("the prompt is empty"), "{o:?}");
    }
    let o = p.run(&["run", "demo", "-p", "hi", "-n", "1", "--no-think", "--effort", "low"]);
    contains_all(&o.err, &["--no-think has no effect", "--effort has no effect"]);
}

#[test]
fn routing_goes_from_one_trace_format_into_the_other_and_back() {
    let p = Program::new();
    let real = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/traces/gpt-oss-120b.rotary");
    let path = |name: &str| p.home.path().join(name).to_str().unwrap().to_owned();
    let (csv, session, again) = (path("a.csv"), path("b.rotary"), path("c.csv"));
    for (from, to) in [(real, &csv), (&csv, &session), (&session, &again)] {
        let o = p.run(&["convert", from, to]);
        assert_eq!((o.code, o.out.as_str(), o.err.as_str()), (0, "", ""), "{from} to {to}");
    }
    let text = std::fs::read_to_string(&csv).unwrap();
    assert!(text.starts_with("# route_trace v1\n") && text == std::fs::read_to_string(&again).unwrap(), "nothing is lost on the way");
    let table = |file: &str| {
        let o = p.run(&["simulate", file, "--slots", "16,64", "--format", "csv"]);
        assert_eq!(o.code, 0, "{o:?}");
        o.out.lines().map(|l| l.split_once(',').unwrap().1.to_owned()).collect::<Vec<_>>()
    };
    let wanted = table(real);
    assert_eq!(wanted.len(), 1 + 6 * 2);
    assert!([&csv, &session, &again].into_iter().all(|f| table(f) == wanted));
    let o = p.run(&["convert", real, &csv]);
    assert_eq!(o.code, 2, "nothing is overwritten: {o:?}");
    contains_all(&o.err, &["a.csv", "another name"]);
    let o = p.run(&["convert", p.file("x.csv", b"no trace").to_str().unwrap(), &path("d.csv")]);
    assert_eq!((o.code, p.home.path().join("d.csv").exists()), (2, false), "{o:?}");
    contains_all(&o.err, &["x.csv", "neither a recorded session nor a route_trace v1 CSV"]);
}

#[test]
fn a_trace_whose_name_ends_in_csv_holds_the_routing_and_no_words() {
    let p = Program::new();
    let path = |name: &str| p.home.path().join(name).to_str().unwrap().to_owned();
    for file in [path("talk.csv"), path("talk.rotary")] {
        let o = p.run(&["run", "demo", "-p", "Hello!", "-n", "24", "--greedy", "--quiet", "--slots", "9", "--trace", &file]);
        assert_eq!(o.code, 0, "{o:?}");
    }
    let o = p.run(&["simulate", "--diff", &path("talk.csv"), &path("talk.rotary"), "--format", "json"]);
    assert_eq!(o.code, 0, "{o:?}");
    let d: serde_json::Value = serde_json::from_str(&o.out).unwrap();
    assert_eq!(d[0]["a"]["hit_rate"], d[0]["b"]["hit_rate"], "both say what happened");
    assert!(
        d[0]["a"]["hit_rate"].as_f64().unwrap() > 0.0
            && d[0]["experts"].as_array().unwrap().iter().all(|e| e["misses"][0] == e["misses"][1])
    );
    // What the scheduler does with the recorded routing is what it did when it was recorded.
    let o = p.run(&["simulate", &path("talk.rotary"), "--diff", "recorded", "rotary@9", "--format", "json"]);
    let d: serde_json::Value = serde_json::from_str(&o.out).unwrap();
    assert_eq!(d[0]["a"]["hit_rate"], d[0]["b"]["hit_rate"], "{}", o.out);
    assert!(d[0]["a"]["measured_tokens_per_second"].as_f64().unwrap() > 0.0);
}

#[test]
fn what_routers_foresee_is_recorded_and_simulations_of_it_hit_more() {
    let p = Program::new();
    let path = |name: &str| p.home.path().join(name).to_str().unwrap().to_owned();
    let (talk, bare, csv) = (path("talk.rotary"), path("bare.rotary"), path("talk.csv"));
    let args = ["run", "demo", "-p", "Tell me a story about a fox.", "-n", "80", "--greedy", "--quiet", "--slots", "8"];
    let (with, without) = (p.run(&[&args[..], &["--foresee", "always", "--trace", &talk]].concat()), p.run(&args));
    assert!(with.code == 0 && with.out == without.out, "it changes no word: {with:?}");
    let simulated = |file: &str, foresee: &str| {
        let o = p.run(&[
            "simulate",
            file,
            "--slots",
            "6",
            "--policy",
            "rotary,lru,belady",
            "--ahead",
            "1",
            "--foresee",
            foresee,
            "--format",
            "json",
        ]);
        assert_eq!(o.code, 0, "{o:?}");
        let found: serde_json::Value = serde_json::from_str(&o.out).unwrap();
        let hits = [0, 1, 2].map(|i| found[0]["table"][i]["hits"].as_f64().unwrap());
        (found[0]["foreseen"].as_u64(), hits)
    };
    let ((tokens, foreseen), (none, blind)) = (simulated(&talk, "auto"), simulated(&talk, "never"));
    assert!(tokens.is_some_and(|n| n > 40) && none.is_none(), "{tokens:?} {none:?}");
    assert!(foreseen[0] > 1.15 * blind[0] && foreseen[1..] == blind[1..], "{foreseen:?} {blind:?}");
    let o = p.run(&["simulate", &talk, "--no-curves"]);
    contains_all(&o.out, &[&format!("routers asked before their turn: {} tokens\n", tokens.unwrap())]);
    contains_all(&p.run(&["replay", "--summary", &talk]).out, &["foreseen    ", "asked before their turn"]);
    // A session without its words keeps it; a CSV has no place for it.
    for (to, tokens) in [(&bare, tokens), (&csv, None)] {
        assert_eq!(p.run(&["convert", &talk, to]).code, 0);
        let (kept, hits) = simulated(to, "auto");
        assert_eq!(kept, tokens);
        assert!(kept.is_none() || hits == foreseen, "{hits:?}");
    }
    assert_eq!(p.run(&["simulate", &talk, "--foresee", "always"]).code, 2);
}

#[test]
fn what_came_ahead_on_a_device_is_what_a_simulation_of_the_recording_brings() {
    let p = Program::new();
    let file = p.home.path().join("device.rotary");
    let file = file.to_str().unwrap();
    let args = ["run", "demo", "--device", "simulated", "--slots", "8", "--ahead", "1", "--foresee", "always", "--trace", file];
    let o = p.run(&[&args[..], &["-p", "Tell me a story.", "-n", "24", "--greedy", "--quiet"]].concat());
    assert_eq!(o.code, 0, "{o:?}");
    let o = p.run(&["simulate", file, "--diff", "recorded", "rotary@8", "--format", "json"]);
    let d: serde_json::Value = serde_json::from_str(&o.out).unwrap();
    assert!(d[0]["a"]["hit_rate"].as_f64().unwrap() > 0.3, "{}", o.out);
    assert_eq!(d[0]["a"]["hit_rate"], d[0]["b"]["hit_rate"], "{}", o.out);
    assert_eq!(d[0]["b"]["label"], "rotary, 8 slots, 1 per look ahead of use");
}

#[test]
fn a_recording_of_the_cpu_simulates_to_its_own_hit_rate_and_the_page_says_how() {
    let p = Program::new();
    let file = p.home.path().join("story.rotary");
    let file = file.to_str().unwrap();
    let o = p.run(&["record", file, "demo", "-p", "Tell me a story about a cat and a ball.", "-n", "120", "--greedy", "--quiet"]);
    assert_eq!(o.code, 0, "{o:?}");
    let rates = |more: &[&str]| {
        let o = p.run(&[&["simulate", file, "--diff", "recorded", "rotary@12", "--format", "json"], more].concat());
        let d: serde_json::Value = serde_json::from_str(&o.out).unwrap();
        ["a", "b"].map(|side| d[0][side]["hit_rate"].as_f64().unwrap())
    };
    let [recorded, same] = rates(&[]);
    assert_eq!(recorded, same);
    assert!(rates(&["--ahead", "1"])[1] > recorded + 0.01);
    let o = p.run(&["simulate", file, "--slots", "12", "--no-curves"]);
    contains_all(
        &o.out,
        &[
            "recorded under rotary, margin 1, at most 4",
            "simulated under rotary, margin 1, at most 4",
            "(hint: with --ahead 1 it brings",
            "slots       MiB",
        ],
    );
}

#[test]
fn what_a_run_used_is_on_the_disk_when_it_ends() {
    let p = Program::new();
    let folder = p.home.path().join("heat");
    for run in 1..4 {
        let o = p.run(&["run", "demo", "-p", "hi", "-n", "4", "-q", "--heat", folder.to_str().unwrap()]);
        assert_eq!(o.code, 0, "{o:?}");
        let kept: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert!(matches!(&kept[..], [one] if one.ends_with(".heat")), "run {run}: {kept:?}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn options_of_a_gpu_change_nothing_on_the_cpu_and_are_told_to_be_idle() {
    let p = Program::new();
    let plain = p.run(&["plan", "demo", "--device", "cpu"]);
    let idle = p.run(&["plan", "demo", "--device", "cpu", "--vram", "1GiB", "--miss", "cpu"]);
    let slots = |o: &Outcome| o.out.lines().find(|l| l.contains("slots")).unwrap().to_owned();
    assert_eq!(slots(&plain), slots(&idle));
    assert!(plain.err.is_empty() && idle.err.contains("--vram and --miss have no effect"), "{plain:?} {idle:?}");
    let o = p.run(&["run", "demo", "--device", "cpu", "-p", "hi", "-n", "1", "--ahead", "3"]);
    assert!(o.code == 0 && o.err.contains("--ahead has no effect"), "{o:?}");
    let o = p.run(&["plan", "demo", "--device", "simulated", "--vram", "1GiB"]);
    assert!(o.code == 0 && o.err.is_empty(), "{o:?}");
}

#[test]
fn a_plan_has_the_same_rows_with_a_budget_and_without_and_what_it_sums_up_to_is_enough() {
    let p = Program::new();
    let plan = |more: &[&str]| p.run(&[&["plan", "demo", "--device", "cpu"], more].concat());
    let rows = |o: &Outcome| -> Vec<String> { o.out.lines().filter_map(|l| l.split_whitespace().next().map(str::to_owned)).collect() };
    let (free, kept) = (plan(&[]), plan(&["--ram", "58MiB"]));
    assert_eq!((free.code, kept.code), (0, 0), "{free:?} {kept:?}");
    assert_eq!(rows(&free), rows(&kept));
    let sum = free.out.lines().find_map(|l| l.trim_start().strip_prefix("together")).unwrap().split_whitespace().next().unwrap();
    let enough = (sum.parse::<f64>().unwrap() + 0.1).to_string() + "MiB";
    let again = plan(&["--ram", &enough]);
    let slots =
        |o: &Outcome| o.out.split(" of 32 experts per layer").next().unwrap().split_whitespace().last().unwrap().parse::<usize>().unwrap();
    assert!(again.code == 0 && slots(&again) >= slots(&free), "{enough}: {again:?}");
    contains_all(&kept.out, &["of a budget of 58.0 MiB", " of 32 experts per layer, 312.0 KiB for one more (297.0 KiB rounded up)"]);
    let every = plan(&["--ram", "100MiB"]);
    contains_all(&every.out, &["all 32 experts of each layer", "each of which has a slot"]);
    assert!(!every.out.contains("for one more"), "{every:?}");
    let least = plan(&["--ram", "40MiB"]);
    assert!(least.code == 4 && !least.err.contains("--slots") && !least.err.contains("--ctx"), "nothing of it can be lowered: {least:?}");
    contains_all(&plan(&["--ram", "40MiB", "--slots", "9"]).err, &["raise --ram, lower --slots"]);
}

#[test]
fn input_that_is_none_has_one_exit_code_and_a_remedy() {
    let p = Program::new();
    let real = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/traces/gpt-oss-120b.rotary");
    let garbage = p.file("g.rotary", b"garbage");
    let garbage = garbage.to_str().unwrap();
    let folder = p.home.path().to_str().unwrap();
    for (file, says) in [("nofile", "nofile"), (garbage, "rotary record"), (folder, "not a file")] {
        for args in [vec!["replay", "--summary", file], vec!["replay", real, file, "--summary"], vec!["simulate", file]] {
            let o = p.run(&args);
            assert_eq!(o.code, 2, "{args:?}: {o:?}");
            contains_all(&o.err, &[says]);
        }
    }
    let o = p.run(&["replay", real]);
    assert!(o.code == 2 && o.err.contains("--summary"), "{o:?}");
    for (args, says) in
        [(vec!["simualte", real], "rotary simulate"), (vec!["simulat"], "rotary simulate"), (vec!["rnu", "demo"], "rotary run")]
    {
        let o = p.run(&args);
        assert!(o.code == 2 && o.err.contains("did you mean") && o.err.contains(says), "{args:?}: {o:?}");
    }
}

#[test]
fn a_trace_can_be_converted_to_standard_output() {
    let p = Program::new();
    let real = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/traces/gpt-oss-120b.rotary");
    let o = p.run(&["convert", real, "-"]);
    assert!(o.code == 0 && o.out.starts_with("# route_trace v1\n"), "{}", o.err);
    assert!(!p.home.path().join("-").exists());
    let csv = p.file("a.csv", o.out.as_bytes());
    let session = p.command(&["convert", csv.to_str().unwrap(), "-"]).output().unwrap().stdout;
    let again = p.file("b.rotary", &session);
    assert_eq!(p.run(&["convert", again.to_str().unwrap(), "-"]).out, o.out);
}

#[test]
fn a_recording_that_is_killed_is_readable_and_can_be_simulated() {
    let p = Program::new();
    let file = p.home.path().join("killed.rotary");
    let path = file.to_str().unwrap();
    let args = ["run", "demo", "-p", "Tell me a story.", "--json", "--temperature", "2", "--seed", "3", "--trace", path];
    let mut child = p.command(&args).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|l| l.contains("\"event\":\"text\"")));
    child.kill().unwrap();
    child.wait().unwrap();
    let o = p.run(&["replay", "--summary", path]);
    assert_eq!(o.code, 0, "{o:?}");
    contains_all(&o.out, &["recorded session", "6 layers x 32"]);
    // Cut further, at some borders and inside of frames.
    let whole = std::fs::read(&file).unwrap();
    for part in [whole.len() - 1, whole.len() * 3 / 4, 100] {
        let cut = p.file("cut.rotary", &whole[..part]);
        let o = p.run(&["replay", "--summary", cut.to_str().unwrap()]);
        assert_eq!(o.code, 0, "{part}: {o:?}");
        contains_all(&o.out, &["cut at byte", "the recording was not finished"]);
    }
    let o = p.run(&["simulate", p.file("head.rotary", &whole[..12]).to_str().unwrap()]);
    assert_eq!(o.code, 2, "{o:?}");
    contains_all(&o.err, &["head.rotary", "cut within its header"]);
}

#[test]
fn simulate_estimates_for_a_named_machine_and_draws() {
    let p = Program::new();
    let real = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/traces/qwen3-30b-a3b.rotary");
    let args = ["simulate", real, "--slots", "8..128:8", "--policy", "all", "--profile", "rtx-4060-laptop"];
    let o: Outcome = p.command(&args).env("LC_ALL", "C.UTF-8").env_remove("NO_COLOR").output().unwrap().into();
    assert_eq!((o.code, o.err.as_str()), (0, ""), "{o:?}");
    contains_all(&o.out, &["hit rate, %", "tokens/s, estimated for RTX 4060 Laptop", "● rotary", "◆ belady", "more than fits"]);
    assert!(!o.out.contains('\x1b'), "no colours in a pipe");
    for (name, value, flag) in [("LC_ALL", "C", None), ("NO_COLOR", "1", None), ("LC_ALL", "C.UTF-8", Some("--ascii"))] {
        let mut c = p.command(&args);
        let o: Outcome = c.env("LC_ALL", "C.UTF-8").env(name, value).args(flag).output().unwrap().into();
        assert!(o.out.is_ascii() && o.out.contains("R rotary"), "{name}={value}: {}", o.out);
    }
    let o = p.run(&[&args[..], &["--format", "json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&o.out).unwrap();
    let row = &json[0]["table"][0];
    assert!(row["estimate"]["tokens_per_second"].as_f64().unwrap() > 1.0 && row["policy"] == "rotary", "{row}");
}

#[test]
fn machine_profiles_are_found_by_name_and_path_and_mistakes_in_them_are_told() {
    let p = Program::new();
    let real = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/traces/gpt-oss-120b.rotary");
    let good =
        "schema = 1\nname = \"mine\"\nmisses = \"host\"\n[bandwidth]\nvram = 100\npcie = 10\nhost = 20\n[cost]\nstep = 0\njoin = 0\n";
    std::fs::create_dir_all(p.home.path().join("rotary/profiles")).unwrap();
    let file = p.file("rotary/profiles/mine.toml", good.as_bytes());
    for name in ["mine", file.to_str().unwrap()] {
        let o = p.run(&["simulate", real, "--profile", name]);
        assert_eq!(o.code, 0, "{o:?}");
        contains_all(&o.out, &["tokens/s, estimated for mine"]);
    }
    let o = p.run(&["simulate", real, "--profile", "h100"]);
    assert_eq!(o.code, 2, "{o:?}");
    contains_all(&o.err, &["\"h100\"", "rtx-4060-laptop", "mine", "bench --profile"]);
    p.file("rotary/profiles/mine.toml", good.replace("pcie = 10", "pcie = nan").as_bytes());
    let o = p.run(&["simulate", real, "--profile", "mine"]);
    assert_eq!(o.code, 2, "{o:?}");
    contains_all(&o.err, &["mine.toml:6: bandwidth.pcie: NaN can't be meant; write a number of GB/s"]);
    let o = p.run(&["simulate", real, "--misses", "host"]);
    assert_eq!(o.code, 2, "{o:?}");
}

#[test]
fn differences_are_told_for_people_and_programs() {
    let p = Program::new();
    let real = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/traces/gpt-oss-120b.rotary");
    let o = p.run(&["simulate", real, "--diff", "slots=32", "lru@48", "--profile", "rtx-4060-laptop"]);
    assert_eq!(o.code, 0, "{o:?}");
    contains_all(&o.out, &["A  rotary, 32 slots", "B  lru, 48 slots", "B - A", "tokens/s, estimated", "experts that differ most"]);
    let o = p.run(&["simulate", real, "--diff", "lru@16", "belady@16", "--format", "csv"]);
    assert_eq!(o.out.lines().filter(|l| l.contains("\",layer,")).count(), 36);
    for (args, says) in [
        (vec!["simulate", "--diff", "lru", "lfu"], "give the trace"),
        (vec!["simulate", real, "--diff", "lru", "clock"], "clock"),
        (vec!["simulate", real, "--diff", "lru"], "--diff"),
        (vec!["simulate", real, "--diff", "lru@500", "lru"], "500 slots"),
        (vec!["simulate"], "FILE"),
    ] {
        let o = p.run(&args);
        assert_eq!(o.code, 2, "{args:?}: {o:?}");
        assert!(o.err.contains(says), "{args:?}: {}", o.err);
    }
}

#[test]
fn a_bench_is_recorded_with_its_times_and_a_profile_is_never_overwritten() {
    let p = Program::new();
    let file = p.home.path().join("bench.rotary");
    let file = file.to_str().unwrap();
    let o = p.run(&["bench", "demo", "--prompt", "16", "--gen", "8", "--repeat", "1", "--slots", "8", "--trace", file]);
    assert_eq!(o.code, 0, "{o:?}");
    let o = p.run(&["simulate", file, "--diff", "recorded", "rotary@8"]);
    contains_all(&o.out, &["recorded under rotary, 8 slots", "tokens/s, measured, median step"]);
    let profile = p.file("mine.toml", b"mine");
    let o = p.run(&["bench", "--profile", profile.to_str().unwrap()]);
    assert_eq!((o.code, std::fs::read(&profile).unwrap().as_slice()), (2, &b"mine"[..]), "{o:?}");
    contains_all(&o.err, &["mine.toml", "nothing is overwritten", "measure again"]);
    let o = p.run(&["bench", "--profile", "demo"]);
    assert_eq!(o.code, 2, "{o:?}");
    contains_all(&o.err, &[".toml"]);
}

#[test]
fn a_reference_that_is_none_is_an_input_error() {
    let p = Program::new();
    let file = p.file("ref.npz", b"not an archive");
    let o = p.run(&["check", "demo", file.to_str().unwrap()]);
    assert_eq!(o.code, 2, "{o:?}");
    contains_all(&o.err, &["ref.npz"]);
}

#[test]
fn a_broken_configuration_is_told_and_does_not_stop_the_program() {
    let p = Program::new();
    std::fs::create_dir_all(p.home.path().join("rotary")).unwrap();
    p.file("rotary/config.toml", b"theem = \"dark\"\n");
    let o = p.run(&["run", "demo", "-p", "hi", "-n", "2", "--greedy", "--quiet"]);
    assert_eq!(o.code, 0, "{o:?}");
    contains_all(&o.err, &["config.toml", "theem"]);
    let o = p.run(&["doctor"]);
    contains_all(&o.out, &["! config", "theem"]);
}

#[test]
fn help_teaches_by_example_and_lists_the_exit_codes() {
    let o = Program::new().run(&["--help"]);
    assert_eq!((o.code, o.err.as_str()), (0, ""));
    contains_all(&o.out, &["Examples:", "rotary run demo", "Exit codes:", "130", "--ram", "8GiB"]);
}

#[test]
fn a_model_without_experts_runs_and_says_that_it_has_none() {
    let p = Program::new();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reference/fixtures/qwen35/model.gguf");
    let o = p.run(&["run", model, "-p", "Hello", "-n", "4", "--greedy"]);
    assert_eq!(o.code, 0, "{o:?}");
    contains_all(&o.err, &["no routed experts", "answer 4 tokens"]);
    let o = p.run(&["plan", model, "--ram", "200MiB"]);
    assert_eq!(o.code, 0, "{o:?}");
    contains_all(&o.out, &["this model has no routed experts: all of it is trunk", "recurrent states"]);
    assert!(!o.out.contains("without a slot"), "{o:?}");
    let o = p.run(&["bench", model, "--prompt", "8", "--gen", "4", "--repeat", "1"]);
    assert_eq!(o.code, 0, "{o:?}");
}
