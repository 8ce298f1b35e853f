//! How the API server is reached, by the agent's own service account token, and one of the calls: `GET` of a service account's
//! metadata.
//!
//! kube reads the mounted token and CA again every minute, as the kubelet renews them. A client that has failed is thrown away with
//! its kept connections: one of them may have died unseen.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1;
use kube::api::PartialObjectMeta;
use kube::{Api, Client};
use parking_lot::Mutex;

use crate::cluster::account::{Answer, ServiceAccount};
use crate::domain::policy::Annotations;
use crate::egress::fetch::root_cause;
use crate::token::ApiServer;

/// One call; requests wait for a fraction of it, and the answer is of use for the next one.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The reason in the API server's own 404 (`metav1.StatusReasonNotFound`); a proxy's 404 says nothing about an account.
const NOT_FOUND: &str = "NotFound";

/// Why the API server did not tell.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("the API server can't be asked: {0}")]
    Client(String),
    #[error("the API server answers {code}: {message}")]
    Status { code: u16, message: String },
    #[error("the API server did not answer in {} s", TIMEOUT.as_secs())]
    TimedOut,
    #[error("the API server has said nothing for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the API server's answer lacks the account's UID or the list's version")]
    Incomplete,
}

impl From<kube::Error> for FetchError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "of all others the cause is all that is told")]
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Status { code: status.code, message: status.message },
            other => Self::Client(root_cause(&other)),
        }
    }
}

/// Reads service accounts.
#[derive(Debug)]
pub(super) struct Reader {
    server: Arc<ApiServer>,
    client: Mutex<Option<Connected>>,
}

#[derive(Clone)]
struct Connected(Client);

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connected")
    }
}

impl Reader {
    /// Touches nothing before the first fetch.
    pub(super) fn new(server: Arc<ApiServer>) -> Self {
        Self { server, client: Mutex::default() }
    }

    /// The account.
    pub(super) async fn fetch(&self, namespace: &str, name: &str) -> Result<Answer, FetchError> {
        let fetched = tokio::time::timeout(TIMEOUT, self.get(namespace, name)).await.unwrap_or(Err(FetchError::TimedOut));
        if fetched.is_err() {
            *self.client.lock() = None;
        }
        fetched?.map_or(Ok(Answer::Absent), |found| service_account(found).map(Arc::new).map(Answer::Present))
    }

