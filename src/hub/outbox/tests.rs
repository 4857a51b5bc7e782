use std::sync::atomic::AtomicUsize;

use super::*;
use crate::protocol::Version;

/// Takes as many bytes as it has been given room for.
#[derive(Default)]
struct Narrow {
    room: AtomicUsize,
    taken: Mutex<Vec<u8>>,
}

impl Wire for Arc<Narrow> {
    fn transport(&self) -> &'static str {
        "none"
    }

    fn encoded_len(&self, content: Content<'_>) -> usize {
        content.payload_len(Version::V3)
    }

    fn encode<'a>(&self, content: Content<'a>, out: &mut Encoder<'a, '_>) {
        content.put_payload(Version::V3, out);
    }

    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let room = self.room.swap(0, Ordering::Relaxed);
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(room).collect();
        self.taken.lock().extend(&bytes);
        if bytes.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(bytes.len()) }
    }
}

fn pong(text: impl Into<String>) -> Frame {
    Frame::Pong(text.into().into())
}

#[test]
fn of_the_pongs_that_wait_only_the_last_is_kept() {
    let narrow = Arc::new(Narrow::default());
    let outbox: Arc<Outbox> = Arc::new(Outbox::new(Uuid::nil(), narrow.clone(), 1 << 20, Arc::default()));
    let resume = |room: usize| {
        narrow.room.store(room, Ordering::Relaxed);
        outbox.resume();
    };
    outbox.push(Frame::Fixed("a")).unwrap();
    for number in 0..10_000 {
        outbox.push(pong(format!("pong {number}"))).unwrap();
        outbox.flush();
        assert!(outbox.waiting_bytes() <= "apong 9999".len());
    }
    outbox.push(Frame::Fixed("b")).unwrap();
    outbox.push(pong("the last one")).unwrap();
    let frames = || outbox.queue.lock().frames.len();
    assert_eq!((frames(), outbox.waiting_bytes()), (3, "athe last oneb".len()));
    // One that has been written in part goes out as it is; the one behind it takes the place of those that follow.
    resume("athe".len());
    for number in 0..100 {
        outbox.push(pong(format!("{number}"))).unwrap();
    }
    assert_eq!(frames(), 3);
    resume(100);
    assert_eq!(String::from_utf8_lossy(&narrow.taken.lock()), "athe last oneb99");
    // Afterwards, the next one waits like the first.
    outbox.push(pong("x")).unwrap();
    outbox.push(pong("y")).unwrap();
    resume(100);
    assert!(narrow.taken.lock().ends_with(b"99y") && outbox.is_empty());
}
