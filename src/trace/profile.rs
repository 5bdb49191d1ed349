//! Machine profiles: what a roofline has to know of a machine, in TOML. `docs/profiles.md` explains every field.
//!
//! A profile is either included in the program, a file of `profiles/` in the configuration folder, or any file.

mod file;

pub use file::{parse, SCHEMA};

use file::clean;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Largest file that is read.
const MAX_FILE: u64 = 64 << 10;

/// Profiles that are part of the program, by name.
const INCLUDED: [(&str, &str); 1] = [("rtx-4060-laptop", include_str!("profiles/rtx-4060-laptop.toml"))];

/// What a machine does with experts that are not in slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Misses {
    /// Every miss is copied to fast memory before it is computed there.
    Upload,
    /// The host's CPU computes them while the device computes the hits.
    Host,
    /// In part one, in part the other, by bandwidth, at the same time.
    Split,
    /// Nothing runs side by side: hits, copies and misses one after another. Slots in host memory, no GPU.
    InTurn,
}

impl Misses {
    const ALL: [Misses; 4] = [Misses::Upload, Misses::Host, Misses::Split, Misses::InTurn];

    /// As the file has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Misses::Upload => "upload",
            Misses::Host => "host",
            Misses::Split => "split",
            Misses::InTurn => "in-turn",
        }
    }
}

/// Bandwidths in GB/s, 1 GB = 10^9 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bandwidth {
    /// Experts in slots: VRAM, or host memory if slots are there.
    pub vram: f64,
    /// Weights that every token uses; the same as `vram` if the file does not say.
    pub trunk: f64,
    /// From host memory into a slot.
    pub pcie: f64,
    /// Missed experts, computed by the host's CPU.
    pub host: f64,
    /// The same while copies run; the same as `host` if the file does not say.
    pub host_while_copying: f64,
    /// Plain reading of host memory: not used, a measure of the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<f64>,
}

/// Costs in microseconds that no byte accounts for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Of every token.
    pub step: f64,
    /// Of every layer with experts.
    pub layer: f64,
    /// More for a layer in which the host computes a miss.
    pub join: f64,
    /// More for a layer in which something is copied into a slot, if copies run in turn.
    pub copy: f64,
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// For people.
    pub name: String,
    /// Where the numbers are from.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// What becomes of misses.
    pub misses: Misses,
    /// Bandwidths.
    pub bandwidth: Bandwidth,
    /// Costs.
    pub cost: Cost,
    /// Bytes of fast memory for trunk and slots; `None` if the file does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u64>,
}

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// A name or path that leads nowhere.
    #[error("there is no machine profile {name:?}: {known}; or give the path of a .toml file, `rotary bench --profile` writes one")]
    Unknown {
        /// As it was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A file that can't be read.
    #[error("{file}: the machine profile can't be read: {why}")]
    Read {
        /// Which.
        file: String,
        /// Why.
        why: String,
    },
    /// Something in a file.
    #[error("{file}:{line}: {field}: {problem}")]
    Field {
        /// Which file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Field, with its table.
        field: String,
        /// What is wrong and what to write instead.
        problem: String,
    },
}

impl Profile {
    /// Whether trunk and slots of these sizes find room; `true` if the capacity is not known.
    #[must_use]
    pub fn fits(&self, trunk: u64, slots: u64) -> bool {
        self.capacity.is_none_or(|room| trunk.saturating_add(slots) <= room)
    }
}

/// A profile that is part of the program.
///
/// # Errors
/// Never for a name of [`included_names`].
pub fn included(name: &str) -> Result<Profile, ProfileError> {
    match INCLUDED.iter().find(|(n, _)| *n == name) {
        Some((_, text)) => parse(text, &format!("{name} (included)")),
        None => Err(unknown(name, &[])),
    }
}

/// Names of the profiles that are part of the program.
pub fn included_names() -> impl Iterator<Item = &'static str> {
    INCLUDED.iter().map(|(name, _)| *name)
}

/// The profile that `name` means: a path, a file of `folder` without its `.toml`, or an included one; in that order.
///
/// # Errors
/// See [`ProfileError`].
pub fn find(name: &str, folder: &Path) -> Result<Profile, ProfileError> {
    let path = PathBuf::from(name);
    if path.is_file() || name.contains(['/', '\\']) {
        return read(&path);
    }
    let own = folder.join(format!("{name}.toml"));
    if own.is_file() {
        return read(&own);
    }
    if INCLUDED.iter().any(|(n, _)| *n == name) {
        return included(name);
    }
    let mut mine: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .take(1000)
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "toml"))
        .filter_map(|p| Some(clean(&p.file_stem()?.to_string_lossy())))
        .collect();
    mine.sort();
    Err(unknown(name, &mine))
}

fn unknown(name: &str, mine: &[String]) -> ProfileError {
    let included: Vec<&str> = included_names().collect();
    let mine = if mine.is_empty() { "you have none of your own".to_owned() } else { format!("yours are {}", mine.join(", ")) };
    ProfileError::Unknown { name: clean(name), known: format!("included is {}, {mine}", included.join(", ")) }
}

