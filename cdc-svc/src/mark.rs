//! Up to where in the WAL the topics hold every change, and whether a slot continues from there. Pure.
//!
//! The mark is written in the Kafka transaction of the changes, as an offset's note of the group `cdc-svc`
//! for each update topic, and before the slot confirms that far. A slot of ours is therefore never further
//! than the mark. One that is was made by somebody else after ours was dropped: what was committed in between
//! would never come. A topic that was made anew has lost its mark together with its records.

use std::fmt;
use std::str::FromStr;

/// Names the WAL in which a position means anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wal {
    /// The server's system identifier, which a restored dump does not share.
    pub(crate) system: u64,
    /// Its timeline, which a fail-over and a recovery to a point in time change: the new one may lack changes
    /// that the topics already hold.
    pub(crate) timeline: u32,
}

/// Says up to where the topics hold every change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) wal: Wal,
    /// Name of the slot that the changes came through.
    pub(crate) slot: String,
    /// Position in bytes from the beginning of the WAL.
    pub(crate) lsn: u64,
}

/// Says how far a slot and its server are.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) wal: Wal,
    /// Position that the slot has confirmed.
    pub(crate) confirmed: u64,
    /// End of the WAL.
    pub(crate) end: u64,
}

impl Mark {
    /// Says why a slot does not continue from this mark; none when it does.
    pub(crate) fn doubt(&self, slot: &str, found: &Found) -> Option<&'static str> {
        match found {
            _ if self.slot != slot => Some("the topics were filled through a slot of another name"),
            Found { wal, .. } if wal.system != self.wal.system => Some("it is another server"),
            Found { wal, .. } if *wal != self.wal => Some("the server has begun another timeline"),
            Found { end, .. } if *end < self.lsn => Some("the database went back in time"),
            Found { confirmed, .. } if *confirmed > self.lsn => Some("the slot was made anew"),
            _ => None,
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wal: Wal { system, timeline }, slot, lsn } = self;
        write!(formatter, "{system} {timeline} {slot} {lsn}")
    }
}

/// Says that a note is no mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("note is not a position of cdc-svc")]
pub(crate) struct MarkError;

impl FromStr for Mark {
    type Err = MarkError;

    fn from_str(text: &str) -> Result<Self, MarkError> {
        let parts: Vec<&str> = text.split(' ').collect();
        let [system, timeline, slot, lsn] = parts[..] else { return Err(MarkError) };
        let wal = Wal {
            system: system.parse().map_err(|_| MarkError)?,
            timeline: timeline.parse().map_err(|_| MarkError)?,
        };
        Ok(Self { wal, slot: slot.to_owned(), lsn: lsn.parse().map_err(|_| MarkError)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WAL: Wal = Wal { system: 7, timeline: 1 };

    fn mark(lsn: u64) -> Mark {
        Mark { wal: WAL, slot: "slot".to_owned(), lsn }
    }

    #[test]
    fn slot_continues_from_the_mark_when_it_is_not_further() {
        for (confirmed, end, continues) in
            [(5, 9, true), (6, 6, true), (6, 9, true), (7, 9, false), (0, 5, false)]
        {
            let doubt = mark(6).doubt("slot", &Found { wal: WAL, confirmed, end });
            assert_eq!(doubt.is_none(), continues, "{confirmed} of {end}: {doubt:?}");
        }
    }

    #[test]
    fn slot_of_another_name_server_or_timeline_does_not_continue() {
        for (slot, wal) in
            [("other", WAL), ("slot", Wal { system: 8, ..WAL }), ("slot", Wal { timeline: 2, ..WAL })]
        {
            assert!(mark(6).doubt(slot, &Found { wal, confirmed: 6, end: 9 }).is_some());
        }
    }

    proptest! {
        #[test]
        fn any_mark_survives_its_text(system: u64, timeline: u32, slot in "[a-z0-9_]{0,50}", lsn: u64) {
            let mark = Mark { wal: Wal { system, timeline }, slot, lsn };
            prop_assert_eq!(mark.to_string().parse(), Ok(mark));
        }

        #[test]
        fn any_other_text_is_refused_without_a_panic(text: String) {
            prop_assert!(text.parse::<Mark>().is_err() || text.split(' ').count() == 4);
        }
    }
}
