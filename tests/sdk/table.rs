//! SDK × case as a Markdown table: what is expected, checked in, and what this run saw.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Context;
use strum::IntoEnumIterator;

use crate::cases::Case;
use crate::client::Sdk;

/// Outcomes by SDK and case.
#[derive(Debug, Default)]
pub(crate) struct Table(BTreeMap<(Sdk, Case), String>);

impl Table {
    /// What `tests/sdk/expected.md` holds.
    pub(crate) fn expected() -> anyhow::Result<Self> {
        let mut table = Self::default();
        let mut rows = include_str!("expected.md").lines().filter_map(cells);
        let head = rows.next().context("no table")?;
        for row in rows.skip(1) {
            table.add_row(&head, &row)?;
        }
        Ok(table)
    }

    fn add_row(&mut self, head: &[&str], row: &[&str]) -> anyhow::Result<()> {
        let (name, outcomes) = row.split_first().context("an empty row")?;
        let sdk = Sdk::iter().find(|sdk| sdk.to_string() == *name).with_context(|| format!("no SDK {name}"))?;
        for (name, outcome) in head.iter().skip(1).zip(outcomes) {
            let case = Case::iter().find(|case| case.to_string() == *name).with_context(|| format!("no case {name}"))?;
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
        let titles: Vec<_> = Case::iter().map(|case| case.to_string()).collect();
        writeln!(f, "| SDK | {} |", titles.join(" | "))?;
        writeln!(f, "|{}", "---|".repeat(titles.len() + 1))?;
        for sdk in Sdk::iter() {
            let row: Vec<_> = Case::iter().map(|case| self.cell(sdk, case)).collect();
            writeln!(f, "| {sdk} | {} |", row.join(" | "))?;
        }
        Ok(())
    }
}

/// Whether `outcome` is one of those that a cell lists, separated by the word "or".
pub(crate) fn allows(cell: &str, outcome: &str) -> bool {
    cell.split(" or ").any(|allowed| allowed == outcome)
}

/// The cells of a table's line; `None` for other text.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}
