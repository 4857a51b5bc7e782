//! A client of `/sse/`, which reads what is there as the specification of server-sent events says.

use high_templar::config::Listen;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{
    PATIENCE,
    http::{Reply, Stream, dial, exchange, request},
};

/// A stream of events that was opened. Gone when dropped.
pub struct Events {
    pub head: String,
    stream: Box<dyn Stream>,
    /// Read, still in chunks.
    raw: Vec<u8>,
    /// Out of the chunks, and not looked at yet.
    text: Vec<u8>,
    is_over: bool,
    /// The connection ended before the last chunk.
    is_cut: bool,
    /// The `id` of the last event that had one.
    pub id: String,
    /// Comments on the way.
    pub comments: usize,
    /// Bytes of the events so far.
    pub bytes: usize,
}

/// One event.
#[derive(Debug, PartialEq)]
pub struct Event {
    pub name: String,
    pub data: String,
}

/// A path with these rooms and further parameters.
pub fn path(rooms: &[Value], more: &str) -> String {
    let encode = |room: &Value| url::form_urlencoded::byte_serialize(room.to_string().as_bytes()).collect::<String>();
    let rooms: Vec<_> = rooms.iter().map(|room| format!("room={}", encode(room))).collect();
    format!("/sse/?{}{more}", rooms.join("&"))
}

/// The answer to a request that is refused.
pub async fn refusal(address: &Listen, path: &str, headers: &[(&str, &str)]) -> Reply {
    exchange(address, &request("GET", path, headers, b"")).await
}

impl Events {
    /// Opens a stream, which has to be granted.
    pub async fn open(address: &Listen, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut stream = dial(address).await;
        stream.write_all(&request("GET", path, headers, b"")).await.unwrap();
        let mut raw = Vec::new();
        let end = loop {
            if let Some(end) = raw.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            let count = timeout(PATIENCE, stream.read_buf(&mut raw)).await.expect("a head in time").unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&raw));
        };
        let head = String::from_utf8(raw.drain(..end).collect()).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}{}", String::from_utf8_lossy(&raw));
        Self {
            head,
            stream,
            raw,
            text: Vec::new(),
            is_over: false,
            is_cut: false,
            id: String::new(),
            comments: 0,
            bytes: 0,
        }
    }

    /// The next event; `None` at the end.
    pub async fn next_event(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.text.windows(2).position(|bytes| bytes == b"\n\n") {
                let block = String::from_utf8(self.text.drain(..end + 2).collect()).unwrap();
                if let Some(event) = self.read(&block) {
                    return Some(event);
                }
                continue;
            }
            if self.is_over || self.is_cut {
                assert!(self.text.is_empty(), "{}", String::from_utf8_lossy(&self.text));
                return None;
            }
            self.receive().await;
        }
    }

    /// The data of the next event without a name, read as JSON.
    pub async fn next(&mut self) -> Value {
        let event = self.next_event().await.expect("an event");
        assert_eq!(event.name, "", "{event:?}");
        serde_json::from_str(&event.data).unwrap_or_else(|error| panic!("{error}: {event:?}"))
    }

    /// The code and the reason at the end, which has to come next.
    pub async fn close(&mut self) -> (u64, String) {
        let event = self.next_event().await.expect("an event");
        assert_eq!(event.name, "close", "{event:?}");
        let data: Value = serde_json::from_str(&event.data).unwrap();
        assert_eq!((self.next_event().await, &data["type"]), (None, &Value::from("close")));
        let code = data["code"].as_u64().unwrap();
        // One that the client is to continue is not complete.
        assert_eq!(
            (self.is_over, self.is_cut),
            if [3500, 3501].contains(&code) { (true, false) } else { (false, true) }
        );
        (code, data["reason"].as_str().unwrap().to_owned())
    }

    /// One block of lines; comments are no event.
    fn read(&mut self, block: &str) -> Option<Event> {
        let (mut name, mut data) = (String::new(), Vec::new());
        for line in block.trim_end().lines() {
            match line.split_once(": ").or_else(|| line.split_once(':')).unwrap() {
                ("", _) => self.comments += 1,
                ("id", id) => id.clone_into(&mut self.id),
                ("event", event) => event.clone_into(&mut name),
                ("data", line) => data.push(line),
                ("retry", milliseconds) => assert!(milliseconds.parse::<u64>().is_ok(), "{milliseconds}"),
                other => panic!("{other:?}"),
            }
        }
        (!data.is_empty()).then(|| Event { name, data: data.join("\n") })
    }

    /// Reads more, and takes it out of its chunks.
    async fn receive(&mut self) {
        let count = timeout(PATIENCE, self.stream.read_buf(&mut self.raw)).await.expect("an event in time").unwrap();
        self.is_cut = count == 0;
        while let Some(line) = self.raw.windows(2).position(|bytes| bytes == b"\r\n") {
            let length = usize::from_str_radix(std::str::from_utf8(&self.raw[..line]).unwrap(), 16).unwrap();
            let whole = line + 2 + length + 2;
            if self.raw.len() < whole {
                break;
            }
            self.text.extend_from_slice(&self.raw[line + 2..whole - 2]);
            self.bytes += length;
            self.raw.drain(..whole);
            self.is_over = length == 0;
        }
    }
}
