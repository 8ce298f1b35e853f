//! Started as `eks-pod-identity-agent`: the same commands, from a line that was written for that agent.
//!
//! Whoever swaps an image expects the node to go on. So what credlet does not know on such a line is left out with a warning and
//! never stops it, and what means something else here is told once. Flags as that agent's sources have them, unreleased ones too:
//! <https://github.com/aws/eks-pod-identity-agent/blob/main/cmd/server.go>

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use crate::cli::{Cli, Command};

/// Commands of the EKS Pod Identity Agent. Its flag `--verbosity` may stand before them.
const COMMANDS: [&str; 3] = ["server", "initialize", "version"];

/// What `--max-service-qps 0` means there.
const DEFAULT_RATE: &str = "3";

const SPIFFE: &str = "credlet serves no SPIFFE workload API";
const CHAINS: &str = "roles beyond the association's come from --policy";

/// Flags that credlet does not have, and what it does instead.
const UNKNOWN: [(&str, &str); 9] = [
    ("--enable-imds-credentials", "pods' credentials come from EKS Auth and STS, never from the node's metadata service"),
    ("--x509-svid-duration", SPIFFE),
    ("--jwt-svid-duration", SPIFFE),
    ("--svid-renewal-fraction", SPIFFE),
    ("--svid-renewal-jitter", SPIFFE),
    ("--bundle-refresh-interval", SPIFFE),
    ("--workload-identity-provider-arn", SPIFFE),
    ("--chainrole-namespace-pattern", CHAINS),
    ("--chainrole-service-account-pattern", CHAINS),
];

/// A flag whose values, or some of them, mean something else here.
struct Difference {
    id: &'static str,
    concerns: fn(&str) -> bool,
    here: &'static str,
}

const DIFFERENCES: [Difference; 7] = [
    Difference {
        id: "max_service_qps",
        concerns: |_| true,
        here: "limits all calls to AWS of this node, those of waiting requests too, and not renewals alone",
    },
    Difference {
        id: "max_credential_retention_before_renewal",
        concerns: |_| true,
        here: "credentials are renewed after this or at half of their life, whichever comes first",
    },
    Difference {
        id: "max_cache_size",
        concerns: |_| true,
        here: "at this size a newcomer is served without being held, and no live pod's credentials are dropped for it",
    },
    Difference { id: "endpoint", concerns: |_| true, here: "the audience of tokens is checked for other endpoints too" },
    Difference {
        id: "bind_hosts",
        concerns: |host| !["169.254.170.23", "[fd00:ec2::23]", "fd00:ec2::23"].contains(&host),
        here: "credentials are served on each of these addresses, not refused with 403",
    },
    Difference { id: "metrics_port", concerns: |port| port == "0", here: "0 switches metrics off, it chooses no port" },
    Difference {
        id: "verbosity",
        concerns: |level| ["panic", "fatal"].contains(&level.to_ascii_lowercase().as_str()),
        here: "errors are logged too",
    },
];

/// By which name the program was started, whatever folder that is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Credlet,
    Incumbent,
    GoRunner,
}

impl Name {
    pub(super) fn of(program: &OsStr) -> Self {
        match Path::new(program).file_name().and_then(OsStr::to_str) {
            Some("eks-pod-identity-agent") => Self::Incumbent,
            Some("go-runner") => Self::GoRunner,
            _ => Self::Credlet,
        }
    }
}

/// The command in `words`, and what whoever wrote them should know.
pub(super) fn read(words: Vec<OsString>) -> Result<(Cli, Vec<String>), clap::Error> {
    let mut line = Line { words: command_first(words), notes: Vec::new() };
    let matches = loop {
        match Cli::command().try_get_matches_from(&line.words) {
            Err(error) if error.kind() == ErrorKind::UnknownArgument => line.leave_out(error)?,
            read => break read?,
        }
    };
    let mut cli = Cli::from_arg_matches(&matches)?;
    line.tell_differences(&matches);
    if let Command::Server(flags) = &mut cli.command
        && flags.max_service_qps.trim() == "0"
    {
        DEFAULT_RATE.clone_into(&mut flags.max_service_qps);
    }
    Ok((cli, line.notes))
}

fn command_first(mut words: Vec<OsString>) -> Vec<OsString> {
    let command = words.iter().position(|word| COMMANDS.iter().any(|command| word == command));
    if let Some(before) = command.and_then(|at| words.get_mut(1..=at)) {
        before.rotate_right(1);
    }
    words
}

/// A command line, and what is to be said of it.
struct Line {
    words: Vec<OsString>,
    notes: Vec<String>,
}

impl Line {
    /// Leaves out the word that `error` names, and the next one where it may be its value: of an unknown flag nobody can tell.
    fn leave_out(&mut self, error: clap::Error) -> Result<(), clap::Error> {
        let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg) else { return Err(error) };
        let unknown = unknown.clone();
        let Some(at) = self.words.iter().position(|word| spells(word, &unknown)) else { return Err(error) };
        let word = self.words.remove(at);
        let has_value = unknown.starts_with('-') && word == unknown.as_str();
        let is_value = |next: &&OsString| has_value && !next.as_encoded_bytes().starts_with(b"-");
        let value = self.words.get(at).is_some_and(|next| is_value(&next)).then(|| self.words.remove(at));
        // The value may be a secret.
        let with = if value.is_some() { " together with the word after it" } else { "" };
        let known = UNKNOWN.iter().find(|(flag, _)| *flag == unknown);
        let instead = known.map_or("credlet does not know it", |(_, instead)| instead);
        self.notes.push(format!("{unknown} is ignored{with}: {instead}"));
        Ok(())
    }

    fn tell_differences(&mut self, matches: &ArgMatches) {
        let Some(("server", given)) = matches.subcommand() else { return };
        for Difference { id, concerns, here } in DIFFERENCES {
            let by_line = given.value_source(id) == Some(ValueSource::CommandLine);
            if by_line && given.get_many::<String>(id).into_iter().flatten().any(|value| concerns(value)) {
                self.notes.push(format!("--{}: other than with the EKS Pod Identity Agent, {here}", id.replace('_', "-")));
            }
        }
        if self.words.windows(2).any(|pair| pair == ["--rotate-credentials", "false"]) {
            let here = "a separate \"false\" counts, and nothing is rotated";
            self.notes.push(format!("--rotate-credentials: other than with the EKS Pod Identity Agent, {here}"));
        }
    }
}

/// Whether `word` is `unknown`, with a value behind `=` or, of a short flag, right behind it.
fn spells(word: &OsStr, unknown: &str) -> bool {
    let Some(rest) = word.as_encoded_bytes().strip_prefix(unknown.as_bytes()) else { return false };
    let short = unknown.len() == 2 && unknown.starts_with('-');
    rest.is_empty() || (unknown.starts_with('-') && (short || rest.starts_with(b"=")))
}

#[cfg(test)]
#[path = "drop_in_tests.rs"]
mod tests;
