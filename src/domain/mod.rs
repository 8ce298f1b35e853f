//! The nouns of the trade and the rules among them, as pure types: who asks, for what, what was issued, and why not.

pub mod credential;
pub mod identity;
pub mod mint;
pub mod name;
pub mod policy;
pub mod refusal;
