//! What an instance holds of a partition that it owns.

use rules::Episodes;

/// Holds the episodes of one partition, and how far its readings are evaluated.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) episodes: Episodes,
    /// Offset of the next reading; none until one is committed or evaluated.
    pub(crate) next: Option<i64>,
    /// Whether its episodes were held against the tables since they were restored, or since the last abort.
    pub(crate) is_checked: bool,
}
