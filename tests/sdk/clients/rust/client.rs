//! AWS SDK for Rust behind the protocol of all clients here (see ../python/client.py), in this test's own binary.
//!
//! `access_key_id` is left out: the client keeps what it fetched to itself, and asking the chain again would be a second fetch.

use std::io::{self, Write};

use aws_config::BehaviorVersion;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_types::error::display::DisplayErrorContext;
use serde_json::{Value, json};

/// Serves the protocol until the input ends.
pub(crate) async fn run() -> io::Result<()> {
    for line in io::stdin().lines() {
        line?;
        let answer = fetch().await.unwrap_or_else(|error| json!({ "ok": false, "error": error }));
        writeln!(io::stdout(), "{answer}")?;
    }
    Ok(())
}

async fn fetch() -> Result<Value, String> {
    let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc)).build_https();
    let config = aws_config::defaults(BehaviorVersion::latest()).http_client(http).load().await;
    let answer = aws_sdk_sts::Client::new(&config).get_caller_identity().send().await;
    let identity = answer.map_err(|error| DisplayErrorContext(error).to_string())?;
    Ok(json!({ "ok": true, "arn": identity.arn(), "account": identity.account() }))
}
