//! Bytes in flight: of one device, and of all of them together.
//!
//! Bytes are taken of both, of the device first, so that a device that can have no more keeps nobody else
//! waiting.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

type Waiting = Pin<Box<dyn Future<Output = Result<Permit, AcquireError>> + Send>>;

/// The bytes of all devices; the first to wait is the first to get.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    of_all: Arc<Semaphore>,
    device_bytes_max: u32,
}

impl Budget {
    /// Starts with all of `total_bytes_max` free, of which a device may have `device_bytes_max`.
    pub(crate) fn new(total_bytes_max: usize, device_bytes_max: usize) -> Self {
        let of_all = Arc::new(Semaphore::new(units(total_bytes_max) as usize));
        Self { of_all, device_bytes_max: units(device_bytes_max.min(total_bytes_max)) }
    }

    /// Opens one device's share of it.
    pub(crate) fn of_device(&self) -> DeviceBudget {
        DeviceBudget {
            of_device: Arc::new(Semaphore::new(self.device_bytes_max as usize)),
            of_all: self.of_all.clone(),
            bytes_max: self.device_bytes_max,
        }
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// A device's part of the bytes of all.
#[derive(Clone, Debug)]
pub(crate) struct DeviceBudget {
    of_device: Arc<Semaphore>,
    of_all: Arc<Semaphore>,
    bytes_max: u32,
}

/// Says whose bytes are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// Those of this device.
    Device,
    /// Those of all devices.
    All,
}

impl Full {
    /// Returns the metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Device => "device-budget",
            Self::All => "budget",
        }
    }
}

impl DeviceBudget {
    /// Takes `bytes` if they are free, and nobody has waited for them before.
    pub(crate) fn try_take(&self, bytes: usize) -> Result<Permit, Full> {
        let try_take =
            |semaphore: &Arc<Semaphore>| semaphore.clone().try_acquire_many_owned(units(bytes)).ok();
        let of_device = try_take(&self.of_device).ok_or(Full::Device)?;
        let of_all = try_take(&self.of_all).ok_or(Full::All)?;
        Ok(Permit { of_device, of_all })
    }

    /// Tells whether nothing of it is taken.
    pub(crate) fn is_unused(&self) -> bool {
        self.of_device.available_permits() == self.bytes_max as usize
    }

    async fn take(self, bytes: u32) -> Result<Permit, AcquireError> {
        let of_device = self.of_device.acquire_many_owned(bytes).await?;
        let of_all = self.of_all.acquire_many_owned(bytes).await?;
        Ok(Permit { of_device, of_all })
    }
}

/// Bytes that are taken; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    of_device: OwnedSemaphorePermit,
    of_all: OwnedSemaphorePermit,
}

impl Permit {
    /// Returns how many it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.of_all.num_permits()
    }

    /// Adds another one of the same device.
    pub(crate) fn merge(&mut self, other: Self) {
        self.of_device.merge(other.of_device);
        self.of_all.merge(other.of_all);
    }

    /// Parts with some of them; none when it holds fewer.
    pub(crate) fn split(&mut self, bytes: usize) -> Option<Self> {
        let of_device = self.of_device.split(bytes)?;
        let of_all = self.of_all.split(bytes)?;
        Some(Self { of_device, of_all })
    }
}

/// A share that is asked for, or held until a record takes it along.
///
/// A connection never asks for more while it holds a share, and nobody who has bytes of all waits for those
/// of a device, so that connections cannot wait for each other in a circle.
#[derive(Default)]
pub(crate) enum PermitRequest {
    /// Not asked for.
    #[default]
    None,
    /// Asked for; the connection does not read meanwhile.
    Waiting(Waiting),
    /// Held.
    Held(Permit),
}

impl PermitRequest {
    /// Polls until `bytes` are held, or whatever is held already. `on_wait` is told when it must
    /// wait, and what for.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        budget: &DeviceBudget,
        bytes: usize,
        on_wait: impl FnOnce(Full),
    ) -> Poll<()> {
        if let Self::None = self {
            let bytes = units(bytes).min(budget.bytes_max);
            *self = match budget.try_take(bytes as usize) {
                Ok(permit) => Self::Held(permit),
                Err(full) => {
                    on_wait(full);
                    Self::Waiting(Box::pin(budget.clone().take(bytes)))
                }
            };
        }
        if let Self::Waiting(waiting) = self {
            let permit = std::task::ready!(waiting.as_mut().poll(cx));
            *self = Self::Held(permit.expect("a budget is never closed"));
        }
        Poll::Ready(())
    }

    /// Takes the share out, if it is held.
    pub(crate) fn take(&mut self) -> Option<Permit> {
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

impl From<Option<Permit>> for PermitRequest {
    fn from(permit: Option<Permit>) -> Self {
        permit.map_or(Self::None, Self::Held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test]
    async fn device_that_wants_more_than_its_share_keeps_nobody_else_waiting() {
        let all = Budget::new(100, 40);
        let (greedy, other) = (all.of_device(), all.of_device());
        let held = greedy.try_take(40).unwrap();
        assert_eq!(greedy.try_take(1).unwrap_err(), Full::Device);
        let (mut waiting, mut full) = (PermitRequest::default(), None);
        poll_fn(|cx| {
            assert!(waiting.poll(cx, &greedy, 30, |why| full = Some(why)).is_pending());
            Poll::Ready(())
        })
        .await;
        assert_eq!(full, Some(Full::Device));
        let _rest = (other.try_take(40).unwrap(), all.of_device().try_take(20).unwrap());
        assert_eq!(all.of_device().try_take(1).unwrap_err(), Full::All);
        drop(held);
        poll_fn(|cx| waiting.poll(cx, &greedy, 30, |_| ())).await;
        assert_eq!(waiting.take().unwrap().bytes(), 30);
        assert!(greedy.is_unused());
    }

    #[test]
    fn permit_that_is_split_gives_back_all_of_it() {
        let all = Budget::new(10, 10);
        let device = all.of_device();
        let mut permit = device.try_take(6).unwrap();
        permit.merge(device.try_take(2).unwrap());
        let part = permit.split(5).unwrap();
        assert_eq!((permit.bytes(), part.bytes(), permit.split(4).is_none()), (3, 5, true));
        drop((permit, part));
        assert!(device.is_unused() && device.try_take(10).is_ok());
    }
}
