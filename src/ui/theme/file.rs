//! Theme files: reading, inheriting, checking. Every fault is a message with file, line, field and remedy.

use super::face::Face;
use crate::ui::palette::{Rgb, ANSI_NAMES};
use crate::ui::ramp::{Ramp, RAMPS};
use ratatui::style::{Color, Modifier, Style};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};
use toml::Spanned;

/// A theme file larger than this is refused unread.
const MAX_BYTES: u64 = 64 * 1024;
/// Longest chain of `inherits`.
const MAX_DEPTH: usize = 16;
/// Fewest and most levels of heat.
pub(super) const LEVELS: Range<usize> = 3..9;

/// Theme files inside the binary, by name.
pub(super) const EMBEDDED: [(&str, &str); 6] = [
    ("dark", include_str!("../../../themes/dark.toml")),
    ("light", include_str!("../../../themes/light.toml")),
    ("safe", include_str!("../../../themes/safe.toml")),
    ("ember", include_str!("../../../themes/ember.toml")),
    ("sixteen", include_str!("../../../themes/sixteen.toml")),
    ("mono", include_str!("../../../themes/mono.toml")),
];

/// What is wrong with a theme.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ThemeError {
    /// No theme of that name, neither in the configuration folder nor in the program.
    #[error("there is no theme `{name}`; themes at hand: {known}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// Names at hand, comma-separated.
        known: String,
    },
    /// The file could not be read.
    #[error("theme {file}: {problem}")]
    Unreadable {
        /// The file.
        file: String,
        /// Why not.
        problem: String,
    },
    /// A fault inside the file.
    #[error("theme {file}, line {line}, `{field}`: {problem}; {remedy}")]
    Invalid {
        /// The file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Dotted name of the field.
        field: String,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
}

/// Whether a theme is made for dark or light screens, or leaves the background to the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appearance {
    /// Light text on dark.
    Dark,
    /// Dark text on light.
    Light,
    /// The terminal's own background.
    Any,
}

/// A checked theme before it meets a terminal: colours as written, not yet cut to a depth.
#[derive(Clone, Debug, PartialEq)]
pub struct ThemeFile {
    /// Name to choose it by.
    pub name: String,
    /// Name to show.
    pub title: String,
    /// For dark or light screens.
    pub appearance: Appearance,
    /// One style per face, in the order of [`Face::ALL`].
    pub faces: Vec<Style>,
    /// Colours of resident experts, cold to hot.
    pub heat: Vec<Color>,
    /// The colours of `heat` are cut from a named ramp, and may be placed on the palette together.
    pub from_ramp: bool,
    /// Colours of absent experts, cold to hot.
    pub absent: Vec<Color>,
    /// Send heat colours as 24-bit where the terminal can; 256 colours cost fewer bytes.
    pub exact: bool,
}

/// A value and where it was written.
#[derive(Clone, Debug)]
struct At<T> {
    value: T,
    file: String,
    line: usize,
}

/// One file, parsed but with names unresolved, so that a child's palette can recolour its parent.
#[derive(Clone, Debug, Default)]
struct Layer {
    title: Option<String>,
    appearance: Option<Appearance>,
    palette: BTreeMap<String, At<String>>,
    faces: BTreeMap<&'static str, At<RawStyle>>,
    heat: BTreeMap<&'static str, At<RawHeat>>,
}

#[derive(Clone, Debug, Default)]
struct RawStyle {
    fg: Option<String>,
    bg: Option<String>,
    modifiers: Modifier,
}

#[derive(Clone, Debug)]
enum RawHeat {
    Name(String),
    Colors(Vec<String>),
    Count(usize),
    Share(f32),
    Flag(bool),
}

/// Reads theme `name`, from `folder` if it has such a file, else from the program.
///
/// # Errors
/// [`ThemeError`] names the file, the line, the field and the remedy.
pub fn read(name: &str, folder: Option<&Path>) -> Result<ThemeFile, ThemeError> {
    let mut chain: Vec<(bool, String)> = Vec::new();
    let mut layers: Vec<Layer> = Vec::new();
    let mut next = Some((name.to_owned(), None::<At<()>>));
    let mut top = String::new();
    while let Some((name, asked_at)) = next.take() {
        // A file that inherits its own name means the one inside the program.
        let own_name_again = chain.last().is_some_and(|(user, last)| *user && *last == name);
        let (user, label, text) = find(&name, folder.filter(|_| !own_name_again), asked_at.as_ref())?;
        if layers.is_empty() {
            top.clone_from(&label);
        }
        if chain.contains(&(user, name.clone())) || chain.len() >= MAX_DEPTH {
            let way: Vec<&str> = chain.iter().map(|(_, n)| n.as_str()).chain([name.as_str()]).collect();
            let (file, line) = asked_at.map_or((label, 1), |a| (a.file, a.line));
            return Err(ThemeError::Invalid {
                file,
                line,
                field: "inherits".into(),
                problem: format!("themes inherit in a circle ({})", way.join(" > ")),
                remedy: "let one of them stand alone".into(),
            });
        }
        chain.push((user, name.clone()));
        let (layer, parent) = parse(&label, &text)?;
        layers.push(layer);
        next = parent.map(|p| (p.value, Some(At { value: (), file: p.file, line: p.line })));
    }
    let mut merged = Layer::default();
    for layer in layers.into_iter().rev() {
        // The title is a file's own; everything else comes down.
        merged.title = layer.title;
        merged.appearance = layer.appearance.or(merged.appearance);
        merged.palette.extend(layer.palette);
        merged.faces.extend(layer.faces);
        merged.heat.extend(layer.heat);
    }
    resolve(name, &top, &merged)
}

