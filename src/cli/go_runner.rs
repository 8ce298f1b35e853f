//! Started as `go-runner`: executes its arguments.
//!
//! Manifests of the EKS Pod Identity Agent start it by Kubernetes' go-runner, which sends a command's output to a file. Here the
//! output stays where the container runtime reads it, so there is nothing to do but to become the command.
//! <https://github.com/kubernetes/kubernetes/tree/master/staging/src/k8s.io/component-base/logs/kube-log-runner>

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use crate::cli::USAGE;

/// Its flags whose value may be the next word; a switch has one behind `=` only (Go, package flag).
const WITH_VALUE: [&[u8]; 3] = [b"log-file", b"log-file-size", b"flush-interval"];

/// Becomes the command in `words`, the arguments after the program's own name. Returns only if that fails.
pub(super) fn main(words: &[OsString]) -> ExitCode {
    let (flags, command) = split(words);
    let mut stderr = std::io::stderr();
    for flag in flags {
        let flag = flag.to_string_lossy();
        let _ = writeln!(stderr, "go-runner: {flag} is ignored: the command's output stays on standard output and error");
    }
    let Some((program, arguments)) = command.split_first() else {
        let _ = writeln!(stderr, "go-runner: nothing to execute: name a command and its arguments");
        return USAGE.into();
    };
    let error = Command::new(program).args(arguments).exec();
    let _ = writeln!(stderr, "go-runner: {} can't be executed: {error}", program.to_string_lossy());
    ExitCode::FAILURE
}

/// The flags, and the command behind them.
fn split(words: &[OsString]) -> (Vec<&OsStr>, &[OsString]) {
    let (mut flags, mut rest) = (Vec::new(), words);
    while let Some((word, others)) = rest.split_first() {
        if word == "--" {
            return (flags, others);
        }
        let Some(name) = name(word) else { break };
        flags.push(word.as_os_str());
        rest = if WITH_VALUE.contains(&name) { others.get(1..).unwrap_or_default() } else { others };
    }
    (flags, rest)
}

/// A flag without its dashes, of which Go takes one or two.
fn name(word: &OsStr) -> Option<&[u8]> {
    let name = word.as_bytes().strip_prefix(b"-")?;
    Some(name.strip_prefix(b"-").unwrap_or(name)).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_stand_before_the_command() {
        for (line, flags, command) in [
            ("/agent server -v trace", "", "/agent server -v trace"),
            ("--log-file /var/log/x.log --also-stdout /agent", "--log-file --also-stdout", "/agent"),
            ("-log-file=x -redirect-stderr=false /agent -v", "-log-file=x -redirect-stderr=false", "/agent -v"),
            ("--also-stdout -- /agent", "--also-stdout", "/agent"),
            ("--log-file", "--log-file", ""),
            ("", "", ""),
        ] {
            let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            let (found, rest) = split(&words);
            assert_eq!(found.join(OsStr::new(" ")), flags, "{line}");
            assert_eq!(rest.join(OsStr::new(" ")), command, "{line}");
        }
    }
}
