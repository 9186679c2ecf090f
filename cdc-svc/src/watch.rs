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
                    self.evaluate(found, Instant::now());
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

    fn evaluate(&mut self, found: slot::Position, now: Instant) {
        // A session that says itself that a server is away has something in its way.
        let closed = self.chassis.readiness.closed();
        let look = Look {
            wal: found.wal,
            confirmed: found.confirmed,
            steps: self.metrics.steps(),
            is_free: closed.iter().all(|latch| *latch == NAME),
        };
        let verdict = self.lag.look(now, look);
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

#[cfg(test)]
mod tests {
    use super::*;
    use chassis::{kafka, postgres};

    const STALL_MAX: Duration = Duration::from_secs(10);

    /// Looks at a slot that does not move, for three times as long as it may; says when the process was not
    /// ready, and not live.
    fn stand_still(is_active: bool, is_away: bool) -> (Option<Duration>, Option<Duration>) {
        let chassis = Chassis::new();
        let metrics = Metrics::register(&chassis.registry).unwrap();
        metrics.active.set(i64::from(is_active));
        let config = Config {
            kafka: kafka::Settings::local("127.0.0.1:1", ""),
            postgres: postgres::Settings::local("postgres://nobody@127.0.0.1:1/none"),
            slot: "slot".to_owned(),
            stall_max: STALL_MAX,
        };
        let mut watch = Watch::new(config, chassis.clone(), metrics);
        let server = chassis.readiness.latch("kafka");
        if is_away {
            server.close();
        } else {
            server.open();
        }
        let (begin, look) = (Instant::now(), STALL_MAX / 4);
        let found = slot::Position { wal: 9, confirmed: Some(1), retained: 9, holder: Some(1) };
        let (mut unready, mut dead) = (None, None);
        for looks in 0..=12 {
            watch.evaluate(found, begin + look * looks);
            if chassis.readiness.closed().contains(&NAME) {
                unready.get_or_insert(look * looks);
            }
            if !chassis.liveness.is_live() {
                dead.get_or_insert(look * looks);
            }
        }
        watch.evaluate(slot::Position { confirmed: Some(9), ..found }, begin + look * 13);
        assert!(!chassis.readiness.closed().contains(&NAME) && chassis.liveness.is_live(), "it moves again");
        (unready, dead)
    }

    #[test]
    fn a_holder_whose_slot_does_not_move_is_unready_then_not_live() {
        assert_eq!(stand_still(true, false), (Some(STALL_MAX), Some(STALL_MAX * 2)));
    }

    #[test]
    fn a_replica_that_waits_stays_live_and_a_server_that_is_away_is_no_stall() {
        assert_eq!(stand_still(false, false), (Some(STALL_MAX), None));
        assert_eq!(stand_still(true, true), (None, None));
    }
}
