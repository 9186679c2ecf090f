//! At a constant rate, whatever the answers do: how long a PUBACK takes.
//!
//! Each device sends a burst at fixed times, spread evenly over all devices. The clock of a message runs from
//! the time at which its burst was to be sent, so a burst that had to wait for room in the window counts its
//! wait.

use super::link::Link;
use super::service::Service;
use super::{Stage, flood};
use anyhow::Result;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Time at the beginning whose messages do not count: the load is a step.
const WARM_UP: Duration = Duration::from_secs(2);
/// Connections are there before the first burst is due.
const HEAD_START: Duration = Duration::from_millis(100);

/// When a device sends.
#[derive(Clone, Copy)]
struct Schedule {
    start: Instant,
    period: Duration,
    bursts: u32,
    burst: u32,
    window: u32,
    counted_from: Instant,
}

/// Offers `rate` messages a second and returns the milliseconds that each PUBACK took.
pub(super) async fn run(stage: &Stage, service: &Service, rate: f64) -> Result<Vec<f64>> {
    let links = flood::links(stage, service).await?;
    let burst = u32::from(stage.options.burst.min(stage.options.window));
    let period = Duration::from_secs_f64(links.len() as f64 * f64::from(burst) / rate);
    let seconds = WARM_UP + Duration::from_secs(u64::from(stage.options.latency_seconds));
    let bursts = u32::try_from(seconds.as_nanos().div_ceil(period.as_nanos().max(1))).unwrap_or(u32::MAX);
    let (start, window) = (Instant::now() + HEAD_START, u32::from(stage.options.window));
    let mut tasks = JoinSet::new();
    for (link, number) in links.into_iter().zip(0_u32..) {
        let start = start + period.mul_f64(f64::from(number) / f64::from(stage.options.connections));
        let counted_from = start + WARM_UP;
        tasks.spawn(pace(link, Schedule { start, period, bursts, burst, window, counted_from }));
    }
    let mut measured = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        measured.extend(ended??);
    }
    Ok(measured)
}

async fn pace(mut link: Link, schedule: Schedule) -> Result<Vec<f64>> {
    let mut measured = Vec::new();
    let mut due = VecDeque::new();
    let mut next = 0;
    while next < schedule.bursts || link.in_flight() > 0 {
        let at = schedule.start + schedule.period * next;
        let has_room = next < schedule.bursts && link.in_flight() + schedule.burst <= schedule.window;
        tokio::select! {
            () = sleep_until(at), if has_room => {
                link.publish(schedule.burst).await?;
                due.extend((0..schedule.burst).map(|_| at));
                next += 1;
            }
            acked = link.acknowledged(), if link.in_flight() > 0 => {
                let (acked, now) = (acked?, Instant::now());
                let counted = due.drain(..acked as usize).filter(|due| *due >= schedule.counted_from);
                measured.extend(counted.map(|due| now.duration_since(due).as_secs_f64() * 1e3));
            }
        }
    }
    Ok(measured)
}
