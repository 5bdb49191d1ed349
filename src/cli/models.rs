//! What MODEL means on the command line, and which models have been downloaded.

use super::failure::{exit, Failure};
use crate::config::{Config, Folders};
use crate::events::ModelSource;
use crate::size::size;
use crate::text::one_line;
use clap::Args;
use color_eyre::eyre;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `rotary models`.
#[derive(Debug, Args)]
pub(super) struct ModelsArgs {
    /// A JSON array instead of text
    #[arg(long)]
    json: bool,
}

/// What was downloaded, or lies in a folder of the configuration, a line each.
pub(super) fn list(args: &ModelsArgs) -> eyre::Result<ExitCode> {
    let known: Vec<(String, u64, PathBuf)> =
        downloaded(&super::configuration()).into_iter().map(|(name, path)| (name, bytes_of(&path), path)).collect();
    let mut out = io::stdout().lock();
    if args.json {
        let all: Vec<_> = known
            .iter()
            .map(|(name, bytes, path)| serde_json::json!({ "name": name, "bytes": bytes, "path": path.to_string_lossy() }))
            .collect();
        writeln!(out, "{}", serde_json::to_string(&all)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let lines: Vec<[String; 3]> =
        known.iter().map(|(name, bytes, path)| [one_line(name, 100), size(*bytes), one_line(&path.display().to_string(), 400)]).collect();
    let widest = lines.iter().map(|l| l[0].chars().count()).max().unwrap_or(0);
    for [name, size, path] in &lines {
        writeln!(out, "{name:<widest$}  {size:>10}  {path}")?;
    }
    if known.is_empty() {
        writeln!(io::stderr().lock(), "no model has been downloaded: `rotary pull OWNER/REPO FILE.gguf` does; `demo` is always there")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Bytes of a model, all files of a split set together.
fn bytes_of(path: &Path) -> u64 {
    let len = |path: &Path| path.metadata().map_or(0, |m| m.len());
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let Some((head, total)) = stem.rsplit_once("-00001-of-") else { return len(path) };
    let parts = total.parse::<u32>().unwrap_or(1).min(1000);
    (1..=parts).map(|n| len(&path.with_file_name(format!("{head}-{n:05}-of-{total}.gguf")))).sum()
}

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
    fn a_split_model_weighs_as_much_as_all_its_parts() {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in [("m-00001-of-00002.gguf", 3), ("m-00002-of-00002.gguf", 4), ("other.gguf", 5)] {
            std::fs::write(folder.path().join(name), vec![0; bytes]).unwrap();
        }
        let weigh = |name: &str| bytes_of(&folder.path().join(name));
        assert_eq!((weigh("m-00001-of-00002.gguf"), weigh("other.gguf"), weigh("none.gguf")), (7, 5, 0));
    }

    #[test]
    fn only_the_first_part_of_a_split_model_is_a_model() {
        let later = |s: &str| is_later_part(Path::new(s));
        assert!(later("a/m-00002-of-00003.gguf"));
        assert!(!later("a/m-00001-of-00003.gguf"));
        assert!(!later("a/best-of-breed.gguf"));
    }
}
