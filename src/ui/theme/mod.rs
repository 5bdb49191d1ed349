//! Themes: what every face looks like on this terminal.
//!
//! A theme file names colours freely; a [`Theme`] holds only what the terminal can show. With 256 or more
//! colours each colour goes to its nearest; with 16 the faces come from the theme `sixteen` (a nearest
//! match of an RGB scheme on colours that the terminal defines is often unreadable), unless the theme is
//! itself made of terminal colours; with none, from `mono`, which has no colours at all.

pub mod face;
pub mod file;
pub mod glyphs;

pub use face::Face;
pub use file::{Appearance, ThemeError};
pub use glyphs::Glyphs;

use crate::ui::palette::{adapt, nearest_xterm, rgb_of, ColorDepth, Rgb};
use crate::ui::ramp::quantized;
use file::ThemeFile;
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders};
use std::path::Path;

/// Faces that fill cells of the heatmap.
const CELL_FACES: [Face; 6] = [Face::Cursor, Face::Hit, Face::Miss, Face::Admitted, Face::Evicted, Face::Absent];

/// Everything that decides how the screen looks.
#[derive(Clone, Debug, PartialEq)]
pub struct Theme {
    /// Name to choose it by.
    pub name: String,
    /// Name to show.
    pub title: String,
    /// For dark or light screens.
    pub appearance: Appearance,
    /// Colours that may be sent.
    pub depth: ColorDepth,
    /// Plain ASCII instead of Unicode.
    pub ascii: bool,
    faces: Vec<Style>,
    heat: Vec<Color>,
    absent: Vec<Color>,
}

impl Theme {
    /// Reads theme `name`, from `folder` (the configuration's `themes/`) if it has such a file, else the
    /// program's own, and fits it to the terminal.
    ///
    /// # Errors
    /// [`ThemeError`] names the file, the line, the field and the remedy.
    pub fn load(name: &str, folder: Option<&Path>, depth: ColorDepth, ascii: bool) -> Result<Self, ThemeError> {
        Ok(Self::fit(file::read(name, folder)?, depth, ascii))
    }

    /// [`Theme::load`], or the default theme and what to tell the person.
    #[must_use]
    pub fn load_or_default(name: &str, folder: Option<&Path>, depth: ColorDepth, ascii: bool) -> (Self, Option<ThemeError>) {
        match Self::load(name, folder, depth, ascii) {
            Ok(theme) => (theme, None),
            Err(error) => (Self::built_in("dark", depth, ascii), Some(error)),
        }
    }

    /// Names of all themes at hand, the program's own first.
    #[must_use]
    pub fn names(folder: Option<&Path>) -> Vec<String> {
        file::names(folder)
    }

    /// A theme of the program. Those are checked by tests; an unknown name gives a theme without colours.
    #[must_use]
    pub fn built_in(name: &str, depth: ColorDepth, ascii: bool) -> Self {
        Self::load(name, None, depth, ascii).unwrap_or_else(|_| Self {
            name: "plain".into(),
            title: "Plain".into(),
            appearance: Appearance::Any,
            depth: ColorDepth::Mono,
            ascii,
            faces: vec![Style::new(); Face::ALL.len()],
            heat: vec![Color::Reset; 3],
            absent: vec![Color::Reset],
        })
    }

