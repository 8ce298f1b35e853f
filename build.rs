//! Names the commit in the binary: `CREDLET_COMMIT` from the environment (an image build has no checkout), else git's.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=CREDLET_COMMIT");
    for changes_with_each_commit in [".git/HEAD", ".git/logs/HEAD"].into_iter().filter(|path| Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={changes_with_each_commit}");
    }
    let commit = std::env::var("CREDLET_COMMIT").ok().or_else(commit_of_checkout).unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=CREDLET_COMMIT={commit}");
}

fn commit_of_checkout() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
