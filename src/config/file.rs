//! Reading the configuration file field by field, so that one mistake costs one field and nothing else.

use super::Config;
use crate::text::{line_number, nearest, one_line};
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
                if let Err(reason) = whole(&name, &name, Value::Table(Table::new())) {
                    reader.mistake(at, &name, &reason);
                    continue;
                }
                let mut kept = Table::new();
                for (key, value) in fields {
                    let field = key.get_ref().to_string();
                    let below = |v| Value::Table(Table::from_iter([(field.clone(), v)]));
                    let dotted = format!("{name}.{field}");
                    if let Some(value) = reader.field(key.span().start, &dotted, value, |v| whole(&name, &dotted, below(v))) {
                        kept.insert(field, value);
                    }
                }
                if !kept.is_empty() {
                    right.insert(name, Value::Table(kept));
                }
            }
            _ => {
                if let Some(value) = reader.field(at, &name, value, |v| whole(&name, &name, v)) {
                    right.insert(name, value);
                }
            }
        }
    }
    match Config::deserialize(Value::Table(right)) {
        Ok(config) => (config, reader.told()),
        // Every part was read alone before.
        Err(error) => {
            reader.mistake(0, "file", error.message());
            (Config::default(), reader.told())
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    path: &'a Path,
    /// With the line that each is about.
    problems: Vec<(usize, String)>,
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
        self.problems.push((0, format!("{}: this is no TOML; the defaults are used", self.path.display())));
        String::new()
    }

    fn mistake(&mut self, at: usize, field: &str, reason: &str) {
        self.tell(at, &format!("{field}: "), reason);
    }

    fn tell(&mut self, at: usize, field: &str, reason: &str) {
        let number = line_number(self.text, at);
        let written = one_line(self.text.lines().nth(number - 1).unwrap_or_default().trim(), MAX_TEXT);
        let problem = format!(
            "{}:{number}: {field}{reason} (at `{written}`); correct or remove this line; the rest of the file is used",
            self.path.display()
        );
        self.problems.push((number, problem));
    }

    /// What was found, from the top of the file to its end.
    fn told(mut self) -> Vec<String> {
        self.problems.sort_by_key(|(line, _)| *line);
        self.problems.into_iter().map(|(_, problem)| problem).collect()
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

/// Every field, and what it must be.
const FIELDS: [(&str, &str); 27] = [
    ("theme", "the name of a theme, as \"dark\""),
    ("ascii", "true or false"),
    ("color", "\"none\", \"16\", \"256\" or \"truecolor\""),
    ("frame_rate", "a whole number from 1 to 60"),
    ("model", "a path or a name, as \"demo\""),
    ("model_dirs", "a list of folders, as [\"/models\"]"),
    ("ram", "a size, as \"8GiB\", or a number of bytes"),
    ("device", "\"auto\", \"cpu\", \"gpu\" or \"simulated\""),
    ("vram", "a size, as \"8GiB\", or a number of bytes"),
    ("hold", "\"auto\", \"always\" or \"never\""),
    ("prove", "\"auto\", \"always\" or \"never\""),
    ("draft", "\"auto\", \"always\" or \"never\""),
    ("pace", "a number of tokens per second from 0.01 to 1000; 0 is as fast as they can be"),
    ("threads", "a whole number from 1 to 1024"),
    ("policy", "\"rotary\", \"decay\", \"lru\" or \"lfu\""),
    ("warm_start", "true or false"),
    ("thinking", "true or false"),
    ("effort", "\"low\", \"medium\" or \"high\""),
    ("sampling", "a table of its own: [sampling]"),
    ("sampling.temperature", "a number from 0 (greedy) to 10"),
    ("sampling.top_k", "a whole number; 0 keeps all"),
    ("sampling.top_p", "a number above 0 and at most 1"),
    ("sampling.min_p", "a number from 0 to 1"),
    ("sampling.repetition_penalty", "a number from 0.1 to 10; 1 is off"),
    ("sampling.presence_penalty", "a number from -10 to 10; 0 is off"),
    ("sampling.seed", "a whole number"),
    ("sampling.max_tokens", "a whole number; 0 is no limit"),
];

/// Whether a file with this one field in it would be right; if not, what it must be.
fn whole(name: &str, field: &str, value: Value) -> Result<(), String> {
    let file = Value::Table(Table::from_iter([(name.to_owned(), value)]));
    let right = Config::deserialize(file).is_ok_and(|config| {
        config.color.as_deref().is_none_or(|name| ColorDepth::parse(name).is_some())
            && config.policy.is_none_or(|policy| policy.parse::<crate::experts::policy::Policy>().is_ok())
            && config.pace.is_none_or(crate::ui::tempo::is_pace)
            && config.threads.is_none_or(|n| (1..=1024).contains(&n))
            && config.sampling.is_none_or(|s| crate::engine::sampling::validate(&s).is_ok())
    });
    if right {
        return Ok(());
    }
    if let Some((_, must)) = FIELDS.iter().find(|(known, _)| *known == field) {
        return Err(format!("it must be {must}"));
    }
    let known = FIELDS.map(|(known, _)| known);
    Err(match nearest(field, &known) {
        Some(meant) => format!("there is no such field; did you mean {meant}?"),
        None => "there is no such field; docs/configuration.md lists all".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_the_configuration_says_what_it_must_be() {
        for (table, prefix) in [("none", ""), ("sampling", "sampling.")] {
            let inner = Value::Table(Table::from_iter([("none".to_owned(), Value::Integer(1))]));
            let value = if prefix.is_empty() { Value::Integer(1) } else { inner };
            let error = Config::deserialize(Value::Table(Table::from_iter([(table.to_owned(), value)]))).unwrap_err();
            let names: Vec<&str> = error.message().split('`').skip(3).step_by(2).collect();
            assert!(names.len() > 7, "{error}");
            for name in names {
                assert!(FIELDS.iter().any(|(known, _)| *known == format!("{prefix}{name}")), "{prefix}{name}");
            }
        }
    }
}
