//! What WebSocket frames may cost, and how soon a wrong one is noticed.

use crate::support::{
    TestServer,
    client::{End, frame},
};

#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_not_utf8_ends_the_connection_before_the_message_is_over() {
    const VALID: &[u8] = "κόσμε".as_bytes();
    const BEYOND_UNICODE: &[u8] = b"\xf4\x90\x80\x80";
    let server = TestServer::start().await;
    let chopped = frame(0x81, &[VALID, BEYOND_UNICODE, b"edited"].concat());
    let chopped = &chopped[..chopped.len() - b"edited".len()];
    let at = chopped.len() - BEYOND_UNICODE.len();
    for pieces in [
        [frame(0x01, VALID), frame(0x00, BEYOND_UNICODE)], // 6.4.1
        [frame(0x01, &[VALID, b"\xf4"].concat()), frame(0x00, b"\x90")], // 6.4.2
        [chopped[..at].to_vec(), chopped[at..].to_vec()],  // 6.4.3
        [chopped[..=at].to_vec(), chopped[at + 1..at + 2].to_vec()], // 6.4.4
    ] {
        let mut client = server.connect().await;
        client.send_raw(&pieces[0]).await;
        client.send_raw(&pieces[1]).await;
        assert_eq!(client.end().await, (Vec::new(), End::Closed(1007, String::new())), "{pieces:x?}");
    }
}
