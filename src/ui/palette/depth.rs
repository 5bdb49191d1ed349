//! How many colours the terminal has, by what the person and the environment say.

/// How many colours may be sent to the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ColorDepth {
    /// None: bold, dim, underline and reverse only.
    Mono,
    /// The 16 colours that the terminal's own scheme defines.
    Ansi16,
    /// The 240 fixed colours of the xterm palette.
    Indexed256,
    /// 24-bit colours.
    TrueColor,
}

impl ColorDepth {
    /// Reads what a person writes on the command line or in the configuration: `none`, `16`, `256`, `truecolor`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "none" | "mono" | "off" | "0" | "1" => Some(Self::Mono),
            "16" | "ansi" | "8" => Some(Self::Ansi16),
            "256" => Some(Self::Indexed256),
            "truecolor" | "truecolour" | "24bit" | "rgb" => Some(Self::TrueColor),
            _ => None,
        }
    }

    /// The word that [`ColorDepth::parse`] reads.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mono => "none",
            Self::Ansi16 => "16",
            Self::Indexed256 => "256",
            Self::TrueColor => "truecolor",
        }
    }
}

/// Where the colour depth can come from, strongest first: flag, configuration, `NO_COLOR`, `COLORTERM`, `TERM`.
#[derive(Clone, Debug, Default)]
pub struct DepthSources {
    /// `--color` on the command line.
    pub flag: Option<ColorDepth>,
    /// The configuration file.
    pub config: Option<ColorDepth>,
    /// `NO_COLOR` (no-color.org: any value that is not empty).
    pub no_color: Option<String>,
    /// `COLORTERM`; ssh does not forward it by default.
    pub colorterm: Option<String>,
    /// `TERM`.
    pub term: Option<String>,
}

impl DepthSources {
    /// The same with the three variables read from the environment.
    #[must_use]
    pub fn from_env(flag: Option<ColorDepth>, config: Option<ColorDepth>) -> Self {
        let var = |name| std::env::var(name).ok();
        Self { flag, config, no_color: var("NO_COLOR"), colorterm: var("COLORTERM"), term: var("TERM") }
    }

    /// The depth to use; 256 if nothing says otherwise.
    #[must_use]
    pub fn depth(&self) -> ColorDepth {
        if let Some(depth) = self.flag.or(self.config) {
            return depth;
        }
        if self.no_color.as_deref().is_some_and(|v| !v.is_empty()) {
            return ColorDepth::Mono;
        }
        if let Some("truecolor" | "24bit") = self.colorterm.as_deref() {
            return ColorDepth::TrueColor;
        }
        depth_of_term(self.term.as_deref().unwrap_or_default())
    }
}

/// What the terminal's name promises, as far as names do.
fn depth_of_term(term: &str) -> ColorDepth {
    const TRUE: [&str; 6] = ["kitty", "alacritty", "foot", "wezterm", "ghostty", "contour"];
    // Bare names promise eight colours and their bright forms; most of these terminals can do more and say so by other names.
    const SIXTEEN: [&str; 11] =
        ["linux", "ansi", "cygwin", "cons25", "rxvt-16color", "xterm-16color", "xterm", "xterm-color", "screen", "tmux", "rxvt"];
    if term == "dumb" || term.starts_with("vt1") || term.starts_with("vt2") || term.ends_with("-mono") {
        ColorDepth::Mono
    } else if term.ends_with("-direct") || TRUE.iter().any(|t| term.contains(t)) {
        ColorDepth::TrueColor
    } else if SIXTEEN.contains(&term) {
        ColorDepth::Ansi16
    } else {
        ColorDepth::Indexed256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_source_decides_the_depth() {
        let env = |colorterm: Option<&str>, term: &str, no_color: Option<&str>| DepthSources {
            colorterm: colorterm.map(Into::into),
            term: Some(term.into()),
            no_color: no_color.map(Into::into),
            ..Default::default()
        };
        assert_eq!(DepthSources::default().depth(), ColorDepth::Indexed256);
        assert_eq!(env(Some("truecolor"), "xterm", None).depth(), ColorDepth::TrueColor);
        assert_eq!(env(Some("truecolor"), "xterm", Some("1")).depth(), ColorDepth::Mono);
        assert_eq!(env(None, "xterm-kitty", Some("")).depth(), ColorDepth::TrueColor);
        assert_eq!(env(None, "xterm", None).depth(), ColorDepth::Ansi16);
        assert_eq!(env(None, "xterm-256color", None).depth(), ColorDepth::Indexed256);
        assert_eq!(env(None, "linux", None).depth(), ColorDepth::Ansi16);
        assert_eq!(env(None, "dumb", None).depth(), ColorDepth::Mono);
        assert_eq!(env(None, "screen-256color", None).depth(), ColorDepth::Indexed256);
        let mut all = env(Some("truecolor"), "xterm", Some("1"));
        all.config = Some(ColorDepth::Ansi16);
        assert_eq!(all.depth(), ColorDepth::Ansi16);
        all.flag = Some(ColorDepth::TrueColor);
        assert_eq!(all.depth(), ColorDepth::TrueColor);
    }
}
