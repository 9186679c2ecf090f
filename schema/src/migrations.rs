//! The SQL migrations of every dialect. They are only listed here; `chassis::postgres` runs them.
//!
//! One numbering for all: a version is the same contract in every dialect, whatever SQL it takes there. A
//! migration that is plain enough for `postgres` and `timescale` is in `common`; `distributed` has every one
//! of its own, because the change capture in the common ones is not portable.

pub use refinery::Migration;
use std::ops::RangeInclusive;

mod common {
    refinery::embed_migrations!("migrations/common");
}
mod postgres {
    refinery::embed_migrations!("migrations/postgres");
}
mod timescale {
    refinery::embed_migrations!("migrations/timescale");
}
mod distributed {
    refinery::embed_migrations!("migrations/distributed");
}

/// Version of the newest migration.
pub const VERSION: i32 = 6;

/// Schema versions that this build works with.
///
/// A build goes on with a newer schema, too, unless a migration in between is named `V…__breaking_…`: so
/// instances of two releases run side by side while one replaces the other (ADR 0016). The oldest is the
/// first that has what this build asks for.
pub const VERSIONS: RangeInclusive<i32> = 6..=VERSION;

/// Names the SQL that a server understands. A database keeps the dialect of its first migration
/// (`storage_contract`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Plain PostgreSQL 15 or newer.
    Postgres,
    /// PostgreSQL with TimescaleDB.
    Timescale,
    /// Servers that shard by sensor and speak a part of PostgreSQL's SQL: YugabyteDB, CockroachDB, Citus.
    Distributed,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: [Self; 3] = [Self::Postgres, Self::Timescale, Self::Distributed];

    /// Returns the name used in `storage_contract` and in settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Timescale => "timescale",
            Self::Distributed => "distributed",
        }
    }

    /// Reads a name as [`Dialect::as_str`] writes it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dialect| dialect.as_str() == name)
    }

    /// Says whether the hourly read model is a table that the writer keeps, and not a view that the server
    /// keeps.
    pub const fn writes_hours(self) -> bool {
        !matches!(self, Self::Timescale)
    }
}

/// Lists the migrations of a dialect in the order in which they run.
pub fn of(dialect: Dialect) -> Vec<Migration> {
    let sources = match dialect {
        Dialect::Postgres => vec![common::migrations::runner(), postgres::migrations::runner()],
        Dialect::Timescale => vec![common::migrations::runner(), timescale::migrations::runner()],
        Dialect::Distributed => vec![distributed::migrations::runner()],
    };
    let mut all: Vec<_> = sources.iter().flat_map(|source| source.get_migrations().clone()).collect();
    all.sort_by_key(Migration::version);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_counts_from_one_to_the_version() {
        for dialect in Dialect::ALL {
            let versions: Vec<_> = of(dialect).iter().map(Migration::version).collect();
            assert_eq!(versions, (1..=VERSION).collect::<Vec<_>>(), "{dialect:?}");
            assert!(VERSIONS.contains(&VERSION) && versions.contains(VERSIONS.start()), "{VERSIONS:?}");
            assert_eq!(Dialect::from_name(dialect.as_str()), Some(dialect));
        }
    }
}
