//! Many requests over few connections, pipelined.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::http::connect_from;
use crate::world::within;

/// Sends all `tokens` to `address` on one connection from `source`, and returns the status of each answer.
pub(crate) async fn flood(source: Ipv4Addr, address: SocketAddr, tokens: impl ExactSizeIterator<Item = String>) -> Vec<u16> {
    let (mut reader, mut writer) = connect_from(source, address).await.unwrap().into_split();
    let count = tokens.len();
    let requests = (1..).zip(tokens).map(|(number, token)| {
        let connection = if number == count { "close" } else { "keep-alive" };
        let head = format!("GET /v1/credentials HTTP/1.1\r\nHost: {address}\r\nConnection: {connection}\r\n");
        format!("{head}Authorization: {token}\r\n\r\n").into_bytes()
    });
    let mut answers = Vec::new();
    let send = async {
        for request in requests {
            writer.write_all(&request).await.unwrap();
        }
    };
    let exchange = async { tokio::join!(send, reader.read_to_end(&mut answers)).1 };
    within(Duration::from_secs(120), exchange).await.unwrap();
    statuses(&String::from_utf8(answers).unwrap())
}

fn statuses(answers: &str) -> Vec<u16> {
    answers.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].parse().unwrap()).collect()
}
