//! query-svc on a real socket and a real database.
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod aggregates;
mod alerts;
mod hours;
mod latest;
mod readings;
mod trust;

use chassis::rest::Settings;
use query_svc::{Cache, Config};
use schema::migrations::Dialect;
use std::time::Duration;
use testkit::postgres::Database;
use testkit::rest::{Answer, Rest};

/// Age to which an answer is kept until the end of a test.
const EVER: Duration = Duration::from_secs(3_600);

/// What a caller may write instead of a name, a number or an instant.
const HOSTILE: [&str; 20] = [
    "%00",
    "a%00b",
    "%ff%fe",
    "'",
    "';DROP%20TABLE%20sensor_latest;--",
    "1%20OR%201=1",
    "%24%7B7*7%7D",
    "$1",
    "../../etc/passwd",
    "%0d%0aSet-Cookie:%20a=b",
    "NaN",
    "Infinity",
    "-1",
    "1e308",
    "9223372036854775808",
    "99999999999999999999999999999999",
    "9999-12-31T23:59:60Z",
    "-262144-01-01T00:00:00Z",
    "2026-01-01T00:00:00-99:99",
    "%F0%9F%92%A9",
];

struct World {
    database: Database,
    rest: Rest,
}

async fn start(open_age_max: Duration, closed_age_max: Duration) -> World {
    start_over(Database::create().await, open_age_max, closed_age_max).await
}

async fn start_with(dialect: Dialect, open_age_max: Duration, closed_age_max: Duration) -> World {
    start_over(Database::create_with(dialect).await, open_age_max, closed_age_max).await
}

async fn start_over(database: Database, open_age_max: Duration, closed_age_max: Duration) -> World {
    let settings = database.settings();
    let cache = Cache { bytes_max: 1 << 20, open_age_max, closed_age_max };
    let rest = Rest::start(|http, auth, chassis| {
        query_svc::run(Config { rest: Settings { http, auth, database: settings.clone() }, cache }, chassis)
    })
    .await;
    World { database, rest }
}

impl World {
    async fn sql(&self, text: &str) {
        self.database.client().await.batch_execute(text).await.unwrap();
    }

    /// Stores an hour of two readings, as the dialect keeps it.
    async fn hour(&self, sensor: &str, metric: &str, bucket: &str, low: f64, high: f64) {
        let sum = low + high;
        let of = format!("'{sensor}', '{metric}'");
        match self.database.dialect {
            Dialect::Postgres | Dialect::Distributed => {
                // Plain PostgreSQL computes the average itself.
                let is_plain = self.database.dialect == Dialect::Postgres;
                let avg = if is_plain { "DEFAULT".to_owned() } else { (sum / 2.0).to_string() };
                self.sql(&format!(
                    "INSERT INTO sensor_reading_hourly_aggregates \
                       (bucket, sensor_id, metric, device_type, zone_id, avg, min, max, count, sum) \
                     VALUES ('{bucket}', {of}, 'T', 'z', {avg}, {low}, {high}, 2, {sum}) \
                     ON CONFLICT (sensor_id, metric, bucket, device_type, zone_id) DO UPDATE \
                       SET min = excluded.min, max = excluded.max, sum = excluded.sum{avg_too}",
                    avg_too = if is_plain { "" } else { ", avg = excluded.avg" }
                ))
                .await;
            }
            Dialect::Timescale => {
                self.sql(&format!(
                    "DELETE FROM readings_ingestion WHERE (sensor_id, metric) = ({of}) AND reading_at = '{bucket}'; \
                     INSERT INTO readings_ingestion SELECT {of}, '{bucket}', value, gen_random_uuid(), now(), 'T', 'z' \
                     FROM unnest(ARRAY[{low}::float8, {high}]) AS value"
                ))
                .await;
            }
        }
    }

    /// Takes the database away until the answer of [`World::give_back`]; returns an admin's connection.
    async fn take_away(&self) -> tokio_postgres::Client {
        let admin = chassis::postgres::Settings::local(testkit::setting("TEST_DATABASE_URL"));
        let admin = admin.connect().await.unwrap();
        let name = self.name();
        let kick = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
        admin.batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false; {kick}")).await.unwrap();
        testkit::wait::until("not ready", async || (!self.is_ready()).then_some(())).await;
        admin
    }

    async fn give_back(&self, admin: &tokio_postgres::Client) {
        let name = self.name();
        admin.batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await.unwrap();
        testkit::wait::until("ready", async || self.is_ready().then_some(())).await;
    }

    fn name(&self) -> String {
        self.database.url().rsplit('/').next().unwrap().to_owned()
    }

    fn is_ready(&self) -> bool {
        self.rest.chassis.readiness.closed().is_empty()
    }

    /// How many answers about hours were read from the database.
    fn loads(&self) -> f64 {
        let families = self.rest.chassis.registry.gather();
        let loads = families.iter().find(|family| family.name() == "query_hours_loads_total").unwrap();
        loads.get_metric()[0].get_counter().get_value()
    }

    /// Asserts that no parameter of the route makes anything but a good or a bad request.
    async fn assert_survives(&self, path: &str, parameters: &[&str]) {
        for parameter in parameters {
            for hostile in HOSTILE {
                let joint = if path.contains('?') { '&' } else { '?' };
                let answer = self.rest.get(&format!("{path}{joint}{parameter}={hostile}")).await;
                if answer.status != 200 {
                    assert!(!answer.problem(400).bad_fields().is_empty(), "{parameter}={hostile}");
                }
            }
        }
        for query in ["&&&", "=", "%", "?", "#", "a=b", "a[]=1", "from", "%00=%00"] {
            let joint = if path.contains('?') { '&' } else { '?' };
            let answer = self.rest.get(&format!("{path}{joint}{query}")).await;
            assert!([200, 400].contains(&answer.status), "{query}: {:?}", answer.body);
        }
    }
}

fn texts(answer: &Answer, fields: &[&str]) -> Vec<String> {
    let resources = answer.body["resources"].as_array().unwrap();
    let text = |row: &serde_json::Value| {
        let parts: Vec<_> = fields.iter().map(|field| row[*field].to_string().replace('"', "")).collect();
        parts.join(" ")
    };
    resources.iter().map(text).collect()
}

fn numbers(answer: &Answer) -> [i64; 3] {
    ["total", "count", "offset"].map(|field| answer.body[field].as_i64().unwrap())
}

#[test]
fn unusable_settings_are_named_together() {
    let variables = [("HTTP_LISTEN", "here"), ("CACHE_MIB_MAX", "0"), ("CACHE_CLOSED_MS_MAX", "forever")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut env = chassis::config::Env::of(variables);
    Config::from_env(&mut env);
    let problems = env.finish().unwrap_err().to_string();
    for name in
        ["HTTP_LISTEN", "JWT_JWKS_FILE", "JWT_ISSUER", "JWT_AUDIENCE", "DATABASE_URL", "CACHE_MIB_MAX"]
    {
        assert!(problems.contains(name), "{name}: {problems}");
    }
    assert!(problems.contains("CACHE_CLOSED_MS_MAX"), "{problems}");
}