/// Names of all themes at hand, those of the program first.
#[must_use]
pub fn names(folder: Option<&Path>) -> Vec<String> {
    let mut names: Vec<String> = EMBEDDED.iter().map(|(n, _)| (*n).to_owned()).collect();
    let mut own: Vec<String> = folder
        .and_then(|f| std::fs::read_dir(f).ok())
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".toml").map(str::to_owned))
        .filter(|n| is_name(n) && !names.contains(n))
        .collect();
    own.sort();
    names.extend(own);
    names
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Whether it is a person's file, what to call it in messages, and its text.
fn find(name: &str, folder: Option<&Path>, asked: Option<&At<()>>) -> Result<(bool, String, String), ThemeError> {
    let own: Option<PathBuf> = folder.filter(|_| is_name(name)).map(|f| f.join(format!("{name}.toml"))).filter(|p| p.exists());
    if let Some(path) = own {
        let label = path.display().to_string();
        let unreadable = |problem: String| ThemeError::Unreadable { file: label.clone(), problem };
        let meta = std::fs::metadata(&path).map_err(|e| unreadable(e.to_string()))?;
        if !meta.is_file() || meta.len() > MAX_BYTES {
            return Err(unreadable(format!("not a text file of at most {} KiB", MAX_BYTES / 1024)));
        }
        let text = std::fs::read_to_string(&path).map_err(|e| unreadable(e.to_string()))?;
        return Ok((true, label, text));
    }
    if let Some((_, text)) = EMBEDDED.iter().find(|(n, _)| *n == name) {
        return Ok((false, format!("{name} (built in)"), (*text).to_owned()));
    }
    let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    let known = names(folder).join(", ");
    Err(match asked {
        None => ThemeError::Unknown { name: shown, known },
        Some(at) => ThemeError::Invalid {
            file: at.file.clone(),
            line: at.line,
            field: "inherits".into(),
            problem: format!("there is no theme `{shown}`"),
            remedy: format!("name one of {known}"),
        },
    })
}

/// The file at hand, for messages.
struct Reader<'a> {
    file: &'a str,
    text: &'a str,
}

