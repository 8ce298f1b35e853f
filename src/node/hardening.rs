//! Limits of the process: no core dump that would put credentials on a disk, and enough descriptors for a node's pods.

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors kept for everything but pods' connections: operators (32 on each of four sockets), calls to AWS, files.
const OWN_DESCRIPTORS: u64 = 256;

/// Forbids core dumps and tracing by processes of the same user. What can't be forbidden is logged and left.
pub fn keep_memory_private() {
    let undumpable = prctl::set_dumpable(false);
    let no_core = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    if let Err(error) = undumpable.and(no_core) {
        tracing::warn!(%error, "core dumps could not be forbidden");
    }
}

/// Raises the soft limit of descriptors to the hard one and returns how many connections fit under it.
#[must_use]
pub fn connections_allowed() -> usize {
    let allowed = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        Ok(hard)
    });
    let descriptors = allowed.unwrap_or_else(|error| {
        tracing::warn!(%error, "the limit of descriptors could not be raised");
        1024
    });
    connections_under(descriptors)
}

/// Half of them, when there are too few to keep [`OWN_DESCRIPTORS`].
fn connections_under(descriptors: u64) -> usize {
    let own = OWN_DESCRIPTORS.min(descriptors / 2);
    usize::try_from(descriptors - own).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_limit_leaves_room_for_connections() {
        assert!(connections_allowed() > 100);
        assert_eq!([1024, 300, 64, 0].map(connections_under), [768, 150, 32, 0]);
    }
}
