//! Who the agent is at AWS: its region and its own credentials.

use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use tokio::time::{Instant, timeout_at};

use crate::checks::{Check, Finding};
use crate::config::Config;
use crate::domain::credential::rfc3339;
use crate::egress::aws::{Aws, Source};
use crate::egress::fault::credentials_cause;
use crate::observe::Context;

const REGION_REMEDY: &str =
    "set AWS_REGION, or region in the profile, or let the metadata service be reached from this network namespace (IMDS)";

/// Region, then credentials.
pub(super) async fn check(config: &Config, aws: &Aws, context: &Context, deadline: Instant) -> Vec<Finding> {
    match timeout_at(deadline, aws.config()).await {
        Err(_) => vec![Finding::failed(Check::Region, "the search for it does not end", REGION_REMEDY)],
        Ok(Err(_)) => vec![Finding::failed(Check::Region, "none is known", REGION_REMEDY)],
        Ok(Ok(sdk)) => {
            let region = sdk.region().map_or_else(String::new, ToString::to_string);
            vec![Finding::ok(Check::Region, region), credentials(config, aws, sdk, context, deadline).await]
        }
    }
}

/// The node's credentials sign only what goes to EKS Auth and EKS.
async fn credentials(config: &Config, aws: &Aws, sdk: &SdkConfig, context: &Context, deadline: Instant) -> Finding {
    if config.exchange.cluster_name.is_none() {
        return Finding::ok(Check::Credentials, "none are needed without --cluster-name");
    }
    let failed = |cause: String| Finding::failed(Check::Credentials, cause, remedy(&config.node_credentials));
    let Some(source) = sdk.credentials_provider() else { return failed("there is no source of them".to_owned()) };
    match timeout_at(deadline, source.provide_credentials()).await {
        Err(_) => failed("their source does not answer".to_owned()),
        Ok(Err(error)) => without(&config.node_credentials, &error),
        Ok(Ok(_)) => loaded(aws, context).unwrap_or_else(failed),
    }
}

/// Where no source of the SDK's chain has credentials, it lists what each lacks.
fn without(source: &Source, error: &CredentialsError) -> Finding {
    let (cause, remedy) = (credentials_cause(error), remedy(source));
    match (source, error) {
        (Source::Standard, CredentialsError::CredentialsNotLoaded(_)) => {
            let detail = "no source has any (what each lacks: --verbosity debug)";
            Finding { cause: Some(cause), ..Finding::failed(Check::Credentials, detail, remedy) }
        }
        _ => Finding::failed(Check::Credentials, cause, remedy),
    }
}

/// What is known of credentials that have been loaded.
fn loaded(aws: &Aws, context: &Context) -> Result<Finding, String> {
    let Some(identity) = aws.node_identity() else { return Err("they were not noted down".to_owned()) };
    let source = identity.source;
    let Some(expires_at) = identity.expires_at else {
        return Ok(Finding::ok(Check::Credentials, format!("from {source}, without an end")));
    };
    let end = rfc3339(expires_at).unwrap_or_default();
    if context.clock.now().until(expires_at).is_zero() {
        return Err(format!("from {source}, but they ended at {end}"));
    }
    Ok(Finding::ok(Check::Credentials, format!("from {source}, until {end}")))
}

fn remedy(source: &Source) -> String {
    match source {
        Source::Standard => {
            "give the node an instance profile and let the agent reach the metadata service (IMDS), or give the agent \
             AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a token file, as for any AWS SDK"
                .to_owned()
        }
        Source::RotatedFile(path) => {
            format!("let SSM or IAM Roles Anywhere write {}, and mount it where the agent may read it", path.display())
        }
        Source::Profile(name) => format!("mend the profile {name}"),
    }
}
