//! A module names only modules above it in `lib.rs`: the order in which a reader meets them is the order in which they depend.

use std::fs;
use std::path::{Path, PathBuf};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

#[test]
fn arrows_point_one_way() {
    let order = modules_in_order();
    let mut wrong = Vec::new();
    for (rank, module) in order.iter().enumerate() {
        for file in files_of(module) {
            let text = fs::read_to_string(&file).unwrap();
            assert!(!text.contains("use crate::{"), "{}: one `use crate::x` a line, so that this test sees it", file.display());
            let below = order.iter().skip(rank + 1).filter(|other| names(&text, other));
            wrong.extend(below.map(|other| format!("{} names crate::{other}", file.display())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    let silent: Vec<PathBuf> = files_below(Path::new(SOURCE))
        .into_iter()
        .filter(|file| !fs::read_to_string(file).unwrap().trim_start().starts_with("//!"))
        .collect();
    assert!(silent.is_empty(), "{silent:?}");
}

fn modules_in_order() -> Vec<String> {
    let lib = fs::read_to_string(format!("{SOURCE}/lib.rs")).unwrap();
    let modules = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let modules: Vec<String> = modules.map(str::to_owned).collect();
    assert!(modules.len() > 10, "{modules:?}");
    modules
}

fn names(text: &str, module: &str) -> bool {
    text.match_indices("crate::").any(|(at, found)| {
        let rest = &text[at + found.len()..];
        rest.strip_prefix(module).is_some_and(|after| !after.starts_with(|next: char| next.is_alphanumeric() || next == '_'))
    })
}

fn files_of(module: &str) -> Vec<PathBuf> {
    let file = PathBuf::from(format!("{SOURCE}/{module}.rs"));
    if file.exists() { vec![file] } else { files_below(&PathBuf::from(format!("{SOURCE}/{module}"))) }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
