//! The parameters of the query protocol, as AWS's SDKs write them into a form.
//!
//! <https://smithy.io/2.0/aws/protocols/aws-query-protocol.html>

use std::collections::BTreeMap;

/// Parameters by name.
#[derive(Debug)]
pub(super) struct Form {
    parameters: BTreeMap<String, String>,
}

impl Form {
    pub(super) fn of(body: &[u8]) -> Self {
        Self { parameters: url::form_urlencoded::parse(body).into_owned().collect() }
    }

    pub(super) fn get(&self, name: &str) -> Option<String> {
        self.parameters.get(name).cloned()
    }

    /// `LIST.member.1MEMBER`, `LIST.member.2MEMBER` and so on.
    pub(super) fn list(&self, list: &str, member: &str) -> Vec<String> {
        (1..).map_while(|place: usize| self.get(&format!("{list}.member.{place}{member}"))).collect()
    }
}
