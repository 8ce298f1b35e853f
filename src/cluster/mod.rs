//! What this node asks the Kubernetes API server beside keys: the service accounts of its own pods, when `--service-account-roles`
//! lets their annotations choose roles, and with `--pod-watch` which of its pods are gone.
//!
//! `account` is what is known of one account and how long it counts, `accounts` the shell that fetches and keeps them, `client`
//! the API call. Accounts have no watch: ten thousand nodes that watch every service account are a load of their own, while a
//! node's pods use a few. Of pods a node watches its own only.

mod account;
mod accounts;
mod client;
pub mod pods;

pub use account::{Answer, Found, ServiceAccount};
pub use accounts::{ServiceAccounts, Status, Unavailable};
