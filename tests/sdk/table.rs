//! Case × SDK as a Markdown table: what the README says, and what this run saw.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Context;
use strum::IntoEnumIterator;

use crate::cases::Case;
use crate::client::Sdk;

/// The first cell of the table, by which it is found.
const CORNER: &str = "case";

/// Outcomes by SDK and case.
#[derive(Debug, Default)]
pub(crate) struct Table(BTreeMap<(Sdk, Case), String>);

impl Table {
    /// What `README.md` holds.
    pub(crate) fn expected() -> anyhow::Result<Self> {
        let mut table = Self::default();
        let mut rows = include_str!("../../README.md").lines().map(cells).skip_while(|row| row.first() != Some(&CORNER));
        let head = rows.next().context("README.md has no table of SDKs")?;
        for row in rows.skip(1).take_while(|row| !row.is_empty()) {
            table.add_row(&head, &row)?;
        }
        Ok(table)
    }

    fn add_row(&mut self, head: &[&str], row: &[&str]) -> anyhow::Result<()> {
        let (name, outcomes) = row.split_first().context("an empty row")?;
        let case = Case::iter().find(|case| case.to_string() == *name).with_context(|| format!("no case {name}"))?;
        for (name, outcome) in head.iter().skip(1).zip(outcomes) {
            let sdk = Sdk::iter().find(|sdk| sdk.to_string() == *name).with_context(|| format!("no SDK {name}"))?;
            self.insert(sdk, case, (*outcome).to_owned());
        }
        Ok(())
    }

    /// Notes an outcome.
    pub(crate) fn insert(&mut self, sdk: Sdk, case: Case, outcome: String) {
        self.0.insert((sdk, case), outcome);
    }

    /// The outcome noted; a dash where there is none.
    pub(crate) fn cell(&self, sdk: Sdk, case: Case) -> &str {
        self.0.get(&(sdk, case)).map_or("–", String::as_str)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let titles: Vec<_> = Sdk::iter().map(|sdk| sdk.to_string()).collect();
        writeln!(f, "| {CORNER} | {} |", titles.join(" | "))?;
        writeln!(f, "|{}", "---|".repeat(titles.len() + 1))?;
        for case in Case::iter() {
            let row: Vec<_> = Sdk::iter().map(|sdk| self.cell(sdk, case)).collect();
            writeln!(f, "| {case} | {} |", row.join(" | "))?;
        }
        Ok(())
    }
}

/// Whether `outcome` is one of those that a cell lists, separated by the word "or".
pub(crate) fn allows(cell: &str, outcome: &str) -> bool {
    cell.split(" or ").any(|allowed| allowed == outcome)
}

/// The cells of a table's line; none of other text.
fn cells(line: &str) -> Vec<&str> {
    let inner = line.strip_prefix('|').and_then(|line| line.strip_suffix('|'));
    inner.map(|inner| inner.split('|').map(str::trim).collect()).unwrap_or_default()
}
