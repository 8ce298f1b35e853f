//! Steps 1 to 5 of a request: what can be said of its head alone, cheapest first. Pure, and nothing is decoded or copied.
//!
//! A browser that a hostile page drives, a proxy that a container was told to use, a name that was rebound to the link-local
//! address: each shows in the head, and each is refused before the token is looked at.

use std::net::IpAddr;
use std::str::FromStr;

use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Uri};

use crate::domain::identity::{RawToken, TOKEN_BYTES};
use crate::domain::refusal::Reason;

/// The default role's path; a target's name follows it after a slash.
const CREDENTIALS: &str = "/v1/credentials";

/// Where the process asks for itself; a nonce follows.
const OWN: &str = "/v1/self/";

/// Headers in one head. hyper itself lets 100 pass; to tell it another number costs it as much as a look-up.
const HEADERS: usize = 64;

/// The longest name of a target, in bytes.
const NAME_BYTES: usize = 64;

/// What a head asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Call<'a> {
    /// A credential for the bearer of `token`, whose length is that of a JWT.
    Credentials { target: Option<&'a str>, token: RawToken<'a> },
    /// Whether this process issued `nonce`.
    Own { nonce: &'a str },
}

/// The addresses that are served, as `Host` may name them.
#[derive(Debug)]
pub(super) struct Hosts {
    addresses: Vec<IpAddr>,
    port: u16,
}

#[derive(Clone, Copy)]
enum Route<'a> {
    Credentials { target: Option<&'a str> },
    Own { nonce: &'a str },
}

/// Checks a head in the order of the steps; the first thing that is wrong with it is the reason.
pub(super) fn check<'a>(head: &'a Parts, hosts: &Hosts) -> Result<Call<'a>, Reason> {
    check_size(&head.headers)?;
    check_body(&head.headers)?;
    let route = route(&head.uri)?;
    check_method(&head.method)?;
    check_host(&head.headers, hosts)?;
    check_origin(&head.headers)?;
    match route {
        Route::Credentials { target } => Ok(Call::Credentials { target, token: token(&head.headers)? }),
        Route::Own { nonce } => Ok(Call::Own { nonce }),
    }
}

fn check_size(headers: &HeaderMap) -> Result<(), Reason> {
    if headers.len() > HEADERS { Err(Reason::HeadTooLarge) } else { Ok(()) }
}

fn check_body(headers: &HeaderMap) -> Result<(), Reason> {
    let is_zero = |length: &HeaderValue| length.as_bytes().iter().all(|&digit| digit == b'0');
    let announced = headers.contains_key(TRANSFER_ENCODING) || headers.contains_key(UPGRADE);
    if announced || !headers.get_all(CONTENT_LENGTH).iter().all(is_zero) {
        return Err(Reason::Body);
    }
    Ok(())
}

fn route(uri: &Uri) -> Result<Route<'_>, Reason> {
    // RFC 9112 §3.2: only a request to a proxy has its target in absolute-form or authority-form.
    if uri.authority().is_some() {
        return Err(Reason::Proxied);
    }
    if let Some(nonce) = uri.path().strip_prefix(OWN) {
        return Ok(Route::Own { nonce });
    }
    match uri.path().strip_prefix(CREDENTIALS) {
        Some("") => Ok(Route::Credentials { target: None }),
        Some(rest) => Ok(Route::Credentials { target: Some(target(rest).ok_or(Reason::Path)?) }),
        None => Err(Reason::Path),
    }
}

/// The name in `/NAME`. Percent-encoding is not in its alphabet, so nothing needs decoding.
fn target(rest: &str) -> Option<&str> {
    let name = rest.strip_prefix('/')?;
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    ((1..=NAME_BYTES).contains(&name.len()) && name.bytes().all(known)).then_some(name)
}

fn check_method(method: &Method) -> Result<(), Reason> {
    if method == Method::GET { Ok(()) } else { Err(Reason::Method) }
}

fn check_host(headers: &HeaderMap, hosts: &Hosts) -> Result<(), Reason> {
    let host = only(headers, &HOST).and_then(|value| value.to_str().ok()).ok_or(Reason::Host)?;
    if hosts.serve(host) { Ok(()) } else { Err(Reason::Host) }
}

/// The one value of a header; `None` when there is none, or several.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn check_origin(headers: &HeaderMap) -> Result<(), Reason> {
    headers.keys().find_map(betrayed_by).map_or(Ok(()), Err)
}

/// Whose work a header of this name is, if not an SDK's. Names come in lower case from the parser.
fn betrayed_by(name: &HeaderName) -> Option<Reason> {
    match name.as_str() {
        "forwarded" | "via" | "x-real-ip" => Some(Reason::Proxied),
        "origin" => Some(Reason::Browser),
        other if other.starts_with("x-forwarded-") => Some(Reason::Proxied),
        other if other.starts_with("sec-fetch-") => Some(Reason::Browser),
        _ => None,
    }
}

