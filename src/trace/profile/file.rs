//! A profile as a file: TOML, read field by field, and written.
//!
//! The reader is strict: an unknown key or a value that can't be is an error that names file, line, field and remedy, because a
//! mistyped bandwidth would silently give wrong predictions.

use super::{Bandwidth, Cost, Misses, Profile, ProfileError};
use crate::text::{line_number, one_line};
use serde::de::IntoDeserializer;
use serde::Deserialize;
use std::fmt::Write as _;
use toml::de::{DeTable, DeValue};
use toml::Spanned;

/// Version of the schema that is read and written.
pub const SCHEMA: i64 = 1;
/// Bandwidths in GB/s that can be meant.
const GB_S: (f64, f64) = (0.001, 100_000.0);
/// Costs in microseconds that can be meant.
const MICROS: (f64, f64) = (0.0, 10_000_000.0);
/// Capacities in GB that can be meant.
const GB: (f64, f64) = (0.001, 1_000_000.0);
/// Longest name or note.
const MAX_TEXT: usize = 400;

impl Profile {
    /// As a file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let Self { name, note, misses, bandwidth: b, cost: c, capacity } = self;
        let text = |s: &str| toml::Value::String(clean(s)).to_string();
        let mut out = format!("schema = {SCHEMA}\nname = {}\n", text(name));
        if !note.is_empty() {
            let _ = writeln!(out, "note = {}", text(note));
        }
        let _ = writeln!(out, "misses = \"{}\"\n\n[bandwidth]  # GB/s, 1 GB = 10^9 bytes", misses.name());
        let rows = [("vram", b.vram), ("trunk", b.trunk), ("pcie", b.pcie), ("host", b.host), ("host_while_copying", b.host_while_copying)];
        for (key, value) in rows.into_iter().chain(b.memory.map(|m| ("memory", m))) {
            let _ = writeln!(out, "{key} = {value:.3}");
        }
        let _ = writeln!(out, "\n[cost]  # microseconds");
        for (key, value) in [("step", c.step), ("layer", c.layer), ("join", c.join), ("copy", c.copy)] {
            let _ = writeln!(out, "{key} = {value:.2}");
        }
        if let Some(bytes) = capacity {
            let _ = writeln!(out, "\n[capacity]\nvram_gb = {:.3}", *bytes as f64 / 1e9);
        }
        out
    }
}

/// Read the text of a profile; `file` stands for it in messages.
///
/// # Errors
/// See [`ProfileError`].
pub fn parse(text: &str, file: &str) -> Result<Profile, ProfileError> {
    let document = DeTable::parse(text).map_err(|e| ProfileError::Field {
        file: file.to_owned(),
        line: line_number(text, e.span().map_or(0, |s| s.start)),
        field: "file".into(),
        problem: format!("this is no TOML ({}); see docs/profiles.md for an example", clean(e.message())),
    })?;
    let end = text.len();
    let mut top = Fields { file, text, table: "", at: end, fields: document.into_inner().into_iter().collect() };
    let schema = top.take("schema", "write schema = 1", |v| i64::deserialize(v).ok())?;
    let (schema, at) = schema.ok_or_else(|| top.missing("schema", "write schema = 1"))?;
    if schema != SCHEMA {
        return Err(top.wrong(at, "schema", &format!("{schema} is not known; this program reads schema {SCHEMA}")));
    }
    let name = top.text("name")?.ok_or_else(|| top.missing("name", "write what machine this is, as name = \"...\""))?;
    let note = top.text("note")?.unwrap_or_default();
    let ways = Misses::ALL.map(|m| format!("\"{}\"", m.name())).join(", ");
    let remedy = format!("write one of {ways}");
    let named = |v: &str| Misses::ALL.into_iter().find(|m| m.name() == v);
    let misses = top.take("misses", &remedy, |v| String::deserialize(v).ok().and_then(|s| named(&s)))?;
    let misses = misses.ok_or_else(|| top.missing("misses", &remedy))?.0;

    let mut t = top.table("bandwidth", true)?;
    let vram = t.required("vram", GB_S, "GB/s")?;
    let pcie = t.required("pcie", GB_S, "GB/s")?;
    let host = t.required("host", GB_S, "GB/s")?;
    let bandwidth = Bandwidth {
        vram,
        trunk: t.number("trunk", GB_S, "GB/s")?.unwrap_or(vram),
        pcie,
        host,
        host_while_copying: t.number("host_while_copying", GB_S, "GB/s")?.unwrap_or(host),
        memory: t.number("memory", GB_S, "GB/s")?,
    };
    t.nothing_else("vram, trunk, pcie, host, host_while_copying, memory")?;
    let mut t = top.table("cost", true)?;
    let cost = Cost {
        step: t.required("step", MICROS, "microseconds")?,
        layer: t.number("layer", MICROS, "microseconds")?.unwrap_or(0.0),
        join: t.required("join", MICROS, "microseconds")?,
        copy: t.number("copy", MICROS, "microseconds")?.unwrap_or(0.0),
    };
    t.nothing_else("step, layer, join, copy")?;
    let mut t = top.table("capacity", false)?;
    let capacity = t.number("vram_gb", GB, "GB")?.map(|gb| (gb * 1e9) as u64);
    t.nothing_else("vram_gb")?;
    top.nothing_else("schema, name, note, misses and the tables [bandwidth], [cost], [capacity]")?;
    Ok(Profile { name, note, misses, bandwidth, cost, capacity })
}

