//! The chat template of the file, run with limits, in the dialect that Hugging Face made of Jinja.

use super::spelling::Spelling;
use super::{gemma, TextError, GUARD};
use crate::events::{Effort, Message, Reasoning, Role};
use crate::gguf::{shown, Gguf, Value as Metadata};
use fancy_regex::Regex;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{context, Environment, Error, ErrorKind, State};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

/// Used, and announced, where the file has no template.
const CHATML: &str = "\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}";

/// Steps that a template may take; every 64 bytes of text made on the way count as one, so this bounds memory too.
const FUEL: u64 = 4_000_000;
/// Nested calls that a template may make.
const RECURSION: usize = 64;
/// Longest template in bytes.
const MAX_TEMPLATE: usize = 1 << 20;
/// A prompt may be longer than its messages, repeats included, by so many bytes.
const OVERHEAD: usize = 1 << 20;
/// A prompt may repeat its messages so often.
const REPEATS: usize = 8;

/// The file's chat template, run with limits.
pub struct ChatTemplate {
    env: Environment<'static>,
    file: PathBuf,
    fallback: bool,
    can_think: bool,
    has_effort: bool,
    bos: String,
    eos: String,
    /// Control tokens, longest first, that messages must not contain as such.
    control: Vec<String>,
}

impl ChatTemplate {
    /// From `tokenizer.chat_template`, or built-in ChatML.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TextError> {
        let source = gguf.str("tokenizer.chat_template")?.filter(|t| !t.trim().is_empty());
        let mut template = Self::new(source, gguf)?;
        let tokens = gguf.strs("tokenizer.ggml.tokens")?.unwrap_or_default();
        let kinds = gguf.get("tokenizer.ggml.token_type").and_then(Metadata::as_array).unwrap_or_default();
        let characters = gguf.str("tokenizer.ggml.model")?.and_then(Spelling::of_family) == Some(Spelling::Characters);
        let is_control = |token: &str, kind: &Metadata| match kind.as_u64() {
            Some(3) => !token.is_empty(),
            Some(4) => characters && gemma::steers(token),
            _ => false,
        };
        template.control = tokens.iter().zip(kinds).filter(|(t, k)| is_control(t, k)).map(|(t, _)| (*t).to_owned()).collect();
        template.control.sort_by_key(|t| std::cmp::Reverse(t.len()));
        let token = |key: &str| -> Result<String, TextError> {
            let id = gguf.u64(key)?.and_then(|id| usize::try_from(id).ok());
            Ok(id.and_then(|id| tokens.get(id)).copied().unwrap_or_default().to_owned())
        };
        template.bos = token("tokenizer.ggml.bos_token_id")?;
        template.eos = token("tokenizer.ggml.eos_token_id")?;
        Ok(template)
    }

    fn new(source: Option<&str>, gguf: &Gguf) -> Result<Self, TextError> {
        let file = gguf.name().to_path_buf();
        let fallback = source.is_none();
        let source = source.unwrap_or(CHATML).to_owned();
        if source.len() > MAX_TEMPLATE {
            let why = format!("it is {} bytes long, more than the limit of {MAX_TEMPLATE}", source.len());
            return Err(TextError::TemplateLimit { file, why });
        }
        let mut can_think = source.contains("enable_thinking");
        let has_effort = source.contains("reasoning_effort");
        let mut env = environment();
        env.add_template_owned("chat_template", without_generation(&source)).map_err(|e| TextError::TemplateSyntax {
            file: file.clone(),
            line: e.line().unwrap_or(0),
            why: message(&e),
        })?;
        // DeepSeek's templates call the switch so. The word alone may be the name of a message's field.
        can_think |= env.get_template("chat_template").is_ok_and(|t| t.undeclared_variables(false).contains("thinking"));
        Ok(Self { env, file, fallback, can_think, has_effort, bos: String::new(), eos: String::new(), control: Vec::new() })
    }

    /// The prompt text, ending where the assistant is to go on.
    ///
    /// Encode it with [`super::Tokenizer::encode_prompt`]: where a message spells a control token, the prompt carries
    /// a mark that keeps it from becoming one, and that only this encoder takes out again. `now`, in seconds since 1970, is
    /// the moment that the template is told if it asks (in UTC).
    pub fn render(&self, messages: &[Message], reasoning: Reasoning, now: u64) -> Result<String, TextError> {
        let chat: Vec<Value> = messages.iter().map(|m| self.message(m)).collect();
        let context = context! {
            messages => chat,
            add_generation_prompt => true,
            bos_token => self.bos.clone(),
            eos_token => self.eos.clone(),
        };
        let context = match reasoning.on {
            // The families disagree on its name: the second is that of DeepSeek.
            Some(enable_thinking) => context! { enable_thinking, thinking => enable_thinking, ..context },
            None => context,
        };
        // A model that can't but reason does little of it where none was wanted.
        let little = (self.has_effort && !self.can_think && reasoning.on == Some(false)).then_some(Effort::Low);
        let context = match reasoning.effort.or(little) {
            Some(effort) => context! { reasoning_effort => effort.name(), ..context },
            None => context,
        };
        let given: usize = messages.iter().map(|m| m.content.len() + m.thinking.as_ref().map_or(0, String::len)).sum();
        self.write(context, given.saturating_mul(REPEATS) + OVERHEAD, now)
    }

    /// Run the template, for at most `limit` bytes.
    fn write(&self, context: Value, limit: usize, now: u64) -> Result<String, TextError> {
        // In the context and not the environment, so that every render has its own moment; macros find it there too.
        let strftime_now = Value::from_function(move |format: String| strftime(&format, now));
        let mut out = Bounded { bytes: Vec::new(), limit, full: false };
        let template = self.env.get_template("chat_template").map_err(|e| self.error(&e))?;
        let result = template.render_captured_to(context! { strftime_now, ..context }, &mut out).map(drop);
        if out.full {
            let why = format!("it wrote more than {} bytes", out.limit);
            return Err(TextError::TemplateLimit { file: self.file.clone(), why });
        }
        result.map_err(|e| self.error(&e))?;
        String::from_utf8(out.bytes).map_err(|e| TextError::Template { file: self.file.clone(), line: 0, why: e.to_string() })
    }

    /// The template asks for `enable_thinking`, or `thinking`.
    #[must_use]
    pub fn can_think(&self) -> bool {
        self.can_think
    }

    /// The template asks for `reasoning_effort`.
    #[must_use]
    pub fn has_effort(&self) -> bool {
        self.has_effort
    }

    /// The built-in ChatML is used, because the file has no template.
    #[must_use]
    pub fn is_fallback(&self) -> bool {
        self.fallback
    }

    /// A message as templates know it.
    fn message(&self, m: &Message) -> Value {
        let role = match m.role {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        };
        let mut fields = BTreeMap::from([("role", Value::from(role)), ("content", Value::from(self.guard(&m.content)))]);
        if let Some(thinking) = &m.thinking {
            let thinking = Value::from(self.guard(thinking));
            // The families disagree on its name: the first is that of Qwen, the second that of gpt-oss.
            fields.extend([("reasoning_content", thinking.clone()), ("thinking", thinking)]);
        }
        Value::from(fields)
    }

    /// Break every control token that is spelled out in `text`.
    fn guard(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for (at, c) in text.char_indices().filter(|&(_, c)| c != GUARD) {
            out.push(c);
            if self.control.iter().any(|token| text[at..].starts_with(token.as_str())) {
                out.push(GUARD);
            }
        }
        out
    }

    fn error(&self, e: &Error) -> TextError {
        let file = self.file.clone();
        if e.kind() == ErrorKind::OutOfFuel {
            return TextError::TemplateLimit { file, why: format!("it took more than {FUEL} steps") };
        }
        TextError::Template { file, line: e.line().unwrap_or(0), why: message(e) }
    }
}

