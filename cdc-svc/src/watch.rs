//! Looks at the slot from outside of the session, over a connection of its own: what hangs there is seen
//! here.
//!
//! Every replica looks, also one that stands by: a slot that somebody else holds and does not move is an
//! alarm, too.

use crate::lag::{Lag, Look, Verdict};
use crate::metrics::Metrics;
use crate::{Config, slot};
use anyhow::Context;
use chassis::Chassis;
use chassis::admin::Latch;
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_postgres::Client;

/// How old the lag may be.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Timeout after which the database counts as unreachable; the next look connects again.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Names the latch that a stall closes, and what is not live when it lasts.
const NAME: &str = "progress";

/// Watches until it is dropped.
pub(crate) struct Watch {
    config: Config,
    chassis: Chassis,
    metrics: Metrics,
    latch: Latch,
    lag: Lag,
    client: Option<Client>,
    is_stalled: bool,
    is_answered: bool,
}

impl Watch {
    /// Opens the latch; the first look comes at once.
    pub(crate) fn new(config: Config, chassis: Chassis, metrics: Metrics) -> Self {
        let latch = chassis.readiness.latch(NAME);
        latch.open();
        Self {
            config,
            chassis,
            metrics,
            latch,
            lag: Lag::default(),
            client: None,
            is_stalled: false,
            is_answered: true,
        }
    }

    pub(crate) async fn run(mut self) -> std::convert::Infallible {
        let mut ticks = interval((self.config.stall_max / 4).min(LOOK_EVERY));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // Taken for the time of the look: a connection whose answer did not come is of no use any more.
            let client = self.client.take();
            match timeout(ANSWER_MAX, self.look(client)).await.context("wait for an answer").flatten() {
                Ok((client, found)) => {
                    self.client = Some(client);
                    self.is_answered = true;
                    self.judge(found);
                }
                Err(error) => {
                    self.metrics.look_failures.inc();
                    if std::mem::replace(&mut self.is_answered, false) {
                        tracing::warn!(error = format!("{error:#}"), "the slot's lag is not known now");
                    }
                }
            }
        }
    }

    async fn look(&self, client: Option<Client>) -> anyhow::Result<(Client, slot::Position)> {
        let client = match client {
            Some(client) => client,
            None => self.config.postgres.connect().await?,
        };
        let found = slot::position(&client, &self.config.slot).await?;
        Ok((client, found))
    }

    fn judge(&mut self, found: slot::Position) {
        // A session that says itself that a server is away has something in its way.
        let closed = self.chassis.readiness.closed();
        let look = Look {
            wal: found.wal,
            confirmed: found.confirmed,
            steps: self.metrics.steps(),
            is_free: closed.iter().all(|latch| *latch == NAME),
        };
        let verdict = self.lag.look(Instant::now(), look);
        let Verdict { bytes, age, standing } = verdict;
        self.metrics.lag_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.metrics.lag_seconds.set(age.as_secs_f64());
        self.metrics.retained_bytes.set(i64::try_from(found.retained).unwrap_or(i64::MAX));
        let is_stalled = standing >= self.config.stall_max;
        if is_stalled != self.is_stalled {
            self.is_stalled = is_stalled;
            if is_stalled {
                self.latch.close();
                self.metrics.stalls.inc();
                let (slot, holder) = (&self.config.slot, found.holder);
                tracing::error!(
                    slot,
                    holder,
                    bytes,
                    ?standing,
                    "the slot does not move; holder is a PostgreSQL pid"
                );
            } else {
                self.latch.open();
                tracing::info!(slot = self.config.slot, "the slot moves again");
            }
        }
        // A restart helps the one that holds the slot, and nobody who waits for it.
        let is_ours = self.metrics.active.get() > 0;
        self.chassis.liveness.set_stuck(NAME, is_ours && standing >= self.config.stall_max * 2);
    }
}
