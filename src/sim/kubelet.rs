//! The kubelet's part: a pod's token in a file, which a newer one replaces long before it expires.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::NamedTempFile;
use tokio_util::task::AbortOnDropHandle;

use crate::sim::keys::Keys;
use crate::sim::pod::PodSpec;

/// The kubelet renews a token at the latest at this age.
const OLDEST: Duration = Duration::from_secs(24 * 3600);

/// A projected token file that is kept fresh until this is dropped; the file then stays as it is.
#[derive(Debug)]
pub struct Kubelet {
    volume: Arc<Volume>,
    _rotation: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Volume {
    keys: Keys,
    pod: PodSpec,
    audience: String,
    ttl: Duration,
    path: PathBuf,
}

impl Kubelet {
    /// Writes a first token to `path`, and a new one at 80 % of each one's `ttl`. Call it inside a runtime.
    ///
    /// # Errors
    /// When the first token can't be written.
    pub fn project(keys: &Keys, pod: PodSpec, audience: &str, ttl: Duration, path: &Path) -> io::Result<Self> {
        let volume = Volume { keys: keys.clone(), pod, audience: audience.to_owned(), ttl, path: path.to_owned() };
        volume.rotate()?;
        let volume = Arc::new(volume);
        let rotation = AbortOnDropHandle::new(tokio::spawn(keep_fresh(volume.clone())));
        Ok(Self { volume, _rotation: rotation })
    }

    /// Replaces the token at once.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn rotate_now(&self) -> io::Result<()> {
        self.volume.rotate()
    }
}

impl Volume {
    /// A reader sees the old token or the new one, never a part: the file is made aside (mode 0600) and renamed.
    fn rotate(&self) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let mut file = NamedTempFile::new_in(directory)?;
        file.write_all(self.keys.token(&self.pod, &self.audience, self.ttl).as_bytes())?;
        file.persist(&self.path)?;
        Ok(())
    }
}

async fn keep_fresh(volume: Arc<Volume>) {
    let period = volume.ttl.mul_f64(0.8).min(OLDEST);
    loop {
        tokio::time::sleep(period).await;
        if let Err(error) = volume.rotate() {
            tracing::warn!(%error, path = %volume.path.display(), "the projected token could not be renewed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::base::clock::Clock;
    use crate::sim::jwt::Jwt;
    use crate::sim::keys::Algorithm;

    #[tokio::test(start_paused = true)]
    async fn the_file_always_holds_a_good_token_until_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let clock = Clock::simulated(std::time::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let keys = Keys::new("https://issuer.test", Algorithm::Es256, clock.clone());
        let read = || fs::read_to_string(&path).unwrap();
        let expiry = |token: &str| Jwt::parse(token).unwrap().verify(&keys.all(), clock.now().unix()).unwrap().exp;
        let ttl = Duration::from_secs(600);
        let kubelet = Kubelet::project(&keys, PodSpec::new("ns", "sa", "pod"), "aud", ttl, &path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let first = read();
        assert_eq!(expiry(&first), 1_800_000_600);

        tokio::time::sleep(Duration::from_secs(479)).await;
        assert_eq!(read(), first);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let second = read();
        assert_eq!(expiry(&second), 1_800_001_080);
        kubelet.rotate_now().unwrap();
        let third = read();
        assert_ne!(third, second);

        drop(kubelet);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(read(), third);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left aside");
    }
}
