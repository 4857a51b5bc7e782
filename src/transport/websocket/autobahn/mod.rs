//! The numbered cases of the Autobahn test suite for RFC 6455, run against this program's own reader, writer and serving code.
//!
//! The suite describes its cases in its reports (<https://crossbario.github.io/autobahn-testsuite/>) and in
//! `autobahntestsuite/case` of <https://github.com/crossbario/autobahn-testsuite>. The tables here state the same facts anew:
//! what the client sends, in which pieces, and which frames come back. Every case is strict. Where the suite also accepts less
//! (its result "non-strict", or a dropped TCP connection), these cases do not:
//!
//! - The client receives exactly the expected frames, in their order.
//! - The server answers a violation with a close frame that has the code the suite demands. After the closing handshake the
//!   server ends the TCP connection, and does not reset it.
//! - The server refuses a text at its first invalid byte, while the frame or the message is still arriving.
//!
//! Sizes and counts are the suite's own. The program serves a socket in three ways, and the suite needs a fourth one. Each of
//! them is judged over TCP, through the program's own listener and handshake:
//!
//! - A server that [echoes](Server::echoing), which exists only here. It is put together from the program's parts.
//! - The program with an [admitted](Server::program) client. The session's reply to a message stands for the echo.
//! - The program with a client that [waits](Server::waiting) for the API. Messages have no reply yet.
//! - The program with a client that [listens](Server::channelstream) for a connection of Channelstream's. Messages have no reply.
//!
//! Section 8 of the suite is empty. Sections 12 and 13 test compression, which the server declines. Early releases of the suite
//! listed the codes 1012 to 1014 as invalid in section 7.9; since they were registered, the suite and this server accept them.

mod auto_fragmentation;
mod case;
mod client;
mod close;
mod fragmentation;
mod framing;
mod limits;
mod opcodes;
mod pings;
mod reserved_bits;
mod server;
mod utf8;

use std::collections::BTreeSet;

use case::Case;
use client::{Answers, Client};
use server::Server;

/// The cases of a section. Each is made when it is needed, because some are large.
type Cases = Box<dyn Iterator<Item = Case> + Send>;

/// The section's number, how many cases the suite has in it, and the cases here.
type Section = (u8, usize, fn() -> Cases);

const SECTIONS: [Section; 9] = [
    (1, 16, framing::cases),
    (2, 11, pings::cases),
    (3, 7, reserved_bits::cases),
    (4, 10, opcodes::cases),
    (5, 20, fragmentation::cases),
    (6, 145, utf8::cases),
    (7, 37, close::cases),
    (9, 54, limits::cases),
    (10, 1, auto_fragmentation::cases),
];

#[test]
fn no_case_is_missing() {
    let mut all = 0;
    for (section, count, cases) in SECTIONS {
        let numbers: Vec<_> = cases().map(|case| case.number).collect();
        assert!(numbers.iter().all(|number| number.starts_with(&format!("{section}."))), "{numbers:?}");
        assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), numbers.len(), "one twice: {numbers:?}");
        assert_eq!(numbers.len(), count, "section {section}: {numbers:?}");
        all += count;
    }
    assert_eq!(all, 301);
}

/// Runs the cases of `section` on `server`, except those of `left_out`.
async fn judge_without(section: u8, server: Server, left_out: &[&str]) {
    let (.., cases) = SECTIONS.iter().find(|(number, ..)| *number == section).unwrap();
    let mut failed = Vec::new();
    for case in cases().filter(|case| !left_out.contains(&case.number.as_str())) {
        let number = case.number.clone();
        if let Err(what) = case.run(server.connect().await).await {
            failed.push(format!("{number}: {what}"));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

async fn judge(section: u8, server: Server) {
    judge_without(section, server, &[]).await;
}

macro_rules! sections {
    ($($section:literal $name:ident)*) => {
        mod echo {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::judge($section, super::Server::echoing().await).await;
            })*
        }
        mod admitted {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::judge($section, super::Server::program().await).await;
            })*
        }
        mod listening {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::judge($section, super::Server::channelstream().await).await;
            })*
        }
    };
}

sections! {
    1 section_1_framing
    2 section_2_pings_and_pongs
    3 section_3_reserved_bits
    4 section_4_opcodes
    5 section_5_fragmentation
    6 section_6_utf8
    7 section_7_close
    9 section_9_limits
    10 section_10_auto_fragmentation
}

/// Sections 2 to 7. The server keeps 64 KiB of a client that waits, and then reads no more. The messages of the other sections
/// and of 7.1.6 are larger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_client_meets_the_same_rules() {
    for section in 2..=7 {
        judge_without(section, Server::waiting().await, &["7.1.6"]).await;
    }
}

/// Sections 12 and 13: the server accepts no offer of theirs, and closes the connection at a compressed frame.
#[tokio::test(flavor = "multi_thread")]
async fn compression_is_declined() {
    for server in [Server::echoing().await, Server::program().await, Server::channelstream().await] {
        for offer in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; server_max_window_bits=8, permessage-deflate",
            "x-webkit-deflate-frame",
        ] {
            let (client, head) = server.connect_with(&format!("Sec-WebSocket-Extensions: {offer}\r\n")).await;
            assert!(!head.to_ascii_lowercase().contains("sec-websocket-extensions"), "{offer}: {head}");
            // "Hello", compressed as RFC 7692 section 7.2.3.1 shows it.
            let compressed = client::frame(0xC1, b"\xf2\x48\xcd\xc9\xc9\x07\x00");
            let case = Case::fails("12.1.1", [compressed], [], case::PROTOCOL_ERROR);
            assert_eq!(case.run(client).await, Ok(()), "{offer}");
        }
    }
}
