//! Reading the configuration file field by field, so that one mistake costs one field and nothing else.

use super::Config;
use crate::text::{line_number, one_line};
use crate::ui::palette::ColorDepth;
use serde::de::IntoDeserializer;
use serde::Deserialize;
use std::path::Path;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

/// With more lines than this that are no TOML, it is another kind of file.
const MOST_BROKEN: usize = 20;
/// Most characters of a line of the file, or of what is wrong with it, in a message.
const MAX_TEXT: usize = 400;

/// Reads `text`, the content of `path`. Returns what is right, with defaults for the rest, and one sentence for each mistake
/// that names file, line, field and remedy.
pub(super) fn read(text: &str, path: &Path) -> (Config, Vec<String>) {
    let mut reader = Reader { text, path, problems: Vec::new() };
    let text = reader.without_broken_lines();
    let document = DeTable::parse(&text).unwrap_or_else(|_| Spanned::new(0..0, DeTable::new()));
    let mut right = Table::new();
    for (key, value) in document.into_inner() {
        let name = key.get_ref().to_string();
        let at = key.span().start;
        match value.get_ref() {
            DeValue::Table(_) => {
                let DeValue::Table(fields) = value.into_inner() else { continue };
                // A name that is no table, or no field at all, is one mistake and not one for each line below it.
                if let Err(reason) = whole(&name, Value::Table(Table::new())) {
                    reader.mistake(at, &name, &reason);
                    continue;
                }
                let mut kept = Table::new();
                for (key, value) in fields {
                    let field = key.get_ref().to_string();
                    let below = |v| Value::Table(Table::from_iter([(field.clone(), v)]));
                    if let Some(value) = reader.field(key.span().start, &format!("{name}.{field}"), value, |v| whole(&name, below(v))) {
                        kept.insert(field, value);
                    }
                }
                if !kept.is_empty() {
                    right.insert(name, Value::Table(kept));
                }
            }
            _ => {
                if let Some(value) = reader.field(at, &name, value, |v| whole(&name, v)) {
                    right.insert(name, value);
                }
            }
        }
    }
    match Config::deserialize(Value::Table(right)) {
        Ok(config) => (config, reader.problems),
        // Every part was read alone before.
        Err(error) => {
            reader.mistake(0, "file", error.message());
            (Config::default(), reader.problems)
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    path: &'a Path,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn field(
        &mut self,
        at: usize,
        name: &str,
        value: Spanned<DeValue<'_>>,
        check: impl FnOnce(Value) -> Result<(), String>,
    ) -> Option<Value> {
        let read = Value::deserialize(value.into_deserializer()).map_err(|e| one_line(e.message(), MAX_TEXT));
        match read.and_then(|value| check(value.clone()).map(|()| value)) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.mistake(at, name, &reason);
                None
            }
        }
    }

    /// The text with a blank in place of each line that is no TOML, so that all places stay what they are.
    fn without_broken_lines(&mut self) -> String {
        let mut text = self.text.to_owned();
        for _ in 0..MOST_BROKEN {
            let Err(error) = DeTable::parse(&text) else { return text };
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            // What ends too early may be found in the next line.
            let Some((start, line)) = lines(&text).take_while(|(start, _)| *start <= at).filter(|(_, l)| !l.trim().is_empty()).last()
            else {
                break;
            };
            let end = start + line.len();
            self.tell(start, "", &one_line(error.message(), MAX_TEXT));
            text.replace_range(start..end, &" ".repeat(end - start));
        }
        self.problems.push(format!("{}: this is no TOML; the defaults are used", self.path.display()));
        String::new()
    }

    fn mistake(&mut self, at: usize, field: &str, reason: &str) {
        self.tell(at, &format!("{field}: "), reason);
    }

    fn tell(&mut self, at: usize, field: &str, reason: &str) {
        let number = line_number(self.text, at);
        let written = one_line(self.text.lines().nth(number - 1).unwrap_or_default().trim(), MAX_TEXT);
        self.problems.push(format!(
            "{}:{number}: {field}{reason} (at \"{written}\"); correct or remove this line; the rest of the file is used",
            self.path.display()
        ));
    }
}

/// Each line with the place at which it begins, without its end.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut start = 0;
    text.split('\n').map(move |line| {
        let at = start;
        start += line.len() + 1;
        (at, line)
    })
}

/// Whether a file with this one field in it would be right.
fn whole(name: &str, value: Value) -> Result<(), String> {
    let file = Value::Table(Table::from_iter([(name.to_owned(), value)]));
    let config = Config::deserialize(file).map_err(|e| one_line(e.message(), MAX_TEXT))?;
    if let Some(color) = config.color.as_deref().filter(|name| ColorDepth::parse(name).is_none()) {
        return Err(format!("\"{color}\" is not one of none, 16, 256, truecolor"));
    }
    if let Some(policy) = &config.policy {
        policy.parse::<crate::experts::policy::Policy>().map_err(|e| e.to_string())?;
    }
    if let Some(threads) = config.threads.filter(|n| !(1..=1024).contains(n)) {
        return Err(format!("{threads} threads can't be meant; it must be 1 to 1024"));
    }
    config.sampling.as_ref().map_or(Ok(()), |s| crate::engine::sampling::validate(s).map_err(|e| e.to_string()))
}
