//! Colour arithmetic, and what a colour becomes at the depth that the terminal has.
//!
//! Distances are measured in OKLab (Ottosson 2020), where equal steps look equally large. The first 16
//! terminal colours are set by each person's terminal and can't be known, so a colour is mapped to one of
//! the 240 fixed ones (the 6x6x6 cube and the grey ramp) when the terminal has 256.

mod depth;

pub use depth::{ColorDepth, DepthSources};

use ratatui::style::Color;
use std::sync::OnceLock;

/// A point in OKLab: lightness 0..1, and two opponent axes of about -0.4..0.4.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lab {
    /// Lightness.
    pub l: f32,
    /// Green to red.
    pub a: f32,
    /// Blue to yellow.
    pub b: f32,
}

impl Lab {
    /// Euclidean distance; about 0.02 is just noticeable side by side.
    #[must_use]
    pub fn distance(self, other: Self) -> f32 {
        let (dl, da, db) = (self.l - other.l, self.a - other.a, self.b - other.b);
        (dl * dl + da * da + db * db).sqrt()
    }
}

/// An 8-bit sRGB colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rgb(pub u8, pub u8, pub u8);

impl Rgb {
    /// Reads `#rrggbb`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix('#').filter(|h| h.len() == 6 && h.bytes().all(|b| b.is_ascii_hexdigit()))?;
        let part = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).ok();
        Some(Self(part(0)?, part(2)?, part(4)?))
    }

    /// Linear light, each channel 0..1.
    #[must_use]
    pub fn linear(self) -> [f32; 3] {
        [self.0, self.1, self.2].map(|c| {
            let c = f32::from(c) / 255.0;
            if c <= 0.040_45 {
                c / 12.92
            } else {
                ((c + 0.055) / 1.055).powf(2.4)
            }
        })
    }

    /// From linear light; channels are cut to 0..1.
    #[must_use]
    pub fn from_linear(linear: [f32; 3]) -> Self {
        let [r, g, b] = linear.map(|c| {
            let c = c.clamp(0.0, 1.0);
            let s = if c <= 0.003_130_8 { 12.92 * c } else { 1.055 * c.powf(1.0 / 2.4) - 0.055 };
            (s * 255.0).round() as u8
        });
        Self(r, g, b)
    }

    /// The colour in OKLab.
    #[must_use]
    pub fn lab(self) -> Lab {
        let [r, g, b] = self.linear();
        let l = (0.412_221_46 * r + 0.536_332_55 * g + 0.051_445_995 * b).cbrt();
        let m = (0.211_903_5 * r + 0.680_699_5 * g + 0.107_396_96 * b).cbrt();
        let s = (0.088_302_46 * r + 0.281_718_85 * g + 0.629_978_7 * b).cbrt();
        Lab {
            l: 0.210_454_26 * l + 0.793_617_8 * m - 0.004_072_047 * s,
            a: 1.977_998_5 * l - 2.428_592_2 * m + 0.450_593_7 * s,
            b: 0.025_904_037 * l + 0.782_771_77 * m - 0.808_675_77 * s,
        }
    }

    /// Relative luminance as WCAG 2 defines it, 0..1.
    #[must_use]
    pub fn luminance(self) -> f32 {
        let [r, g, b] = self.linear();
        0.2126 * r + 0.7152 * g + 0.0722 * b
    }

    /// Contrast ratio as WCAG 2 defines it, 1..21.
    #[must_use]
    pub fn contrast(self, other: Self) -> f32 {
        let (a, b) = (self.luminance(), other.luminance());
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    /// The colour between this one and `other`, in sRGB.
    #[must_use]
    pub fn mix(self, other: Self, t: f32) -> Self {
        let t = t.clamp(0.0, 1.0);
        let mix = |a: u8, b: u8| (f32::from(a) + (f32::from(b) - f32::from(a)) * t).round() as u8;
        Self(mix(self.0, other.0), mix(self.1, other.1), mix(self.2, other.2))
    }
}

/// The 16 colours as xterm ships them. A terminal's own scheme may differ; these are for measuring only.
pub const ANSI16: [Rgb; 16] = [
    Rgb(0, 0, 0),
    Rgb(205, 0, 0),
    Rgb(0, 205, 0),
    Rgb(205, 205, 0),
    Rgb(0, 0, 238),
    Rgb(205, 0, 205),
    Rgb(0, 205, 205),
    Rgb(229, 229, 229),
    Rgb(127, 127, 127),
    Rgb(255, 0, 0),
    Rgb(0, 255, 0),
    Rgb(255, 255, 0),
    Rgb(92, 92, 255),
    Rgb(255, 0, 255),
    Rgb(0, 255, 255),
    Rgb(255, 255, 255),
];

