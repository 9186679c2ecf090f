//! Answers about hours and what is made of them, kept for a bounded time and shared by concurrent callers
//! that ask the same.

use crate::config;
use crate::metrics::Metrics;
use crate::query::{Aggregates, Hours};
use actix_web::http::header::EntityTag;
use actix_web::web::Bytes;
use chassis::http::Problem;
use moka::Expiry;
use moka::future::Cache;
use schema::Timestamp;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of an entry beside its texts: the key, the tag and the cache's own bookkeeping, rounded up.
const ENTRY_BYTES: usize = 512;
/// Bytes of the body's hash that make its tag: no two bodies meet by chance.
const TAG_BYTES: usize = 16;

/// What may be asked again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Question {
    Hours(Hours),
    Aggregates(Box<Aggregates>),
}

impl Question {
    fn is_closed(&self, now: Timestamp) -> bool {
        match self {
            Self::Hours(hours) => hours.is_closed(now),
            Self::Aggregates(aggregates) => aggregates.is_closed(now),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Hours(_) => 0,
            Self::Aggregates(aggregates) => aggregates.bytes(),
        }
    }
}

/// One answer, encoded.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) body: Bytes,
    pub(crate) tag: EntityTag,
    fresh_until: Instant,
}

impl Answer {
    /// Returns how long a client may keep the answer, so that its age stays within the bound.
    pub(crate) fn remaining(&self) -> Duration {
        self.fresh_until.saturating_duration_since(Instant::now())
    }
}

struct Freshness;

impl Expiry<Question, Arc<Answer>> for Freshness {
    fn expire_after_create(&self, _: &Question, answer: &Arc<Answer>, created: Instant) -> Option<Duration> {
        Some(answer.fresh_until.saturating_duration_since(created))
    }
}

/// Keeps answers within a bound of memory, the most useful ones first.
pub(crate) struct AnswerCache {
    answers: Cache<Question, Arc<Answer>>,
    config: config::Cache,
    metrics: Metrics,
}

impl AnswerCache {
    /// Makes an empty cache.
    pub(crate) fn new(config: config::Cache, metrics: Metrics) -> Self {
        let answers = Cache::builder()
            .max_capacity(config.bytes_max)
            .weigher(|question: &Question, answer: &Arc<Answer>| {
                let bytes = question.bytes() + answer.body.len() + ENTRY_BYTES;
                u32::try_from(bytes).unwrap_or(u32::MAX)
            })
            .expire_after(Freshness)
            .build();
        Self { answers, config, metrics }
    }

    /// Returns the answer that is kept, or loads it; concurrent callers wait for one load. An error is not
    /// kept.
    ///
    /// # Errors
    /// The problem of the load.
    pub(crate) async fn get(
        &self,
        question: Question,
        load: impl Future<Output = Result<Bytes, Problem>>,
    ) -> Result<Arc<Answer>, Problem> {
        let closed = question.is_closed(Timestamp::now());
        let age_max = if closed { self.config.closed_age_max } else { self.config.open_age_max };
        let encoded = async {
            // The age begins before the statement: what is committed meanwhile may be missing.
            let fresh_until = Instant::now() + age_max;
            self.metrics.hours_loads.inc();
            let body = load.await?;
            let tag = EntityTag::new_strong(hex::encode(&Sha256::digest(&body)[..TAG_BYTES]));
            Ok(Arc::new(Answer { body, tag, fresh_until }))
        };
        self.answers
            .try_get_with(question, Box::pin(encoded))
            .await
            .map_err(|problem: Arc<Problem>| (*problem).clone())
    }
}
