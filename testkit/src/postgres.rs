//! A database of one test's own, migrated.

use crate::server::Server;
use chassis::postgres::Settings;
use schema::migrations::Dialect;
use tokio::sync::OnceCell;
use tokio_postgres::Client;

/// Returns the dialect that the test server offers; it is asked once for each test program.
async fn offered() -> Dialect {
    static OFFERED: OnceCell<Dialect> = OnceCell::const_new();
    let ask = async || {
        let client = Settings::local(crate::setting("TEST_DATABASE_URL")).connect().await.unwrap();
        iotctl::database::offered(&client).await.unwrap()
    };
    *OFFERED.get_or_init(ask).await
}

/// Lists the dialects that the test server understands: its own and the portable one, and on PostgreSQL the
/// plain one.
///
/// # Panics
/// The server does not answer.
pub async fn dialects() -> Vec<Dialect> {
    match offered().await {
        Dialect::Distributed => vec![Dialect::Distributed],
        Dialect::Postgres => vec![Dialect::Postgres, Dialect::Distributed],
        Dialect::Timescale => vec![Dialect::Postgres, Dialect::Distributed, Dialect::Timescale],
    }
}

/// A database that is dropped with this value.
pub struct Database {
    name: String,
    url: String,
    /// URL of a database that is there before and after this one.
    server: String,
    /// The dialect of its migrations; of an empty one, what the server offers.
    pub dialect: Dialect,
}

impl Database {
    /// Creates a database on the test server and migrates it in the dialect that the server offers.
    ///
    /// # Panics
    /// The server refuses it.
    pub async fn create() -> Self {
        Self::migrated(None).await
    }

    /// Creates a database and migrates it in one of [`dialects`].
    ///
    /// # Panics
    /// The server refuses it.
    pub async fn create_with(dialect: Dialect) -> Self {
        Self::migrated(Some(dialect)).await
    }

    /// Creates a database on a server of the test's own and migrates it in the dialect that this one offers.
    ///
    /// # Panics
    /// The server refuses it.
    pub async fn create_on(server: &Server) -> Self {
        let offered =
            iotctl::database::offered(&Settings::local(server.url()).connect().await.unwrap()).await;
        Self::empty_on(server.url(), offered.unwrap()).await.migrate(None).await
    }

    async fn migrated(wanted: Option<Dialect>) -> Self {
        Self::create_empty().await.migrate(wanted).await
    }

    async fn migrate(self, wanted: Option<Dialect>) -> Self {
        let mut database = self;
        let mut client = database.client().await;
        if wanted.unwrap_or(database.dialect) == Dialect::Timescale {
            // Jobs of its own would refresh hours in the middle of a test.
            for quiet in
                ["CREATE EXTENSION timescaledb", "SELECT _timescaledb_functions.stop_background_workers()"]
            {
                client.batch_execute(quiet).await.unwrap();
            }
        }
        database.dialect = iotctl::database::migrate(&mut client, wanted).await.unwrap();
        database
    }

    /// Creates a database without any table.
    ///
    /// # Panics
    /// The server refuses it.
    pub async fn create_empty() -> Self {
        Self::empty_on(crate::setting("TEST_DATABASE_URL"), offered().await).await
    }

    async fn empty_on(server: String, dialect: Dialect) -> Self {
        let name = crate::unique("test").replace('-', "_");
        let admin = Settings::local(&server).connect().await.unwrap();
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let (base, _) = server.rsplit_once('/').expect("the server's URL ends in /database");
        let database = Self { url: format!("{base}/{name}"), name, server: server.clone(), dialect };
        if has_citus(&admin).await {
            // A node alone takes distributed tables, too.
            database.client().await.batch_execute("CREATE EXTENSION citus").await.unwrap();
        }
        database
    }

    /// Says whether the tables of readings are spread by Citus, which has no triggers on them.
    ///
    /// # Panics
    /// The server does not answer.
    pub async fn has_citus(&self) -> bool {
        has_citus(&self.client().await).await
    }

    /// Brings the hourly read model up to date where the server does it by itself, later.
    ///
    /// # Panics
    /// The server refuses it.
    pub async fn refresh_hours(&self) {
        if self.dialect == Dialect::Timescale {
            let client = self.client().await;
            for part in ["late", "recent"] {
                client.batch_execute(&format!("CALL refresh_{part}_readings(0, NULL)")).await.unwrap();
            }
        }
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

async fn has_citus(client: &Client) -> bool {
    let there = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')";
    client.query_one(there, &[]).await.unwrap().get(0)
}

impl Drop for Database {
    /// Drops the database on a thread of its own, because a drop cannot wait in an async test.
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
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