fn token(headers: &HeaderMap) -> Result<RawToken<'_>, Reason> {
    let value = only(headers, &AUTHORIZATION).ok_or(Reason::TokenMissing)?;
    let token = without_scheme(value.as_bytes().trim_ascii());
    match token.len() {
        0 => Err(Reason::TokenMissing),
        length if length > *TOKEN_BYTES.end() => Err(Reason::TokenTooLarge),
        length if length < *TOKEN_BYTES.start() => Err(Reason::TokenMalformed),
        _ => Ok(RawToken::new(token)),
    }
}

/// SDKs send the bare token (container credentials), curious people `Bearer` before it (RFC 6750 §2.1).
fn without_scheme(value: &[u8]) -> &[u8] {
    match value.split_first_chunk() {
        Some((scheme, rest)) if is_bearer(scheme) && rest.first().is_none_or(u8::is_ascii_whitespace) => rest.trim_ascii(),
        _ => value,
    }
}

fn is_bearer(scheme: &[u8; 6]) -> bool {
    scheme.eq_ignore_ascii_case(b"bearer")
}

impl Hosts {
    /// `addresses` as they were bound, on `port`. The unspecified address stands for every address of its family.
    pub(super) fn new(addresses: &[IpAddr], port: u16) -> Self {
        Self { addresses: addresses.to_vec(), port }
    }

    /// Whether `host` names one of the addresses, with the port or without. Parsed by hand: the CRT sends IPv6 addresses without
    /// brackets, which no URI parser takes.
    fn serve(&self, host: &str) -> bool {
        self.serve_name(host) || host.rsplit_once(':').is_some_and(|(name, port)| self.serve_port(port) && self.serve_name(name))
    }

    fn serve_port(&self, port: &str) -> bool {
        port.bytes().all(|byte| byte.is_ascii_digit()) && u16::from_str(port) == Ok(self.port)
    }

    fn serve_name(&self, name: &str) -> bool {
        match name.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').is_some_and(|inner| inner.contains(':') && self.serve_address(inner)),
            None => self.serve_address(name) || (name.eq_ignore_ascii_case("localhost") && self.serve_loopback()),
        }
    }

    fn serve_address(&self, text: &str) -> bool {
        let Ok(address) = IpAddr::from_str(text) else { return false };
        self.addresses.iter().any(|served| *served == address || covers(*served, address))
    }

    /// SDKs in development take `localhost` in their variable, and no page can rebind it.
    fn serve_loopback(&self) -> bool {
        self.addresses.iter().any(|served| served.is_loopback() || served.is_unspecified())
    }
}

