//! Frames as server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>), on their way from an outbox to
//! the body of a response.
//!
//! An outbox needs the same bytes for the same frame however often it asks. What an event's `id` is depends on the events before
//! it: so the outbox writes records, and they become events only when they have been written.

use std::{
    io::{self, IoSlice},
    mem,
    time::Duration,
};

use parking_lot::Mutex;
use rand::Rng;
use serde::Deserialize;
use tokio::{sync::Notify, time::Instant};

use super::{
    marks::Marks,
    record::{Kind, Record},
};
use crate::{
    hub::{Content, Encoder, Wire},
    protocol::{CloseCode, Position},
};

/// Bytes that may wait for the body; then the outbox has to wait.
const READY_BYTES: usize = 64 << 10;

/// The events of one client.
#[derive(Debug)]
pub(super) struct Events {
    stream: Mutex<Stream>,
    /// Something is there, or nothing more comes.
    pub(super) written: Notify,
    /// Something was taken.
    pub(super) taken: Notify,
}

#[derive(Debug)]
struct Stream {
    ready: Vec<u8>,
    marks: Marks,
    end: End,
    /// When the body last had use for more.
    handed_on: Instant,
}

/// How far the end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    /// The last event is ready.
    Written,
    /// It has been taken, or will never be.
    Over,
}

impl Events {
    /// None yet. `marks` are where the subscriptions begin.
    pub(super) fn new(marks: Marks) -> Self {
        let stream = Stream { ready: Vec::new(), marks, end: End::NotYet, handed_on: Instant::now() };
        Self { stream: Mutex::new(stream), written: Notify::new(), taken: Notify::new() }
    }

    /// The events that have come; `None` when no more do.
    pub(super) fn take(&self) -> Option<Vec<u8>> {
        let mut stream = self.stream.lock();
        let ready = mem::take(&mut stream.ready);
        if stream.end != End::NotYet && ready.is_empty() {
            stream.end = End::Over;
            self.taken.notify_one();
            return None;
        }
        if !ready.is_empty() {
            self.taken.notify_one();
        }
        Some(ready)
    }

    /// The body has use for what it has taken.
    pub(super) fn hand_on(&self) {
        self.stream.lock().handed_on = Instant::now();
    }

    /// For how long it has had none.
    pub(super) fn idle_for(&self) -> Duration {
        self.stream.lock().handed_on.elapsed()
    }

    /// The subscriptions have all caught up, and what they were given for that has been written.
    pub(super) fn level(&self) {
        self.stream.lock().marks.level();
    }

    /// Nobody takes anything any more.
    pub(super) fn give_up(&self) {
        let mut stream = self.stream.lock();
        (stream.end, stream.ready) = (End::Over, Vec::new());
        drop(stream);
        self.written.notify_one();
        self.taken.notify_one();
    }

    /// Whether everything has been taken, the last event included.
    pub(super) fn is_over(&self) -> bool {
        self.stream.lock().end == End::Over
    }
}

impl Wire for Events {
    fn transport(&self) -> &'static str {
        "sse"
    }

    fn encoded_len(&self, content: Content<'_>) -> usize {
        Record::len(content)
    }

    fn encode<'a>(&self, content: Content<'a>, out: &mut Encoder<'a, '_>) {
        Record::put(content, out);
    }

    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut stream = self.stream.lock();
        if stream.ready.len() >= READY_BYTES {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut records = Vec::with_capacity(slices.iter().map(|slice| slice.len()).sum());
        slices.iter().for_each(|slice| records.extend_from_slice(slice));
        let mut rest = records.as_slice();
        while stream.ready.len() < READY_BYTES
            && let Some(record) = Record::next(&mut rest)
        {
            stream.add(&record);
        }
        drop(stream);
        self.written.notify_one();
        Ok(records.len() - rest.len())
    }
}

/// What a text of ours says of a subscription.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    r#type: &'a str,
    request_id: Option<&'a str>,
    code: Option<&'a str>,
    position: Option<&'a str>,
}

impl Stream {
    fn add(&mut self, record: &Record<'_>) {
        match record.kind {
            Kind::Ping => return self.ready.extend_from_slice(b": ping\n\n"),
            Kind::Close(code) => {
                let reason = String::from_utf8_lossy(record.text);
                let close = serde_json::json!({"type": "close", "code": code, "reason": reason});
                self.ready.extend_from_slice(b"event: close\n");
                if let Some(wait) = wait(code, &reason) {
                    self.ready.extend_from_slice(format!("retry: {}\n", wait.as_millis()).as_bytes());
                }
                self.add_data(close.to_string().as_bytes());
                self.end = End::Written;
                return;
            }
            Kind::Publication(number, position) => {
                position.into_iter().for_each(|position| self.marks.advance(number as usize, position));
            }
            Kind::Text => self.note(record.text),
        }
        let id = self.marks.to_string();
        if !id.is_empty() {
            self.ready.extend_from_slice(format!("id: {id}\n").as_bytes());
        }
        self.add_data(record.text);
    }

    /// A text is one line of `data` for each of its own; those of JSON are nothing but white space.
    fn add_data(&mut self, text: &[u8]) {
        for line in text.split(|byte| matches!(byte, b'\n' | b'\r')) {
            self.ready.extend_from_slice(b"data: ");
            self.ready.extend_from_slice(line);
            self.ready.push(b'\n');
        }
        self.ready.push(b'\n');
    }

