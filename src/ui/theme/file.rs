//! Theme files: reading, inheriting, checking. Every fault is a message with file, line, field and remedy.

mod parse;
mod resolve;

use parse::parse;
use ratatui::style::{Color, Modifier, Style};
use resolve::resolve;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A theme file larger than this is refused unread.
const MAX_BYTES: u64 = 64 * 1024;
/// Longest chain of `inherits`.
const MAX_DEPTH: usize = 16;
/// Fewest and most levels of heat.
pub(super) const LEVELS: Range<usize> = 3..9;

const COLOR_REMEDY: &str =
    "write a name from [palette], \"#rrggbb\", a terminal colour such as \"bright-blue\", a number 16 to 255, or \"default\"";

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
    /// One style per face, in the order of [`Face::ALL`](super::Face::ALL).
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
    let shown = crate::text::one_line(name, 64);
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
