//! Requests: whatever bytes come, neither listener panics, and both go on serving.
//!
//! The input: which listener, then what is sent to it on one connection. The server is the real one, with its routes, its HTTP
//! parser, and Channelstream's API, on unix sockets; the application's API answers everybody at once. A panic in any of its
//! tasks ends the fuzzer.

#![no_main]

use std::{cell::RefCell, io, path::PathBuf, time::Duration};

use high_templar::{config, server::Server};
use libfuzzer_sys::fuzz_target;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// After so long without a byte, nothing more comes: all runs on one thread, and so has had its turn by then.
const QUIET: Duration = Duration::from_millis(2);
/// What the application's API says of everybody.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 62\r\n\r\n\
    {\"allowed_rooms\":[{\"a\":\"*\"}],\"user\":{\"data\":{\"id\":\"someone\"}}}";

struct World {
    runtime: Runtime,
    public: PathBuf,
    internal: PathBuf,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

fuzz_target!(|input: &[u8]| {
    let [side, bytes @ ..] = input else { return };
    WORLD.with_borrow_mut(|world| {
        let world = world.get_or_insert_with(World::new);
        let path = if side % 2 == 0 { &world.public } else { &world.internal };
        world.runtime.block_on(exchange(path, bytes));
    });
});

impl World {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("high-templar-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let [public, internal, api] = ["public", "internal", "api"].map(|name| folder.join(name));
        let vars = [
            ("API_URL", "http://api/".to_owned()),
            ("API_SOCKET", api.display().to_string()),
            ("LISTEN", format!("unix:{}", public.display())),
            ("INTERNAL_LISTEN", format!("unix:{}", internal.display())),
            ("CHANNELSTREAM_SECRET", "secret".to_owned()),
            ("CHANNELSTREAM_PUBLIC", "true".to_owned()),
            ("CHANNELSTREAM_VALIDATE_REQUESTS", "false".to_owned()),
            ("RESUME_SECRET", "0123456789abcdef".to_owned()),
            ("HISTORY_LIMIT", "64KiB".to_owned()),
        ];
        let vars = vars.map(|(name, value)| (name.to_owned(), value));
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let config = config::from_vars(vars.into_iter()).expect("a configuration");
        runtime.block_on(async {
            // Unlike Rust's own `main`, the fuzzer's leaves the signal of a closed socket as it is, which ends the process. Once
            // there has been a handler, it does not.
            let _handler = signal(SignalKind::pipe()).expect("a handler");
            let listener = UnixListener::bind(&api).expect("a socket for the API");
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(answer(stream));
                }
            });
            let server = Server::bind(config).await.expect("a server");
            tokio::spawn(server.run(CancellationToken::new()));
        });
        Self { runtime, public, internal }
    }
}

/// The application's API: every request gets the same answer.
async fn answer(mut stream: UnixStream) -> io::Result<()> {
    let mut request = [0; 1 << 16];
    while stream.read(&mut request).await? > 0 {
        stream.write_all(ANSWER).await?;
    }
    Ok(())
}

/// Sends `bytes`, and reads what is answered.
async fn exchange(path: &PathBuf, bytes: &[u8]) {
    let mut stream = UnixStream::connect(path).await.expect("a server that listens");
    let mut answer = [0; 1 << 12];
    let _ = timeout(QUIET, stream.write_all(bytes)).await; // it may close at any time
    while let Ok(Ok(1..)) = timeout(QUIET, stream.read(&mut answer)).await {}
}
