//! Credentials of a profile in the shared files, read anew at each load: the SDK parses those files once in a process's life.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use parking_lot::Mutex;
use tokio::fs;
use tokio::time::{Instant, timeout};

use crate::base::clock::{Clock, Now};
use crate::base::secret::Secret;
use crate::egress::fault::{credentials_cause, is_of_configuration};
use crate::egress::https::Https;

/// A file that ends within a line is taken once nobody has written to it for so long.
const STILL: Duration = Duration::from_secs(1);

/// The longest that a profile may take to give its credentials (`credential_process`); below the limit of any source, so that the
/// last good ones can take their place.
const PARSE_LIMIT: Duration = Duration::from_secs(3);

/// Credentials that end sooner are loaded again, as the SDK's own cache does.
const LEAST_LIFE: Duration = Duration::from_secs(10);

/// A text that gave no credentials for a fault that may pass is parsed again after this.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The access keys of sessions begin so, and are nothing without a session token.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html#identifiers-unique-ids>
const SESSION_KEY: &str = "ASIA";

/// A profile, and whatever source of credentials it describes.
#[derive(Debug)]
pub(super) struct Profile {
    config: ProviderConfig,
    /// Without it: what `AWS_PROFILE` says.
    name: Option<String>,
}

impl Profile {
    /// A profile whose sources are reached as `sdk` and `https` say. Reads nothing yet.
    pub(super) fn new(name: Option<String>, sdk: &SdkConfig, https: &Https) -> Self {
        let config = ProviderConfig::without_region()
            .with_region(sdk.region().cloned())
            .with_use_fips(sdk.use_fips())
            .with_use_dual_stack(sdk.use_dual_stack())
            .with_behavior_version(sdk.behavior_version())
            .with_http_client(https.aws_http_client());
        Self { config, name }
    }

    async fn load(&self, files: EnvConfigFiles) -> provider::Result {
        let profile = ProfileFileCredentialsProvider::builder().configure(&self.config).profile_files(files);
        let profile = self.name.iter().fold(profile, |profile, name| profile.profile_name(name));
        profile.build().provide_credentials().await
    }
}

impl ProvideCredentials for Profile {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load(EnvConfigFiles::default()))
    }
}

/// A profile whose shared credentials file another program writes anew, as on hybrid nodes: SSM and IAM Roles Anywhere do so about
/// every hour. A change counts at the next load; a file that gives no credentials leaves the last good ones in force.
#[derive(Debug)]
pub(super) struct RotatedFile {
    path: PathBuf,
    profile: Profile,
    clock: Clock,
    /// Held by the one load that there is at a time.
    flight: tokio::sync::Mutex<()>,
    held: Mutex<Held>,
}

/// The last good credentials.
#[derive(Debug, Default)]
struct Held {
    credentials: Option<Credentials>,
    /// What the file said that gave them.
    good: Option<Secret>,
    bad: Option<Bad>,
    /// That the file gives none has been told.
    told: bool,
}

/// What the file said last that gave no credentials. It is not parsed at each call: that may take long, and the SDK logs each fault.
#[derive(Debug)]
struct Bad {
    text: Secret,
    /// When it is parsed again; `None` when it can't give any.
    retry: Option<Instant>,
}

impl RotatedFile {
    pub(super) fn new(path: PathBuf, profile: Profile, clock: Clock) -> Self {
        Self { path, profile, clock, flight: tokio::sync::Mutex::default(), held: Mutex::default() }
    }

    async fn load(&self) -> provider::Result {
        let _flight = self.flight.lock().await;
        let text = match self.read().await {
            Ok(text) => text,
            Err(error) => return self.held.lock().fall_back(error),
        };
        if let Some(credentials) = self.held.lock().known(&text, self.clock.now()) {
            return Ok(credentials);
        }
        let late = |_| Err(CredentialsError::provider_timed_out(PARSE_LIMIT));
        let parsed = timeout(PARSE_LIMIT, self.parse(&text)).await.unwrap_or_else(late);
        let mut held = self.held.lock();
        match parsed {
            Ok(credentials) => Ok(held.replace(credentials, text)),
            Err(error) => {
                held.bad = Some(Bad::new(text, &error, self.clock.now()));
                held.fall_back(error)
            }
        }
    }

    /// The whole file. Its writer may be at work just now.
    async fn read(&self) -> Result<Secret, CredentialsError> {
        let fault = |fault: &str| CredentialsError::invalid_configuration(format!("{} {fault}", self.path.display()));
        let unreadable = |error: io::Error| fault(&format!("can't be read: {error}"));
        // To open anything else may wait for ever: a pipe for its writer.
        if !fs::metadata(&self.path).await.map_err(unreadable)?.is_file() {
            return Err(fault("is no regular file"));
        }
        let text = fs::read_to_string(&self.path).await.map(Secret::new).map_err(unreadable)?;
        let metadata = fs::metadata(&self.path).await.map_err(unreadable)?;
        if text.expose().ends_with('\n') || metadata.modified().is_ok_and(|written| is_still(written, self.clock.now())) {
            return Ok(text);
        }
        Err(fault("ends within a line that may still be written"))
    }

