//! README and docs: every link leads somewhere, every page can be reached, and every file that is named is there.

use fancy_regex::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Folders in which the pages name files without saying so: their own chapter's.
const ROOMS: &[&str] = &["", "src", "src/experts", "src/gpu", "src/gpu/kernels", "docs", "tests/reference", "tests/gpu"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages by their paths in the repository.
fn pages() -> BTreeMap<PathBuf, String> {
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|e| Path::new("docs").join(e.unwrap().file_name()));
    let beside = ["README.md", "tests/reference/README.md", "tests/templates/README.md"].map(PathBuf::from);
    let all = docs.chain(beside).filter(|p| p.extension().is_some_and(|e| e == "md"));
    all.map(|p| (p.clone(), std::fs::read_to_string(root().join(&p)).unwrap())).collect()
}

/// A page without what it shows as code.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let kept = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence && !line.starts_with("    ")
    });
    kept.collect::<Vec<_>>().join("\n")
}

/// What links to a page's headings say after `#`, as code hosts make it: lower case, spaces become hyphens, other signs go.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter_map(|l| l.strip_prefix('#').map(|l| l.trim_start_matches('#').trim()));
    headings
        .map(|h| {
            let kept = h.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

/// The links of a page to other places in the repository: `(path in the repository, what comes after #)`.
fn links(page: &Path, text: &str) -> Vec<(PathBuf, Option<String>)> {
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let targets = link.captures_iter(text).map(|c| c.unwrap()[1].to_owned()).filter(|t| !t.contains("://"));
    targets
        .map(|target| {
            let (path, anchor) = target.split_once('#').map_or((target.as_str(), None), |(p, a)| (p, Some(a.to_owned())));
            let mut at = if path.is_empty() { page.to_owned() } else { page.parent().unwrap().to_owned() };
            for part in Path::new(path).iter() {
                if part == ".." {
                    at.pop();
                } else {
                    at.push(part);
                }
            }
            (at, anchor)
        })
        .collect()
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let pages = pages();
    let mut wrong = Vec::new();
    for (page, text) in &pages {
        for (path, anchor) in links(page, &prose(text)) {
            let there = root().join(&path).exists();
            let headed = anchor.as_ref().is_none_or(|a| pages.get(&path).is_some_and(|t| anchors(t).contains(a)));
            if !there || !headed {
                wrong.push(format!("{}: {}#{}", page.display(), path.display(), anchor.unwrap_or_default()));
            }
        }
    }
    assert!(wrong.is_empty(), "links that lead nowhere:\n{}", wrong.join("\n"));
}

#[test]
fn every_page_can_be_reached_from_the_readme() {
    let pages = pages();
    let (mut reached, mut next) = (BTreeSet::new(), vec![PathBuf::from("README.md")]);
    while let Some(page) = next.pop() {
        if let Some(text) = pages.get(&page).filter(|_| reached.insert(page.clone())) {
            next.extend(links(&page, &prose(text)).into_iter().map(|(path, _)| path));
        }
    }
    let lost: Vec<_> = pages.keys().filter(|p| !reached.contains(*p)).collect();
    assert!(lost.is_empty(), "no way leads from README.md to {lost:?}");
}

#[test]
fn every_file_that_a_page_names_is_there() {
    let name = Regex::new(r"`([a-zA-Z0-9_.-]+(?:/[a-zA-Z0-9_.-]+)+\.(?:rs|sh|py|cu|cuh|md|toml|json|jinja|rotary))`").unwrap();
    let mut missing = Vec::new();
    for (page, text) in pages() {
        let own = page.parent().unwrap().to_owned();
        for named in name.captures_iter(&prose(&text)).map(|c| c.unwrap()[1].to_owned()) {
            let rooms: Vec<_> = ROOMS.iter().map(Path::new).chain([own.as_path()]).map(|room| root().join(room)).collect();
            // A first folder that is none of ours is another project's.
            let ours = rooms.iter().any(|room| room.join(named.split('/').next().unwrap()).is_dir());
            if ours && !rooms.iter().any(|room| room.join(&named).exists()) {
                missing.push(format!("{}: {named}", page.display()));
            }
        }
    }
    assert!(missing.is_empty(), "files that are named and not there:\n{}", missing.join("\n"));
}

#[test]
fn anchors_are_those_of_code_hosts() {
    let made = anchors("# A model's way: `--miss auto`\ntext\n### GLM-4.7-Flash\n");
    assert_eq!(made.iter().map(String::as_str).collect::<Vec<_>>(), ["a-models-way---miss-auto", "glm-47-flash"]);
}
