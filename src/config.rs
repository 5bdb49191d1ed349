//! The user's configuration: `rotary/config.toml` under the XDG configuration folder.
//!
//! A missing file is fine. A mistake in it never stops the program and costs no more than its own field: for each, a
//! message names the file, the line, the field and the remedy, and everything else counts.

mod file;

use crate::events::{DeviceChoice, Effort, Sampling, When};
use etcetera::BaseStrategy;
use serde::{Deserialize, Deserializer};
use std::path::{Path, PathBuf};

/// Everything that can be configured. Command line flags are stronger.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of the theme: a file of `themes/` beside the configuration, or one of the program's.
    pub theme: String,
    /// Draw with plain ASCII. By default the locale decides.
    pub ascii: Option<bool>,
    /// Colours to use: `none`, `16`, `256` or `truecolor`. By default the terminal's environment decides.
    pub color: Option<String>,
    /// Most frames per second, 1 to 60.
    #[serde(deserialize_with = "frame_rate")]
    pub frame_rate: u32,
    /// What to open when nothing is named: a path, a downloaded name, or `demo`.
    pub model: Option<String>,
    /// Folders in which models are looked up by name.
    pub model_dirs: Vec<PathBuf>,
    /// Budget of host memory, as `"8GiB"` or in bytes.
    #[serde(deserialize_with = "bytes")]
    pub ram: Option<u64>,
    /// What computes: `auto`, `cpu`, `gpu` or `simulated`.
    pub device: Option<DeviceChoice>,
    /// Budget of GPU memory, as `"6.3GiB"` or in bytes.
    #[serde(deserialize_with = "bytes")]
    pub vram: Option<u64>,
    /// Whether the experts of a model on a GPU are copied into RAM in huge pages: `auto`, `always` or `never`.
    pub hold: Option<When>,
    /// Whether the kernels that a model uses are tried on a GPU before it is opened there: `auto`, `always` or `never`.
    pub prove: Option<When>,
    /// Whether tokens that are likely to come are read together with the one that was drawn: `auto`, `always` or `never`.
    pub draft: Option<When>,
    /// Tokens per second of answers in the app, 0 as fast as they can be. By default only the embedded toy is slowed down.
    pub pace: Option<f32>,
    /// Worker threads.
    pub threads: Option<usize>,
    /// Replacement policy: `rotary`, `lru` or `lfu`.
    pub policy: Option<String>,
    /// Fill slots at the start with the experts that earlier sessions used.
    pub warm_start: bool,
    /// Whether a model that can reason does so.
    pub thinking: Option<bool>,
    /// How long a model that knows an effort reasons: `low`, `medium` or `high`.
    pub effort: Option<Effort>,
    /// Sampling parameters. Without this table the model file's own defaults are used.
    pub sampling: Option<Sampling>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            theme: "dark".into(),
            ascii: None,
            color: None,
            frame_rate: 20,
            model: None,
            model_dirs: Vec::new(),
            ram: None,
            device: None,
            vram: None,
            hold: None,
            prove: None,
            draft: None,
            pace: None,
            threads: None,
            policy: None,
            warm_start: true,
            thinking: None,
            effort: None,
            sampling: None,
        }
    }
}

/// A configuration and what was wrong with its file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// The configuration; a field that is missing or wrong has its default.
    pub config: Config,
    /// What to tell the person.
    pub problems: Vec<String>,
}

/// The folders that the program uses, by the XDG rules on every Unix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folders {
    /// Configuration and own themes.
    pub config: PathBuf,
    /// Saved chats and logs.
    pub state: PathBuf,
    /// Downloaded models.
    pub data: PathBuf,
}

impl Folders {
    /// From `XDG_CONFIG_HOME`, `XDG_STATE_HOME`, `XDG_DATA_HOME`, or their defaults under the home folder. Without
    /// a home folder they lie under the temporary folder.
    #[must_use]
    pub fn find() -> Self {
        let Ok(xdg) = etcetera::base_strategy::Xdg::new() else {
            let base = std::env::temp_dir().join("rotary");
            return Self { config: base.join("config"), state: base.join("state"), data: base.join("data") };
        };
        let state = xdg.state_dir().unwrap_or_else(|| xdg.data_dir());
        Self { config: xdg.config_dir().join("rotary"), state: state.join("rotary"), data: xdg.data_dir().join("rotary") }
    }

