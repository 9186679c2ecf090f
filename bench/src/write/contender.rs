//! The contenders.

/// Names a contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(super) enum Contender {
    /// command-svc
    Service,
    /// Binary COPY from memory.
    Copy,
    /// INSERT … unnest … ON CONFLICT DO NOTHING from memory.
    Insert,
    /// Debezium's JDBC sink on Kafka Connect.
    Connect,
    /// A plain Java consumer.
    Consumer,
    /// Another build of command-svc.
    #[value(skip)]
    Baseline,
}

impl Contender {
    pub(super) const ALL: [Self; 5] =
        [Self::Service, Self::Copy, Self::Insert, Self::Connect, Self::Consumer];

    /// Names it in logs and databases.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Service => "command-svc",
            Self::Copy => "copy",
            Self::Insert => "insert",
            Self::Connect => "connect",
            Self::Consumer => "consumer",
            Self::Baseline => "baseline",
        }
    }

    /// Says what it is, for the table.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Service => "command-svc, with read models",
            Self::Copy => "(a) binary COPY, encoded in memory",
            Self::Insert => "(b) INSERT unnest ON CONFLICT, in memory",
            Self::Connect => "(c1) Debezium JDBC sink 3.6.0, unnest",
            Self::Consumer => "(c2) Java consumer, JDBC batches",
            Self::Baseline => "command-svc, the other build",
        }
    }
}