impl Reader<'_> {
    fn line(&self, span: Range<usize>) -> usize {
        let start = span.start.min(self.text.len());
        1 + self.text.as_bytes()[..start].iter().filter(|b| **b == b'\n').count()
    }

    fn at<T>(&self, value: T, span: Range<usize>) -> At<T> {
        At { value, file: self.file.to_owned(), line: self.line(span) }
    }

    fn fault(&self, span: Range<usize>, field: &str, problem: impl Into<String>, remedy: impl Into<String>) -> ThemeError {
        ThemeError::Invalid {
            file: self.file.to_owned(),
            line: self.line(span),
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

const COLOR_REMEDY: &str =
    "write a name from [palette], \"#rrggbb\", a terminal colour such as \"bright-blue\", a number 16 to 255, or \"default\"";

fn parse(file: &str, text: &str) -> Result<(Layer, Option<At<String>>), ThemeError> {
    let r = Reader { file, text };
    let doc = DeTable::parse(text).map_err(|e| r.fault(e.span().unwrap_or(0..0), "toml", e.message().to_owned(), "correct the line"))?;
    let mut layer = Layer::default();
    let mut parent = None;
    for (key, value) in doc.get_ref() {
        match key.get_ref().as_ref() {
            "title" => layer.title = Some(r.string("title", value)?.chars().filter(|c| !c.is_control()).take(40).collect()),
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
    let best = known.iter().map(|k| (edits(word, k), *k)).min();
    match best {
        Some((distance, k)) if distance <= 2 => format!("did you mean `{k}`?"),
        _ => format!("known are {}", known.join(", ")),
    }
}

/// Levenshtein distance of the first 32 bytes.
fn edits(a: &str, b: &str) -> usize {
    let (a, b) = (&a.as_bytes()[..a.len().min(32)], &b.as_bytes()[..b.len().min(32)]);
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

impl Layer {
    fn color(&self, text: &str, hops: usize) -> Result<Color, String> {
        if text == "default" {
            return Ok(Color::Reset);
        }
        if text.starts_with('#') {
            return Rgb::parse(text).map(|Rgb(r, g, b)| Color::Rgb(r, g, b)).ok_or_else(|| format!("`{}` is not #rrggbb", clean(text)));
        }
        // `red = "red"` means the terminal's red, not a circle.
        if let Some(at) = self.palette.get(text).filter(|at| at.value != text) {
            return if hops == 0 {
                Err(format!("`{}` leads in a circle through [palette]", clean(text)))
            } else {
                self.color(&at.value, hops - 1)
            };
        }
        if let Some((_, color)) = ANSI_NAMES.iter().find(|(n, _)| *n == text) {
            return Ok(*color);
        }
        match text.parse::<u8>() {
            Ok(i) if i >= 16 => Ok(Color::Indexed(i)),
            _ => Err(format!("`{}` is no colour", clean(text))),
        }
    }

    fn invalid(&self, at: (&str, usize), field: &str, problem: String) -> ThemeError {
        ThemeError::Invalid { file: at.0.to_owned(), line: at.1, field: field.to_owned(), problem, remedy: COLOR_REMEDY.to_owned() }
    }
}

fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(40).collect()
}

fn resolve(name: &str, file: &str, layer: &Layer) -> Result<ThemeFile, ThemeError> {
    for (key, at) in &layer.palette {
        layer.color(&at.value, 8).map_err(|p| layer.invalid((&at.file, at.line), &format!("palette.{}", clean(key)), p))?;
    }
    let mut faces = Vec::with_capacity(Face::ALL.len());
    let mut missing = Vec::new();
    for face in Face::ALL {
        let Some(at) = layer.faces.get(face.name()) else {
            missing.push(face.name());
            continue;
        };
        let field = format!("faces.{}", face.name());
        let color = |text: &String| layer.color(text, 8).map_err(|p| layer.invalid((&at.file, at.line), &field, p));
        let mut style = Style::new().add_modifier(at.value.modifiers);
        style.fg = at.value.fg.as_ref().map(color).transpose()?;
        style.bg = at.value.bg.as_ref().map(color).transpose()?;
        faces.push(style);
    }
    if !missing.is_empty() {
        return Err(ThemeError::Invalid {
            file: file.to_owned(),
            line: 1,
            field: "faces".into(),
            problem: format!("{} not set", missing.join(", ")),
            remedy: "set them, or take them over with inherits = \"dark\"".into(),
        });
    }
    let (heat, absent) = resolve_heat(layer, file)?;
    Ok(ThemeFile {
        name: name.to_owned(),
        title: layer.title.clone().unwrap_or_else(|| name.to_owned()),
        appearance: layer.appearance.unwrap_or(Appearance::Any),
        faces,
        heat,
        from_ramp: matches!(layer.heat.get("ramp"), Some(At { value: RawHeat::Name(_), .. })),
        absent,
        exact: matches!(layer.heat.get("exact"), Some(At { value: RawHeat::Flag(true), .. })),
    })
}

fn resolve_heat(layer: &Layer, file: &str) -> Result<(Vec<Color>, Vec<Color>), ThemeError> {
    let missing = |field: &str| ThemeError::Invalid {
        file: file.to_owned(),
        line: 1,
        field: field.to_owned(),
        problem: "not set".into(),
        remedy: "set it, or take it over with inherits = \"dark\"".into(),
    };
    let list = |field: &str, at: &At<RawHeat>, colors: &[String]| -> Result<Vec<Color>, ThemeError> {
        let color = |c: &String| layer.color(c, 8).map_err(|p| layer.invalid((&at.file, at.line), field, p));
        colors.iter().map(color).collect()
    };
    let share = |key: &str, default: f32| match layer.heat.get(key) {
        Some(At { value: RawHeat::Share(s), .. }) => *s,
        _ => default,
    };
    let count = match layer.heat.get("levels") {
        Some(At { value: RawHeat::Count(n), .. }) => *n,
        _ => 5,
    };
    let at = layer.heat.get("ramp").ok_or_else(|| missing("heat.ramp"))?;
    let heat = match &at.value {
        RawHeat::Colors(colors) => list("heat.ramp", at, colors)?,
        RawHeat::Name(name) => {
            let ramp = Ramp::named(name).unwrap_or(RAMPS[0]);
            let levels = ramp.levels(count, share("from", 0.0), share("to", 1.0));
            levels.into_iter().map(|Rgb(r, g, b)| Color::Rgb(r, g, b)).collect()
        }
        _ => return Err(missing("heat.ramp")),
    };
    let at = layer.heat.get("absent").ok_or_else(|| missing("heat.absent"))?;
    let absent = match &at.value {
        RawHeat::Colors(colors) => list("heat.absent", at, colors)?,
        _ => return Err(missing("heat.absent")),
    };
    Ok((heat, absent))
}
