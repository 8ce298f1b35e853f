//! Fairness and budgets: nothing that one pod does may take from another, and nothing that pods do may exhaust the node's calls
//! to AWS.

mod buckets;
mod lines;
pub mod pods;
pub mod upstream;
pub mod verification;
