//! Floor 1: how threads and tasks begin and end. Everything that runs is started here, so that a drain knows it;
//! the phase of the process is one watched value.

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::watch;
use tokio::task::{JoinHandle as TaskHandle, JoinSet};

/// How far the process is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Normal service.
    Serving,
    /// Not ready any more but still accepting, while load balancers notice.
    Unready,
    /// In-flight requests finish until then; nothing new is accepted.
    Draining {
        /// When what is still in flight is cut off.
        until: Instant,
    },
    /// What was still in flight is cut off.
    Ended,
}

impl Phase {
    /// Whether `/readyz` says yes.
    pub fn is_ready(self) -> bool {
        self == Phase::Serving
    }

    /// Whether the drain proper has begun.
    pub fn is_draining(self) -> bool {
        matches!(self, Phase::Draining { .. } | Phase::Ended)
    }
}

/// Says in which phase the process is. Not `Clone`: one author.
#[derive(Debug)]
pub struct PhaseControl(watch::Sender<Phase>);

/// Follows the phase.
#[derive(Debug, Clone)]
pub struct PhaseWatch(watch::Receiver<Phase>);

/// The phase and its two ends.
pub fn phases() -> (PhaseControl, PhaseWatch) {
    let (sender, receiver) = watch::channel(Phase::Serving);
    (PhaseControl(sender), PhaseWatch(receiver))
}

impl PhaseControl {
    /// Goes on to this phase.
    pub fn enter(&self, phase: Phase) {
        self.0.send_replace(phase);
    }
}

impl PhaseWatch {
    /// The phase now.
    pub fn now(&self) -> Phase {
        *self.0.borrow()
    }

    /// Waits for a phase that the test holds for. A lost author counts as [`Phase::Ended`].
    pub async fn until(&mut self, holds: impl Fn(Phase) -> bool) -> Phase {
        match self.0.wait_for(|phase| holds(*phase)).await {
            Ok(phase) => *phase,
            Err(_) => Phase::Ended,
        }
    }
}

/// The nice value of everything that is not the answer path: the lowest priority there is.
const BACKGROUND_NICE: i32 = 19;

/// What a thread is for, and so how it is scheduled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// The answer path, the acceptor, the admin interface.
    Normal,
    /// Shadows, analysis, delivery: only what the answer path leaves over.
    Background,
}

/// Starts a named thread. A panic in it is reported where it is joined, never a reason to end the process.
pub fn thread<T: Send + 'static>(
    name: &str,
    priority: Priority,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        if priority == Priority::Background
            && let Err(error) = rustix::process::setpriority_process(None, BACKGROUND_NICE)
        {
            tracing::warn!(%error, "a background thread keeps normal priority");
        }
        run()
    })
}

/// Runs a part of a thread again and again until it says that it has ended; a panic begins it anew.
pub fn restarting(name: &str, mut run: impl FnMut()) {
    while catch_unwind(AssertUnwindSafe(&mut run)).is_err() {
        tracing::error!(thread = name, "a background thread panicked and begins anew");
    }
}

/// Runs a thread's own event loop until its future is done. What that future left behind on the loop ends with it.
pub fn event_loop<F: Future>(main: F) -> io::Result<F::Output> {
    event_loop_with(|| (), main)
}

/// The same, and `idle` is called each time before the thread goes to sleep.
pub fn event_loop_with<F: Future>(idle: fn(), main: F) -> io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().on_thread_park(idle).build()?;
    let local = tokio::task::LocalSet::new();
    let output = local.block_on(&runtime, main);
    drop(local);
    // A name look-up that hangs in the blocking pool must not hold the process up.
    runtime.shutdown_background();
    Ok(output)
}

/// Starts a task on this thread's event loop.
pub fn local<F: Future<Output = ()> + 'static>(task: F) -> TaskHandle<()> {
    tokio::task::spawn_local(task)
}

/// Starts hyper's own tasks on this thread's event loop.
#[derive(Debug, Clone, Copy)]
pub struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        drop(local(task));
    }
}

/// Tasks of this thread's event loop that are waited for, or ended, together. A panic ends one of them.
#[derive(Debug, Default)]
pub struct LocalTasks(JoinSet<()>);

impl LocalTasks {
    /// Starts another. In a box, because a task is moved some seven times between its start and its end.
    pub fn start(&mut self, task: impl Future<Output = ()> + 'static) {
        self.0.spawn_local(Box::pin(task));
    }

    /// Forgets those that have ended.
    pub fn reap(&mut self) {
        while self.0.try_join_next().is_some() {}
    }

    /// Waits until all have ended.
    pub async fn finish(&mut self) {
        while self.0.join_next().await.is_some() {}
    }

    /// Ends all that are left, and waits until they are gone.
    pub async fn end(mut self) {
        self.0.shutdown().await;
    }
}

/// Waits for a thread until then; false where it is still running.
pub fn join_until<T>(thread: JoinHandle<T>, deadline: Instant) -> bool {
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    thread.join().is_ok()
}