    /// Looks where a text says that a subscription is.
    fn note(&mut self, text: &[u8]) {
        let Ok(told) = serde_json::from_slice::<Told<'_>>(text) else { return };
        let position = told.position.and_then(|position| position.parse::<Position>().ok());
        let number = told.request_id.and_then(|id| id.parse::<usize>().ok());
        match (told.r#type, number, position) {
            ("reply", Some(number), Some(position)) => self.marks.advance(number, position),
            ("reply", Some(number), None) if told.code == Some("error") => self.marks.end(number),
            ("unsubscribed", Some(number), _) => self.marks.end(number),
            ("resync", _, position) => self.marks.skip_to(position),
            _ => {}
        }
    }
}

/// When a browser's own `EventSource` is to come back: as a socket's client would that follows the close frame.
fn wait(code: u16, reason: &str) -> Option<Duration> {
    let hint: f64 = reason.strip_prefix("retry_after=")?.parse().ok()?;
    let random: f64 = rand::rng().random();
    let seconds = if code == CloseCode::GoingAway.number() { random * hint } else { hint + random };
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::{
        hub::{Frame, Outbox},
        protocol::CloseCode,
        transport::sse::Since,
    };

    /// An outbox, and what becomes of its frames.
    fn outbox(limit_bytes: usize) -> (Arc<Outbox<Events>>, Arc<Outbox>) {
        let marks = Marks::new(["00000000000a:1", "00000000000a:2"].map(Since::read).into_iter());
        let outbox = Arc::new(Outbox::new(Uuid::nil(), Events::new(marks), limit_bytes, Arc::default()));
        (outbox.clone(), outbox)
    }

    fn events(frames: impl IntoIterator<Item = Frame>) -> String {
        let (events, outbox) = outbox(1 << 20);
        frames.into_iter().for_each(|frame| outbox.push(frame).unwrap());
        outbox.flush();
        String::from_utf8(events.wire().take().unwrap()).unwrap()
    }

    #[test]
    fn a_frame_is_an_event_with_the_place_to_go_on_from() {
        let told = events([
            Frame::Fixed(r#"{"type":"welcome","position":"00000000000e:5"}"#),
            Frame::Fixed(r#"{"type":"reply","requestId":"0","code":"success","position":"00000000000e:5"}"#),
            Frame::Ping,
            Frame::Fixed(r#"{"type":"unsubscribed","requestId":"1","message":"no-longer-allowed"}"#),
        ]);
        assert_eq!(
            told,
            "id: 00000000000a:1;1=00000000000a:2\ndata: {\"type\":\"welcome\",\"position\":\"00000000000e:5\"}\n\n\
             id: 00000000000a:2;0=00000000000e:5\ndata: {\"type\":\"reply\",\"requestId\":\"0\",\"code\":\"success\",\"position\":\"00000000000e:5\"}\n\n\
             : ping\n\n\
             id: 00000000000e:5\ndata: {\"type\":\"unsubscribed\",\"requestId\":\"1\",\"message\":\"no-longer-allowed\"}\n\n"
        );
    }

    #[test]
    fn lines_within_a_frame_are_lines_of_data() {
        let told = events([Frame::Fixed("{\"type\":\"x\",\r\n\"data\":[1,\r2,\n3]}")]);
        assert_eq!(
            told,
            "id: 00000000000a:1;1=00000000000a:2\ndata: {\"type\":\"x\",\ndata: \ndata: \"data\":[1,\ndata: 2,\ndata: 3]}\n\n"
        );
    }

    #[test]
    fn the_end_is_told_with_its_code_and_nothing_follows() {
        let (events, outbox) = outbox(1 << 20);
        outbox.close(CloseCode::Disconnected, "");
        let told = String::from_utf8(events.wire().take().unwrap()).unwrap();
        assert_eq!(told, "event: close\ndata: {\"code\":3501,\"reason\":\"\",\"type\":\"close\"}\n\n");
        assert!(!events.wire().is_over());
        assert_eq!((events.wire().take(), events.wire().is_over()), (None, true));
    }

    #[test]
    fn browsers_come_back_when_they_are_asked_to() {
        let hinted = |code, reason| wait(code, reason).map(|wait| wait.as_secs_f64());
        let (away, later) = (hinted(1001, "retry_after=8.0"), hinted(1013, "retry_after=8.0"));
        assert!(away.is_some_and(|wait| wait <= 8.0) && later.is_some_and(|wait| (8.0..=9.0).contains(&wait)));
        assert_eq!((hinted(3501, ""), hinted(1013, "retry_after=NaN")), (None, None));
        let (events, outbox) = outbox(1 << 20);
        outbox.close(CloseCode::GoingAway, "retry_after=1.0");
        let told = String::from_utf8(events.wire().take().unwrap()).unwrap();
        assert!(told.starts_with("event: close\nretry: ") && told.contains("\"code\":1001"), "{told}");
    }

    #[test]
    fn what_nobody_takes_waits_in_the_outbox() {
        let (events, outbox) = outbox(4 * READY_BYTES);
        let large = || Frame::Text(format!("\"{}\"", "x".repeat(READY_BYTES)).into());
        for _ in 0..3 {
            outbox.push(large()).unwrap();
            outbox.flush();
        }
        let mut taken = Vec::new();
        while outbox.blocked_for().is_some() {
            assert!(outbox.waiting_bytes() > READY_BYTES);
            taken.push(events.wire().take().unwrap().len());
            outbox.resume();
        }
        taken.push(events.wire().take().unwrap().len());
        assert!(outbox.is_empty() && taken.len() == 3, "one after the other: {taken:?}");
        assert!(taken.iter().all(|taken| (READY_BYTES..2 * READY_BYTES).contains(taken)), "{taken:?}");
        assert_eq!(events.wire().take(), Some(Vec::new()));
    }
}