/// Takes bytes up to a limit.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
    full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            self.full = true;
            return Err(io::Error::other("the prompt is too long"));
        }
        self.bytes.extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a model said stands between `{% generation %}` and `{% endgeneration %}` in some templates: transformers has that, so that it can be told from
/// the rest in training. It is written as if the marks were not there, in a scope of its own; `with` is the same.
fn without_generation(source: &str) -> String {
    let tag = Regex::new(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})").expect("the pattern is fixed and tested");
    tag.replace_all(source, "${1}${2}with${3}").into_owned()
}

fn message(e: &Error) -> String {
    let text = e.detail().map_or_else(|| e.kind().to_string(), str::to_owned);
    shown(&text)
}

/// Jinja as transformers sets it up: blocks trimmed, Python's methods and spelling, a few functions.
fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    env.set_syntax(syntax.build().expect("the default delimiters are sound"));
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(RECURSION);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_function("raise_exception", |why: String| -> Result<String, Error> { Err(Error::new(ErrorKind::InvalidOperation, why)) });
    env.add_filter("tojson", tojson);
    env
}

/// `tojson` as transformers defines it: Python's `json.dumps` with its separators, nothing escaped for HTML.
fn tojson(state: &State, value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    for ignored in ["ensure_ascii", "sort_keys", "separators"] {
        let _: Option<Value> = options.get(ignored)?;
    }
    options.assert_all_used()?;
    let mut out = String::new();
    json(state, &mut out, value, indent.map(|n| n.min(16)), 0)?;
    Ok(Value::from(out))
}

