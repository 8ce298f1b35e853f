//! From one agent of a node to the next, without a moment in which nobody serves.

pub mod folder;