/// Names of the 16 colours in theme files, in the order of their numbers, and what ratatui calls them.
pub const ANSI_NAMES: [(&str, Color); 16] = [
    ("black", Color::Black),
    ("red", Color::Red),
    ("green", Color::Green),
    ("yellow", Color::Yellow),
    ("blue", Color::Blue),
    ("magenta", Color::Magenta),
    ("cyan", Color::Cyan),
    ("white", Color::Gray),
    ("bright-black", Color::DarkGray),
    ("bright-red", Color::LightRed),
    ("bright-green", Color::LightGreen),
    ("bright-yellow", Color::LightYellow),
    ("bright-blue", Color::LightBlue),
    ("bright-magenta", Color::LightMagenta),
    ("bright-cyan", Color::LightCyan),
    ("bright-white", Color::White),
];

/// The RGB value of a colour of the xterm palette.
#[must_use]
pub fn xterm_rgb(index: u8) -> Rgb {
    const STEPS: [u8; 6] = [0, 95, 135, 175, 215, 255];
    match index {
        0..=15 => ANSI16[usize::from(index)],
        16..=231 => {
            let i = usize::from(index - 16);
            Rgb(STEPS[i / 36], STEPS[i / 6 % 6], STEPS[i % 6])
        }
        232..=255 => {
            let grey = 8 + 10 * (index - 232);
            Rgb(grey, grey, grey)
        }
    }
}

/// The nearest of the 240 fixed xterm colours.
#[must_use]
pub fn nearest_xterm(rgb: Rgb) -> u8 {
    static LABS: OnceLock<Vec<Lab>> = OnceLock::new();
    let labs = LABS.get_or_init(|| (16..=255).map(|i| xterm_rgb(i).lab()).collect());
    let lab = rgb.lab();
    let best = (0..labs.len()).min_by(|&a, &b| lab.distance(labs[a]).total_cmp(&lab.distance(labs[b])));
    16 + best.unwrap_or(0) as u8
}

/// One of the 16 colours that carries the sense of `rgb`: its hue family, or a grey by lightness.
#[must_use]
pub fn nearest_ansi(rgb: Rgb) -> Color {
    let lab = rgb.lab();
    let chroma = lab.a.hypot(lab.b);
    if chroma < 0.045 {
        return match lab.l {
            l if l < 0.28 => Color::Black,
            l if l < 0.65 => Color::DarkGray,
            l if l < 0.93 => Color::Gray,
            _ => Color::White,
        };
    }
    // Hue in degrees; the bounds lie halfway between the hues of the primaries in OKLab.
    let hue = lab.b.atan2(lab.a).to_degrees().rem_euclid(360.0);
    let (normal, bright) = match hue {
        h if !(5.0..345.0).contains(&h) => (Color::Red, Color::LightRed),
        h if h < 62.0 => (Color::Red, Color::LightRed),
        h if h < 122.0 => (Color::Yellow, Color::LightYellow),
        h if h < 172.0 => (Color::Green, Color::LightGreen),
        h if h < 232.0 => (Color::Cyan, Color::LightCyan),
        h if h < 292.0 => (Color::Blue, Color::LightBlue),
        _ => (Color::Magenta, Color::LightMagenta),
    };
    if lab.l > 0.62 {
        bright
    } else {
        normal
    }
}

/// What a colour becomes at a depth. Never a colour that the depth does not have.
#[must_use]
pub fn adapt(color: Color, depth: ColorDepth) -> Color {
    match (depth, color) {
        (ColorDepth::Mono, _) | (_, Color::Reset) => Color::Reset,
        (ColorDepth::TrueColor, c) => c,
        (ColorDepth::Indexed256, Color::Rgb(r, g, b)) => Color::Indexed(nearest_xterm(Rgb(r, g, b))),
        (ColorDepth::Indexed256, c) => c,
        (ColorDepth::Ansi16, Color::Rgb(r, g, b)) => nearest_ansi(Rgb(r, g, b)),
        (ColorDepth::Ansi16, Color::Indexed(i)) => match ANSI_NAMES.get(usize::from(i)) {
            Some((_, c)) => *c,
            None => nearest_ansi(xterm_rgb(i)),
        },
        (ColorDepth::Ansi16, c) => c,
    }
}

/// The RGB value of a colour, as far as it is known: [`Color::Reset`] is whatever the terminal has.
#[must_use]
pub fn rgb_of(color: Color) -> Option<Rgb> {
    match color {
        Color::Reset => None,
        Color::Rgb(r, g, b) => Some(Rgb(r, g, b)),
        Color::Indexed(i) => Some(xterm_rgb(i)),
        named => ANSI_NAMES.iter().position(|(_, c)| *c == named).map(|i| ANSI16[i]),
    }
}

