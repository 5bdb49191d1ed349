use super::super::alphabet::char_of;
use super::super::harmony_file;
use super::super::think_file;
use super::*;
use crate::gguf::write::Writer;
use crate::gguf::Bytes;
use proptest::prelude::*;

/// All bytes, some merges, a few added tokens.
fn file() -> Writer {
    let mut tokens: Vec<String> = (0..=255).map(|b| char_of(b).to_string()).collect();
    tokens.extend(["he", "ll", "hell", "hello", "Ġhello"].map(String::from));
    let mut kinds = vec![1u32; tokens.len()];
    for (token, kind) in [("<|im_end|>", 3u32), ("<|im_start|>", 3), ("<think>", 4), ("</think>", 3), ("<|begin|>", 3), ("[PAD]", 5)] {
        tokens.push(token.into());
        kinds.push(kind);
    }
    Writer::new("qwen3moe")
        .with("tokenizer.ggml.model", "gpt2")
        .with("tokenizer.ggml.pre", "qwen2")
        .with("tokenizer.ggml.tokens", tokens)
        .with("tokenizer.ggml.token_type", kinds)
        .with("tokenizer.ggml.merges", vec!["h e", "l l", "he ll", "hell o", "Ġ hello"])
        .with("tokenizer.ggml.eos_token_id", 261u32)
        .with("tokenizer.ggml.bos_token_id", 265u32)
}

fn open(file: &Writer) -> Result<Tokenizer, TextError> {
    Tokenizer::from_gguf(&Gguf::from_bytes(Bytes::from_vec(file.to_bytes()), "test.gguf").unwrap())
}

fn refused(file: &Writer) -> String {
    open(file).map(drop).unwrap_err().to_string()
}

fn text(t: &Tokenizer, ids: &[u32], special: bool) -> String {
    String::from_utf8(ids.iter().flat_map(|&id| t.token_bytes(id, special)).collect()).unwrap()
}

#[test]
fn merges_run_best_first() {
    let t = open(&file()).unwrap();
    assert_eq!(t.encode("hello hello", false).unwrap(), [259, 260]);
    assert_eq!(t.encode("hell", false).unwrap(), [258]);
    assert_eq!(t.encode("", true).unwrap(), Vec::<u32>::new());
}

#[test]
fn control_tokens_are_made_only_on_request() {
    let t = open(&file()).unwrap();
    assert_eq!(t.encode("hello<|im_end|>", true).unwrap(), [259, 261]);
    let plain = t.encode("hello<|im_end|>", false).unwrap();
    assert!(plain.iter().all(|&id| t.kind(id) == Some(TokenKind::Normal)));
    assert_eq!(text(&t, &plain, false), "hello<|im_end|>");
    assert_eq!(t.encode("<think>", false).unwrap(), [263], "a user-defined token is text");
}

#[test]
fn control_tokens_are_not_shown_but_thinking_marks_are() {
    let t = open(&file()).unwrap();
    assert!(t.token_bytes(261, false).is_empty());
    assert_eq!(t.token_bytes(261, true), b"<|im_end|>");
    assert_eq!(t.token_bytes(263, false), b"<think>");
    assert_eq!(t.token_bytes(264, false), b"</think>");
    assert!(t.token_bytes(266, false).is_empty() && t.token_bytes(9999, true).is_empty());
}

#[test]
fn a_guarded_prompt_keeps_what_people_write_apart() {
    let t = open(&file()).unwrap();
    let prompt = format!("<|im_start|><{GUARD}|im_end|>hello<|im_end|>");
    let ids = t.encode_prompt(&prompt).unwrap();
    assert_eq!(ids.iter().filter(|&&id| t.kind(id) == Some(TokenKind::Control)).count(), 2);
    assert_eq!(text(&t, &ids, true), "<|im_start|><|im_end|>hello<|im_end|>");
}

#[test]
fn the_begin_token_is_added_once_and_only_where_wanted() {
    assert_eq!(open(&file()).unwrap().bos(), None);
    let t = open(&file().with("tokenizer.ggml.add_bos_token", true)).unwrap();
    assert_eq!(t.encode_prompt("hello").unwrap(), [265, 259]);
    assert_eq!(t.encode_prompt("<|begin|>hello").unwrap(), [265, 259]);
    let llama = open(&file().with("tokenizer.ggml.pre", "llama-bpe")).unwrap();
    assert_eq!(llama.bos(), Some(265));
}

#[test]
fn the_end_set_has_the_files_own_and_the_familys_tokens() {
    let file = file().with("tokenizer.ggml.eos_token_id", 0u32).with("tokenizer.ggml.eot_token_id", 1u32);
    let t = open(&file).unwrap();
    assert_eq!(t.ends().collect::<Vec<_>>(), [0, 1, 261]);
    assert!(t.is_end(261) && !t.is_end(262));
}