    /// The configuration file.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.config.join("config.toml")
    }

    /// The user's own themes.
    #[must_use]
    pub fn themes(&self) -> PathBuf {
        self.config.join("themes")
    }

    /// The user's own machine profiles.
    #[must_use]
    pub fn profiles(&self) -> PathBuf {
        self.config.join("profiles")
    }

    /// Which experts of which model were used.
    #[must_use]
    pub fn heat(&self) -> PathBuf {
        self.data.join("heat")
    }

    /// Which trials which GPU has passed.
    #[must_use]
    pub fn proofs(&self) -> PathBuf {
        self.state.join("gpu-proofs.json")
    }

    /// The saved chats.
    #[must_use]
    pub fn chats(&self) -> PathBuf {
        self.state.join("chats")
    }
}

/// Reads the configuration of this user.
#[must_use]
pub fn load() -> Loaded {
    load_from(&Folders::find().config_file())
}

/// Reads a configuration file.
#[must_use]
pub fn load_from(path: &Path) -> Loaded {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Loaded::default(),
        Err(error) => {
            let problem = format!("{}: {error}; the defaults are used", path.display());
            return Loaded { config: Config::default(), problems: vec![problem] };
        }
    };
    let (config, problems) = file::read(&text, path);
    Loaded { config, problems }
}

/// Reads `8GiB`, `512 MiB`, `1.5GB`, `4096`. Units of 1024 have an `i`; a bare `K`, `M`, `G`, `T` counts as one.
///
/// # Errors
/// A sentence that says what is expected.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let expected = || format!("\"{text}\" is not a size; write for example 8GiB, 512MiB or 2000000000");
    let text_trimmed = text.trim();
    let split = text_trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text_trimmed.len());
    let number: f64 = text_trimmed[..split].parse().map_err(|_| expected())?;
    let factor: f64 = match text_trimmed[split..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024.0 * 1024.0,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "t" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        _ => return Err(expected()),
    };
    // Nobody means 8 bytes of memory.
    if text_trimmed[split..].trim().is_empty() && number > 0.0 && number < f64::from(1 << 20) {
        return Err(format!("{number} what? write a unit: {number}GiB or {number}MiB, for example"));
    }
    let bytes = number * factor;
    if bytes.is_finite() && (0.0..9e18).contains(&bytes) {
        Ok(bytes as u64)
    } else {
        Err(expected())
    }
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Bytes(u64),
        Words(String),
    }
    match Option::<Size>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Size::Bytes(n)) => parse_bytes(&n.to_string()).map(Some).map_err(serde::de::Error::custom),
        Some(Size::Words(text)) => parse_bytes(&text).map(Some).map_err(serde::de::Error::custom),
    }
}