fn json(state: &State, out: &mut String, value: &Value, indent: Option<usize>, depth: usize) -> Result<(), Error> {
    let fail = |why: &str| Error::new(ErrorKind::BadSerialization, why.to_owned());
    if depth > RECURSION {
        return Err(fail("the value is nested too deeply for tojson"));
    }
    state.consume_fuel(1)?;
    let quoted = |s: &str| serde_json::to_string(s).map_err(|e| fail(&e.to_string()));
    let line = |out: &mut String, depth: usize| {
        if let Some(n) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', n * depth));
        }
    };
    let comma = if indent.is_some() { "," } else { ", " };
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&value.to_string()),
        ValueKind::String => out.push_str(&quoted(value.as_str().unwrap_or_default())?),
        ValueKind::Map => {
            out.push('{');
            let mut empty = true;
            for key in value.try_iter()? {
                if !empty {
                    out.push_str(comma);
                }
                empty = false;
                line(out, depth + 1);
                out.push_str(&quoted(&key.to_string())?);
                out.push_str(": ");
                json(state, out, &value.get_item(&key)?, indent, depth + 1)?;
            }
            if !empty {
                line(out, depth);
            }
            out.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            let mut empty = true;
            for item in value.try_iter()? {
                if !empty {
                    out.push_str(comma);
                }
                empty = false;
                line(out, depth + 1);
                json(state, out, &item, indent, depth + 1)?;
            }
            if !empty {
                line(out, depth);
            }
            out.push(']');
        }
        other => return Err(fail(&format!("{other} has no form in JSON"))),
    }
    Ok(())
}

/// The common part of C's `strftime`, in UTC.
fn strftime(format: &str, seconds: u64) -> String {
    const MONTHS: [&str; 12] =
        ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
    const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
    let days = seconds / 86_400;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let (year, month, day, of_year) = civil(days);
    let weekday = DAYS[((days + 4) % 7) as usize];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut code = chars.next();
        let padded = code != Some('-');
        if !padded {
            code = chars.next();
        }
        let two = |n: u64| if padded { format!("{n:02}") } else { n.to_string() };
        match code {
            Some('Y') => out.push_str(&year.to_string()),
            Some('y') => out.push_str(&two(year % 100)),
            Some('m') => out.push_str(&two(month)),
            Some('d') => out.push_str(&two(day)),
            Some('e') => out.push_str(&format!("{day:2}")),
            Some('j') => out.push_str(&format!("{of_year:03}")),
            Some('B') => out.push_str(MONTHS[month as usize - 1]),
            Some('b' | 'h') => out.push_str(&MONTHS[month as usize - 1][..3]),
            Some('A') => out.push_str(weekday),
            Some('a') => out.push_str(&weekday[..3]),
            Some('H') => out.push_str(&two(hour)),
            Some('I') => out.push_str(&two((hour + 11) % 12 + 1)),
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('M') => out.push_str(&two(minute)),
            Some('S') => out.push_str(&two(second)),
            Some('F') => out.push_str(&format!("{year}-{month:02}-{day:02}")),
            Some('T') => out.push_str(&format!("{hour:02}:{minute:02}:{second:02}")),
            Some('Z') => out.push_str("UTC"),
            Some('z') => out.push_str("+0000"),
            Some('%') => out.push('%'),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}

/// Year, month (1-12), day (1-31) and day of the year (1-366) of a number of days since 1970-01-01.
fn civil(mut days: u64) -> (u64, u64, u64, u64) {
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    // Whole cycles of 400 years first, so that no clock makes this long.
    let mut year = 1970 + days / 146_097 * 400;
    days %= 146_097;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let of_year = days + 1;
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1, of_year)
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
