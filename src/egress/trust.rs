//! Which certificate authorities a connection trusts.
//!
//! The SDK panics on a certificate that it can't parse, and a company's bundle often holds one; so the usable ones are picked
//! out here first, by the same parser.

use std::path::PathBuf;

use aws_smithy_http_client::tls::{TlsContext, TrustStore};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::egress::{EgressError, Lookup, first_set};

/// What the node trusts: the system's roots, and those of the file that `AWS_CA_BUNDLE` names.
pub(super) fn of_node(env: Lookup<'_>) -> Result<TrustStore, EgressError> {
    let system = TrustStore::default();
    let Some((_, path)) = first_set(env, &["AWS_CA_BUNDLE"]) else { return Ok(system) };
    let path = PathBuf::from(path);
    match std::fs::read(&path) {
        Ok(pem) => Ok(system.with_pem_certificate(usable(&pem).ok_or(EgressError::CaBundleEmpty { path })?)),
        Err(source) => Err(EgressError::CaBundleUnreadable { path, source }),
    }
}

/// The certificates in `pem` and no other; `None` when none is usable.
pub(super) fn only(pem: &[u8]) -> Option<TrustStore> {
    Some(TrustStore::empty().with_pem_certificate(usable(pem)?))
}

/// A TLS context that trusts `store`.
#[expect(clippy::expect_used, reason = "the builder has no way to fail; its Default relies on the same")]
pub(super) fn context(store: TrustStore) -> TlsContext {
    TlsContext::builder().with_trust_store(store).build().expect("a trust store is all that it needs")
}

/// The certificates of `pem` that can be roots, as PEM again.
fn usable(pem: &[u8]) -> Option<String> {
    let certificates = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok);
    let roots: String = certificates.filter(is_root).map(|certificate| to_pem(&certificate)).collect();
    (!roots.is_empty()).then_some(roots)
}

fn is_root(certificate: &CertificateDer<'_>) -> bool {
    RootCertStore::empty().add(certificate.clone().into_owned()).is_ok()
}

fn to_pem(der: &[u8]) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der))
}