/// Read a file.
///
/// # Errors
/// See [`ProfileError`].
pub fn read(path: &Path) -> Result<Profile, ProfileError> {
    let file = clean(&path.display().to_string());
    let fail = |why: String| ProfileError::Read { file: file.clone(), why };
    let size = std::fs::metadata(path).map_err(|e| fail(e.to_string()))?.len();
    if size > MAX_FILE {
        return Err(fail(format!("it has {size} bytes, a profile has at most {MAX_FILE}")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
    parse(&text, &file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str =
        "schema = 1\nname = \"m\"\nmisses = \"host\"\n[bandwidth]\nvram = 200\npcie = 12.5\nhost = 45.0\n[cost]\nstep = 1000\njoin = 35\n";

    fn wrong(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from}");
        parse(&GOOD.replace(from, to), "m.toml").unwrap_err().to_string()
    }

    #[test]
    fn what_the_file_leaves_out_has_a_meaning() {
        let p = parse(GOOD, "m.toml").unwrap();
        assert_eq!((p.name.as_str(), p.misses, p.capacity), ("m", Misses::Host, None));
        assert_eq!((p.bandwidth.trunk, p.bandwidth.host_while_copying, p.bandwidth.memory), (200.0, 45.0, None));
        assert_eq!(p.cost, Cost { step: 1000.0, layer: 0.0, join: 35.0, copy: 0.0 });
        assert!(p.fits(u64::MAX, 1));
    }

    #[test]
    fn included_profiles_are_sound_and_survive_being_written() {
        for name in included_names() {
            let p = included(name).unwrap();
            assert_eq!(parse(&p.to_toml(), "again").unwrap(), p, "{}", p.to_toml());
        }
        assert!(!included("rtx-4060-laptop").unwrap().fits(2_000_000_000, 5_000_000_000));
    }

    #[test]
    fn mistakes_name_file_line_field_and_remedy() {
        for (from, to, says) in [
            ("vram = 200", "vram = 0", "m.toml:5: bandwidth.vram: 0 can't be meant; write a number of GB/s from 0.001 to 100000"),
            ("vram = 200", "vram = -3.5", "m.toml:5: bandwidth.vram: -3.5 can't be meant"),
            ("vram = 200", "vram = nan", "m.toml:5: bandwidth.vram: NaN can't be meant"),
            ("vram = 200", "vram = inf", "m.toml:5: bandwidth.vram: inf can't be meant"),
            ("vram = 200", "vram = 1e300", "m.toml:5: bandwidth.vram: 1000000"),
            ("vram = 200", "vram = \"fast\"", "m.toml:5: bandwidth.vram: \"fast\" is no number; write"),
            ("vram = 200", "vrma = 200", "m.toml:4: bandwidth.vram: missing; write a number of GB/s"),
            (
                "pcie = 12.5",
                "pcie = 12.5\npci = 3",
                "m.toml:7: bandwidth.pci: there is no such field; remove it, there are vram, trunk, pcie",
            ),
            ("step = 1000", "step = -1", "m.toml:9: cost.step: -1 can't be meant; write a number of microseconds from 0"),
            ("join = 35", "", "m.toml:8: cost.join: missing"),
            ("[cost]\nstep = 1000\njoin = 35\n", "", "cost: missing; write a table [cost], see docs/profiles.md"),
            ("[cost]\nstep = 1000\njoin = 35\n", "cost = 3\n", "bandwidth.cost: there is no such field"),
            ("schema = 1", "schema = 2", "m.toml:1: schema: 2 is not known; this program reads schema 1"),
            ("schema = 1\n", "", "schema: missing; write schema = 1"),
            ("schema = 1", "schema = true", "m.toml:1: schema: write schema = 1"),
            ("name = \"m\"\n", "", "name: missing"),
            ("name = \"m\"", "name = 3", "m.toml:2: name: write a text in quotes"),
            ("\"host\"", "\"gpu\"", "m.toml:3: misses: write one of \"upload\", \"host\", \"split\", \"in-turn\""),
            ("schema = 1", "schema = 1\ncolour = 3", "m.toml:2: colour: there is no such field"),
            ("[bandwidth]", "[bandwidth", "m.toml:4: file: this is no TOML"),
            ("[cost]", "[capacity]\nvram_gb = 0\n[cost]", "m.toml:9: capacity.vram_gb: 0 can't be meant; write a number of GB"),
        ] {
            let found = wrong(from, to);
            assert!(found.contains(says), "{to:?} gave {found}");
        }
        assert!(parse("", "m.toml").is_err());
        let long = GOOD.replace("\"m\"", &format!("\"{}\"", "x".repeat(500)));
        assert!(parse(&long, "m.toml").unwrap_err().to_string().contains("name: longer than 400"));
    }

    #[test]
    fn names_and_paths_lead_to_profiles_and_unknown_ones_say_what_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("mine.toml");
        std::fs::write(&own, GOOD).unwrap();
        assert_eq!(find("mine", dir.path()).unwrap().name, "m");
        assert_eq!(find(own.to_str().unwrap(), Path::new("/nowhere")).unwrap().name, "m");
        assert!(find("rtx-4060-laptop", dir.path()).unwrap().name.contains("4060"));
        std::fs::write(dir.path().join("rtx-4060-laptop.toml"), GOOD).unwrap();
        assert_eq!(find("rtx-4060-laptop", dir.path()).unwrap().name, "m", "one's own wins");
        let e = find("h\x1b[0m100", dir.path()).unwrap_err().to_string();
        assert!(e.contains("included is rtx-4060-laptop, yours are mine, rtx-4060-laptop") && !e.contains('\x1b'), "{e}");
        let e = find("/nowhere/x.toml", dir.path()).unwrap_err().to_string();
        assert!(e.starts_with("/nowhere/x.toml: the machine profile can't be read"), "{e}");
        std::fs::write(&own, vec![b'#'; 1 << 17]).unwrap();
        assert!(read(&own).unwrap_err().to_string().contains("at most 65536"));
        std::fs::write(&own, b"\xff\xfe").unwrap();
        assert!(read(&own).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}", at in 0usize..200) {
            let _ = parse(&text, "m.toml");
            let at = (0..=at.min(GOOD.len())).rev().find(|&i| GOOD.is_char_boundary(i)).unwrap_or(0);
            let _ = parse(&format!("{}{text}{}", &GOOD[..at], &GOOD[at..]), "m.toml");
        }
    }
}
