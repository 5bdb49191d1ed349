//! Vocabularies of Gemma 4's form.

use super::super::gemma_file::{self, BYTES};
use super::*;
use crate::gguf::write::Writer;
use crate::gguf::Bytes;
use proptest::prelude::*;

fn open(file: &Writer) -> Result<Tokenizer, TextError> {
    Tokenizer::from_gguf(&Gguf::from_bytes(Bytes::from_vec(file.to_bytes()), "test.gguf").unwrap())
}

fn gemma() -> Tokenizer {
    open(&gemma_file::file()).unwrap()
}

fn tokens(t: &Tokenizer, text: &str, special: bool) -> Vec<String> {
    t.encode(text, special).unwrap().into_iter().map(|id| t.token_text(id).unwrap().to_owned()).collect()
}

fn text(t: &Tokenizer, ids: &[u32], special: bool) -> String {
    String::from_utf8(ids.iter().flat_map(|&id| t.token_bytes(id, special)).collect()).unwrap()
}

#[test]
fn spaces_are_letters_and_unknown_characters_are_bytes() {
    let t = gemma();
    assert_eq!(tokens(&t, "he he  x", false), ["he", "▁he", "▁", "▁", "x"]);
    assert_eq!(tokens(&t, " he", false), ["▁he"], "the first space is kept, and none is added");
    assert_eq!(tokens(&t, "é一\t", false), ["é", "<0xE4>", "<0xB8>", "<0x80>", "<0x09>"]);
    assert_eq!(text(&t, &t.encode(" he 一\r\n", false).unwrap(), false), " he 一\r\n");
    assert_eq!(t.encode("\0", false).unwrap(), [BYTES]);
    assert_eq!(tokens(&t, "e\u{301}", false), ["e", "<0xCC>", "<0x81>"], "nothing is composed");
}

#[test]
fn a_run_of_line_feeds_that_is_a_token_is_taken_whole() {
    // Without the merge it could not be built.
    let t = open(&gemma_file::file().with("tokenizer.ggml.merges", vec!["h e"])).unwrap();
    assert_eq!(tokens(&t, "h\n\ne\n", false), ["h", "\n\n", "e", "\n"]);
    assert_eq!(tokens(&gemma(), "\n\n\n", false), ["\n\n", "\n"], "and a longer one is merged");
}

#[test]
fn marks_are_made_only_where_the_program_puts_them() {
    let t = gemma();
    assert_eq!(t.format(), Format::Gemma);
    for (mark, kind) in gemma_file::MARKS.iter().filter(|(_, kind)| *kind != 1) {
        let id = t.token_id(mark).unwrap();
        assert_eq!(t.kind(id), Some(TokenKind::Control), "{mark} is {kind} in the file");
        assert_eq!(t.encode(mark, true).unwrap(), [id]);
        let spelled = t.encode(mark, false).unwrap();
        assert!(spelled.len() > 2 && !spelled.contains(&id) && spelled.iter().all(|&id| t.mark(id).is_none()), "{mark}");
        assert_eq!(text(&t, &spelled, false), *mark);
        assert!(t.token_bytes(id, false).is_empty(), "{mark} is never shown");
        let guarded = format!("<{GUARD}{}", &mark[1..]);
        assert_eq!(t.encode(&guarded, true).unwrap(), spelled);
    }
    let channel = t.token_id("<|channel>").unwrap();
    assert_eq!((t.mark(channel), t.mark(channel + 1)), (Some(Mark::Channel), Some(Mark::ChannelEnd)));
}

#[test]
fn another_vocabularys_user_defined_tokens_stay_text() {
    let file = gemma_file::file().with("tokenizer.ggml.model", "gpt2").with("tokenizer.ggml.pre", "qwen2");
    let t = open(&file).unwrap();
    assert_eq!(t.format(), Format::Think);
    assert_eq!(t.kind(t.token_id("<|channel>").unwrap()), Some(TokenKind::UserDefined));
}

#[test]
fn a_name_of_a_byte_is_text_where_it_is_written() {
    let t = gemma();
    assert_eq!(text(&t, &t.encode("<0x0A>", false).unwrap(), false), "<0x0A>");
    // Nor can merges make one.
    let t = open(&gemma_file::file().with("tokenizer.ggml.merges", vec!["< 0", "<0 x", "<0x 0", "<0x0 A", "<0x0A >"]));
    assert!(t.is_err(), "merges need tokens");
    let mut file = gemma_file::file().with("tokenizer.ggml.merges", vec!["<0x0 A>"]);
    let mut tokens: Vec<String> = (0..t_len()).map(|i| gemma().token_text(i).unwrap().to_owned()).collect();
    tokens.extend(["<0x0".into(), "A>".into()]);
    let mut kinds: Vec<u32> = gemma_file::MARKS.iter().map(|(_, kind)| *kind).collect();
    kinds.resize(tokens.len(), 1);
    file.set("tokenizer.ggml.tokens", tokens);
    file.set("tokenizer.ggml.token_type", kinds);
    let t = open(&file).unwrap();
    assert_eq!(text(&t, &t.encode("<0x0A>\n", false).unwrap(), false), "<0x0A>\n");
    assert_eq!(t.kind(BYTES), Some(TokenKind::Byte), "whatever the file says");
}

