//! Retry delays of transient failures.

use std::time::Duration;

/// Exponential backoff with full jitter: the delay before try `n` is a random share of `min(cap, base * 2^n)`.
///
/// Full jitter keeps many objects that failed together (a dead forge) from coming back together; see
/// "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Bound of the first delay.
    pub base: Duration,
    /// Largest bound.
    pub cap: Duration,
}

impl Default for Backoff {
    /// 1 s to 5 min.
    fn default() -> Self {
        Self { base: Duration::from_secs(1), cap: Duration::from_mins(5) }
    }
}

impl Backoff {
    /// The bound before the try after `failures` failures in a row (1 is the first).
    pub fn bound(&self, failures: u32) -> Duration {
        let factor = 2u32.saturating_pow(failures.saturating_sub(1).min(30));
        self.base.saturating_mul(factor).min(self.cap)
    }

    /// The delay: `share` of the bound, `share` drawn by the caller from `0.0..1.0`. Never below a tenth of the
    /// base, so that an unlucky draw does not spin.
    pub fn delay(&self, failures: u32, share: f64) -> Duration {
        self.bound(failures).mul_f64(share.clamp(0.0, 1.0)).max(self.base / 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_cap_and_stays() {
        let b = Backoff::default();
        let bounds: Vec<u64> = [1, 2, 3, 9, 10, 4_000_000_000].iter().map(|n| b.bound(*n).as_secs()).collect();
        assert_eq!(bounds, [1, 2, 4, 256, 300, 300]);
    }

    #[test]
    fn jitter_stays_in_bounds() {
        let b = Backoff::default();
        assert_eq!(b.delay(3, 0.5), Duration::from_secs(2));
        assert_eq!(b.delay(3, 0.0), Duration::from_millis(100));
        assert_eq!(b.delay(3, 7.0), Duration::from_secs(4));
    }
}
