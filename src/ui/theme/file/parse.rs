//! One file, field by field, with its names unresolved.

use super::{Appearance, At, Layer, RawHeat, RawStyle, ThemeError, COLOR_REMEDY, LEVELS};
use crate::text::{line_number, one_line};
use crate::ui::ramp::{Ramp, RAMPS};
use crate::ui::theme::face::Face;
use ratatui::style::Modifier;
use std::ops::Range;
use toml::de::{DeTable, DeValue};
use toml::Spanned;

/// The file at hand, for messages.
struct Reader<'a> {
    file: &'a str,
    text: &'a str,
}

impl Reader<'_> {
    fn at<T>(&self, value: T, span: Range<usize>) -> At<T> {
        At { value, file: self.file.to_owned(), line: line_number(self.text, span.start) }
    }

    fn fault(&self, span: Range<usize>, field: &str, problem: impl Into<String>, remedy: impl Into<String>) -> ThemeError {
        ThemeError::Invalid {
            file: self.file.to_owned(),
            line: line_number(self.text, span.start),
            field: field.to_owned(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    fn string(&self, field: &str, value: &Spanned<DeValue<'_>>) -> Result<String, ThemeError> {
        match value.get_ref() {
            DeValue::String(s) => Ok(s.to_string()),
            _ => Err(self.fault(value.span(), field, "is not a string", "write it in quotes")),
        }
    }

    fn table<'t, 'v>(&self, field: &str, value: &'t Spanned<DeValue<'v>>) -> Result<&'t DeTable<'v>, ThemeError> {
        match value.get_ref() {
            DeValue::Table(t) => Ok(t),
            _ => Err(self.fault(value.span(), field, "is not a table", format!("write `[{field}]` and its entries below"))),
        }
    }

    /// A colour as written: a string, or a number of the 256-colour palette.
    fn color(&self, field: &str, value: &Spanned<DeValue<'_>>) -> Result<String, ThemeError> {
        match value.get_ref() {
            DeValue::String(s) => Ok(s.to_string()),
            DeValue::Integer(i) => Ok(i.as_str().to_owned()),
            _ => Err(self.fault(value.span(), field, "is not a colour", COLOR_REMEDY)),
        }
    }
}

pub(super) fn parse(file: &str, text: &str) -> Result<(Layer, Option<At<String>>), ThemeError> {
    let r = Reader { file, text };
    let doc = DeTable::parse(text).map_err(|e| r.fault(e.span().unwrap_or(0..0), "toml", e.message().to_owned(), "correct the line"))?;
    let mut layer = Layer::default();
    let mut parent = None;
    for (key, value) in doc.get_ref() {
        match key.get_ref().as_ref() {
            "title" => layer.title = Some(one_line(&r.string("title", value)?, 40)),
            "inherits" => parent = Some(r.at(r.string("inherits", value)?, value.span())),
            "appearance" => {
                layer.appearance = Some(match r.string("appearance", value)?.as_str() {
                    "dark" => Appearance::Dark,
                    "light" => Appearance::Light,
                    "any" => Appearance::Any,
                    other => {
                        let problem = format!("`{other}` is no appearance");
                        return Err(r.fault(value.span(), "appearance", problem, "write dark, light or any"));
                    }
                });
            }
            "palette" => {
                for (name, color) in r.table("palette", value)? {
                    let field = format!("palette.{}", name.get_ref());
                    let text = r.color(&field, color)?;
                    layer.palette.insert(name.get_ref().to_string(), r.at(text, color.span()));
                }
            }
            "faces" => {
                for (name, style) in r.table("faces", value)? {
                    let field = format!("faces.{}", name.get_ref());
                    let Some(face) = Face::named(name.get_ref()) else {
                        return Err(r.fault(name.span(), &field, "there is no such face", nearest(name.get_ref(), &face_names())));
                    };
                    let raw = raw_style(&r, &field, style)?;
                    layer.faces.insert(face.name(), r.at(raw, style.span()));
                }
            }
            "heat" => {
                for (name, entry) in r.table("heat", value)? {
                    let field = format!("heat.{}", name.get_ref());
                    let (known, raw) = raw_heat(&r, &field, name, entry)?;
                    layer.heat.insert(known, r.at(raw, entry.span()));
                }
            }
            other => {
                let known = ["title", "inherits", "appearance", "palette", "faces", "heat"];
                return Err(r.fault(key.span(), other, "there is no such entry", nearest(other, &known)));
            }
        }
    }
    Ok((layer, parent))
}

fn raw_style(r: &Reader<'_>, field: &str, value: &Spanned<DeValue<'_>>) -> Result<RawStyle, ThemeError> {
    let DeValue::Table(table) = value.get_ref() else {
        return Ok(RawStyle { fg: Some(r.color(field, value)?), ..RawStyle::default() });
    };
    let mut raw = RawStyle::default();
    for (key, entry) in table {
        let name = key.get_ref().as_ref();
        let field = format!("{field}.{name}");
        let modifier = match name {
            "fg" => {
                raw.fg = Some(r.color(&field, entry)?);
                continue;
            }
            "bg" => {
                raw.bg = Some(r.color(&field, entry)?);
                continue;
            }
            "bold" => Modifier::BOLD,
            "dim" => Modifier::DIM,
            "italic" => Modifier::ITALIC,
            "underline" => Modifier::UNDERLINED,
            "reverse" => Modifier::REVERSED,
            other => {
                let known = ["fg", "bg", "bold", "dim", "italic", "underline", "reverse"];
                return Err(r.fault(key.span(), &field, "there is no such part of a style", nearest(other, &known)));
            }
        };
        match entry.get_ref() {
            DeValue::Boolean(on) => raw.modifiers.set(modifier, *on),
            _ => return Err(r.fault(entry.span(), &field, "is neither true nor false", "write true or false")),
        }
    }
    Ok(raw)
}

fn raw_heat(
    r: &Reader<'_>,
    field: &str,
    key: &Spanned<toml::de::DeString<'_>>,
    value: &Spanned<DeValue<'_>>,
) -> Result<(&'static str, RawHeat), ThemeError> {
    let colors = |items: &toml::de::DeArray<'_>| {
        let colors: Result<Vec<String>, ThemeError> = items.iter().map(|c| r.color(field, c)).collect();
        let colors = colors?;
        if LEVELS.contains(&colors.len()) || (field == "heat.absent" && (1..=8).contains(&colors.len())) {
            Ok(RawHeat::Colors(colors))
        } else {
            Err(r.fault(value.span(), field, format!("has {} colours", colors.len()), "give 3 to 8, from cold to hot"))
        }
    };
    let share = |r: &Reader<'_>| {
        let number = match value.get_ref() {
            DeValue::Float(f) => f.as_str().parse::<f32>().ok(),
            DeValue::Integer(i) => i.as_str().parse::<f32>().ok(),
            _ => None,
        };
        number
            .filter(|n| (0.0..=1.0).contains(n))
            .map(RawHeat::Share)
            .ok_or_else(|| r.fault(value.span(), field, "is not a share of the ramp", "write a number from 0 to 1"))
    };
    match key.get_ref().as_ref() {
        "ramp" => match value.get_ref() {
            DeValue::String(name) if Ramp::named(name).is_some() => Ok(("ramp", RawHeat::Name(name.to_string()))),
            DeValue::Array(items) => Ok(("ramp", colors(items)?)),
            DeValue::String(name) => {
                let known: Vec<&str> = RAMPS.iter().map(|r| r.name).collect();
                Err(r.fault(value.span(), field, format!("there is no ramp `{name}`"), nearest(name, &known)))
            }
            _ => Err(r.fault(value.span(), field, "is not a ramp", "name one, or list 3 to 8 colours")),
        },
        "absent" => match value.get_ref() {
            DeValue::Array(items) => Ok(("absent", colors(items)?)),
            _ => Err(r.fault(value.span(), field, "is not a list of colours", "list 1 to 8, from cold to hot")),
        },
        "levels" => match value.get_ref() {
            DeValue::Integer(i) => match i.as_str().parse::<usize>() {
                Ok(n) if LEVELS.contains(&n) => Ok(("levels", RawHeat::Count(n))),
                _ => Err(r.fault(value.span(), field, "is out of range", "write a number from 3 to 8")),
            },
            _ => Err(r.fault(value.span(), field, "is not a whole number", "write a number from 3 to 8")),
        },
        "from" => Ok(("from", share(r)?)),
        "to" => Ok(("to", share(r)?)),
        "exact" => match value.get_ref() {
            DeValue::Boolean(on) => Ok(("exact", RawHeat::Flag(*on))),
            _ => Err(r.fault(value.span(), field, "is neither true nor false", "write true or false")),
        },
        other => {
            let known = ["ramp", "levels", "from", "to", "absent", "exact"];
            Err(r.fault(key.span(), field, "there is no such entry", nearest(other, &known)))
        }
    }
}

fn face_names() -> Vec<&'static str> {
    Face::ALL.iter().map(|f| f.name()).collect()
}

/// A remedy that names the likeliest meant word, or all of them.
fn nearest(word: &str, known: &[&str]) -> String {
    match crate::text::nearest(word, known) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("known are {}", known.join(", ")),
    }
}
