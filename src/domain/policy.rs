//! What a caller may have. Without an operator's policy the token's audience alone decides the exchange.

use std::sync::Arc;

use crate::domain::refusal::{Reason, Refusal};

/// The audience of EKS Pod Identity tokens.
pub const POD_IDENTITY_AUDIENCE: &str = "pods.eks.amazonaws.com";

/// The audience of tokens for STS web identity.
pub const WEB_IDENTITY_AUDIENCE: &str = "sts.amazonaws.com";

/// Permission to make and serve one credential, and how to make it. Only [`grant`] makes one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Grant {
    exchange: Exchange,
}

/// How a token becomes a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum Exchange {
    /// EKS Auth `AssumeRoleForPodIdentity`: the association decides the role.
    PodIdentity,
}

impl Grant {
    /// The exchange to use.
    #[must_use]
    pub fn exchange(&self) -> Exchange {
        self.exchange
    }
}

/// What a caller whose token bears `audience` may have; `target` is the NAME of the request, if it bore one.
///
/// # Errors
/// `no_target` for any NAME, as no policy names targets; `no_role` for an audience that leads to no exchange.
pub fn grant(audience: &Arc<str>, target: Option<&str>) -> Result<Grant, Refusal> {
    if target.is_some() {
        return Err(Refusal::new(Reason::NoTarget, "no policy names targets"));
    }
    match &**audience {
        POD_IDENTITY_AUDIENCE => Ok(Grant { exchange: Exchange::PodIdentity }),
        other => Err(Refusal::new(Reason::NoRole, format!("nothing gives a role to a token for audience {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audience_decides_and_names_are_nobodys() {
        let reason = |audience: &str, target| grant(&audience.into(), target).map_err(|refusal| refusal.reason);
        assert_eq!(reason(POD_IDENTITY_AUDIENCE, None), Ok(Grant { exchange: Exchange::PodIdentity }));
        assert_eq!(reason(WEB_IDENTITY_AUDIENCE, None), Err(Reason::NoRole));
        assert_eq!(reason(POD_IDENTITY_AUDIENCE, Some("x")), Err(Reason::NoTarget));
    }
}
