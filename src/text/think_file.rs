//! Small vocabularies of the families that mark their reasoning with `<think>` and have marks of turns of their own, for
//! tests: a token for every byte, the marks, two merges.

use super::alphabet::char_of;
use crate::gguf::write::Writer;

/// The template of GLM-4.5 and GLM-4.6 (tests/templates/README.md).
pub(crate) const GLM46: &str = include_str!("../../tests/templates/glm-4.6.jinja");
/// The template of GLM-4.7-Flash.
pub(crate) const GLM47: &str = include_str!("../../tests/templates/glm-4.7-flash.jinja");
/// The template of DeepSeek V3.1.
pub(crate) const DEEPSEEK31: &str = include_str!("../../tests/templates/deepseek-v3.1.jinja");

/// The template of MiniMax-M2.
pub(crate) const MINIMAX_M2: &str = include_str!("../../tests/templates/minimax-m2.jinja");

/// Tokens of GLM after the bytes, with their kinds in real files. `<|endoftext|>` is 256.
pub(crate) const GLM: [(&str, u32); 13] = [
    ("<|endoftext|>", 3),
    ("[MASK]", 3),
    ("[gMASK]", 3),
    ("[sMASK]", 3),
    ("<sop>", 3),
    ("<eop>", 3),
    ("<|system|>", 3),
    ("<|user|>", 3),
    ("<|assistant|>", 3),
    ("<|observation|>", 3),
    ("/nothink", 4),
    ("<think>", 4),
    ("</think>", 4),
];
/// Tokens of DeepSeek after the bytes, with their kinds in real files. The one that begins a text is 256, the one that ends it 257.
pub(crate) const DEEPSEEK: [(&str, u32); 8] = [
    ("<｜begin▁of▁sentence｜>", 3),
    ("<｜end▁of▁sentence｜>", 3),
    ("<｜User｜>", 3),
    ("<｜Assistant｜>", 3),
    ("<｜tool▁calls▁begin｜>", 3),
    ("<｜tool▁calls▁end｜>", 3),
    ("<think>", 4),
    ("</think>", 4),
];
/// Tokens of MiniMax after the bytes, with their kinds in real files. The one that begins a text is 256, the one that ends a turn 257.
pub(crate) const MINIMAX: [(&str, u32); 7] =
    [("]~!b[", 3), ("[e~[", 3), ("]~b]", 3), ("<think>", 4), ("</think>", 4), ("<minimax:tool_call>", 4), ("</minimax:tool_call>", 4)];

/// A template as LFM2.5's writes chats: the mark that begins a text, what the model said between marks of its own, without its earlier reasoning.
pub(crate) const LFM25: &str = r#"{{- bos_token -}}
{%- set ns = namespace(last=-1) -%}
{%- for message in messages -%}
    {%- if message["role"] == "user" -%}
        {%- set ns.last = loop.index0 -%}
    {%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
    {{- "<|im_start|>" + message.role + "\n" -}}
    {%- if message.role == "assistant" -%}
        {%- generation -%}
        {%- if message.thinking is defined and loop.index0 > ns.last -%}
            {{- "<think>" + message.thinking + "</think>" -}}
        {%- endif -%}
        {%- set content = message.content -%}
        {%- if loop.index0 < ns.last and "</think>" in content -%}
            {%- set content = content.split("</think>")[-1] | trim -%}
        {%- endif -%}
        {{- content + "<|im_end|>\n" -}}
        {%- endgeneration -%}
    {%- else %}
        {%- if message.get("content") -%}
            {{- message["content"] -}}
        {%- endif -%}
        {{- "<|im_end|>\n" -}}
    {%- endif %}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<|im_start|>assistant\n" -}}
{%- endif -%}
"#;

/// Tokens of LFM2 after the bytes.
pub(crate) const LFM2: [(&str, u32); 7] =
    [("<|pad|>", 3), ("<|startoftext|>", 3), ("<|endoftext|>", 3), ("<|im_start|>", 3), ("<|im_end|>", 3), ("<think>", 3), ("</think>", 3)];

/// A file of the form of LFM2.5.
pub(crate) fn lfm2() -> Writer {
    words("lfm2moe", "lfm2", &LFM2)
        .with("tokenizer.ggml.bos_token_id", 257u32)
        .with("tokenizer.ggml.eos_token_id", 260u32)
        .with("tokenizer.ggml.add_bos_token", true)
        .with("tokenizer.chat_template", LFM25)
}

/// A file of GLM's form with this template.
pub(crate) fn glm(template: &str) -> Writer {
    words("glm4moe", "glm4", &GLM)
        .with("tokenizer.ggml.bos_token_id", 258u32)
        .with("tokenizer.ggml.eos_token_id", 256u32)
        .with("tokenizer.chat_template", template)
}

/// A file of the form of DeepSeek V3.1.
pub(crate) fn deepseek() -> Writer {
    words("deepseek2", "deepseek-v3", &DEEPSEEK)
        .with("tokenizer.ggml.bos_token_id", 256u32)
        .with("tokenizer.ggml.eos_token_id", 257u32)
        .with("tokenizer.ggml.add_bos_token", true)
        .with("tokenizer.chat_template", DEEPSEEK31)
}

/// A file of the form of MiniMax-M2.
pub(crate) fn minimax() -> Writer {
    words("minimax-m2", "minimax-m2", &MINIMAX)
        .with("tokenizer.ggml.bos_token_id", 256u32)
        .with("tokenizer.ggml.eos_token_id", 257u32)
        .with("tokenizer.chat_template", MINIMAX_M2)
}

fn words(arch: &str, pre: &str, marks: &[(&str, u32)]) -> Writer {
    let bytes = (0..=255).map(|b| (char_of(b).to_string(), 1));
    let marks = marks.iter().map(|(token, kind)| ((*token).to_owned(), *kind));
    let pieces = ["he", "\u{120}he"].map(|token| (token.to_owned(), 1));
    let (tokens, kinds): (Vec<String>, Vec<u32>) = bytes.chain(marks).chain(pieces).unzip();
    Writer::new(arch)
        .with("tokenizer.ggml.model", "gpt2")
        .with("tokenizer.ggml.pre", pre)
        .with("tokenizer.ggml.tokens", tokens)
        .with("tokenizer.ggml.token_type", kinds)
        .with("tokenizer.ggml.merges", vec!["h e", "\u{120} he"])
}