fn frame_rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let rate = u32::deserialize(deserializer)?;
    if (1..=60).contains(&rate) {
        Ok(rate)
    } else {
        Err(serde::de::Error::custom(format!("{rate} is not 1 to 60")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(text: &str) -> Loaded {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        load_from(&path)
    }

    #[test]
    fn a_missing_file_means_defaults_without_complaint() {
        assert_eq!(load_from(Path::new("/nonexistent/config.toml")), Loaded::default());
    }

    #[test]
    fn every_field_is_read() {
        let l = loaded(
            "theme = \"light\"\nascii = true\ncolor = \"16\"\nframe_rate = 10\nmodel = \"demo\"\n\
             model_dirs = [\"/models\"]\nram = \"1.5GiB\"\nthreads = 3\npolicy = \"lru\"\nthinking = false\neffort = \"low\"\n\
             [sampling]\ntemperature = 0.2\nseed = 7\n",
        );
        assert_eq!(l.problems, Vec::<String>::new());
        assert_eq!(l.config.ram, Some(3 << 29));
        assert_eq!(l.config.frame_rate, 10);
        assert_eq!((l.config.thinking, l.config.effort), (Some(false), Some(Effort::Low)));
        let sampling = l.config.sampling.unwrap();
        assert_eq!((sampling.temperature, sampling.seed, sampling.top_k), (0.2, Some(7), 40));
    }

    #[test]
    fn mistakes_name_file_line_field_and_remedy() {
        for (text, line, field, word) in [
            ("theme = \"dark\"\ntheem = \"x\"\n", ":2:", "theem", "theme"),
            ("\nframe_rate = 900\n", ":2:", "frame_rate", "1 to 60"),
            ("ram = \"lots\"\n", ":1:", "ram", "8GiB"),
            ("theme = \n", ":1:", "theme", "theme"),
            ("model_dirs = [\n  \"a\",\n  3,\n]\n", ":1:", "model_dirs", "a list of folders"),
            ("model_dirs = \"x\"\n", ":1:", "model_dirs", "[\"/models\"]"),
            ("hold = 1\n", ":1:", "hold: it must be", "\"never\" (at `hold = 1`)"),
            ("threads = -1\n", ":1:", "threads", "from 1 to 1024"),
            ("frame_rate = 0\n", ":1:", ": frame_rate: it must", "1 to 60"),
            ("themes = \"x\"\n", ":1:", "themes", "did you mean theme?"),
            ("zebra = 3\n", ":1:", "zebra", "docs/configuration.md"),
            ("color = \"red\"\n", ":1:", "color", "truecolor"),
            ("policy = \"best\"\n", ":1:", "policy", "lru"),
            ("hold = \"yes\"\n", ":1:", "hold", "always"),
            ("pace = -1\n", ":1:", "pace: it must be", "1000"),
            ("draft = 3\n", ":1:", "draft: it must be", "\"always\""),
            ("effort = \"much\"\n", ":1:", "effort", "\"medium\""),
            ("prove = \"once\"\n", ":1:", "prove", "never"),
            ("threads = 0\n", ":1:", "threads", "1024"),
            ("[sampling]\ntemperature = \"hot\"\n", ":2:", "sampling.temperature", "hot"),
            ("[sampling]\ntop_p = 7.5\n", ":2:", "sampling.top_p", "at most 1"),
            ("[samplings]\ntop_p = 0.5\ntop_k = 3\n", ":1:", "samplings", "sampling"),
            ("theme = \"a\"\ntheme = \"b\"\n", ":2:", "theme", "uplicate"),
        ] {
            let l = loaded(text);
            assert_eq!(l.problems.len(), 1, "{text:?}: {:?}", l.problems);
            let problem = &l.problems[0];
            for part in ["config.toml", line, field, word, "correct or remove this line"] {
                assert!(problem.contains(part), "{problem:?} lacks {part:?}");
            }
            assert!(!problem.contains('\n'));
        }
    }

    #[test]
    fn a_mistake_costs_its_own_field_only() {
        let l = loaded(
            "theme = \"light\"\nframe_rate = 900\npolicy = \"lru\"\nthreads = \"many\"\nascii = true\ncolour = \"16\"\n\
             [sampling]\ntemperature = 0.2\ntop_p = 3.0\ntop_k = 5\n",
        );
        let sampling = Sampling { temperature: 0.2, top_k: 5, ..Sampling::default() };
        let want =
            Config { theme: "light".into(), policy: Some("lru".into()), ascii: Some(true), sampling: Some(sampling), ..Config::default() };
        assert_eq!(l.config, want);
        let about = ["frame_rate", "threads", "colour", "sampling.top_p"];
        assert_eq!(l.problems.len(), about.len(), "{:?}", l.problems);
        for (field, problem) in about.iter().zip(&l.problems) {
            assert!(problem.contains(&format!(": {field}: ")), "as they stand in the file: {field}: {:?}", l.problems);
        }
    }

    #[test]
    fn a_line_that_is_no_toml_leaves_the_others() {
        for broken in ["theme = ", "theme", "theme == \"light\"", "theme = \"light", "= 3", "???"] {
            let l = loaded(&format!("policy = \"lru\"\n{broken}\nascii = true\n"));
            assert_eq!(l.config, Config { policy: Some("lru".into()), ascii: Some(true), ..Config::default() }, "{broken:?}");
            assert!(l.problems[0].contains(":2:"), "{broken:?}: {:?}", l.problems);
        }
    }

    #[test]
    fn a_table_without_a_right_field_leaves_the_models_own_sampling() {
        assert_eq!(loaded("[sampling]\ntop_p = 3.0\n").config, Config::default());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "[a-z_=\\[\\]\"'0-9. \n#{},-]{0,80}", any in proptest::prelude::any::<String>()) {
            let _ = loaded(&text);
            let _ = loaded(&any);
        }
    }

    #[test]
    fn sizes_have_the_usual_units() {
        assert_eq!(parse_bytes("8GiB"), Ok(8 << 30));
        assert!(parse_bytes("8").unwrap_err().contains("8 what? write a unit: 8GiB"));
        assert_eq!((parse_bytes("0"), parse_bytes("8b"), parse_bytes("1048576")), (Ok(0), Ok(8), Ok(1 << 20)));
        assert_eq!(parse_bytes(" 512 MiB "), Ok(512 << 20));
        assert_eq!(parse_bytes("1.5gb"), Ok(1_500_000_000));
        assert_eq!(parse_bytes("2000000000"), Ok(2_000_000_000));
        for bad in ["", "GiB", "8 bananas", "-1", "1e400", "99999999999999999999GiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
