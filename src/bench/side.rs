//! A thread beside the clients', for all that is better written as tasks: publishers, the API's stand-in, signals.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tokio::{
    runtime::{Builder, Handle},
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

/// The thread; it ends when this is dropped.
pub(super) struct Side {
    handle: Handle,
    stop: CancellationToken,
    thread: Option<thread::JoinHandle<()>>,
    is_interrupted: Arc<AtomicBool>,
}

impl Side {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (handle, stop) = (runtime.handle().clone(), CancellationToken::new());
        let is_interrupted = Arc::new(AtomicBool::new(false));
        let signals = {
            let _inside = handle.enter();
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal)
        };
        let [interrupt, terminate, hangup] = signals;
        let (mut interrupt, mut terminate, mut hangup) = (interrupt?, terminate?, hangup?);
        let (stopped, flag) = (stop.clone(), is_interrupted.clone());
        let thread = thread::Builder::new().name("publishers".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                    () = stopped.cancelled() => return,
                }
                flag.store(true, Ordering::Relaxed);
                // The clients' thread sees it, and ends the run in good order.
                stopped.cancelled().await;
            });
            runtime.shutdown_background(); // a look-up of a name that hangs must not keep us
        })?;
        Ok(Self { handle, stop, thread: Some(thread), is_interrupted })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Whether a signal has asked the program to end.
    pub(super) fn is_interrupted(&self) -> bool {
        self.is_interrupted.load(Ordering::Relaxed)
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it has said why, if it panicked
        }
    }
}
