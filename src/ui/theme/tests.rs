use super::file::{read, EMBEDDED, LEVELS};
use super::*;
use crate::ui::palette::{rgb_of, simulate, Rgb, Vision};

const DEPTHS: [ColorDepth; 4] = [ColorDepth::Mono, ColorDepth::Ansi16, ColorDepth::Indexed256, ColorDepth::TrueColor];
/// Faces that carry words.
const WORDS: [Face; 12] = [
    Face::Text,
    Face::Dim,
    Face::Accent,
    Face::Title,
    Face::User,
    Face::Assistant,
    Face::Thinking,
    Face::Code,
    Face::Error,
    Face::Notice,
    Face::Key,
    Face::Miss,
];
const STATES: [Face; 4] = [Face::Hit, Face::Miss, Face::Admitted, Face::Evicted];

fn shipped() -> impl Iterator<Item = Theme> {
    EMBEDDED.iter().flat_map(|(name, _)| DEPTHS.iter().map(|d| Theme::load(name, None, *d, false).unwrap()))
}

#[test]
fn every_shipped_theme_loads_at_every_depth() {
    for theme in shipped() {
        assert_eq!(theme.faces.len(), Face::ALL.len());
        assert!(LEVELS.contains(&theme.heat_levels()), "{}", theme.name);
    }
}

#[test]
fn words_stand_out_from_the_background_where_both_are_known() {
    for theme in shipped() {
        let Some(ground) = theme.base().bg.and_then(rgb_of) else { continue };
        for face in WORDS {
            let Some(ink) = rgb_of(theme.color(face)) else { continue };
            let need = if face == Face::Miss { 3.0 } else { 4.5 };
            let got = ink.contrast(ground);
            assert!(got >= need, "{} {:?} {}: {got:.2}", theme.name, theme.depth, face.name());
        }
        for face in [Face::Selection, Face::Cursor] {
            let style = theme.style(face);
            let (ink, ground) = (style.fg.and_then(rgb_of), style.bg.and_then(rgb_of));
            let (Some(ink), Some(ground)) = (ink, ground) else { continue };
            assert!(ink.contrast(ground) >= 4.5, "{} {:?} {}", theme.name, theme.depth, face.name());
        }
    }
}

#[test]
fn heat_runs_one_way_in_luminance_and_each_level_differs() {
    for theme in shipped().filter(|t| !t.is_mono() && t.name != "mono") {
        let ramp: Vec<f32> = (0..theme.heat_levels()).map(|l| rgb_of(theme.heat(l)).expect("a colour").luminance()).collect();
        let rises = ramp.windows(2).all(|p| p[1] > p[0]);
        let falls = ramp.windows(2).all(|p| p[1] < p[0]);
        assert!(rises || falls, "{} {:?}: {ramp:?}", theme.name, theme.depth);
        // Absent experts lie on the far side of the coldest resident.
        let coldest = rgb_of(theme.heat(0)).unwrap().luminance();
        let absent = rgb_of(theme.absent(0)).unwrap().luminance();
        assert!((absent < coldest) == rises, "{} {:?}: {absent} {coldest}", theme.name, theme.depth);
    }
}

/// The smallest OKLab distance between any two states, and between any state and any heat level, as seen.
fn closest(theme: &Theme, seen: impl Fn(Rgb) -> Rgb) -> (f32, String) {
    let mut named: Vec<(String, Rgb, bool)> =
        STATES.iter().map(|f| (f.name().to_owned(), rgb_of(theme.color(*f)).unwrap(), true)).collect();
    named.push(("cursor".into(), theme.style(Face::Cursor).bg.and_then(rgb_of).unwrap(), true));
    for level in 0..theme.heat_levels() {
        named.push((format!("heat {level}"), rgb_of(theme.heat(level)).unwrap(), false));
        named.push((format!("absent {level}"), rgb_of(theme.absent(level)).unwrap(), false));
    }
    let mut best = (f32::MAX, String::new());
    for (i, a) in named.iter().enumerate() {
        for b in &named[i + 1..] {
            if !a.2 && !b.2 {
                continue;
            }
            let distance = seen(a.1).lab().distance(seen(b.1).lab());
            if distance < best.0 {
                best = (distance, format!("{} and {}", a.0, b.0));
            }
        }
    }
    best
}

#[test]
fn states_differ_from_each_other_and_from_heat_in_every_coloured_theme() {
    for theme in shipped().filter(|t| t.depth >= ColorDepth::Ansi16 && t.name != "mono") {
        let (distance, pair) = closest(&theme, |c| c);
        assert!(distance > 0.07, "{} {:?}: {pair} {distance:.3}", theme.name, theme.depth);
    }
}

#[test]
fn the_colour_blind_theme_keeps_every_state_apart_under_each_deficiency() {
    for depth in [ColorDepth::Indexed256, ColorDepth::TrueColor] {
        let theme = Theme::load("safe", None, depth, false).unwrap();
        for vision in [Vision::Protanopia, Vision::Deuteranopia, Vision::Tritanopia] {
            let (distance, pair) = closest(&theme, |c| simulate(c, vision));
            assert!(distance > 0.07, "{depth:?} {vision:?}: {pair} {distance:.3}");
        }
    }
}

