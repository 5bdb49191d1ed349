//! What MODEL means on the command line, and which models have been downloaded.

use super::failure::{exit, Failure};
use crate::config::{Config, Folders};
use crate::events::ModelSource;
use std::path::{Path, PathBuf};

/// What MODEL means: `demo`, a path, or the name of a downloaded model.
pub fn find_model(name: &str, config: &Config) -> Result<ModelSource, Failure> {
    let path = PathBuf::from(name);
    // A path wins over everything, so that a file that happens to be called `demo` stays reachable as ./demo.
    if name == "demo" {
        return Ok(ModelSource::Demo);
    }
    if path.exists() || name.contains(std::path::MAIN_SEPARATOR) && name.ends_with(".gguf") {
        return Ok(ModelSource::Path(path));
    }
    let known = downloaded(config);
    let wanted = name.strip_suffix(".gguf").unwrap_or(name);
    let matches: Vec<&(String, PathBuf)> =
        known.iter().filter(|(n, _)| n == wanted || n.rsplit('/').next().is_some_and(|last| last == wanted)).collect();
    match matches.as_slice() {
        [(_, path)] => Ok(ModelSource::Path(path.clone())),
        [] => {
            let have = if known.is_empty() {
                "no model has been downloaded".to_owned()
            } else {
                format!("downloaded are: {}", known.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", "))
            };
            Err(Failure {
                code: exit::MODEL_FILE,
                message: format!(
                    "{}: no such file, and no downloaded model of this name; {have}; `demo` is always there, and `rotary pull` downloads",
                    crate::gguf::shown(name)
                ),
            })
        }
        several => Err(Failure::usage(format!(
            "several downloaded models are called `{}`: {}; write one of these names in full",
            crate::gguf::shown(name),
            several.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", ")
        ))),
    }
}

/// Downloaded models by name (path below its folder, without `.gguf`), later parts of split sets left out.
pub fn downloaded(config: &Config) -> Vec<(String, PathBuf)> {
    let mut out = Vec::new();
    let own = Folders::find().data.join("models");
    for root in config.model_dirs.iter().chain([&own]) {
        let mut folders = vec![(root.clone(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries.flatten().take(10_000) {
                let path = entry.path();
                if path.is_dir() && depth < 3 {
                    folders.push((path, depth + 1));
                } else if path.extension().is_some_and(|e| e == "gguf") && !is_later_part(&path) {
                    if let Ok(name) = path.strip_prefix(root) {
                        out.push((name.with_extension("").to_string_lossy().into_owned(), path));
                    }
                }
            }
        }
    }
    out.sort();
    out
}

/// `...-0000K-of-0000N.gguf` with K above 1.
fn is_later_part(path: &Path) -> bool {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let Some((head, total)) = stem.rsplit_once("-of-") else { return false };
    let number = head.rsplit('-').next().unwrap_or_default();
    total.len() == 5 && number.len() == 5 && number.parse::<u32>().is_ok_and(|n| n > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_part_of_a_split_model_is_a_model() {
        let later = |s: &str| is_later_part(Path::new(s));
        assert!(later("a/m-00002-of-00003.gguf"));
        assert!(!later("a/m-00001-of-00003.gguf"));
        assert!(!later("a/best-of-breed.gguf"));
    }
}
