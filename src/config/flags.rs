//! The flags of `credlet server`, as text, and those that it shares. Each has an environment variable `CREDLET_<FLAG>`; a flag wins over its variable.

use clap::Args;

/// Flags and variables as they were given; [`crate::config::Config::of_server`] says what they mean.
#[derive(Debug, Clone, Args)]
pub struct ServerFlags {
    /// EKS cluster of this node, which EKS Pod Identity needs
    #[arg(short, long, env = "CREDLET_CLUSTER_NAME", value_name = "NAME")]
    pub cluster_name: Option<String>,

    /// Addresses to serve on, repeated or separated by commas
    #[arg(
        short,
        long,
        env = "CREDLET_BIND_HOSTS",
        value_name = "ADDRESS",
        value_delimiter = ',',
        default_value = "169.254.170.23,[fd00:ec2::23]"
    )]
    pub bind_hosts: Vec<String>,

    /// Port of the credentials endpoint
    #[arg(short, long, env = "CREDLET_PORT", default_value = "80")]
    pub port: String,

    /// Port of /healthz and /readyz, on localhost
    #[arg(long, env = "CREDLET_PROBE_PORT", value_name = "PORT", default_value = "2703")]
    pub probe_port: String,

    /// Address of /metrics
    #[arg(long, env = "CREDLET_METRICS_ADDRESS", value_name = "ADDRESS", default_value = "0.0.0.0")]
    pub metrics_address: String,

    /// Port of /metrics; 0 switches it off
    #[arg(long, env = "CREDLET_METRICS_PORT", value_name = "PORT", default_value = "2705")]
    pub metrics_port: String,

    /// Accepted token issuer, with its keys as a JWKS URL or file, else by OIDC discovery; without any, the cluster's own API
    /// server is asked
    #[arg(long, env = "CREDLET_ISSUER", value_name = "ISS[=KEYS]", value_delimiter = ',')]
    pub issuer: Vec<String>,

    /// Accepted token audience
    #[arg(long, env = "CREDLET_AUDIENCE", value_delimiter = ',', default_value = "pods.eks.amazonaws.com,sts.amazonaws.com")]
    pub audience: Vec<String>,

    /// Who verifies tokens: local, delegated (EKS Auth alone), or auto
    #[arg(long, env = "CREDLET_TOKEN_VERIFICATION", value_name = "MODE", default_value = "auto")]
    pub token_verification: String,

    /// This node's name: tokens of other nodes' pods are refused (also the variable `NODE_NAME`)
    #[arg(long, env = "CREDLET_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,

    /// Roles and chains by service account, in YAML; read again when it changes
    #[arg(long, env = "CREDLET_POLICY", value_name = "FILE")]
    pub policy: Option<String>,

    /// Take roles from the annotations of service accounts, which the API server is asked for
    #[arg(
        long,
        env = "CREDLET_SERVICE_ACCOUNT_ROLES",
        value_name = "BOOL",
        num_args = 0..=1,
        default_value = "false",
        default_missing_value = "true"
    )]
    pub service_account_roles: String,

    /// What to do about connections that come neither from this node's pods nor from its processes: off, observe (count, log),
    /// enforce (close)
    #[arg(long, env = "CREDLET_SOURCE_CHECK", value_name = "MODE", default_value = "observe")]
    pub source_check: String,

    /// What to do about a pod's token that comes from other addresses than those that used it first: off, observe (count, log),
    /// enforce (refuse)
    #[arg(long, env = "CREDLET_SOURCE_BINDING", value_name = "MODE", default_value = "observe")]
    pub source_binding: String,

    /// Watch this node's pods at the API server: drop the credentials of deleted ones and refuse their tokens
    #[arg(
        long,
        env = "CREDLET_POD_WATCH",
        value_name = "BOOL",
        num_args = 0..=1,
        default_value = "false",
        default_missing_value = "true"
    )]
    pub pod_watch: String,

    /// Requests a second of one pod, with bursts of twice that
    #[arg(long, env = "CREDLET_POD_RATE", value_name = "RATE", default_value = "1000")]
    pub pod_rate: String,

    /// EKS Auth endpoint instead of the SDK's
    #[arg(long, env = "CREDLET_ENDPOINT", value_name = "URL")]
    pub endpoint: Option<String>,

    /// Credentials held at most; 0 holds none
    #[arg(long, env = "CREDLET_MAX_CACHE_SIZE", value_name = "COUNT", default_value = "2000")]
    pub max_cache_size: String,

    /// Calls a second to AWS from this node, with bursts of twice that
    #[arg(long, env = "CREDLET_MAX_SERVICE_QPS", value_name = "RATE", default_value = "5")]
    pub max_service_qps: String,

    /// Renew credentials at the latest after this (3h, 90m); 0 holds none
    #[arg(long, env = "CREDLET_MAX_CREDENTIAL_RETENTION_BEFORE_RENEWAL", value_name = "DURATION")]
    pub max_credential_retention_before_renewal: Option<String>,

    /// Read the shared credentials file anew as it changes, and take the node's credentials from nowhere else: for hybrid nodes
    #[arg(
        long,
        env = "CREDLET_ROTATE_CREDENTIALS",
        value_name = "BOOL",
        num_args = 0..=1,
        default_missing_value = "true",
        default_value = "false"
    )]
    pub rotate_credentials: String,

    /// Directory of this process's own, for the status socket
    #[arg(long, env = "CREDLET_RUN_DIR", value_name = "DIR", default_value = "/run/credlet")]
    pub run_dir: String,

    /// Directory that successive agents of a node share, so that one takes over from the other without a lost request
    #[arg(long, env = "CREDLET_HANDOVER_DIR", value_name = "DIR")]
    pub handover_dir: Option<String>,

    /// How to log
    #[command(flatten)]
    pub log: LogFlags,
}

/// How a command logs that goes on until it is told to stop.
#[derive(Debug, Clone, Args)]
pub struct LogFlags {
    /// Least level that is logged: error, warn, info, debug, trace
    #[arg(short, long, env = "CREDLET_VERBOSITY", value_name = "LEVEL", default_value = "info")]
    pub verbosity: String,

    /// How log lines look: json or text
    #[arg(long, env = "CREDLET_LOG_FORMAT", value_name = "FORMAT", default_value = "json")]
    pub log_format: String,
}
