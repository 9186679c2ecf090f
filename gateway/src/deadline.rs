//! One timer for all deadlines of a connection.

use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::time::{Instant, Sleep, sleep_until};

/// Wakes a task when its next deadline may have come. It is moved forward at once and backward only when it
/// fires, so that a deadline which every packet pushes back costs nothing per packet.
#[derive(Debug, Default)]
pub(crate) struct Deadline {
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// Polls for `next`: ready when it has come; otherwise the task is woken by then. No deadline is never
    /// ready.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, next: Option<Instant>) -> Poll<()> {
        let Some(next) = next else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(next)));
        if next < timer.deadline() {
            timer.as_mut().reset(next);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if next <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(next);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;

    #[tokio::test]
    async fn deadline_moves_both_ways() {
        let start = Instant::now();
        let at = |ms| Some(start + Duration::from_millis(ms));
        let mut deadline = Deadline::default();
        assert!(poll_fn(|cx| Poll::Ready(deadline.poll(cx, at(10_000)))).await.is_pending());
        assert!(poll_fn(|cx| Poll::Ready(deadline.poll(cx, None))).await.is_pending());
        poll_fn(|cx| deadline.poll(cx, at(5))).await;
        assert!(start.elapsed() >= Duration::from_millis(5));
        poll_fn(|cx| deadline.poll(cx, at(30))).await;
        assert!(start.elapsed() >= Duration::from_millis(30));
    }
}
