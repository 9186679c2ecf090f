//! What follows a failure: one of three dispositions, a backoff between tries, and the loop that tries again.

use prometheus::IntCounter;
use rand::Rng;
use std::error::Error;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Says what a failure of a pipeline asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The same work may succeed later: wait, try again, commit nothing meanwhile.
    Retry,
    /// This record will never succeed: put it aside with its reason, and go on.
    DeadLetter,
    /// No try would succeed: end the process, which the orchestrator restarts.
    Stop,
}

/// Tries work again for as long as its failures ask for it, and lets operators see that it does: each wait is
/// logged, counted and told to a latch.
pub struct Supervisor<'a> {
    failed: &'static str,
    backoff: Backoff,
    retries: Option<&'a IntCounter>,
    set_up: Option<&'a (dyn Fn(bool) + Sync)>,
    stop: Option<&'a CancellationToken>,
}

/// Stands for one try, for the work that is tried.
#[derive(Clone, Debug)]
pub struct Try {
    /// Failed tries in a row before it.
    pub number: u32,
    has_worked: Arc<AtomicBool>,
}

impl Try {
    /// Notes that it has come as far as it should, so that a later failure is the first in a row.
    pub fn worked(&self) {
        self.has_worked.store(true, Ordering::Relaxed);
    }
}

impl<'a> Supervisor<'a> {
    /// Begins without any failure; `failed` is the log line of a failure that is tried again.
    pub fn new(failed: &'static str) -> Self {
        Self { failed, backoff: Backoff::default(), retries: None, set_up: None, stop: None }
    }

    /// Sets the waits between tries.
    #[must_use]
    pub fn with_backoff(self, backoff: Backoff) -> Self {
        Self { backoff, ..self }
    }

    /// Counts the tries that fail and are followed by another.
    #[must_use]
    pub fn counting(self, retries: &'a IntCounter) -> Self {
        Self { retries: Some(retries), ..self }
    }

    /// Tells `set_up` whether the last try did its work: false before a wait, true after a success.
    #[must_use]
    pub fn telling(self, set_up: &'a (dyn Fn(bool) + Sync)) -> Self {
        Self { set_up: Some(set_up), ..self }
    }

    /// Begins no try after `stop` is cancelled; the last failure is then returned.
    #[must_use]
    pub fn until(self, stop: &'a CancellationToken) -> Self {
        Self { stop: Some(stop), ..self }
    }

    /// Tries until the work succeeds, or fails with another disposition than [`Disposition::Retry`].
    ///
    /// # Errors
    /// The last failure, as it is.
    pub async fn run<T, E: Error, F: Future<Output = Result<T, E>>>(
        &mut self,
        disposition: impl Fn(&E) -> Disposition,
        mut work: impl FnMut(Try) -> F,
    ) -> Result<T, E> {
        loop {
            let has_worked = Arc::new(AtomicBool::new(false));
            let one = Try { number: self.backoff.failures(), has_worked: Arc::clone(&has_worked) };
            let outcome = work(one).await;
            if has_worked.load(Ordering::Relaxed) {
                self.backoff.reset();
            }
            if let ControlFlow::Break(outcome) = self.after(outcome, &disposition).await {
                return outcome;
            }
        }
    }

    /// Goes on after a try whose loop is the caller's: breaks with an outcome that no other try follows, or
    /// waits until the next.
    pub async fn after<T, E: Error>(
        &mut self,
        outcome: Result<T, E>,
        disposition: impl Fn(&E) -> Disposition,
    ) -> ControlFlow<Result<T, E>> {
        match outcome {
            Ok(done) => {
                self.backoff.reset();
                self.tell(true);
                ControlFlow::Break(Ok(done))
            }
            Err(error) if disposition(&error) == Disposition::Retry && !self.is_stopped() => {
                self.wait(&error).await;
                if self.is_stopped() { ControlFlow::Break(Err(error)) } else { ControlFlow::Continue(()) }
            }
            Err(error) => ControlFlow::Break(Err(error)),
        }
    }

