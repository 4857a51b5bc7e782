//! A client as browsers are: tungstenite, which is not what the server uses.

use futures::{SinkExt, StreamExt};
use high_templar::config::Listen;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        handshake::client::Response,
        http::{HeaderName, HeaderValue},
        protocol::CloseFrame,
    },
};

use super::{
    PATIENCE,
    http::{Stream, dial},
};

pub struct Client {
    socket: WebSocketStream<Box<dyn Stream>>,
}

/// A frame as a client sends it, masked with zeros.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | u8::try_from(len).unwrap()),
        len @ 126..=0xFFFF => {
            bytes.push(0xFE);
            bytes.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            bytes.push(0xFF);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// A handshake that was refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub status: u16,
    /// Seconds.
    pub retry_after: Option<u64>,
    /// The word of the error.
    pub message: String,
}

impl Refused {
    /// Whether the server asks the client to come back, because it cannot be served now.
    pub fn is_for_now(&self) -> bool {
        (self.status, self.message.as_str()) == (503, "try-later")
            && self.retry_after.is_some_and(|seconds| seconds > 0)
    }
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With a close frame.
    Closed(u16, String),
    /// With a close frame without a code.
    ClosedWithoutCode,
    /// Without a close frame.
    Cut,
}

impl Client {
    pub async fn connect(address: &Listen, path: &str, headers: &[(&str, &str)]) -> Self {
        Self::try_connect(address, path, headers).await.unwrap().0
    }

