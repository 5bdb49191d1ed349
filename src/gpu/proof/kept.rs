//! Which trials which GPU has passed, kept in a file, so that a start that changes nothing tries nothing.
//!
//! A proof is of a GPU by name and capability, its driver, the machine code of the kernels, and the sources of the trials. The file is written whole beside its place
//! and renamed over it. It is a cache: what can't be read is passed over with a line in the log, and everything is tried again. It is trusted like the program's other files in
//! the user's folders: who can write there can say that a kernel has passed.

use crate::gpu::device::Facts;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Most GPUs, drivers and builds; the one proven longest ago goes first.
const MOST: usize = 16;
/// Most trials of one. A model has some 60; many models share most of theirs.
const TRIALS: usize = 1024;
/// Most bytes that are read: what these come to, with long names.
const BYTES: u64 = 1 << 20;
/// Most bytes of a name.
const NAME: usize = 256;
/// Changes with the meaning of the file.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    /// The newest last.
    proofs: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    gpu: String,
    capability: u32,
    driver: String,
    /// Machine code, and sources of the trials.
    kernels: String,
    /// [`super::Case::number`] of those that passed, the newest last.
    passed: Vec<u64>,
}

impl Entry {
    fn new(facts: &Facts) -> Self {
        let short = |text: &str| text.chars().filter(|c| !c.is_control()).take(NAME / 4).collect::<String>();
        Self {
            gpu: short(&facts.name),
            capability: facts.capability,
            driver: short(&facts.driver),
            kernels: format!("{}-{:016x}", short(&facts.kernels), sources()),
            passed: Vec::new(),
        }
    }

    /// Whether it is of the same GPU, driver and build.
    fn is_of(&self, other: &Self) -> bool {
        (&self.gpu, self.capability, &self.driver, &self.kernels) == (&other.gpu, other.capability, &other.driver, &other.kernels)
    }

    fn is_sound(&self) -> bool {
        self.passed.len() <= TRIALS && [&self.gpu, &self.driver, &self.kernels].iter().all(|name| name.len() <= NAME)
    }
}

/// What a trial is and how a kernel is launched: another launch of the same machine code has not been tried.
fn sources() -> u64 {
    let mut hash = DefaultHasher::new();
    for source in [
        include_str!("../params.rs"),
        include_str!("../params/shapes.rs"),
        include_str!("../trial.rs"),
        include_str!("../trial/cases.rs"),
        include_str!("../trial/biased.rs"),
        include_str!("../trial/latent.rs"),
        include_str!("../trial/pointwise.rs"),
        include_str!("../trial/mailbox.rs"),
    ] {
        source.hash(&mut hash);
    }
    env!("CARGO_PKG_VERSION").hash(&mut hash);
    hash.finish()
}

/// The file of proofs; it need not exist yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    path: PathBuf,
}