    /// Waits as after a failed try; returns early when the supervisor is stopped.
    pub async fn wait(&mut self, error: &impl Error) {
        self.tell(false);
        if let Some(retries) = self.retries {
            retries.inc();
        }
        let wait = self.backoff.next_wait();
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        tracing::warn!(error = chain(error), wait_ms, "{}", self.failed);
        let asleep = tokio::time::sleep(wait);
        match self.stop {
            Some(stop) => _ = stop.run_until_cancelled(asleep).await,
            None => asleep.await,
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.is_some_and(CancellationToken::is_cancelled)
    }

    fn tell(&self, is_up: bool) {
        if let Some(set_up) = self.set_up {
            set_up(is_up);
        }
    }
}

/// Writes an error with its sources, as it is logged once, where it ends.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Counts failed tries and says how long to wait before the next.
///
/// Bounds: a wait is at least a tenth of `first` and at most `longest`; the number of tries is the caller's.
/// Source: "Exponential Backoff And Jitter", the full-jitter variant; it keeps replicas from retrying in
/// step.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Starts with no failure.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// Forgets all failures, after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Returns how many tries failed in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Counts a failure and returns the wait before the next try.
    pub fn next_wait(&mut self) -> Duration {
        let ceiling = self.first.saturating_mul(1 << self.failures.min(16)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        let floor = (self.first / 10).min(ceiling);
        rand::rng().random_range(floor..=ceiling)
    }
}

impl Default for Backoff {
    /// Waits from 200 ms up to 10 s: short enough that a restarted dependency is found at once, long enough
    /// not to flood it.
    fn default() -> Self {
        Self::new(Duration::from_millis(200), Duration::from_secs(10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Mutex;

    #[derive(Debug, PartialEq, Eq, thiserror::Error)]
    #[error("failure {number}")]
    struct Failure {
        number: usize,
        disposition: Disposition,
    }

    /// Some milliseconds of backoff, so that hundreds of tries end soon.
    const SHORT: Backoff = Backoff::new(Duration::from_micros(10), Duration::from_micros(100));

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    /// What one try does: whether it works for a while, and how it ends; none is a success.
    type Step = (bool, Option<Disposition>);

    fn step() -> impl Strategy<Value = Step> {
        let end = prop_oneof![
            8 => Just(Some(Disposition::Retry)),
            1 => Just(Some(Disposition::DeadLetter)),
            1 => Just(Some(Disposition::Stop)),
            1 => Just(None),
        ];
        (any::<bool>(), end)
    }

    proptest! {
        #[test]
        fn any_work_is_tried_until_it_succeeds_or_a_failure_asks_for_something_else(
            steps in prop::collection::vec(step(), 0..20),
        ) {
            let told = Mutex::new(Vec::new());
            let set_up = |is_up| told.lock().unwrap().push(is_up);
            let retries = IntCounter::new("retries", "Tries.").unwrap();
            let mut supervisor =
                Supervisor::new("failed").with_backoff(SHORT).counting(&retries).telling(&set_up);
            let mut numbers = Vec::new();
            let outcome = run(supervisor.run(
                |failure: &Failure| failure.disposition,
                |one: Try| {
                    let (works, end) = steps.get(numbers.len()).copied().unwrap_or((false, None));
                    if works {
                        one.worked();
                    }
                    numbers.push(one.number);
                    std::future::ready(match end {
                        Some(disposition) => Err(Failure { number: numbers.len(), disposition }),
                        None => Ok(numbers.len()),
                    })
                },
            ));
            let retried = steps.iter().take_while(|(_, end)| *end == Some(Disposition::Retry)).count();
            prop_assert_eq!(numbers.len(), retried + 1);
            prop_assert_eq!(retries.get(), retried as u64);
            let mut expected = 0;
            for (number, (works, _)) in numbers.iter().zip(&steps) {
                prop_assert_eq!(*number, expected, "failures in a row");
                expected = if *works { 1 } else { expected + 1 };
            }
            let last = steps.get(retried).and_then(|(_, end)| *end);
            prop_assert_eq!(outcome.map_err(|failure| failure.disposition), last.map_or(Ok(retried + 1), Err));
            let told = told.into_inner().unwrap();
            let successes = usize::from(last.is_none());
            prop_assert_eq!(told.len(), retried + successes);
            prop_assert!(told.iter().enumerate().all(|(place, is_up)| *is_up == (place == retried)));
        }
    }

    #[test]
    fn no_try_begins_after_the_stop() {
        let stop = CancellationToken::new();
        let long = Backoff::new(Duration::from_secs(3_600), Duration::from_secs(3_600));
        let mut supervisor = Supervisor::new("failed").with_backoff(long).until(&stop);
        let mut tries = 0;
        let work = |_| {
            tries += 1;
            let (stop, failure) = (stop.clone(), Failure { number: tries, disposition: Disposition::Retry });
            // Comes while the supervisor waits.
            tokio::spawn(async move { stop.cancel() });
            std::future::ready(Err::<(), _>(failure))
        };
        let outcome = run(supervisor.run(|failure: &Failure| failure.disposition, work));
        assert_eq!((outcome.unwrap_err().number, tries), (1, 1));
    }

    #[test]
    fn chain_of_an_error_is_one_line() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] Failure);
        let error = Outer(Failure { number: 7, disposition: Disposition::Stop });
        assert_eq!(chain(&error), "outer: failure 7");
    }

    #[test]
    fn waits_grow_to_the_longest_and_never_pass_it() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        for failure in 0..100_u32 {
            let wait = backoff.next_wait();
            assert!(
                wait >= Duration::from_millis(10) && wait <= Duration::from_secs(5),
                "{failure}: {wait:?}"
            );
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
    }
}
