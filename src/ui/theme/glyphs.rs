//! Characters by meaning, in two sets: Unicode, and plain ASCII for terminals and locales without UTF-8.

use ratatui::symbols::border;

/// One set of characters. Every string but the arrow is one column wide.
#[derive(Debug, PartialEq, Eq)]
pub struct Glyphs {
    /// Expert in no slot.
    pub absent: &'static str,
    /// Expert in a slot: cold, warm, hot.
    pub resident: [&'static str; 3],
    /// Routed and in a slot.
    pub hit: &'static str,
    /// Routed and in no slot.
    pub miss: &'static str,
    /// Got a slot.
    pub admitted: &'static str,
    /// Lost its slot.
    pub evicted: &'static str,
    /// Points at the cursor's row.
    pub pointer: &'static str,
    /// Points up at the cursor's column.
    pub caret: &'static str,
    /// Tick of a ruler.
    pub tick: &'static str,
    /// Filled part of a bar.
    pub bar: &'static str,
    /// Rest of a bar.
    pub track: &'static str,
    /// Sparkline from lowest to highest; the first is an empty sample.
    pub spark: [&'static str; 9],
    /// A sample that is missing.
    pub gap: &'static str,
    /// The present point on a curve.
    pub point: &'static str,
    /// Separates parts of one line.
    pub dot: &'static str,
    /// From one value to another; may be wider than a column.
    pub arrow: &'static str,
    /// Cut text.
    pub ellipsis: &'static str,
    /// Times, as in "pool ×4".
    pub times: &'static str,
    /// About.
    pub about: &'static str,
    /// Frame characters.
    pub border: border::Set<'static>,
}

/// For terminals with UTF-8.
pub static UNICODE: Glyphs = Glyphs {
    absent: "·",
    resident: ["░", "▒", "▓"],
    hit: "●",
    miss: "×",
    admitted: "▲",
    evicted: "▽",
    pointer: "▸",
    caret: "▴",
    tick: "╵",
    bar: "━",
    track: "─",
    spark: [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"],
    gap: "┊",
    point: "◆",
    dot: "·",
    arrow: "→",
    ellipsis: "…",
    times: "×",
    about: "≈",
    border: border::ROUNDED,
};

/// For everything else.
pub static ASCII: Glyphs = Glyphs {
    absent: ".",
    resident: [":", "-", "="],
    hit: "#",
    miss: "x",
    admitted: "^",
    evicted: "v",
    pointer: ">",
    caret: "^",
    tick: "'",
    bar: "#",
    track: ".",
    spark: [" ", "_", ".", ",", "-", "=", "+", "*", "#"],
    gap: "!",
    point: "O",
    dot: "|",
    arrow: "->",
    ellipsis: "~",
    times: "x",
    about: "~",
    border: border::Set {
        top_left: "+",
        top_right: "+",
        bottom_left: "+",
        bottom_right: "+",
        vertical_left: "|",
        vertical_right: "|",
        horizontal_top: "-",
        horizontal_bottom: "-",
    },
};

/// Whether the locale says UTF-8: the first of `LC_ALL`, `LC_CTYPE`, `LANG` that is set decides.
#[must_use]
pub fn locale_is_utf8(lc_all: Option<&str>, lc_ctype: Option<&str>, lang: Option<&str>) -> bool {
    let set = [lc_all, lc_ctype, lang].into_iter().flatten().find(|v| !v.is_empty());
    set.is_some_and(|v| {
        let v = v.to_ascii_lowercase();
        v.contains("utf-8") || v.contains("utf8")
    })
}

/// [`locale_is_utf8`] of this process's environment.
#[must_use]
pub fn environment_is_utf8() -> bool {
    let var = |name| std::env::var(name).ok();
    locale_is_utf8(var("LC_ALL").as_deref(), var("LC_CTYPE").as_deref(), var("LANG").as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use unicode_width::UnicodeWidthStr;

    fn all(g: &Glyphs) -> Vec<&'static str> {
        let mut all = vec![
            g.absent, g.hit, g.miss, g.admitted, g.evicted, g.pointer, g.caret, g.tick, g.bar, g.track, g.gap, g.point, g.dot, g.ellipsis,
            g.times, g.about,
        ];
        all.extend(g.resident);
        all.extend(g.spark);
        all
    }

    #[test]
    fn every_state_of_an_expert_has_its_own_character() {
        for g in [&UNICODE, &ASCII] {
            let mut states = vec![g.absent, g.hit, g.miss, g.admitted, g.evicted];
            states.extend(g.resident);
            let count = states.len();
            states.sort_unstable();
            states.dedup();
            assert_eq!(states.len(), count);
        }
    }

    #[test]
    fn every_character_is_one_column_and_the_plain_set_is_plain() {
        assert!(all(&UNICODE).iter().all(|s| s.width() == 1));
        assert!(all(&ASCII).iter().all(|s| s.len() == 1 && s.is_ascii()));
    }

    #[test]
    fn the_first_locale_variable_that_is_set_decides() {
        assert!(locale_is_utf8(None, None, Some("de_DE.UTF-8")));
        assert!(locale_is_utf8(Some(""), Some("C.utf8"), Some("C")));
        assert!(!locale_is_utf8(Some("C"), None, Some("en_US.UTF-8")));
        assert!(!locale_is_utf8(None, None, None));
    }
}