/// A kind of colour-vision deficiency in full strength.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vision {
    /// Without long-wave cones.
    Protanopia,
    /// Without middle-wave cones.
    Deuteranopia,
    /// Without short-wave cones.
    Tritanopia,
}

/// How `rgb` looks with a deficiency: the matrices of Machado, Oliveira and Fernandes (2009) at severity 1,
/// applied to linear light. Used to check themes.
#[must_use]
pub fn simulate(rgb: Rgb, vision: Vision) -> Rgb {
    let m: [[f32; 3]; 3] = match vision {
        Vision::Protanopia => [[0.152_286, 1.052_583, -0.204_868], [0.114_503, 0.786_281, 0.099_216], [-0.003_882, -0.048_116, 1.051_998]],
        Vision::Deuteranopia => [[0.367_322, 0.860_646, -0.227_968], [0.280_085, 0.672_501, 0.047_413], [-0.011_820, 0.042_940, 0.968_881]],
        Vision::Tritanopia => [[1.255_528, -0.076_749, -0.178_779], [-0.078_411, 0.930_809, 0.147_602], [0.004_733, 0.691_367, 0.303_900]],
    };
    let c = rgb.linear();
    Rgb::from_linear(m.map(|row| row[0] * c[0] + row[1] * c[1] + row[2] * c[2]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fixed_xterm_colour_is_nearest_to_itself() {
        for i in 16..=255u8 {
            assert_eq!(xterm_rgb(nearest_xterm(xterm_rgb(i))), xterm_rgb(i), "colour {i}");
        }
    }

    #[test]
    fn oklab_and_contrast_agree_with_published_values() {
        let white = Rgb(255, 255, 255).lab();
        assert!((white.l - 1.0).abs() < 1e-3 && white.a.abs() < 1e-3 && white.b.abs() < 1e-3);
        // Ottosson's table: linear red is L 0.628, a 0.225, b 0.126.
        let red = Rgb(255, 0, 0).lab();
        assert!((red.l - 0.628).abs() < 2e-3 && (red.a - 0.225).abs() < 2e-3 && (red.b - 0.126).abs() < 2e-3);
        assert!((Rgb(0, 0, 0).contrast(Rgb(255, 255, 255)) - 21.0).abs() < 1e-3);
        assert!((Rgb(0x76, 0x76, 0x76).contrast(Rgb(255, 255, 255)) - 4.54).abs() < 0.01);
    }

    #[test]
    fn each_ansi_primary_maps_to_its_own_family() {
        for (i, (name, color)) in ANSI_NAMES.iter().enumerate() {
            let got = nearest_ansi(ANSI16[i]);
            let family = |c: Color| ANSI_NAMES.iter().position(|(_, n)| *n == c).map(|p| p % 8);
            if ![0, 7, 8, 15].contains(&i) {
                assert_eq!(family(got), family(*color), "{name} became {got:?}");
            }
        }
        assert_eq!(nearest_ansi(Rgb(0, 0, 0)), Color::Black);
        assert_eq!(nearest_ansi(Rgb(255, 255, 255)), Color::White);
    }

    #[test]
    fn no_depth_lets_a_richer_colour_through() {
        for c in [Color::Rgb(12, 200, 99), Color::Indexed(200), Color::Indexed(3), Color::LightBlue, Color::Reset] {
            assert_eq!(adapt(c, ColorDepth::Mono), Color::Reset);
            assert!(!matches!(adapt(c, ColorDepth::Ansi16), Color::Rgb(..) | Color::Indexed(_)));
            assert!(!matches!(adapt(c, ColorDepth::Indexed256), Color::Rgb(..)));
        }
    }

    #[test]
    fn simulated_deficiency_keeps_greys_and_merges_red_with_green() {
        for vision in [Vision::Protanopia, Vision::Deuteranopia, Vision::Tritanopia] {
            let grey = simulate(Rgb(128, 128, 128), vision);
            assert!(grey.lab().distance(Rgb(128, 128, 128).lab()) < 0.01, "{vision:?} {grey:?}");
        }
        let apart = Rgb(200, 60, 40).lab().distance(Rgb(90, 120, 40).lab());
        let seen = simulate(Rgb(200, 60, 40), Vision::Deuteranopia).lab().distance(simulate(Rgb(90, 120, 40), Vision::Deuteranopia).lab());
        assert!(seen < apart * 0.6, "{seen} {apart}");
    }
}
