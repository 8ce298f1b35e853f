//! `credlet check`.
