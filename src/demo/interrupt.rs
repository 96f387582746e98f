//! Floor 7: Ctrl-C during the demo. The first one ends the traffic and lets the pairs be written, so that even
//! half a demo leaves something to look at; a second one ends at once, as it does in `serve`.

use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};

use crate::lifecycle::{self, Priority};

/// What a shell reports for a process that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Watches for SIGINT and SIGTERM while it lives.
#[derive(Debug)]
pub(super) struct Interrupt {
    pressed: watch::Receiver<bool>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Interrupt {
    /// Begins to watch.
    pub(super) fn watch() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (press, pressed) = watch::channel(false);
        let (stop, stopped) = oneshot::channel();
        let (mut int, mut term) = {
            // Signals are registered here and not on the thread, so that none is missed before it runs.
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        let listen = async move {
            either(&mut int, &mut term).await;
            // Nobody may be listening any more: then the demo is about to end anyway.
            let _ = press.send(true);
            either(&mut int, &mut term).await;
            std::process::exit(INTERRUPTED);
        };
        let watch = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = listen => {}
                    _ = stopped => {}
                }
            });
        };
        let thread =
            lifecycle::thread("demo-signals", Priority::Normal, watch).context("no thread to watch for Ctrl-C")?;
        Ok(Self { pressed, stop: Some(stop), thread: Some(thread) })
    }

    /// Turns true with the first signal.
    pub(super) fn pressed(&self) -> watch::Receiver<bool> {
        self.pressed.clone()
    }

    /// Whether there was one already.
    pub(super) fn is_pressed(&self) -> bool {
        *self.pressed.borrow()
    }
}

async fn either(int: &mut Signal, term: &mut Signal) {
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to say; a panic there has only lost a Ctrl-C.
            let _ = thread.join();
        }
    }
}