fn t_len() -> u32 {
    gemma().vocab() as u32
}

#[test]
fn the_begin_token_comes_once_whatever_the_file_says() {
    for t in [gemma(), open(&gemma_file::file().with("tokenizer.ggml.add_bos_token", false)).unwrap()] {
        let he = t.token_id("he").unwrap();
        assert_eq!(t.encode_prompt("he").unwrap(), [2, he]);
        assert_eq!(t.encode_prompt("<bos>he").unwrap(), [2, he]);
    }
}

#[test]
fn turns_end_with_their_mark_a_call_or_the_end_of_text() {
    let t = gemma();
    let ends: Vec<&str> = t.ends().map(|id| t.token_text(id).unwrap()).collect();
    assert_eq!(ends, ["<eos>", "<turn|>", "<|tool_response>"], "and not with </s>, which is text");
}

#[test]
fn a_character_without_any_token_is_an_error_and_not_silence() {
    let mut kinds: Vec<u32> = (0..t_len()).map(|id| if (BYTES..BYTES + 256).contains(&id) { 6 } else { 1 }).collect();
    let mut all: Vec<String> = (0..t_len()).map(|i| gemma().token_text(i).unwrap().to_owned()).collect();
    let at = (BYTES + 0xb8) as usize;
    all.remove(at);
    kinds.remove(at);
    let t = open(&gemma_file::file().with("tokenizer.ggml.tokens", all).with("tokenizer.ggml.token_type", kinds)).unwrap();
    assert!(matches!(t.encode("he 一", false), Err(TextError::NoToken { byte: 0xb8 })));
    assert_eq!(tokens(&t, "二", false).len(), 3);
    assert_eq!(tokens(&t, "é", false), ["é"]);
}

#[test]
fn a_pre_tokenizer_of_another_family_is_refused() {
    assert!(open(&gemma_file::file().with("tokenizer.ggml.pre", "gemma4")).is_ok());
    let why = open(&gemma_file::file().with("tokenizer.ggml.pre", "qwen2")).map(drop).unwrap_err().to_string();
    assert!(why.contains("\"qwen2\"") && why.contains("known are gemma4"), "{why}");
    let why = open(&gemma_file::file().with("tokenizer.ggml.merges", vec!["he x"])).map(drop).unwrap_err().to_string();
    assert!(why.contains("needs the token \"hex\""), "{why}");
}

#[test]
fn a_megabyte_on_one_line_is_read() {
    let t = gemma();
    assert_eq!(t.encode(&"he ".repeat(1 << 18), false).unwrap().len(), (1 << 18) + 1);
    assert_eq!(t.encode(&"\n".repeat(1 << 18), false).unwrap().len(), 1 << 17);
}

/// A part of the vocabulary of Gemma 4 (Copyright Google, Apache License 2.0), all of it that these texts can need, and the tokens that
/// Hugging Face's tokenizers 0.23.3 makes of them with the whole: code, many scripts, emoji, white space.
#[test]
fn words_are_those_of_hugging_faces_tokenizers() {
    let case: serde_json::Value = serde_json::from_str(include_str!("../../tests/words/gemma-4.json")).unwrap();
    let strings = |v: &serde_json::Value| -> Vec<String> { serde_json::from_value(v.clone()).unwrap() };
    let first = (BYTES + 256) as usize;
    let mut all: Vec<String> = (0..first).map(|id| gemma().token_text(id as u32).unwrap().to_owned()).filter(|t| t != "</s>").collect();
    let mut kinds = vec![3; first - 1 - 256];
    kinds.resize(first - 1, 6);
    all.extend(strings(&case["tokens"]));
    kinds.resize(all.len(), 1u32);
    let file = gemma_file::file().with("tokenizer.ggml.tokens", all).with("tokenizer.ggml.token_type", kinds);
    let t = open(&file.with("tokenizer.ggml.merges", strings(&case["merges"]))).unwrap();
    let texts = case["texts"].as_array().unwrap();
    assert!(texts.len() > 30);
    for one in texts {
        let said = one[0].as_str().unwrap();
        assert_eq!(tokens(&t, said, false), strings(&one[1]), "{said:?}");
        assert_eq!(text(&t, &t.encode(said, false).unwrap(), false), said.replace('\u{2581}', " "));
    }
}

proptest! {
    #[test]
    fn text_comes_back_from_its_tokens(text_in in "(\\PC{0,20}| he|  |<\\|channel>|<0x0A>|[\n\r\t\0]|🇩🇪){0,5}") {
        prop_assume!(!text_in.contains(['\u{2581}', GUARD]));
        let t = gemma();
        let ids = t.encode(&text_in, false).unwrap();
        prop_assert_eq!(text(&t, &ids, false), text_in.clone());
        prop_assert_eq!(t.encode(&text_in.replace("<|", &format!("<{GUARD}|")), true).unwrap(), ids);
    }
}
