//! Memory for trees: what is read from Git and not yet published takes its share of one budget.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

/// Bytes that all trees may take together.
pub(super) struct Budget {
    total: u64,
    free: Mutex<u64>,
    freed: Condvar,
}

impl Budget {
    pub(super) fn new(total: u64) -> Arc<Self> {
        Arc::new(Self { total, free: Mutex::new(total), freed: Condvar::new() })
    }

    /// Waits for `bytes`, at most `limit` long. Whoever wants more than there is gets all of it.
    pub(super) fn take(self: &Arc<Self>, bytes: u64, limit: Duration) -> Option<Share> {
        let bytes = bytes.min(self.total);
        let deadline = Instant::now() + limit;
        let mut free = self.free.lock();
        while *free < bytes {
            if self.freed.wait_until(&mut free, deadline).timed_out() && *free < bytes {
                return None;
            }
        }
        *free -= bytes;
        Some(Share { budget: self.clone(), bytes })
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes free", *self.free.lock(), self.total)
    }
}

/// Part of a budget; given back when dropped.
pub struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Share {
    /// Gives back what is more than `bytes`.
    pub(super) fn shrink_to(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        self.give(surplus);
    }

    fn give(&self, bytes: u64) {
        *self.budget.free.lock() += bytes;
        self.budget.freed.notify_all();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give(self.bytes);
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes)
    }
}

/// Trees are compared by what they hold, not by what they cost.
impl PartialEq for Share {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Share {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_shared_and_comes_back() {
        let budget = Budget::new(100);
        let mut first = budget.take(80, Duration::ZERO).unwrap();
        assert!(budget.take(30, Duration::ZERO).is_none());
        first.shrink_to(50);
        let second = budget.take(30, Duration::ZERO).unwrap();
        assert!(budget.take(30, Duration::ZERO).is_none());
        drop((first, second));
        assert!(budget.take(1000, Duration::ZERO).is_some(), "more than all is all");
        assert_eq!(*budget.free.lock(), 100);
    }

    #[test]
    fn who_waits_is_served() {
        let budget = Budget::new(100);
        let held = budget.take(100, Duration::ZERO).unwrap();
        let other = budget.clone();
        let waiting = std::thread::spawn(move || other.take(60, Duration::from_mins(1)).is_some());
        drop(held);
        assert!(waiting.join().unwrap());
    }
}
