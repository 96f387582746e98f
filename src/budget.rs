//! Floor 1: `limits.shadow_bytes`, the one budget that all copies, captured answers and waiting pairs are charged
//! to. What does not fit is shed by whoever asked; nobody ever waits for room.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The budget: shared by every thread, one atomic addition a charge.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    /// A budget of this many bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit })
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes there are.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// An empty charge that can grow.
    pub fn charge(self: &Arc<Self>) -> Charge {
        Charge { budget: Arc::clone(self), bytes: 0 }
    }

    fn take(&self, bytes: usize) -> bool {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        let fits = before.saturating_add(bytes) <= self.limit;
        if !fits {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }
}

/// Bytes taken from the budget; dropping it gives them back.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Charge {
    /// Takes so many bytes more; false, and nothing taken, where they do not fit.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let fits = self.budget.take(bytes);
        if fits {
            self.bytes += bytes;
        }
        fits
    }

    /// Gives back all but so many bytes.
    pub fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        self.budget.used.fetch_sub(surplus, Ordering::Relaxed);
    }

    /// Takes another charge over.
    pub fn absorb(&mut self, mut other: Charge) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Bytes taken.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// An empty charge on the same budget.
    pub fn sibling(&self) -> Charge {
        self.budget.charge()
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_and_what_is_dropped_comes_back() {
        let budget = Budget::new(10);
        let mut first = budget.charge();
        assert!(first.grow(6));
        assert!(!first.sibling().grow(5));
        assert_eq!(budget.used(), 6);
        let mut second = first.sibling();
        assert!(second.grow(3));
        first.absorb(second);
        assert_eq!((first.bytes(), budget.used()), (9, 9));
        first.shrink_to(2);
        assert!(first.sibling().grow(8));
        drop(first);
        assert_eq!(budget.used(), 0);
    }
}
