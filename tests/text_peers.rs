//! Compares the tokenizer with reference ids, where vocabularies and cases are at hand.
//!
//! `ROTARY_VOCABULARIES` names a folder of llama.cpp's `ggml-vocab-*.gguf` with their `.inp` and `.out` files (or of others in
//! that form: that of gpt-oss was made from the ranks of `o200k_base`, with ids by tiktoken; that of Gemma 4 was tried with more
//! texts, by tokenizers, and so were those of DeepSeek); `ROTARY_CASES` a folder of
//! reference cases (`*/prompts.json` beside `model-*.gguf`). Without them nothing is compared here.

use rotary::gguf::Gguf;
use rotary::text::{PreTokenizer, Tokenizer};
use std::path::{Path, PathBuf};

fn files(folder: &str, ends: &str) -> Vec<PathBuf> {
    let Some(folder) = std::env::var_os(folder) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    found.retain(|p| p.to_string_lossy().ends_with(ends));
    found.sort();
    found
}

#[test]
fn ids_equal_llama_cpp_on_real_vocabularies() {
    for path in files("ROTARY_VOCABULARIES", ".gguf") {
        let start = std::time::Instant::now();
        let gguf = Gguf::open(&path).unwrap();
        let composes = gguf.str("tokenizer.ggml.pre").unwrap().and_then(PreTokenizer::named).is_some_and(|pre| pre.wants_nfc());
        let tokenizer = match Tokenizer::from_gguf(&gguf) {
            Ok(t) => t,
            Err(e) => {
                eprintln!("skipped: {e}");
                continue;
            }
        };
        let took = start.elapsed();
        let side = |end: &str| std::fs::read_to_string(PathBuf::from(format!("{}{end}", path.display())));
        let (Ok(inputs), Ok(outputs)) = (side(".inp"), side(".out")) else { continue };
        let inputs: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
        let outputs: Vec<&str> = outputs.split('\n').collect();
        let mut wrong = 0;
        for (input, output) in inputs.iter().zip(&outputs) {
            // llama.cpp leaves text as it is where the model's own tokenizer composes it.
            if composes && !unicode_normalization::is_nfc(input) {
                continue;
            }
            let want: Vec<u32> = output.split_whitespace().map(|n| n.parse().unwrap()).collect();
            let got = tokenizer.encode(input, false).unwrap();
            if got != want {
                eprintln!("  {input:?}\n    got  {got:?}\n    want {want:?}");
                wrong += 1;
            }
        }
        eprintln!("{}: {} texts, {wrong} wrong, loaded in {took:?}", path.display(), inputs.len());
        assert_eq!(wrong, 0);
    }
}

#[test]
fn ids_equal_the_reference_cases() {
    for case in files("ROTARY_CASES", "-1").into_iter().chain(files("ROTARY_CASES", "-2")) {
        check_case(&case);
    }
}

fn check_case(case: &Path) {
    let Ok(prompts) = std::fs::read_to_string(case.join("prompts.json")) else { return };
    let prompts: serde_json::Value = serde_json::from_str(&prompts).unwrap();
    let model = std::fs::read_dir(case).unwrap().map(|e| e.unwrap().path()).find(|p| p.extension().is_some_and(|e| e == "gguf"));
    let Some(model) = model else { return };
    let tokenizer = Tokenizer::from_gguf(&Gguf::open(&model).unwrap()).unwrap();
    let ids = |v: &serde_json::Value| -> Vec<u32> { v["ids"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect() };
    let (mut texts, mut decoded) = (0, 0);
    for one in prompts["tokenize"].as_array().into_iter().flatten() {
        let text = one["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text, true).unwrap(), ids(one), "{} {text:?}", case.display());
        texts += 1;
    }
    for one in prompts["decode"].as_array().into_iter().flatten() {
        let bytes: Vec<u8> = ids(one).iter().flat_map(|&id| tokenizer.token_bytes(id, true)).collect();
        assert_eq!(String::from_utf8_lossy(&bytes), one["text"].as_str().unwrap(), "{}", case.display());
        decoded += 1;
    }
    eprintln!("{}: {texts} texts, {decoded} decoded", case.display());
}
