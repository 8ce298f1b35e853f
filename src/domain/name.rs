//! Which names Kubernetes allows (RFC 1123 as it reads it; Kubernetes, "Object Names and IDs").

/// Longest name of a namespace, in bytes.
const LABEL_BYTES: usize = 63;
/// Longest name of everything else that is met here, in bytes.
const SUBDOMAIN_BYTES: usize = 253;

/// Whether a namespace can have this name.
#[must_use]
pub fn is_label(name: &str) -> bool {
    name.len() <= LABEL_BYTES && is_dns_part(name)
}

/// Whether a service account, a pod or a node can. Kubernetes limits the length of the whole, not of its parts.
#[must_use]
pub fn is_subdomain(name: &str) -> bool {
    name.len() <= SUBDOMAIN_BYTES && name.split('.').all(is_dns_part)
}

fn is_dns_part(part: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-')
}