/// The fields of one table, taken out one by one; what is left over at the end is unknown.
struct Fields<'a, 't> {
    file: &'a str,
    text: &'a str,
    table: &'static str,
    /// Where the table begins, or the end of the file.
    at: usize,
    fields: Vec<Field<'t>>,
}

/// Key and value as they are in the file.
type Field<'t> = (Spanned<toml::de::DeString<'t>>, Spanned<DeValue<'t>>);

impl<'a, 't> Fields<'a, 't> {
    fn name(&self, key: &str) -> String {
        if self.table.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.table)
        }
    }

    fn wrong(&self, at: usize, key: &str, problem: &str) -> ProfileError {
        ProfileError::Field {
            file: self.file.to_owned(),
            line: line_number(self.text, at),
            field: self.name(key),
            problem: problem.to_owned(),
        }
    }

    fn missing(&self, key: &str, remedy: &str) -> ProfileError {
        self.wrong(self.at, key, &format!("missing; {remedy}"))
    }

    fn pick(&mut self, key: &str) -> Option<Field<'t>> {
        let i = self.fields.iter().position(|(k, _)| k.get_ref() == key)?;
        Some(self.fields.remove(i))
    }

    /// The value of `key` as `read` understands it, with its place.
    fn take<T>(
        &mut self,
        key: &str,
        remedy: &str,
        read: impl FnOnce(toml::de::ValueDeserializer<'t>) -> Option<T>,
    ) -> Result<Option<(T, usize)>, ProfileError> {
        let Some((_, value)) = self.pick(key) else { return Ok(None) };
        let at = value.span().start;
        match read(value.into_deserializer()) {
            Some(value) => Ok(Some((value, at))),
            None => Err(self.wrong(at, key, remedy)),
        }
    }

    fn text(&mut self, key: &'static str) -> Result<Option<String>, ProfileError> {
        let read = self.take(key, "write a text in quotes", |v| String::deserialize(v).ok())?;
        let Some((text, at)) = read else { return Ok(None) };
        if text.chars().count() > MAX_TEXT {
            return Err(self.wrong(at, key, &format!("longer than {MAX_TEXT} characters; shorten it")));
        }
        Ok(Some(clean(&text)))
    }

    fn number(&mut self, key: &'static str, (least, most): (f64, f64), unit: &str) -> Result<Option<f64>, ProfileError> {
        let remedy = format!("write a number of {unit} from {least} to {most}");
        let read = self.take(key, &remedy, |v| toml::Value::deserialize(v).ok())?;
        let Some((value, at)) = read else { return Ok(None) };
        let number = match value {
            toml::Value::Float(x) => x,
            toml::Value::Integer(n) => n as f64,
            other => return Err(self.wrong(at, key, &format!("{} is no number; {remedy}", clean(&other.to_string())))),
        };
        if !(least..=most).contains(&number) {
            return Err(self.wrong(at, key, &format!("{number} can't be meant; {remedy}")));
        }
        Ok(Some(number))
    }

    fn required(&mut self, key: &'static str, range: (f64, f64), unit: &str) -> Result<f64, ProfileError> {
        let missing = self.missing(key, &format!("write a number of {unit}"));
        self.number(key, range, unit)?.ok_or(missing)
    }

    fn table(&mut self, key: &'static str, required: bool) -> Result<Fields<'a, 't>, ProfileError> {
        let empty = Fields { file: self.file, text: self.text, table: key, at: self.at, fields: Vec::new() };
        let Some((place, value)) = self.pick(key) else {
            let missing = self.missing(key, &format!("write a table [{key}], see docs/profiles.md"));
            return if required { Err(missing) } else { Ok(empty) };
        };
        let at = place.span().start;
        match value.into_inner() {
            DeValue::Table(fields) => Ok(Fields { at, fields: fields.into_iter().collect(), ..empty }),
            _ => Err(self.wrong(at, key, &format!("write it as a table: [{key}]"))),
        }
    }

    fn nothing_else(&self, known: &str) -> Result<(), ProfileError> {
        let Some((key, _)) = self.fields.first() else { return Ok(()) };
        Err(self.wrong(key.span().start, &clean(key.get_ref()), &format!("there is no such field; remove it, there are {known}")))
    }
}

/// Text of a file, or about it, for a line.
pub(super) fn clean(text: &str) -> String {
    one_line(text, MAX_TEXT)
}
