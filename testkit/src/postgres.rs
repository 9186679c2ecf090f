//! A database of one test's own, migrated.

use chassis::postgres::Settings;
use schema::migrations::{self, Dialect};
use tokio_postgres::Client;

/// A database that is dropped with this value.
pub struct Database {
    name: String,
    url: String,
    /// The dialect of its migrations: what the server offers.
    pub dialect: Dialect,
}

impl Database {
    /// Creates a database on the test server and migrates it.
    ///
    /// # Panics
    /// The server refuses it.
    pub async fn create() -> Self {
        let database = Self::create_empty().await;
        let mut client = database.client().await;
        chassis::postgres::migrate(&mut client, &migrations::of(database.dialect)).await.unwrap();
        database
    }

    /// Creates a database without any table.
    ///
    /// # Panics
    /// The server refuses it.
    pub async fn create_empty() -> Self {
        let server = crate::setting("TEST_DATABASE_URL");
        let name = crate::unique("test").replace('-', "_");
        let admin = Settings::local(&server).connect().await.unwrap();
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let offered = "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')";
        let timescale: bool = admin.query_one(offered, &[]).await.unwrap().get(0);
        let (base, _) = server.rsplit_once('/').expect("TEST_DATABASE_URL ends in /database");
        let dialect = if timescale { Dialect::Timescale } else { Dialect::Postgres };
        Self { url: format!("{base}/{name}"), name, dialect }
    }

    /// Returns the connection URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the settings that a service is given.
    pub fn settings(&self) -> Settings {
        Settings::local(&self.url)
    }

    /// Opens a connection.
    ///
    /// # Panics
    /// The server refuses it.
    pub async fn client(&self) -> Client {
        self.settings().connect().await.unwrap()
    }

    /// Returns the first column of the first row as a number.
    ///
    /// # Panics
    /// The query fails or returns no bigint.
    pub async fn count(&self, sql: &str) -> i64 {
        self.client().await.query_one(sql, &[]).await.unwrap().get(0)
    }
}

impl Drop for Database {
    /// Drops the database on a thread of its own, because a drop cannot wait in an async test.
    fn drop(&mut self) {
        let (server, name) = (crate::setting("TEST_DATABASE_URL"), self.name.clone());
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                // A replication slot would keep the database; the test that made it is over.
                let admin = Settings::local(&server).connect().await?;
                let slots = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                             WHERE database = $1 AND NOT active";
                admin.execute(slots, &[&name]).await?;
                admin.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await?;
                anyhow::Ok(())
            })
        });
        if let Ok(Err(error)) = dropped.join() {
            eprintln!("test database {} stays behind: {error:#}", self.name);
        }
    }
}