    async fn get(&self, namespace: &str, name: &str) -> Result<Option<PartialObjectMeta<v1::ServiceAccount>>, FetchError> {
        let accounts: Api<v1::ServiceAccount> = Api::namespaced(self.client()?, namespace);
        match accounts.get_metadata(name).await {
            Ok(found) => Ok(Some(found)),
            Err(kube::Error::Api(status)) if status.reason == NOT_FOUND => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn client(&self) -> Result<Client, FetchError> {
        let mut client = self.client.lock();
        if let Some(Connected(client)) = &*client {
            return Ok(client.clone());
        }
        let connected = connect(&self.server)?;
        *client = Some(Connected(connected.clone()));
        Ok(connected)
    }
}

/// A client, which has not asked for anything yet.
pub(super) fn connect(server: &ApiServer) -> Result<Client, FetchError> {
    let url = server.url.as_str().parse().map_err(|error| FetchError::Client(root_cause(&error)))?;
    let mut config = kube::Config::new(url);
    config.auth_info.token_file = Some(server.token_file.display().to_string());
    config.root_cert_file = Some(server.ca_file.clone());
    // An attempt here is one attempt: what is known serves until the next one.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| FetchError::Client(root_cause(&error)))
}

fn service_account(found: PartialObjectMeta<v1::ServiceAccount>) -> Result<ServiceAccount, FetchError> {
    let uid = found.metadata.uid.ok_or(FetchError::Incomplete)?;
    Ok(ServiceAccount { uid, annotations: Annotations::parse(&found.metadata.annotations.unwrap_or_default()) })
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use url::Url;

    use super::*;
    use crate::egress::fake;
    use crate::egress::fake::{Authority, Fake};

    /// A reader that trusts `trusted`, the server that it asks, and the folder of its token and CA.
    async fn reader(answer: fake::Answer, authority: &Authority, trusted: &Authority) -> (Reader, Fake, TempDir) {
        let (fake, folder) = (Fake::tls(authority, "127.0.0.1", answer).await, tempfile::tempdir().unwrap());
        let [token_file, ca_file] = ["token", "ca.crt"].map(|name| folder.path().join(name));
        std::fs::write(&token_file, "agents-token").unwrap();
        std::fs::write(&ca_file, trusted.pem()).unwrap();
        let url = Url::parse(&format!("https://{}", fake.address)).unwrap();
        (Reader::new(Arc::new(ApiServer { url, token_file, ca_file })), fake, folder)
    }

    async fn fetch(status: u16, body: &str) -> Result<Answer, String> {
        let authority = Authority::new();
        let (reader, _fake, _folder) = reader(fake::Answer::http(status, "", body), &authority, &authority).await;
        reader.fetch("ns", "sa").await.map_err(|error| error.to_string())
    }

    async fn account(body: &str) -> Arc<ServiceAccount> {
        match fetch(200, body).await {
            Ok(Answer::Present(account)) => account,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn the_answer_is_told_apart_from_what_only_looks_like_one() {
        let plain = account(r#"{"metadata":{"uid":"u","annotations":{"a.example/b":"c"}}}"#).await;
        assert_eq!((plain.uid.as_str(), &plain.annotations), ("u", &Ok(Annotations::default())));
        let faulty = account(r#"{"metadata":{"uid":"u","annotations":{"credlet.io/colour":"red"}}}"#).await;
        assert!(faulty.annotations.as_ref().unwrap_err().to_string().contains("credlet.io/colour"));
        let gone = r#"{"kind":"Status","status":"Failure","reason":"NotFound","message":"m","code":404}"#;
        assert_eq!(fetch(404, gone).await, Ok(Answer::Absent));
        let forbidden = r#"{"kind":"Status","status":"Failure","reason":"Forbidden","message":"no right","code":403}"#;
        assert_eq!(fetch(403, forbidden).await.unwrap_err(), "the API server answers 403: no right");
        for (status, body) in [(404, "404 page not found"), (404, "{}"), (200, "{}"), (200, "<html>"), (502, "bad gateway")] {
            assert!(fetch(status, body).await.is_err(), "{status} {body}");
        }
    }

    #[tokio::test]
    async fn only_the_mounted_authority_is_trusted_with_the_token() {
        let (authority, other) = (Authority::new(), Authority::new());
        let answer = fake::Answer::http(200, "", r#"{"metadata":{"uid":"u"}}"#);
        let (stranger, fake, _folder) = reader(answer.clone(), &authority, &other).await;
        assert!(stranger.fetch("ns", "sa").await.unwrap_err().to_string().contains("certificate"));
        assert!(fake.requests().is_empty());
        let (trusting, fake, _folder) = reader(answer, &authority, &authority).await;
        assert!(trusting.fetch("ns", "sa").await.is_ok());
        assert!(fake.requests()[0].to_ascii_lowercase().contains("authorization: bearer agents-token\r\n"));
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_is_given_up_and_asked_anew_over_another_connection() {
        let authority = Authority::new();
        let (reader, fake, _folder) = reader(fake::Answer::Reset, &authority, &authority).await;
        for _ in 0..2 {
            assert!(reader.fetch("ns", "sa").await.is_err());
            assert!(reader.client.lock().is_none());
        }
        assert_eq!(fake.requests().len(), 2);
    }

    #[tokio::test]
    async fn without_token_or_authority_there_is_an_error_and_no_panic() {
        let (token_file, ca_file) = ("/nowhere/token".into(), "/nowhere/ca.crt".into());
        let server = ApiServer { url: Url::parse("https://127.0.0.1:1").unwrap(), token_file, ca_file };
        assert!(matches!(Reader::new(Arc::new(server)).fetch("ns", "sa").await, Err(FetchError::Client(_))));
    }
}
