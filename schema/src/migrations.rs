//! The SQL migrations of every dialect. They are only listed here; `chassis::postgres` runs them.

use refinery::Migration;

mod common {
    refinery::embed_migrations!("migrations/common");
}
mod postgres {
    refinery::embed_migrations!("migrations/postgres");
}
mod timescale {
    refinery::embed_migrations!("migrations/timescale");
}

/// Version of the newest migration. A service refuses to start on any other.
pub const VERSION: i32 = 4;

/// Names the SQL that a server understands. A database keeps the dialect of its first migration (`storage_contract`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Plain PostgreSQL 15 or newer.
    Postgres,
    /// PostgreSQL with TimescaleDB.
    Timescale,
}

impl Dialect {
    /// Returns the name used in `storage_contract` and in settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Timescale => "timescale",
        }
    }

    /// Reads a name as [`Dialect::as_str`] writes it.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Postgres, Self::Timescale].into_iter().find(|dialect| dialect.as_str() == name)
    }
}

/// Lists the migrations of a dialect in the order in which they run: the common ones, then the dialect's own.
pub fn of(dialect: Dialect) -> Vec<Migration> {
    let own = match dialect {
        Dialect::Postgres => postgres::migrations::runner(),
        Dialect::Timescale => timescale::migrations::runner(),
    };
    let mut all = common::migrations::runner().get_migrations().clone();
    all.extend(own.get_migrations().iter().cloned());
    all.sort_by_key(Migration::version);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_counts_from_one_to_the_version() {
        for dialect in [Dialect::Postgres, Dialect::Timescale] {
            let versions: Vec<_> = of(dialect).iter().map(Migration::version).collect();
            assert_eq!(versions, (1..=VERSION).collect::<Vec<_>>(), "{dialect:?}");
            assert_eq!(Dialect::from_name(dialect.as_str()), Some(dialect));
        }
    }
}
