//! Answers of the query protocol.
//!
//! <https://smithy.io/2.0/aws/protocols/aws-query-protocol.html>

use serde_json::{Value, json};

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// The answer to `action`: members become elements.
pub(super) fn result(action: &str, result: &Value, request_id: &str) -> String {
    let (answer, metadata) = (format!("{action}Result"), json!({ "RequestId": request_id }));
    document(&format!("{action}Response"), &json!({ answer: result, "ResponseMetadata": metadata }))
}

/// An error answer; `kind` is `Sender` or `Receiver`.
pub(super) fn error(kind: &str, code: &str, message: &str, request_id: &str) -> String {
    document("ErrorResponse", &json!({ "Error": { "Type": kind, "Code": code, "Message": message }, "RequestId": request_id }))
}

fn document(root: &str, content: &Value) -> String {
    format!("<{root} xmlns=\"{NAMESPACE}\">{}</{root}>\n", elements(content))
}

fn elements(value: &Value) -> String {
    match value {
        Value::Object(members) => members.iter().map(|(name, value)| element(name, value)).collect(),
        Value::Array(members) => members.iter().map(|value| element("member", value)).collect(),
        Value::String(text) => escaped(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// What is null is left out.
fn element(name: &str, value: &Value) -> String {
    if value.is_null() { String::new() } else { format!("<{name}>{}</{name}>", elements(value)) }
}

/// Text as XML content.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