    async fn parse(&self, text: &Secret) -> provider::Result {
        let files = EnvConfigFiles::builder().include_default_config_file(true);
        let files = files.with_contents(EnvConfigFileKind::Credentials, text.expose());
        let credentials = self.profile.load(files.build()).await?;
        if credentials.access_key_id().starts_with(SESSION_KEY) && credentials.session_token().is_none() {
            return Err(CredentialsError::invalid_configuration("the access key is of a session whose token is missing"));
        }
        Ok(credentials)
    }
}

/// A file of the future is of a clock that was set back, and long written; a moment ahead it may be of one that was stepped just now.
fn is_still(written: SystemTime, now: Now) -> bool {
    now.wall.duration_since(written).unwrap_or_else(|ahead| ahead.duration()) >= STILL
}

impl Held {
    /// What is held, while it lasts and the file says nothing new.
    fn known(&mut self, text: &Secret, now: Now) -> Option<Credentials> {
        let lasts = |credentials: &&Credentials| credentials.expiry().is_none_or(|end| now.until(end) > LEAST_LIFE);
        let credentials = self.credentials.as_ref().filter(lasts)?.clone();
        if self.good.as_ref().is_some_and(|good| good.expose() == text.expose()) {
            self.told = false;
            return Some(credentials);
        }
        self.bad.as_ref().is_some_and(|bad| bad.holds(text, now)).then_some(credentials)
    }

    fn replace(&mut self, credentials: Credentials, text: Secret) -> Credentials {
        tracing::info!(
            access_key_id = credentials.access_key_id(),
            "the node has new credentials from the shared credentials file"
        );
        *self = Self { credentials: Some(credentials.clone()), good: Some(text), ..Self::default() };
        credentials
    }

    /// The last good credentials in place of `error`, which is told once.
    fn fall_back(&mut self, error: CredentialsError) -> provider::Result {
        let Some(credentials) = self.credentials.clone() else { return Err(error) };
        if !std::mem::replace(&mut self.told, true) {
            let error = credentials_cause(&error);
            tracing::warn!(error, "the shared credentials file gives no credentials; the last good ones stay in force");
        }
        Ok(credentials)
    }
}

impl Bad {
    fn new(text: Secret, error: &CredentialsError, now: Now) -> Self {
        Self { text, retry: (!is_of_configuration(error)).then(|| now.mono + RETRY_AFTER) }
    }

    fn holds(&self, text: &Secret, now: Now) -> bool {
        self.text.expose() == text.expose() && self.retry.is_none_or(|retry| now.mono < retry)
    }
}

impl ProvideCredentials for RotatedFile {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        self.held.lock().credentials.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;

    use aws_credential_types::provider::SharedCredentialsProvider;

    use super::*;
    use crate::egress::aws::Aws;
    use crate::egress::fake;
    use crate::observe::metrics::Metrics;

    const WHOLE: &str = "[default]\naws_access_key_id = ASIAONE\naws_secret_access_key = secret\naws_session_token = token\n";

    fn profile() -> Profile {
        Profile::new(Some("default".into()), &SdkConfig::builder().build(), &fake::https(&[]))
    }

    /// A file that says `text`, last written so many seconds ago.
    fn write(path: &Path, text: &str, age_seconds: u64) {
        fs::write(path, text).unwrap();
        let written = Clock::System.now().wall - Duration::from_secs(age_seconds);
        fs::File::options().write(true).open(path).unwrap().set_modified(written).unwrap();
    }

    async fn key(file: &RotatedFile) -> Option<String> {
        file.load().await.ok().map(|credentials| credentials.access_key_id().to_owned())
    }

    fn second() -> String {
        WHOLE.replace("ASIAONE", "ASIATWO")
    }

