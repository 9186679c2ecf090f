//! Offsets committed until the group has them.
//!
//! The group is asked for its offsets, these are compared with the ones that were sent, and missing ones are
//! sent again: librdkafka refuses commits in the middle of a rebalance, tells nobody of an asynchronous one
//! that failed, and an idle partition has no next one, so its lag would look like a stall.

use super::Assignment;
use anyhow::Context;
use parking_lot::Mutex;
use rdkafka::consumer::{CommitMode, Consumer, ConsumerContext, StreamConsumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

/// Interval at which what was sent is compared with what the group has; nothing is asked when all is known to
/// be committed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Timeout after which the group's coordinator counts as unreachable; the next look asks again.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Says how far a partition is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// The offset after the last record that is done.
    pub next: i64,
    /// The version of the assignment under which that record came.
    pub version: u64,
}

/// Commits offsets of partitions that are ours; another's commit must not move back.
pub struct Commits {
    assignment: Assignment,
    inner: Mutex<Inner>,
    /// Held from the choice of offsets until they are sent, so that none overtakes a newer one.
    sending: Mutex<()>,
}

#[derive(Default)]
struct Inner {
    /// Revoked, and still to be committed.
    leaving: BTreeSet<i32>,
    /// The last offsets that were sent and that the group is not known to have committed.
    sent: BTreeMap<i32, Done>,
}

impl Commits {
    /// Begins with nothing sent.
    pub fn new(assignment: Assignment) -> Self {
        Self { assignment, inner: Mutex::default(), sending: Mutex::default() }
    }

    /// Commits the offsets of partitions that have been ours without a break, or are just leaving.
    pub fn commit<X: ConsumerContext>(
        &self,
        consumer: &StreamConsumer<X>,
        topic: &str,
        done: &BTreeMap<i32, Done>,
        mode: CommitMode,
    ) {
        let _sending = self.sending.lock();
        let own = self.note_sent(done);
        send(consumer, topic, &own, mode);
    }

    /// Compares what was sent with what the group has, and sends again what is missing. Runs until it is
    /// dropped.
    ///
    /// # Errors
    /// Never by itself; a look that panics is one (stop).
    pub async fn keep<X: ConsumerContext + 'static>(
        self: Arc<Self>,
        consumer: Arc<StreamConsumer<X>>,
        topic: String,
    ) -> anyhow::Result<()> {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let sent = self.unconfirmed();
            if sent.is_empty() {
                continue;
            }
            let (client, asked) = (Arc::clone(&consumer), list(&topic, &sent));
            // The call blocks its thread, so it gets one of its own.
            let answer = spawn_blocking(move || client.committed_offsets(asked, ANSWER_MAX)).await;
            match answer.context("ask for committed offsets")? {
                Ok(committed) => {
                    let _sending = self.sending.lock();
                    let missing = self.note_committed(&sent, &offsets_of(&committed));
                    send(&consumer, &topic, &missing, CommitMode::Async);
                }
                Err(error) => tracing::debug!(%error, "no answer about committed offsets; asking again"),
            }
        }
    }

    /// Takes partitions away, of which records under way may still be committed until [`Commits::let_go`].
    pub fn revoke(&self, partitions: &BTreeSet<i32>) {
        self.inner.lock().leaving.clone_from(partitions);
        self.assignment.revoke(partitions.iter().copied());
    }

    /// Ends what [`Commits::revoke`] has begun.
    pub fn let_go(&self) {
        self.inner.lock().leaving.clear();
    }

    /// Says whether an offset of that version would be sent.
    pub fn may_commit(&self, partition: i32, version: u64) -> bool {
        self.inner.lock().leaving.contains(&partition) || self.assignment.holds_since(partition, version)
    }

    fn note_sent(&self, done: &BTreeMap<i32, Done>) -> BTreeMap<i32, Done> {
        let mut inner = self.inner.lock();
        let may_commit = |partition: &i32, done: &Done| {
            inner.leaving.contains(partition) || self.assignment.holds_since(*partition, done.version)
        };
        let own = done.iter().filter(|(partition, done)| may_commit(partition, done));
        let own: BTreeMap<i32, Done> = own.map(|(partition, done)| (*partition, *done)).collect();
        inner.sent.extend(&own);
        own
    }

    /// Returns what was sent and is not known to be committed, for partitions that are still ours.
    fn unconfirmed(&self) -> BTreeMap<i32, Done> {
        let mut inner = self.inner.lock();
        inner.sent.retain(|partition, done| self.assignment.holds_since(*partition, done.version));
        inner.sent.clone()
    }

    /// Forgets what is committed, and returns what is missing and has not been followed by a newer commit.
    fn note_committed(
        &self,
        sent: &BTreeMap<i32, Done>,
        committed: &BTreeMap<i32, i64>,
    ) -> BTreeMap<i32, Done> {
        let mut inner = self.inner.lock();
        let mut missing = BTreeMap::new();
        for (partition, done) in sent {
            if inner.sent.get(partition) != Some(done) {
                continue;
            }
            if committed.get(partition).is_some_and(|offset| *offset >= done.next) {
                inner.sent.remove(partition);
            } else if self.assignment.holds_since(*partition, done.version) {
                missing.insert(*partition, *done);
            }
        }
        missing
    }
}