#[test]
fn in_the_harmony_format_the_end_of_a_message_is_not_that_of_the_turn() {
    let t = open(&harmony_file::file(3)).unwrap();
    let end = t.token_id("<|end|>").unwrap();
    let ends: Vec<&str> = t.ends().map(|id| t.token_text(id).unwrap()).collect();
    assert_eq!(ends, ["<|endoftext|>", "<|return|>", "<|call|>"]);
    assert!(t.format() == Format::Harmony && t.mark(end) == Some(Mark::End) && t.mark(0).is_none());
    let channel = t.token_id("<|channel|>").unwrap();
    assert_eq!(t.mark(channel), Some(Mark::Channel));
    assert!(t.token_bytes(channel, false).is_empty(), "a mark is never text");
    let spelled = t.encode("<|channel|>", false).unwrap();
    assert!(spelled.iter().all(|&id| t.mark(id).is_none()), "and text is never a mark");
}

#[test]
fn a_vocabulary_without_the_marks_as_control_tokens_is_not_of_the_harmony_format() {
    assert_eq!(open(&harmony_file::file(4)).unwrap().format(), Format::Think);
    assert_eq!(open(&file()).unwrap().format(), Format::Think);
    let phi = file().with("tokenizer.ggml.tokens", {
        let mut tokens: Vec<String> = (0..=255).map(|b| char_of(b).to_string()).collect();
        tokens.extend(["he", "ll", "hell", "hello", "Ġhello", "<|end|>", "<|user|>", "a1", "a2", "a3", "a4"].map(String::from));
        tokens
    });
    assert!(open(&phi).unwrap().is_end(261), "elsewhere it ends the turn");
}

#[test]
fn the_mark_of_the_next_speaker_ends_a_turn_of_glm() {
    let ends = |file: &Writer| -> Vec<String> {
        let t = open(file).unwrap();
        t.ends().map(|id| t.token_text(id).unwrap().to_owned()).collect()
    };
    let glm = think_file::glm(think_file::GLM47);
    assert_eq!(ends(&glm), ["<|endoftext|>", "<|user|>", "<|observation|>"]);
    let user = open(&glm).unwrap().token_id("<|user|>").unwrap();
    assert_eq!(ends(&glm.with("tokenizer.ggml.eos_token_id", user)), ["<|endoftext|>", "<|user|>", "<|observation|>"]);
    assert_eq!(ends(&think_file::deepseek()), ["<｜end▁of▁sentence｜>"]);
    assert_eq!(ends(&think_file::deepseek().with("tokenizer.ggml.eos_token_id", 256u32)).len(), 2, "by its name");
    assert_eq!(ends(&think_file::minimax()), ["[e~["]);
    assert_eq!(ends(&think_file::minimax().with("tokenizer.ggml.eos_token_id", 0xffff_ffffu32)), ["[e~["], "by its name, too");
    // Phi's vocabulary has one of the marks, and a turn that ends by another.
    let phi = file().with("tokenizer.ggml.tokens", {
        let mut tokens: Vec<String> = (0..=255).map(|b| char_of(b).to_string()).collect();
        tokens.extend(["he", "ll", "hell", "hello", "Ġhello", "<|end|>", "<|user|>", "<|assistant|>", "a2", "a3", "a4"].map(String::from));
        tokens
    });
    assert!(!open(&phi).unwrap().is_end(262));
}

#[test]
fn glm_and_deepseek_begin_as_their_templates_say() {
    let glm = open(&think_file::glm(think_file::GLM47)).unwrap();
    assert_eq!(glm.bos(), None, "though the file names one");
    assert_eq!(glm.encode_prompt("[gMASK]<sop>he").unwrap(), glm.encode("[gMASK]<sop>he", true).unwrap());
    let deepseek = open(&think_file::deepseek()).unwrap();
    assert_eq!(deepseek.encode_prompt("he").unwrap(), deepseek.encode_prompt("<｜begin▁of▁sentence｜>he").unwrap());
    assert_eq!(deepseek.encode("e\u{301}", false).unwrap().len(), 3, "nothing is composed");
}