impl Kept {
    /// In this file.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.into() }
    }

    /// What the device with these facts has passed, by the case's number.
    #[must_use]
    pub fn read(&self, facts: &Facts) -> BTreeSet<u64> {
        let wanted = Entry::new(facts);
        self.entries().into_iter().filter(|e| e.is_of(&wanted)).flat_map(|e| e.passed).collect()
    }

    /// Add what the device has passed and take away what it has failed. A file that can't be written is told in the log: the next start tries again.
    pub fn write(&self, facts: &Facts, passed: &[u64], failed: &[u64]) {
        let mut entries = self.entries();
        let mut entry = Entry::new(facts);
        let at = entries.iter().position(|e| e.is_of(&entry));
        entry.passed = at.map(|i| entries.remove(i).passed).unwrap_or_default();
        entry.passed.retain(|n| !passed.contains(n) && !failed.contains(n));
        entry.passed.extend(passed);
        let too_many = entry.passed.len().saturating_sub(TRIALS);
        entry.passed.drain(..too_many);
        entries.push(entry);
        let too_many = entries.len().saturating_sub(MOST);
        entries.drain(..too_many);
        if let Err(e) = self.replace(&File { version: VERSION, proofs: entries }) {
            tracing::warn!("{}: {e}; the GPU's kernels are tried again at the next start", self.path.display());
        }
    }

    /// All that the file has; nothing if it can't be used.
    fn entries(&self) -> Vec<Entry> {
        let passed_over = |why: &dyn std::fmt::Display| {
            tracing::warn!("{}: {why}; the GPU's kernels are tried again, and the file is written anew", self.path.display());
            Vec::new()
        };
        let bytes = match self.bytes() {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(e) => return passed_over(&e),
        };
        if bytes.len() as u64 > BYTES {
            return passed_over(&"it is longer than any that this program writes");
        }
        match serde_json::from_slice::<File>(&bytes) {
            Err(e) => passed_over(&format!("it is damaged, near line {} column {}", e.line(), e.column())),
            Ok(file) if file.version != VERSION => passed_over(&"it was written by another version of this program"),
            Ok(file) if file.proofs.len() > MOST || !file.proofs.iter().all(Entry::is_sound) => {
                passed_over(&"it has more in it than this program writes")
            }
            Ok(file) => file.proofs,
        }
    }

    fn bytes(&self) -> io::Result<Vec<u8>> {
        // Asked before opening: opening a pipe would wait for a writer.
        if !fs::metadata(&self.path)?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut bytes = Vec::new();
        fs::File::open(&self.path)?.take(BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn replace(&self, file: &File) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(folder)?;
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let beside = folder.join(format!(".{name}.{}.part", std::process::id()));
        let write = || -> io::Result<()> {
            fs::File::create(&beside)?.write_all(&serde_json::to_vec(file)?)?;
            fs::rename(&beside, &self.path)
        };
        write().inspect_err(|_| {
            let _ = fs::remove_file(&beside);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(driver: &str) -> Facts {
        Facts { name: "NVIDIA Some GPU".into(), capability: 89, driver: driver.into(), kernels: "0123".into(), ..Facts::default() }
    }

    fn kept(folder: &tempfile::TempDir) -> Kept {
        Kept::new(&folder.path().join("new/gpu-proofs.json"))
    }

    #[test]
    fn what_passed_is_kept_by_gpu_driver_and_kernels() {
        let folder = tempfile::tempdir().unwrap();
        let kept = kept(&folder);
        assert!(kept.read(&gpu("1")).is_empty());
        kept.write(&gpu("1"), &[3, u64::MAX], &[]);
        kept.write(&gpu("1"), &[5], &[3]);
        assert_eq!(kept.read(&gpu("1")), BTreeSet::from([5, u64::MAX]));
        for other in [
            gpu("2"),
            Facts { name: "NVIDIA Other".into(), ..gpu("1") },
            Facts { capability: 86, ..gpu("1") },
            Facts { kernels: "4567".into(), ..gpu("1") },
        ] {
            assert!(kept.read(&other).is_empty(), "{other:?}");
        }
        // Memory in all is no part of it: it may change with the driver's reserve.
        assert_eq!(kept.read(&Facts { memory: 1, ..gpu("1") }).len(), 2);
        assert_eq!(fs::read_dir(folder.path().join("new")).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_can_not_be_used_counts_as_nothing_and_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let kept = kept(&folder);
        kept.write(&gpu("1"), &[3], &[]);
        let good = fs::read_to_string(&kept.path).unwrap();
        let many = |n: usize| vec!["7"; n].join(",");
        let entry =
            |name: &str, passed: &str| format!(r#"{{"gpu":"{name}","capability":89,"driver":"1","kernels":"x","passed":[{passed}]}}"#);
        let file = |entries: &str| format!(r#"{{"version":1,"proofs":[{entries}]}}"#);
        for bad in [
            String::new(),
            "\u{1b}[2J".into(),
            good[..good.len() / 2].into(),
            good.replace("\"version\":1", "\"version\":2"),
            good.replace("[3]", "[-3]"),
            good.replace("[3]", "[3e99]"),
            good.replace("\"capability\"", "\"more\":1,\"capability\""),
            "[".repeat(100_000),
            format!("{good}{}", " ".repeat(BYTES as usize)),
            file(&entry("a", &many(TRIALS + 1))),
            file(&entry(&"n".repeat(NAME + 1), "1")),
            file(&vec![entry("a", "1"); MOST + 1].join(",")),
        ] {
            fs::write(&kept.path, &bad).unwrap();
            assert!(kept.read(&gpu("1")).is_empty(), "{:.80}", bad);
            kept.write(&gpu("1"), &[4], &[]);
            assert_eq!(kept.read(&gpu("1")), BTreeSet::from([4]), "{:.80}", bad);
        }
        fs::remove_file(&kept.path).unwrap();
        fs::create_dir(&kept.path).unwrap();
        assert!(kept.read(&gpu("1")).is_empty());
        kept.write(&gpu("1"), &[4], &[]);
        assert!(kept.read(&gpu("1")).is_empty(), "a folder in its place is left alone");
        assert_eq!(fs::read_dir(folder.path().join("new")).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn it_never_grows_beyond_its_bounds_and_the_oldest_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let kept = kept(&folder);
        let wordy = |i: usize| gpu(&format!("driver {i} {}", "\u{7}é".repeat(500)));
        for i in 0..MOST + 5 {
            kept.write(&wordy(i), &[i as u64], &[]);
        }
        for n in 0..3 {
            let some: Vec<u64> = (0..700).map(|i| u64::MAX - 700 * n - i).collect();
            kept.write(&gpu("1"), &some, &[]);
        }
        assert!(kept.read(&wordy(5)).is_empty());
        assert_eq!(kept.read(&wordy(6)), BTreeSet::from([6]));
        let now = kept.read(&gpu("1"));
        assert_eq!((now.len(), now.contains(&(u64::MAX - 1400)), now.contains(&u64::MAX)), (TRIALS, true, false));
        assert_eq!(kept.entries().len(), MOST);
        assert!(fs::metadata(&kept.path).unwrap().len() < BYTES);
    }
}