    pub async fn try_connect(
        address: &Listen,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<(Self, Response), Error> {
        let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let (socket, response) = client_async(request, dial(address).await).await?;
        Ok((Self { socket }, response))
    }

    /// As [`try_connect`](Self::try_connect), for a handshake that is answered by the usual error if it is refused.
    pub async fn dial(address: &Listen, path: &str, headers: &[(&str, &str)]) -> Result<Self, Refused> {
        match Self::try_connect(address, path, headers).await {
            Ok((client, _)) => Ok(client),
            Err(Error::Http(response)) => {
                let body: Value = serde_json::from_slice(response.body().as_ref().unwrap()).unwrap();
                let retry_after =
                    response.headers().get("retry-after").map(|value| value.to_str().unwrap().parse().unwrap());
                let message = body["message"].as_str().unwrap().to_owned();
                Err(Refused { status: response.status().as_u16(), retry_after, message })
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// The next text frame, as it came.
    pub async fn next_text(&mut self) -> String {
        let next = async {
            loop {
                match self.socket.next().await.expect("a frame").unwrap() {
                    Message::Text(text) => return text.as_str().to_owned(),
                    Message::Ping(_) | Message::Pong(_) => {}
                    other => panic!("{other:?} instead of a text frame"),
                }
            }
        };
        timeout(PATIENCE, next).await.expect("a text frame in time")
    }

    /// The next text frame, read as JSON, or how the connection has ended.
    pub async fn next_or_end(&mut self) -> Result<Value, End> {
        loop {
            return match timeout(PATIENCE, self.socket.next()).await.expect("a frame or an end in time") {
                Some(Ok(Message::Text(text))) if text == "pong" => Ok(json!("pong")),
                Some(Ok(Message::Text(text))) => Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(Some(frame)))) => {
                    Err(End::Closed(frame.code.into(), frame.reason.as_str().to_owned()))
                }
                Some(Ok(Message::Close(None))) => Err(End::ClosedWithoutCode),
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => Err(End::Cut),
            };
        }
    }

    /// Sends a message to a server that may have ended the connection.
    pub async fn try_send(&mut self, text: &str) {
        let _ = timeout(PATIENCE, self.socket.send(Message::text(text))).await.unwrap();
    }

    /// The next text frame, read as JSON; `pong` as a string.
    pub async fn next(&mut self) -> Value {
        let text = self.next_text().await;
        if text == "pong" {
            return json!("pong");
        }
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    pub async fn send(&mut self, message: Value) {
        self.send_text(&message.to_string()).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        self.send_message(Message::text(text)).await;
    }

    pub async fn send_message(&mut self, message: Message) {
        timeout(PATIENCE, self.socket.send(message)).await.unwrap().unwrap();
    }

    /// Sends a message and reads the answer.
    pub async fn ask(&mut self, message: Value) -> Value {
        self.send(message).await;
        self.next().await
    }

    pub async fn subscribe(&mut self, id: &str, room: Value) {
        let answer = self.ask(json!({"type": "subscribe", "requestId": id, "room": room})).await;
        assert_eq!(answer, json!({"code": "success"}));
    }

    /// Checks that nothing was sent that has not been read: an answer to `ping` comes first.
    pub async fn expect_silence(&mut self) {
        self.send_text("ping").await;
        assert_eq!(self.next().await, json!("pong"));
    }

    /// The number of transport pings the server sends before the next text frame.
    pub async fn pings_before_text(&mut self) -> usize {
        let mut pings = 0;
        loop {
            match timeout(PATIENCE, self.socket.next()).await.unwrap().unwrap().unwrap() {
                Message::Ping(_) => pings += 1,
                Message::Text(_) => return pings,
                _ => {}
            }
        }
    }

    /// Waits until the server has sent two transport pings, and then for the reply to a request with this id; returns the number of
    /// pings before it. Any other text frame fails the test.
    pub async fn pings_before(&mut self, request_id: &str) -> usize {
        let mut pings = 0;
        loop {
            match timeout(PATIENCE, self.socket.next()).await.unwrap().unwrap().unwrap() {
                Message::Ping(_) => {
                    pings += 1;
                    if pings == 2 {
                        self.send(json!({"type": "status", "requestId": request_id})).await;
                    }
                }
                Message::Text(text) => {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    assert_eq!(frame["requestId"], json!(request_id), "{frame}");
                    return pings;
                }
                _ => {}
            }
        }
    }

    /// Reads to the end, which has to come in time; text frames on the way are returned, too.
    pub async fn end(&mut self) -> (Vec<String>, End) {
        let mut texts = Vec::new();
        let end = timeout(PATIENCE, self.read_to_end(&mut texts)).await;
        let end = end.unwrap_or_else(|_| panic!("no end in time, after {texts:?}"));
        (texts, end)
    }

    async fn read_to_end(&mut self, texts: &mut Vec<String>) -> End {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => texts.push(text.as_str().to_owned()),
                Some(Ok(Message::Close(Some(frame)))) => {
                    let end = End::Closed(frame.code.into(), frame.reason.as_str().to_owned());
                    let _ = timeout(PATIENCE, self.socket.next()).await; // lets the answer go out
                    return end;
                }
                Some(Ok(Message::Close(None))) => return End::ClosedWithoutCode,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return End::Cut,
            }
        }
    }

    /// The code it is closed with; anything else fails the test.
    pub async fn close_code(&mut self) -> u16 {
        match self.end().await {
            (_, End::Closed(code, _)) => code,
            (texts, other) => panic!("{other:?} after {texts:?}"),
        }
    }

    /// Says goodbye and waits for the answer.
    pub async fn close(mut self) -> End {
        self.socket.close(None).await.unwrap();
        self.end().await.1
    }

    /// Says goodbye with a code, or without one, if the server has not; the text frames on the way, and the end.
    pub async fn leave(mut self, code: Option<u16>) -> (Vec<String>, End) {
        let frame = code.map(|code| CloseFrame { code: code.into(), reason: "".into() });
        let _ = self.socket.close(frame).await;
        self.end().await
    }

    /// Sends a ping and waits for its pong; text frames on the way are passed over.
    pub async fn ping(&mut self, payload: &'static [u8]) {
        self.send_message(Message::Ping(payload.into())).await;
        let answered = async {
            loop {
                if let Message::Pong(answer) = self.socket.next().await.unwrap().unwrap() {
                    return assert_eq!(&answer[..], payload);
                }
            }
        };
        timeout(PATIENCE, answered).await.expect("a pong in time");
    }

    /// The raw stream, past the framing.
    pub fn raw(&mut self) -> &mut Box<dyn Stream> {
        self.socket.get_mut()
    }

    /// Sends bytes past the framing; a server that has had enough may not take them.
    pub async fn send_raw(&mut self, bytes: &[u8]) {
        let _ = self.raw().write_all(bytes).await;
        let _ = self.raw().flush().await;
    }
}
