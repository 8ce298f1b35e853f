//! credlet is the AWS credential agent of one Kubernetes node.
//!
//! A pod's AWS SDK asks `http://169.254.170.23/v1/credentials` and presents the pod's projected service account token. credlet
//! proves the token, trades it for temporary credentials of the pod's role, keeps them, and serves them from memory until long
//! after they have been renewed.
//!
//! # One request, as data
//!
//! ```text
//! bytes ─► Ask ─► Caller ─► Grant ─► Credential ─► response
//!      front   token    grants     cache ─► Mint ─► exchange
//! ```
//!
//! Each arrow is a function from the left type to the right one; no later step looks back at headers. Authority is a type: only
//! [`token`] can make a [`token::Caller`], only [`domain::policy`] a [`domain::policy::Grant`]. [`broker`] is that line of
//! arrows on one page: start reading there.
//!
//! # Background work
//!
//! Key sets are polled by [`token`] and published as whole immutable values; entries of the [`cache`] are renewed at half of
//! their life by its refresher through the same [`domain::mint::Mint`] that requests use. Loads belong to the process, not to
//! the request that caused them: a client that leaves loses nothing for the next one. When the policy file or the annotations of
//! a service account change ([`grants`], [`cluster`]), credentials whose grant is no more are dropped, and no others.
//!
//! # The node
//!
//! The addresses that SDKs know stand on a link that [`node::link`] makes, keeps and watches; the agent listens before they are
//! there, and its readiness says whether they lead to this very process. [`node::source`] tells this node's own pods and processes
//! from neighbours by the kernel's route back to them. [`checks`] tries once what the server needs, and says what is missing.
//!
//! One agent follows another without a gap: [`node::handover`] passes the sockets on, and what each part knows, as [`app`] collects
//! it. Who serves is decided by [`node::handover::machine`] alone, and everybody else asks [`base::duty`].
//!
//! # The order of modules
//!
//! A module names only modules above it in the list below; `tests/agent/layers.rs` keeps it so.

pub mod base;
pub mod domain;
pub mod observe;
pub mod limits;
pub mod node;
pub mod egress;
pub mod token;
pub mod exchange;
pub mod cache;
pub mod cluster;
pub mod grants;
pub mod broker;
pub mod front;
pub mod admin;
#[cfg(feature = "dev")]
pub mod sim;
#[cfg(feature = "dev")]
pub mod developer;
pub mod config;
pub mod app;
pub mod checks;
pub mod cli;
