//! The one call: `GET` of a service account's metadata, by the agent's own service account token.
//!
//! kube reads the mounted token and CA again every minute, as the kubelet renews them. A client that has failed is thrown away with
//! its kept connections: one of them may have died unseen.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1;
use kube::api::PartialObjectMeta;
use kube::{Api, Client};
use parking_lot::Mutex;

use crate::cluster::account::ServiceAccount;
use crate::domain::policy::Annotations;
use crate::egress::fetch::root_cause;
use crate::token::ApiServer;

/// One call; requests wait for a fraction of it, and the answer is of use for the next one.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The reason in the API server's own 404 (`metav1.StatusReasonNotFound`); a proxy's 404 says nothing about an account.
const NOT_FOUND: &str = "NotFound";

/// Why an account could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("the API server can't be asked: {0}")]
    Client(String),
    #[error("the API server answers {code}: {message}")]
    Status { code: u16, message: String },
    #[error("the API server did not answer in {} s", TIMEOUT.as_secs())]
    TimedOut,
    #[error("the API server answers without the account's UID")]
    Incomplete,
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

    /// The account; `None` if there is none.
    pub(super) async fn fetch(&self, namespace: &str, name: &str) -> Result<Option<Arc<ServiceAccount>>, FetchError> {
        let fetched = tokio::time::timeout(TIMEOUT, self.get(namespace, name)).await.unwrap_or(Err(FetchError::TimedOut));
        if fetched.is_err() {
            *self.client.lock() = None;
        }
        fetched?.map(|found| service_account(found).map(Arc::new)).transpose()
    }

    async fn get(&self, namespace: &str, name: &str) -> Result<Option<PartialObjectMeta<v1::ServiceAccount>>, FetchError> {
        let accounts: Api<v1::ServiceAccount> = Api::namespaced(self.client()?, namespace);
        match accounts.get_metadata(name).await {
            Ok(found) => Ok(Some(found)),
            Err(kube::Error::Api(status)) if status.reason == NOT_FOUND => Ok(None),
            Err(kube::Error::Api(status)) => Err(FetchError::Status { code: status.code, message: status.message }),
            Err(error) => Err(FetchError::Client(root_cause(&error))),
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

fn connect(server: &ApiServer) -> Result<Client, FetchError> {
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