    fn fit(theme: ThemeFile, depth: ColorDepth, ascii: bool) -> Self {
        let own = |c: &Option<Color>| !matches!(c, Some(Color::Rgb(..) | Color::Indexed(_)));
        let of_terminal_colors = theme.faces.iter().all(|s| own(&s.fg) && own(&s.bg));
        let stand_in = match depth {
            ColorDepth::Mono if theme.name != "mono" => file::read("mono", None).ok(),
            ColorDepth::Ansi16 if !of_terminal_colors => file::read("sixteen", None).ok(),
            _ => None,
        };
        let looks = stand_in.as_ref().unwrap_or(&theme);
        // One of the fixed 256 costs about half the bytes of a 24-bit colour, and with so few levels
        // looks the same.
        let exact = looks.exact && depth == ColorDepth::TrueColor;
        let heat = |c: &Color| match (depth, *c) {
            (ColorDepth::TrueColor, Color::Rgb(r, g, b)) if !exact => Color::Indexed(nearest_xterm(Rgb(r, g, b))),
            (_, c) => adapt(c, depth),
        };
        let ramp: Vec<Rgb> = looks.heat.iter().filter_map(|c| rgb_of(*c)).collect();
        let placed = looks.from_ramp && !exact && depth >= ColorDepth::Indexed256 && ramp.len() == looks.heat.len();
        let heat_levels: Vec<Color> =
            if placed { quantized(&ramp).into_iter().map(Color::Indexed).collect() } else { looks.heat.iter().map(heat).collect() };
        let style = |(face, s): (&Face, &Style)| {
            let of = |c: Color| if CELL_FACES.contains(face) { heat(&c) } else { adapt(c, depth) };
            Style { fg: s.fg.map(of), bg: s.bg.map(of), ..*s }
        };
        Self {
            faces: Face::ALL.iter().zip(&looks.faces).map(style).collect(),
            heat: heat_levels,
            absent: looks.absent.iter().map(heat).collect(),
            name: theme.name,
            title: theme.title,
            appearance: theme.appearance,
            depth,
            ascii,
        }
    }

    /// The style of a face.
    #[must_use]
    pub fn style(&self, face: Face) -> Style {
        self.faces[face as usize]
    }

    /// The foreground colour of a face, or the terminal's own.
    #[must_use]
    pub fn color(&self, face: Face) -> Color {
        self.style(face).fg.unwrap_or(Color::Reset)
    }

    /// The style that fills the screen before anything is drawn.
    #[must_use]
    pub fn base(&self) -> Style {
        self.style(Face::Text)
    }

    /// A span in a face.
    #[must_use]
    pub fn span<'t>(&self, face: Face, text: impl Into<std::borrow::Cow<'t, str>>) -> Span<'t> {
        Span::styled(text, self.style(face))
    }

    /// The characters to draw with.
    #[must_use]
    pub fn glyphs(&self) -> &'static Glyphs {
        if self.ascii {
            &glyphs::ASCII
        } else {
            &glyphs::UNICODE
        }
    }

    /// Whether there are no colours, so that characters must carry everything.
    #[must_use]
    pub fn is_mono(&self) -> bool {
        self.depth == ColorDepth::Mono
    }

    /// Levels of heat of resident experts, at least 3.
    #[must_use]
    pub fn heat_levels(&self) -> usize {
        self.heat.len()
    }

    /// Colour of a resident expert, level 0 the coldest; levels beyond the hottest are the hottest.
    #[must_use]
    pub fn heat(&self, level: usize) -> Color {
        self.heat[level.min(self.heat.len() - 1)]
    }

    /// Colour of an expert in no slot, for the same `level` as [`Theme::heat`].
    #[must_use]
    pub fn absent(&self, level: usize) -> Color {
        let level = level.min(self.heat.len() - 1) * self.absent.len() / self.heat.len();
        self.absent[level.min(self.absent.len() - 1)]
    }

    /// A style from elsewhere (markdown, code highlighting) with only colours that may be sent.
    #[must_use]
    pub fn adapt(&self, style: Style) -> Style {
        Style { fg: style.fg.map(|c| adapt(c, self.depth)), bg: style.bg.map(|c| adapt(c, self.depth)), underline_color: None, ..style }
    }

    /// The frame of a pane. The one that has the keys differs by colour, by weight of its title, and by a
    /// pointer before it, so that it can be told without colours.
    #[must_use]
    pub fn block<'t>(&self, title: impl Into<std::borrow::Cow<'t, str>>, focused: bool) -> Block<'t> {
        let (frame, face) = if focused { (Face::Focus, Face::Focus) } else { (Face::Border, Face::Title) };
        let pointer = if focused { self.glyphs().pointer } else { "" };
        let title = Line::from(vec![
            Span::raw(" "),
            Span::styled(pointer, self.style(face)),
            Span::styled(title, self.style(face)),
            Span::raw(" "),
        ]);
        Block::new().borders(Borders::ALL).border_set(self.glyphs().border).border_style(self.style(frame)).style(self.base()).title(title)
    }
}

#[cfg(test)]
mod tests;
