//! Who waits for a permit, and who is next: by urgency, and in each line the identities in turn.
//!
//! A line in order of arrival would serve a pod with fifty targets fifty times before the pod behind it. Here one call of each
//! identity comes before the second of any.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::domain::identity::Subject;
use crate::domain::mint::Urgency;

/// Of so many permits one is kept for renewals that are due soon.
const KEPT_ONE_IN: u32 = 5;

/// Who waits, most urgent line first.
#[derive(Debug, Default)]
pub(super) struct Lines {
    foreground: Line,
    due_soon: Line,
    background: Line,
    /// Foreground permits since the last one kept for renewals.
    foreground_in_a_row: u32,
}

/// Those who wait, by whose turn comes first.
#[derive(Debug, Default)]
struct Line(VecDeque<Turn>);

/// What one identity waits for, in order of arrival. The node's own calls are one more identity.
#[derive(Debug)]
struct Turn {
    whose: Option<Arc<Subject>>,
    waiting: VecDeque<Waiting>,
}

/// A place in a line. Who is dropped from it learns so at once.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) deadline: Instant,
    pub(super) permit: oneshot::Sender<()>,
}

impl Lines {
    /// Puts `whose` call at the end of its turn.
    pub(super) fn push(&mut self, urgency: Urgency, whose: Option<Arc<Subject>>, waiting: Waiting) {
        let line = match urgency {
            Urgency::Foreground => &mut self.foreground,
            Urgency::DueSoon => &mut self.due_soon,
            Urgency::Background => &mut self.background,
        };
        line.push(whose, waiting);
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Waiting) -> bool) {
        for line in [&mut self.foreground, &mut self.due_soon, &mut self.background] {
            line.retain(&keep);
        }
    }

    pub(super) fn are_empty(&self) -> bool {
        [&self.foreground, &self.due_soon, &self.background].iter().all(|line| line.0.is_empty())
    }

    /// Whoever is next; it waits no more.
    pub(super) fn next(&mut self) -> Option<Waiting> {
        if self.foreground_in_a_row + 1 >= KEPT_ONE_IN
            && let Some(kept) = self.due_soon.pop()
        {
            self.foreground_in_a_row = 0;
            return Some(kept);
        }
        if let Some(first) = self.foreground.pop() {
            self.foreground_in_a_row += 1;
            return Some(first);
        }
        self.foreground_in_a_row = 0;
        self.due_soon.pop().or_else(|| self.background.pop())
    }
}

impl Line {
    fn push(&mut self, whose: Option<Arc<Subject>>, waiting: Waiting) {
        match self.0.iter_mut().find(|turn| turn.whose == whose) {
            Some(turn) => turn.waiting.push_back(waiting),
            None => self.0.push_back(Turn { whose, waiting: VecDeque::from([waiting]) }),
        }
    }

    /// The first call of the first identity, whose next one then comes after one of each other.
    fn pop(&mut self) -> Option<Waiting> {
        let mut turn = self.0.pop_front()?;
        let first = turn.waiting.pop_front();
        if !turn.waiting.is_empty() {
            self.0.push_back(turn);
        }
        first
    }

    fn retain(&mut self, keep: impl Fn(&Waiting) -> bool) {
        self.0.iter_mut().for_each(|turn| turn.waiting.retain(&keep));
        self.0.retain(|turn| !turn.waiting.is_empty());
    }
}