/// A part of the vocabulary of DeepSeek V3 (Copyright DeepSeek, MIT License), all of it that these texts can need, and the tokens that
/// Hugging Face's tokenizers 0.23.3 makes of them with the whole: code, many scripts, emoji, numbers, white space.
#[test]
fn words_of_deepseek_are_those_of_hugging_faces_tokenizers() {
    let case: serde_json::Value = serde_json::from_str(include_str!("../../tests/words/deepseek-v3.json")).unwrap();
    let strings = |v: &serde_json::Value| -> Vec<String> { serde_json::from_value(v.clone()).unwrap() };
    let mut all: Vec<String> = (0..=255).map(|b| char_of(b).to_string()).collect();
    let mut kinds = vec![1u32; all.len()];
    all.extend(think_file::DEEPSEEK.map(|(token, _)| token.to_owned()));
    kinds.extend(think_file::DEEPSEEK.map(|(_, kind)| kind));
    all.extend(strings(&case["tokens"]));
    kinds.resize(all.len(), 1);
    let file = think_file::deepseek().with("tokenizer.ggml.tokens", all).with("tokenizer.ggml.token_type", kinds);
    let t = open(&file.with("tokenizer.ggml.merges", strings(&case["merges"]))).unwrap();
    let texts = case["texts"].as_array().unwrap();
    assert!(texts.len() > 40);
    for one in texts {
        let said = one[0].as_str().unwrap();
        let ids = t.encode(said, false).unwrap();
        let got: Vec<&str> = ids.iter().map(|&id| t.token_text(id).unwrap()).collect();
        assert_eq!(got, strings(&one[1]), "{said:?}");
        assert_eq!(text(&t, &ids, false), said);
    }
}

#[test]
fn text_is_composed_where_the_model_wants_it() {
    let qwen = open(&file()).unwrap();
    assert_eq!(qwen.encode("e\u{301}", false).unwrap(), qwen.encode("é", false).unwrap());
    let llama = open(&file().with("tokenizer.ggml.pre", "llama-bpe")).unwrap();
    assert_eq!(llama.encode("e\u{301}", false).unwrap().len(), 3);
}

#[test]
fn an_unknown_pre_tokenizer_is_named_with_the_known_ones() {
    let why = refused(&file().with("tokenizer.ggml.pre", "gpt-9\u{1b}[2J"));
    assert!(why.contains("gpt-9\\\\u{1b}[2J") && why.contains("qwen35") && !why.contains('\u{1b}'), "{why}");
    let why = refused(&file().with("tokenizer.ggml.model", "llama"));
    assert!(why.contains("\"llama\""), "{why}");
}

#[test]
fn a_vocabulary_that_contradicts_itself_is_refused_by_key() {
    let tokens = |edit: fn(&mut Vec<String>)| {
        let mut all: Vec<String> = (0..=255).map(|b| char_of(b).to_string()).collect();
        edit(&mut all);
        Writer::empty()
            .with("tokenizer.ggml.model", "gpt2")
            .with("tokenizer.ggml.pre", "qwen2")
            .with("tokenizer.ggml.tokens", all)
            .with("tokenizer.ggml.merges", vec!["a b"])
    };
    for (file, words) in [
        (tokens(|t| t[7] = "a".into()), "is the same as token"),
        (tokens(|_| ()), "needs the token \"ab\""),
        (tokens(|t| t.clear()), "has 0 tokens"),
        (file().with("tokenizer.ggml.merges", vec!["hello"]), "is not two tokens"),
        (file().with("tokenizer.ggml.merges", vec!["x nowhere"]), "needs the token \"nowhere\""),
        (file().with("tokenizer.ggml.token_type", vec![1u32; 5]), "has 5 entries for 267 tokens"),
        (file().with("tokenizer.ggml.token_type", vec![9u32; 267]), "kinds are 1 to 6"),
        (file().with("tokenizer.ggml.eos_token_id", 267u32), "names token 267"),
        (file().with("tokenizer.ggml.eos_token_id", "end"), "should be an unsigned integer"),
        (file().with("tokenizer.ggml.tokens", 5u32), "should be an array of strings"),
        (Writer::empty(), "tokenizer.ggml.model is missing"),
    ] {
        let why = refused(&file);
        assert!(why.contains(words) && why.contains("test.gguf") && why.contains("tokenizer.ggml."), "{why}");
    }
}

#[test]
fn a_byte_without_a_token_is_an_error_and_not_silence() {
    let mut tokens: Vec<String> = (0..=255).map(|b| char_of(b).to_string()).collect();
    tokens.remove(usize::from(b'~'));
    let file = file().with("tokenizer.ggml.tokens", tokens.clone()).with("tokenizer.ggml.merges", Vec::<String>::new());
    let file = file.with("tokenizer.ggml.token_type", vec![1u32; tokens.len()]);
    let t = open(&file.with("tokenizer.ggml.eos_token_id", 0u32).with("tokenizer.ggml.bos_token_id", 0u32)).unwrap();
    assert!(matches!(t.encode("a~b", false), Err(TextError::NoToken { byte: b'~' })));
    assert_eq!(t.encode("ab", false).unwrap().len(), 2);
}

proptest! {
    #[test]
    fn text_comes_back_from_its_tokens(text_in in "(\\PC{0,20}|hello| |<\\|im_end\\|>|\n){0,5}") {
        let t = open(&file().with("tokenizer.ggml.pre", "llama-bpe")).unwrap();
        let ids = t.encode(&text_in, false).unwrap();
        prop_assert_eq!(text(&t, &ids, false), text_in);
    }
}