fn covers(served: IpAddr, address: IpAddr) -> bool {
    served.is_unspecified() && served.is_ipv4() == address.is_ipv4()
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    const TOKEN: &str = "aaaaaaaaaaaa.bbbbbbbbbbbb.cccc_-cccccccc";

    fn hosts() -> Hosts {
        Hosts::new(&["169.254.170.23".parse().unwrap(), "fd00:ec2::23".parse().unwrap()], 80)
    }

    fn head(line: (&str, &str), headers: &[(&str, &str)]) -> Parts {
        let request = Request::builder().method(line.0).uri(line.1);
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(()).unwrap().into_parts().0
    }

    fn reason(line: (&str, &str), headers: &[(&str, &str)]) -> Option<Reason> {
        check(&head(line, headers), &hosts()).err()
    }

    const GET: (&str, &str) = ("GET", "/v1/credentials");
    const HOST: (&str, &str) = ("host", "169.254.170.23");
    const AUTH: (&str, &str) = ("authorization", TOKEN);

    #[test]
    fn a_good_head_names_token_and_target() {
        let call = |uri| {
            let head = head(("GET", uri), &[HOST, AUTH, ("accept", "text/html")]);
            format!("{:?}", check(&head, &hosts()).unwrap())
        };
        let plain = call("/v1/credentials");
        assert!(plain.starts_with("Credentials { target: None, token: RawToken("), "{plain}");
        assert_eq!(call("/v1/credentials?a=b"), plain, "the query is ignored");
        assert!(call("/v1/credentials/target-env_1.2").contains(r#"target: Some("target-env_1.2")"#));
        let own = head(("GET", "/v1/self/ab12"), &[HOST]);
        assert_eq!(check(&own, &hosts()), Ok(Call::Own { nonce: "ab12" }), "no token needed");
    }

    #[test]
    fn other_paths_and_methods_are_refused() {
        let long = format!("/v1/credentials/{}", "n".repeat(65));
        let unknown =
            ["/", "/v1/credentials/", "/v1/credentialsx", "/v1/credentials/a/b", "/v1/credentials/a%20b", "/v1/self", "*"];
        for uri in unknown.into_iter().chain([long.as_str(), "//v1/credentials", "/V1/credentials", "/v1/credentials/%2e"]) {
            assert_eq!(reason(("GET", uri), &[HOST, AUTH]), Some(Reason::Path), "{uri}");
        }
        for method in ["POST", "PUT", "HEAD", "OPTIONS", "get", "TRACE"] {
            assert_eq!(reason((method, "/v1/credentials"), &[HOST, AUTH]), Some(Reason::Method), "{method}");
        }
        assert_eq!(reason(("POST", "/x"), &[HOST]), Some(Reason::Path), "path before method");
        assert_eq!(reason(("POST", "/v1/credentials"), &[]), Some(Reason::Method), "method before host");
    }

    #[test]
    fn anything_that_announces_a_body_is_refused_first() {
        for body in [("transfer-encoding", "chunked"), ("content-length", "1"), ("upgrade", "h2c"), ("content-length", "00x")] {
            assert_eq!(reason(("POST", "/x"), &[body]), Some(Reason::Body), "{body:?}");
        }
        assert_eq!(reason(GET, &[HOST, AUTH, ("content-length", "0")]), None);
    }

    #[test]
    fn host_is_a_served_address_in_any_spelling() {
        let good =
            ["169.254.170.23", "169.254.170.23:80", "[fd00:ec2::23]", "[fd00:ec2::23]:80", "fd00:ec2::23", "fd00:ec2::23:80"];
        for host in
            good.into_iter().chain(["FD00:EC2::23", "[fd00:0ec2:0:0:0:0:0:23]", "fd00:ec2:0::0.0.0.35", "169.254.170.23:080"])
        {
            assert!(hosts().serve(host), "{host}");
        }
        let bad =
            ["", "169.254.170.23:81", "169.254.170.23:", "169.254.170.23:+80", "[169.254.170.23]", "169.254.170.23.", "::1"];
        let names = [
            "localhost",
            "evil.example",
            "169.254.170.23.nip.io",
            "169.254.170.023",
            "2852039191",
            "[fd00:ec2::23",
            "fd00:ec2::23%1",
        ];
        for host in bad.into_iter().chain(names).chain(["127.0.0.1", "::ffff:169.254.170.23", "user@169.254.170.23", "[]", ":80"])
        {
            assert!(!hosts().serve(host), "{host}");
        }
    }

    #[test]
    fn localhost_and_every_address_are_served_where_the_operator_bound_so() {
        let loopback = Hosts::new(&["127.0.0.1".parse().unwrap()], 9911);
        assert!(loopback.serve("localhost:9911") && loopback.serve("LocalHost") && loopback.serve("127.0.0.1:9911"));
        assert!(!loopback.serve("localhost:80") && !loopback.serve("[localhost]") && !loopback.serve("127.0.0.2"));
        let all = Hosts::new(&["0.0.0.0".parse().unwrap()], 80);
        assert!(all.serve("10.0.0.1") && all.serve("localhost") && !all.serve("::1") && !all.serve("evil.example"));
    }

    #[test]
    fn one_host_and_no_traces_of_others() {
        assert_eq!(reason(GET, &[AUTH]), Some(Reason::Host));
        assert_eq!(reason(GET, &[HOST, HOST, AUTH]), Some(Reason::Host));
        assert_eq!(reason(GET, &[("host", "evil.example"), ("via", "x")]), Some(Reason::Host), "host before proxies");
        for name in ["x-forwarded-for", "X-Forwarded-Anything", "forwarded", "via", "x-real-ip"] {
            assert_eq!(reason(GET, &[HOST, AUTH, (name, "x")]), Some(Reason::Proxied), "{name}");
        }
        for name in ["origin", "Sec-Fetch-Site", "sec-fetch-mode"] {
            assert_eq!(reason(GET, &[HOST, (name, "x")]), Some(Reason::Browser), "{name}, before the token");
        }
        for (method, uri) in [("GET", "http://169.254.170.23/v1/credentials"), ("GET", "http://x/"), ("CONNECT", "x:443")] {
            assert_eq!(reason((method, uri), &[HOST, AUTH]), Some(Reason::Proxied), "{uri}");
        }
    }

    #[test]
    fn the_token_is_one_value_of_the_right_size() {
        let of = |value: &str| {
            let head = head(GET, &[HOST, ("authorization", value)]);
            check(&head, &hosts()).map(|call| match call {
                Call::Credentials { token, .. } => String::from_utf8(token.expose().to_vec()).unwrap(),
                Call::Own { .. } => unreachable!(),
            })
        };
        let spaced = format!("  {TOKEN}\t ");
        for value in [TOKEN, &spaced, &format!("Bearer {TOKEN}"), &format!("bEARER \t {TOKEN} ")] {
            assert_eq!(of(value), Ok(TOKEN.to_owned()), "{value:?}");
        }
        for value in ["", "  ", "Bearer", "bearer  "] {
            assert_eq!(of(value), Err(Reason::TokenMissing), "{value:?}");
        }
        for value in ["short", "Bearer short"] {
            assert_eq!(of(value), Err(Reason::TokenMalformed), "{value:?}");
        }
        assert_eq!(of(&format!("Bearer{TOKEN}")), Ok(format!("Bearer{TOKEN}")), "what follows is judged by its signature");
        assert!(of(&"a".repeat(16_384)).is_ok());
        assert_eq!(of(&"a".repeat(16_385)), Err(Reason::TokenTooLarge));
        assert_eq!(reason(GET, &[HOST]), Some(Reason::TokenMissing));
        assert_eq!(reason(GET, &[HOST, AUTH, AUTH]), Some(Reason::TokenMissing));
    }
}