    #[tokio::test]
    async fn a_change_counts_at_the_next_load() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials");
        let file = RotatedFile::new(path.clone(), profile(), Clock::System);
        assert_eq!(key(&file).await, None, "no file yet");
        write(&path, WHOLE, 0);
        assert_eq!(key(&file).await.as_deref(), Some("ASIAONE"));
        write(&path, &second(), 0);
        assert_eq!(key(&file).await.as_deref(), Some("ASIATWO"));
        fs::write(folder.path().join("aside"), WHOLE).unwrap();
        fs::rename(folder.path().join("aside"), &path).unwrap();
        assert_eq!(key(&file).await.as_deref(), Some("ASIAONE"), "another file under the same name");
    }

    #[tokio::test]
    async fn no_half_of_a_file_takes_the_good_credentials_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials");
        write(&path, WHOLE, 0);
        let file = RotatedFile::new(path.clone(), profile(), Clock::System);
        assert_eq!(key(&file).await.as_deref(), Some("ASIAONE"));
        let next = second();
        for length in 0..next.len() {
            write(&path, &next[..length], 0);
            assert_eq!(key(&file).await.as_deref(), Some("ASIAONE"), "{length} bytes");
        }
        assert!(file.held.lock().told);
        for bad in ["[other]\naws_access_key_id = X\n", "aws_access_key_id\n", "\u{0}\n", "[default\n"] {
            write(&path, bad, 60);
            assert_eq!(key(&file).await.as_deref(), Some("ASIAONE"), "{bad}");
        }
        fs::write(&path, b"\xff\xfe\n").unwrap();
        assert_eq!(key(&file).await.as_deref(), Some("ASIAONE"), "not text");
        fs::remove_file(&path).unwrap();
        assert_eq!(key(&file).await.as_deref(), Some("ASIAONE"), "no file");
        write(&path, &next, 0);
        assert_eq!(key(&file).await.as_deref(), Some("ASIATWO"));
        assert!(!file.held.lock().told);
    }

    #[tokio::test]
    async fn a_fault_that_passes_is_not_held_against_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let (path, output) = (folder.path().join("credentials"), folder.path().join("output"));
        write(&path, WHOLE, 0);
        let file = RotatedFile::new(path.clone(), profile(), Clock::System);
        assert_eq!(key(&file).await.as_deref(), Some("ASIAONE"));
        write(&path, &format!("[default]\ncredential_process = cat {}\n", output.display()), 0);
        assert_eq!(key(&file).await.as_deref(), Some("ASIAONE"), "the process fails");
        fs::write(&output, r#"{"Version":1,"AccessKeyId":"ASIATWO","SecretAccessKey":"secret","SessionToken":"token"}"#).unwrap();
        assert_eq!(key(&file).await.as_deref(), Some("ASIAONE"), "not tried at each call");
        tokio::time::pause();
        tokio::time::advance(RETRY_AFTER).await;
        tokio::time::resume();
        assert_eq!(key(&file).await.as_deref(), Some("ASIATWO"), "the file is as it was");
    }

    #[tokio::test]
    async fn a_pipe_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials");
        write(&path, WHOLE, 0);
        let file = RotatedFile::new(path.clone(), profile(), Clock::System);
        assert_eq!(key(&file).await.as_deref(), Some("ASIAONE"));
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let loaded = timeout(PARSE_LIMIT, key(&file)).await;
        // Lets go of one who does wait.
        drop(fs::File::options().read(true).write(true).open(&path));
        assert_eq!(loaded.unwrap().as_deref(), Some("ASIAONE"));
    }

    #[tokio::test]
    async fn the_last_good_credentials_are_there_while_a_load_takes_long() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials");
        write(&path, WHOLE, 0);
        let file = Arc::new(RotatedFile::new(path, profile(), Clock::System));
        assert_eq!(key(&file).await.as_deref(), Some("ASIAONE"));
        let source: Arc<dyn ProvideCredentials> = file.clone();
        let sdk = SdkConfig::builder().credentials_provider(SharedCredentialsProvider::from(source)).build();
        let aws = Aws::with_config(fake::https(&[]), &Metrics::new(), sdk);
        let node = aws.config().await.unwrap().credentials_provider().unwrap();
        let _load = file.flight.lock().await;
        tokio::time::pause();
        assert_eq!(node.provide_credentials().await.unwrap().access_key_id(), "ASIAONE");
    }

    #[tokio::test]
    async fn a_last_line_without_an_end_is_taken_once_it_is_still() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials");
        let file = RotatedFile::new(path.clone(), profile(), Clock::System);
        write(&path, WHOLE.trim_end(), 0);
        assert_eq!(key(&file).await, None);
        write(&path, WHOLE.trim_end(), 2);
        assert_eq!(key(&file).await.as_deref(), Some("ASIAONE"));
        let now = Clock::System.now();
        assert!(!is_still(now.wall + STILL / 2, now), "written just now, by a clock that was stepped");
        assert!(is_still(now.wall + STILL * 2, now), "by a clock that was set back");
    }

    #[tokio::test]
    async fn the_parsed_profile_is_that_of_the_moment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials");
        let files = || EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, &path).build();
        let profile = profile();
        for text in [WHOLE, &second()] {
            write(&path, text, 0);
            let credentials = profile.load(files()).await.unwrap();
            assert!(text.contains(credentials.access_key_id()));
        }
    }
}
