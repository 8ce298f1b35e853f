//! The way out as a whole: bounds, trust and proxies, over real sockets.

use std::time::Duration;

use url::Url;

use crate::base::secret::Secret;
use crate::egress::fake::{Answer, Authority, Fake, https};
use crate::egress::fetch::{FetchError, Fetched, Get, Trust, is_private};
use crate::egress::https::Https;

const LIMIT_BYTES: usize = 256 * 1024;

/// Of "this network" (RFC 1122 §3.2.1.3): the kernel sends no packet there, so only a proxy can make it answer.
const UNREACHABLE: &str = "0.0.0.1";

fn get<'a>(url: &'a Url, trust: Trust<'a>) -> Get<'a> {
    Get { url, bearer: None, trust, limit_bytes: LIMIT_BYTES, timeout: Duration::from_secs(5) }
}

fn url(scheme: &str, fake: &Fake) -> Url {
    format!("{scheme}://{}/keys", fake.address).parse().unwrap()
}

async fn fetch(answer: Answer) -> Result<Fetched, FetchError> {
    let fake = Fake::plain(answer).await;
    https(&[]).get(get(&url("http", &fake), Trust::Node)).await
}

fn errors_of(variables: &[(&str, &str)]) -> Vec<String> {
    let env = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    Https::new(&env).unwrap_err().iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_document_comes_with_its_age_and_the_bearer_goes_along() {
    let fake = Fake::plain(Answer::http(200, "Cache-Control: public, Max-Age=300\r\n", "{}")).await;
    let (url, bearer) = (url("http", &fake), Secret::new("t0ken".into()));
    let fetched = https(&[]).get(Get { bearer: Some(&bearer), ..get(&url, Trust::Node) }).await.unwrap();
    assert_eq!(fetched, Fetched { body: "{}".into(), max_age: Some(Duration::from_secs(300)) });
    let request = &fake.requests()[0];
    assert!(request.starts_with("GET /keys HTTP/1.1\r\n") && request.contains("authorization: Bearer t0ken\r\n"), "{request}");
    assert!(request.contains("accept: application/json, application/jwk-set+json\r\n"), "{request}");
}

#[tokio::test]
async fn an_age_that_is_none_is_none() {
    for header in ["", "cache-control: no-store\r\n", "cache-control: max-age=soon\r\n", "cache-control: s-max-age=5\r\n"] {
        assert_eq!(fetch(Answer::http(200, header, "{}")).await.unwrap().max_age, None, "{header}");
    }
}

#[tokio::test]
async fn only_200_is_an_answer_and_redirects_are_not_followed() {
    let other = Fake::plain(Answer::http(200, "", "{}")).await;
    let location = format!("location: http://{}/\r\n", other.address);
    assert_eq!(fetch(Answer::http(302, &location, "")).await, Err(FetchError::Status(302)));
    assert_eq!(fetch(Answer::http(503, "", "")).await, Err(FetchError::Status(503)));
    assert_eq!(other.requests(), Vec::<String>::new());
}

#[tokio::test]
async fn size_is_bounded_with_and_without_a_length() {
    let body = " ".repeat(10 << 20);
    assert_eq!(fetch(Answer::http(200, "", &body)).await, Err(FetchError::TooLarge));
    assert_eq!(fetch(Answer::Bytes(format!("HTTP/1.1 200 x\r\n\r\n{body}").into())).await, Err(FetchError::TooLarge));
    let exact = " ".repeat(LIMIT_BYTES);
    assert_eq!(fetch(Answer::http(200, "", &exact)).await.unwrap().body.len(), LIMIT_BYTES);
}

#[tokio::test]
async fn a_source_that_drips_or_hangs_costs_the_timeout_and_no_more() {
    for answer in [Answer::Drip(b"HTTP/1.1 200 x\r\n\r\n".into()), Answer::Hang] {
        let fake = Fake::plain(answer).await;
        let url = url("http", &fake);
        let impatient = Get { timeout: Duration::from_millis(200), ..get(&url, Trust::Node) };
        assert_eq!(https(&[]).get(impatient).await, Err(FetchError::TimedOut));
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_an_error() {
    let half = Answer::Bytes(b"HTTP/1.1 200 x\r\ncontent-length: 9\r\n\r\n{".into());
    for answer in [half, Answer::Reset, Answer::Bytes(b"SSH-2.0\r\n".into())] {
        assert!(matches!(fetch(answer.clone()).await, Err(FetchError::Transport(_))), "{answer:?}");
    }
}

#[test]
fn private_is_https_or_loopback_in_any_spelling() {
    let private = |url: &str| is_private(&url.parse().unwrap());
    for url in ["https://a.example/", "http://127.9.9.9/", "http://[::1]:8/", "http://[::ffff:127.0.0.1]/", "http://localhost/k"]
    {
        assert!(private(url), "{url}");
    }
    for url in ["http://a.example/", "http://169.254.169.254/", "http://localhost.example/", "file:///etc/passwd", "ftp://[::1]/"]
    {
        assert!(!private(url), "{url}");
    }
}

#[tokio::test]
async fn plain_http_goes_to_loopback_only() {
    for insecure in
        ["http://192.0.2.1/", "http://example.com/", "http://localhost.example.com/", "file:///etc/passwd", "ftp://[::1]/"]
    {
        let url = insecure.parse().unwrap();
        assert_eq!(https(&[]).get(get(&url, Trust::Node)).await, Err(FetchError::Insecure), "{insecure}");
    }
}

#[tokio::test]
async fn a_bundle_adds_roots_and_only_names_all() {
    let (known, stranger) = (Authority::new(), Authority::new());
    let fake = Fake::tls(&known, "127.0.0.1", Answer::http(200, "", "{}")).await;
    let (url, bundle) = (url("https", &fake), known.bundle());
    let bundled = https(&[("AWS_CA_BUNDLE", bundle.path().to_str().unwrap())]);
    assert!(bundled.get(get(&url, Trust::Node)).await.is_ok());
    assert!(https(&[]).get(get(&url, Trust::Only(known.pem().as_bytes()))).await.is_ok());

    let untrusted = |error: FetchError| error.to_string().starts_with("invalid peer certificate");
    assert!(https(&[]).get(get(&url, Trust::Node)).await.is_err_and(untrusted));
    assert!(
        bundled.get(get(&url, Trust::Only(stranger.pem().as_bytes()))).await.is_err_and(untrusted),
        "the bundle does not count"
    );
    assert_eq!(bundled.get(get(&url, Trust::Only(b"junk"))).await, Err(FetchError::NoRoots));
}

#[test]
fn a_bundle_that_is_no_use_is_an_error_that_names_the_file() {
    assert!(errors_of(&[("AWS_CA_BUNDLE", "/nowhere/ca.pem")])[0].contains("/nowhere/ca.pem"));
    let empty = tempfile::NamedTempFile::new().unwrap();
    let path = empty.path().to_str().unwrap();
    assert!(errors_of(&[("AWS_CA_BUNDLE", path)])[0].contains(path));
}

#[test]
fn bundle_and_proxy_are_told_together() {
    let errors = errors_of(&[("AWS_CA_BUNDLE", "/nowhere/ca.pem"), ("HTTPS_PROXY", "socks5://h:1")]);
    assert!(errors.len() == 2 && errors[0].contains("AWS_CA_BUNDLE") && errors[1].contains("HTTPS_PROXY"), "{errors:?}");
}

#[test]
fn one_bad_certificate_does_not_spoil_a_bundle() {
    let authority = Authority::new();
    let bad = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    let pem = format!("# a comment\n{bad}{}", authority.pem());
    assert!(crate::egress::trust::only(pem.as_bytes()).is_some());
    assert!(crate::egress::trust::only(bad.as_bytes()).is_none());
}

#[tokio::test]
async fn https_goes_through_the_proxy_unless_excepted() {
    let authority = Authority::new();
    let fake = Fake::tls(&authority, UNREACHABLE, Answer::http(200, "", "{}")).await;
    let proxy = Fake::proxy(fake.address).await;
    let target: Url = "https://0.0.0.1/keys".parse().unwrap();
    let trust = Trust::Only(authority.pem().as_bytes());
    for variable in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
        let proxied = https(&[(variable, &format!("user:pass@{}", proxy.address))]);
        assert!(proxied.get(get(&target, trust)).await.is_ok(), "{variable}");
    }
    assert_eq!(proxy.requests().len(), 3);
    assert!(proxy.requests()[0].starts_with("CONNECT 0.0.0.1:443 HTTP/1.1\r\n"), "{:?}", proxy.requests());
    assert!(proxy.requests()[0].to_lowercase().contains("proxy-authorization: basic dxnlcjpwyxnz"));

    let address = format!("http://{}", proxy.address);
    for exception in ["NO_PROXY", "no_proxy"] {
        let excepted = https(&[("HTTPS_PROXY", &address), (exception, "example.com,0.0.0.0/24")]);
        assert!(matches!(excepted.get(get(&target, trust)).await, Err(FetchError::Transport(_))));
    }
    assert_eq!(proxy.requests().len(), 3, "the proxy saw no more");
}

#[tokio::test]
async fn loopback_never_goes_through_a_proxy() {
    let authority = Authority::new();
    let fake = Fake::tls(&authority, "127.0.0.1", Answer::http(200, "", "{}")).await;
    let proxied = https(&[("HTTPS_PROXY", "http://127.0.0.1:1")]);
    let url = url("https", &fake);
    assert!(proxied.get(get(&url, Trust::Only(authority.pem().as_bytes()))).await.is_ok());
}

#[test]
fn a_proxy_that_is_none_is_an_error_without_its_password() {
    for url in ["socks5://u:hunter2@h:1", "http://u:hunter2@", "http://:hunter2"] {
        let error = errors_of(&[("https_proxy", url)]).concat();
        assert!(error.contains("https_proxy") && !error.contains("hunter2"), "{error}");
    }
    assert!(!format!("{:?}", https(&[("HTTPS_PROXY", "http://u:hunter2@h:1")])).contains("hunter2"));
}
