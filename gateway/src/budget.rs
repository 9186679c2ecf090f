//! One connection's share of the bytes that all connections together may have in flight.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

type Waiting = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

/// The bytes of all connections; the first to wait is the first to get.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    free: Arc<Semaphore>,
    bytes_max: u32,
}

impl Budget {
    /// Starts with all of `bytes_max` free.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX);
        Self { free: Arc::new(Semaphore::new(bytes_max as usize)), bytes_max }
    }

    /// Takes `bytes` if they are free, and nobody has waited for them before.
    pub(crate) fn try_take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.free.clone().try_acquire_many_owned(u32::try_from(bytes).ok()?).ok()
    }
}

/// A share that is asked for, or held until a record takes it along.
///
/// A connection never asks for more while it holds a share, so that connections cannot wait for each other in a circle.
#[derive(Default)]
pub(crate) enum Share {
    /// Not asked for.
    #[default]
    None,
    /// Asked for; the connection does not read meanwhile.
    Waiting(Waiting),
    /// Held.
    Held(OwnedSemaphorePermit),
}

impl Share {
    /// Ready when a share is held: `bytes` of it, or whatever is held already. `on_wait` is called when it must wait.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        budget: &Budget,
        bytes: usize,
        on_wait: impl FnOnce(),
    ) -> Poll<()> {
        if let Self::None = self {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(budget.bytes_max);
            *self = match budget.free.clone().try_acquire_many_owned(bytes) {
                Ok(permit) => Self::Held(permit),
                Err(_) => {
                    on_wait();
                    Self::Waiting(Box::pin(budget.free.clone().acquire_many_owned(bytes)))
                }
            };
        }
        if let Self::Waiting(waiting) = self {
            let permit = std::task::ready!(waiting.as_mut().poll(cx));
            *self = Self::Held(permit.expect("the budget is never closed"));
        }
        Poll::Ready(())
    }

    /// Takes the share out, if it is held.
    pub(crate) fn take(&mut self) -> Option<OwnedSemaphorePermit> {
        match std::mem::take(self) {
            Self::Held(permit) => Some(permit),
            other => {
                *self = other;
                None
            }
        }
    }

    /// Tells whether it is asked for and not held yet.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting(_))
    }
}

impl From<Option<OwnedSemaphorePermit>> for Share {
    fn from(permit: Option<OwnedSemaphorePermit>) -> Self {
        permit.map_or(Self::None, Self::Held)
    }
}
