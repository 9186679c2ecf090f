//! Waits for a state, never for a time.

use std::time::{Duration, Instant};

/// Longest time for a state to come on a slow machine; a passing test never waits for it.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Interval between looks at a state.
const POLL: Duration = Duration::from_millis(20);

/// Calls `look` until it returns something.
///
/// # Panics
/// [`PATIENCE`] is over; the message says what was waited for.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for: {what}");
        tokio::time::sleep(POLL).await;
    }
}