#[test]
fn no_theme_sends_more_than_the_depth_allows() {
    for theme in shipped() {
        let colors = theme.faces.iter().flat_map(|s| [s.fg, s.bg]).flatten();
        for color in colors.chain(theme.heat.iter().copied()).chain(theme.absent.iter().copied()) {
            match theme.depth {
                ColorDepth::Mono => assert_eq!(color, Color::Reset, "{}", theme.name),
                ColorDepth::Ansi16 => assert!(!matches!(color, Color::Rgb(..) | Color::Indexed(_)), "{}", theme.name),
                ColorDepth::Indexed256 => assert!(!matches!(color, Color::Rgb(..)), "{}", theme.name),
                ColorDepth::TrueColor => {}
            }
        }
        assert!(theme.heat.iter().all(|c| !matches!(c, Color::Rgb(..))), "heat is sent in 256 colours: {}", theme.name);
    }
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(format!("{name}.toml")), text).unwrap();
    }
    dir
}

fn fault(files: &[(&str, &str)]) -> String {
    let dir = folder(files);
    let error = read(files[0].0, Some(dir.path())).expect_err("a fault");
    error.to_string().replace(&dir.path().display().to_string(), "themes")
}

#[test]
fn a_fault_names_file_line_field_and_remedy() {
    let cases = [
        ("inherits = \"dark\"\n[faces]\nhit = \"blurple\"", "themes/mine.toml, line 3, `faces.hit`: `blurple` is no colour"),
        ("inherits = \"dark\"\n\n[faces]\nhitt = \"red\"", "line 4, `faces.hitt`: there is no such face; did you mean `hit`?"),
        ("inherits = \"drak\"", "line 1, `inherits`: there is no theme `drak`; name one of dark, light"),
        ("[faces]\ntext = \"#fff\"", "line 2, `faces.text`: `#fff` is not #rrggbb"),
        ("[faces]\ntext = \"default\"", "`faces`: dim, accent, "),
        ("inherits = \"dark\"\n[heat]\nlevels = 40", "line 3, `heat.levels`: is out of range; write a number from 3 to 8"),
        ("inherits = \"dark\"\n[heat]\nramp = \"vridis\"", "there is no ramp `vridis`; did you mean `viridis`?"),
        ("inherits = \"dark\"\n[palette]\na = \"b\"\nb = \"a\"", "leads in a circle through [palette]"),
        ("inherits = \"dark\"\n[faces]\ntext = { fg = \"red\", blink = true }", "`faces.text.blink`: there is no such part"),
        ("inherits = \"dark\"\n[faces\ntext = 1", "line 2, `toml`"),
        ("appearance = \"dusk\"", "write dark, light or any"),
        ("colours = 3", "`colours`: there is no such entry; known are title"),
    ];
    for (text, want) in cases {
        let got = fault(&[("mine", text)]);
        assert!(got.contains(want), "{text:?}\n got: {got}\nwant: {want}");
    }
}

#[test]
fn themes_that_inherit_in_a_circle_are_refused() {
    let got = fault(&[("a", "inherits = \"b\""), ("b", "inherits = \"c\""), ("c", "inherits = \"a\"")]);
    assert!(got.contains("themes/c.toml, line 1, `inherits`: themes inherit in a circle (a > b > c > a)"), "{got}");
}

#[test]
fn a_persons_theme_covers_one_of_the_program_and_may_build_on_it() {
    let dir = folder(&[("dark", "inherits = \"dark\"\n[palette]\nnight = \"#000000\"\n[faces]\nhit = 201")]);
    let mine = Theme::load("dark", Some(dir.path()), ColorDepth::TrueColor, false).unwrap();
    let ours = Theme::built_in("dark", ColorDepth::TrueColor, false);
    assert_eq!(mine.base().bg, Some(Color::Rgb(0, 0, 0)), "a palette entry recolours what was inherited");
    assert_eq!(mine.color(Face::Hit), Color::Indexed(201));
    assert_eq!(mine.style(Face::Key), ours.style(Face::Key));
    assert_eq!(Theme::names(Some(dir.path())).iter().filter(|n| *n == "dark").count(), 1);
}

#[test]
fn a_broken_theme_gives_the_default_and_a_message() {
    let dir = folder(&[("mine", "hello")]);
    let (theme, error) = Theme::load_or_default("mine", Some(dir.path()), ColorDepth::Indexed256, false);
    assert_eq!(theme, Theme::built_in("dark", ColorDepth::Indexed256, false));
    assert!(error.unwrap().to_string().contains("mine.toml, line 1"));
    let (_, error) = Theme::load_or_default("../../etc/passwd", Some(dir.path()), ColorDepth::Mono, true);
    assert!(error.unwrap().to_string().starts_with("there is no theme `../../etc/passwd`"));
}

#[test]
fn a_huge_file_is_refused_unread() {
    let dir = folder(&[("big", &"#".repeat(70_000))]);
    assert!(read("big", Some(dir.path())).unwrap_err().to_string().contains("at most 64 KiB"));
}

#[test]
fn sixteen_colours_use_the_scheme_of_the_terminal() {
    let theme = Theme::built_in("ember", ColorDepth::Ansi16, false);
    assert_eq!(theme.title, "Ember");
    assert_eq!(theme.style(Face::Hit), Theme::built_in("sixteen", ColorDepth::Ansi16, false).style(Face::Hit));
    assert_eq!(theme.base().bg, None);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_reading_a_theme_panic(text in "(\\PC|\n|\\[faces\\]|\\[heat\\]|\\[palette\\]|inherits = \"dark\"|=|\"){0,60}") {
        let dir = folder(&[("x", &text)]);
        let _ = read("x", Some(dir.path()));
    }
}
