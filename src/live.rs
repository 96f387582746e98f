//! Floor 2: the one place where live state is swapped. Readers are many and cheap; the writer is one and cannot be
//! cloned, so that whoever holds it is the single author of what requests see.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

#[derive(Debug)]
struct Shared<T> {
    value: ArcSwap<T>,
    /// Grows with each swap, so that a thread can tell by one relaxed load that its copy is still the newest.
    version: AtomicU64,
}

/// Reads the newest state.
#[derive(Debug)]
pub struct LiveReader<T>(Arc<Shared<T>>);

impl<T> Clone for LiveReader<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> LiveReader<T> {
    /// The newest state.
    pub fn load(&self) -> Arc<T> {
        self.0.value.load_full()
    }
}

/// Replaces the state. Not `Clone`: there is one author.
#[derive(Debug)]
pub struct LiveWriter<T>(Arc<Shared<T>>);

impl<T> LiveWriter<T> {
    /// Puts a new state in place, for whoever looks next.
    pub fn store(&self, value: Arc<T>) {
        self.0.value.store(value);
        self.0.version.fetch_add(1, Ordering::Release);
    }
}

/// A state and its two ends.
pub fn live<T>(value: Arc<T>) -> (LiveWriter<T>, LiveReader<T>) {
    let shared = Arc::new(Shared { value: ArcSwap::new(value), version: AtomicU64::new(0) });
    (LiveWriter(Arc::clone(&shared)), LiveReader(shared))
}

/// The state as one thread's requests hold it: the outer count is the thread's own, so that a request touches none that
/// other threads touch; the inner one is shared.
pub type Held<T> = Rc<Arc<T>>;

/// One thread's copy: hands out an `Rc`, so that a request costs no shared reference count.
#[derive(Debug)]
pub struct LocalCopy<T> {
    reader: LiveReader<T>,
    version: u64,
    copy: Held<T>,
}

impl<T> LocalCopy<T> {
    /// A copy of the newest state.
    pub fn new(reader: LiveReader<T>) -> Self {
        let version = reader.0.version.load(Ordering::Acquire);
        let copy = Rc::new(reader.load());
        Self { reader, version, copy }
    }

    /// The newest state; looks for a newer one first.
    pub fn get(&mut self) -> Held<T> {
        let version = self.reader.0.version.load(Ordering::Acquire);
        if version != self.version {
            self.version = version;
            self.copy = Rc::new(self.reader.load());
        }
        Rc::clone(&self.copy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_follows_the_writer_and_old_holders_keep_theirs() {
        let (writer, reader) = live(Arc::new(1));
        let mut copy = LocalCopy::new(reader);
        let held = copy.get();
        writer.store(Arc::new(2));
        assert_eq!((**held, **copy.get()), (1, 2));
    }
}