/// Hands the offsets to the client, if there are any.
fn send<X: ConsumerContext>(
    consumer: &StreamConsumer<X>,
    topic: &str,
    done: &BTreeMap<i32, Done>,
    mode: CommitMode,
) {
    if done.is_empty() {
        return;
    }
    // Not fatal: it is sent again, and without it the records are delivered again, and are done already.
    if let Err(error) = consumer.commit(&list(topic, done), mode) {
        tracing::warn!(%error, "offsets are not committed now");
    }
}

fn list(topic: &str, done: &BTreeMap<i32, Done>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (partition, done) in done {
        // Cannot fail: the offset after a received record is a valid one.
        let _ = list.add_partition_offset(topic, *partition, Offset::Offset(done.next));
    }
    list
}

fn offsets_of(list: &TopicPartitionList) -> BTreeMap<i32, i64> {
    let offset = |one: &TopicPartitionListElem<'_>| Some((one.partition(), one.offset().to_raw()?));
    list.elements().iter().filter_map(offset).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commits(partitions: &[i32]) -> (Commits, u64) {
        let commits = Commits::new(Assignment::default());
        commits.assignment.assign(partitions.iter().copied());
        let version = commits.assignment.version();
        (commits, version)
    }

    #[test]
    fn a_commit_that_the_group_does_not_have_is_sent_again_unless_a_newer_one_was() {
        let (commits, version) = commits(&[1, 2, 3]);
        let done = |next| Done { next, version };
        let sent = BTreeMap::from([(1, done(5)), (2, done(5)), (3, done(5))]);
        commits.note_sent(&sent);
        assert_eq!(commits.unconfirmed(), sent);
        commits.note_sent(&[(3, done(9))].into()); // while the group was asked
        let committed = [(1, 4), (2, 5), (3, 4)].into();
        assert_eq!(commits.note_committed(&sent, &committed), [(1, done(5))].into());
        assert_eq!(commits.unconfirmed(), [(1, done(5)), (3, done(9))].into(), "until the group has them");
        commits.revoke(&[1].into());
        assert_eq!(commits.unconfirmed(), [(3, done(9))].into(), "the next owner commits the others");
    }

    #[test]
    fn a_partition_that_leaves_is_committed_until_it_is_let_go() {
        let (commits, version) = commits(&[1]);
        let done = BTreeMap::from([(1, Done { next: 7, version })]);
        commits.revoke(&[1].into());
        assert_eq!(commits.note_sent(&done), done);
        commits.let_go();
        assert!(commits.note_sent(&done).is_empty());
        commits.assignment.assign([1]);
        assert!(commits.note_sent(&done).is_empty(), "it came back, and what is done is of before");
    }
}
