//! AWS SDK for Rust behind the protocol of all clients here (see ../python/protocol.py), in this test's own binary.
//!
//! `access_key_id` is left out: the client keeps what it fetched to itself, and asking the chain again would be a second fetch.

use std::io::{self, Write};

use aws_config::BehaviorVersion;
use aws_sdk_sts::Client;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::{Builder, ConnectorBuilder};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::error::display::DisplayErrorContext;
use serde_json::{Value, json};

/// Serves the protocol until the input ends.
pub(crate) async fn run() -> io::Result<()> {
    let mut client = client().await;
    for line in io::stdin().lines() {
        if line? == "fetch" {
            client = self::client().await;
        }
        let answer = identity(&client).await.unwrap_or_else(|error| json!({ "ok": false, "error": error }));
        writeln!(io::stdout(), "{answer}")?;
    }
    Ok(())
}

async fn client() -> Client {
    Client::new(&aws_config::defaults(BehaviorVersion::latest()).http_client(default_https_client()).load().await)
}

/// What the cargo feature `default-https-client` of the SDK makes, which the agent is built without.
fn default_https_client() -> SharedHttpClient {
    Builder::new().build_with_connector_fn(|settings, components| {
        let mut connector = ConnectorBuilder::default().tls_provider(Provider::Rustls(CryptoMode::AwsLc));
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        connector.set_proxy_config(Some(ProxyConfig::from_env()));
        connector.build()
    })
}

async fn identity(client: &Client) -> Result<Value, String> {
    let answer = client.get_caller_identity().send().await;
    let identity = answer.map_err(|error| DisplayErrorContext(error).to_string())?;
    Ok(json!({ "ok": true, "arn": identity.arn() }))
}
