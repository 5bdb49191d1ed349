//! Names and levels of a whole theme, turned into colours.

use super::{Appearance, At, Layer, RawHeat, ThemeError, ThemeFile, COLOR_REMEDY};
use crate::text::one_line;
use crate::ui::palette::{Rgb, ANSI_NAMES};
use crate::ui::ramp::{Ramp, RAMPS};
use crate::ui::theme::face::Face;
use ratatui::style::{Color, Style};

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
    one_line(text, 40)
}

pub(super) fn resolve(name: &str, file: &str, layer: &Layer) -> Result<ThemeFile, ThemeError> {
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
