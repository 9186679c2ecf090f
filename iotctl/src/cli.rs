//! The commands and their options.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use chassis::config::Env;
use clap::{Args, Parser, Subcommand, ValueEnum};
use schema::Timestamp;
use schema::migrations::Dialect;
use serde_json::json;

use crate::api::Api;
use crate::database;
use crate::pki::Pki;
use crate::process;
use crate::progress::Progress;
use crate::servers::run::{self, Given};
use crate::services::{Protocol, Service};
use crate::simulate::{self, Profile};
use crate::state::{Ports, State};
use crate::token::Signer;
use crate::topics;
use crate::up;
use crate::verify::{self, Window};

/// How long the token of a simulation is valid; devices are registered at its start.
const SIMULATION_TOKEN_TTL: Duration = Duration::from_secs(3600);

/// Runs and serves a Fieldline installation from the command line.
#[derive(Debug, Parser)]
#[command(name = "iotctl", version)]
struct Arguments {
    /// Shifts every port of the local installation [default: as the running one has it, or 0].
    #[arg(long, env = "FIELDLINE_PORT_OFFSET", global = true)]
    port_offset: Option<u16>,
    /// Folder of everything that a local installation writes [default: the nearest .fieldline].
    #[arg(long, env = "FIELDLINE_STATE", global = true)]
    state: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts the whole platform with a simulator and runs it until Ctrl-C.
    Up {
        /// Also runs this optional service; several by repeating the option.
        #[arg(long = "with", value_name = "SERVICE", value_parser = parse_optional_service)]
        with: Vec<&'static Service>,
        /// File with an administrator's URL of a PostgreSQL server to use instead of starting one; `clean`
        /// leaves its database.
        #[arg(long)]
        database_url_file: Option<PathBuf>,
        /// CA of that server's certificate; required unless it is on this host.
        #[arg(long, requires = "database_url_file")]
        database_ca_file: Option<PathBuf>,
        /// The SQL to use for a new database; a database keeps what it began with.
        #[arg(long, value_enum, env = "STORAGE_DIALECT", default_value_t = StorageDialect::Auto)]
        dialect: StorageDialect,
    },
    /// Stops a platform that runs in another terminal.
    Down,
    /// Stops it and forgets its certificates, databases, topics and logs.
    Clean,
    /// Publishes as devices that are not there, or replays a file.
    Simulate(SimulateOptions),
    /// Issues certificates.
    #[command(subcommand)]
    Pki(PkiCommand),
    /// Prints a token for the REST interfaces.
    Token {
        /// What its user may do; several roles by repeating the option.
        #[arg(long = "role", value_enum, required = true)]
        roles: Vec<Role>,
        /// How long it is valid: a number and `s`, `m`, `h` or `d`.
        #[arg(long, default_value = "12h", value_parser = parse_duration)]
        ttl: Duration,
        /// Whom it names.
        #[arg(long, default_value = "local-user")]
        subject: String,
    },
    /// Kafka topics. The broker is named by KAFKA_BOOTSTRAP_SERVERS and the variables that services take beside it.
    #[command(subcommand)]
    Topics(TopicsCommand),
    /// Brings a database to this release's schema. It is named by DATABASE_URL_FILE, as services take it; its user owns the tables.
    Migrate {
        /// The SQL to use for a new database; a database keeps what it began with.
        #[arg(long, value_enum, env = "STORAGE_DIALECT", default_value_t = StorageDialect::Auto)]
        dialect: StorageDialect,
        /// Then gives the services' roles (`command_svc`, …), which must be there, their rights and no others.
        #[arg(long)]
        grants: bool,
    },
    /// Audits what is stored; exit code 1 when something is wrong. The database and the broker are named as
    /// for services, or are those of the local installation.
    #[command(subcommand)]
    Verify(VerifyCommand),
    /// Private PostgreSQL and Kafka servers.
    #[command(subcommand)]
    Servers(ServersCommand),
}

#[derive(Debug, Args)]
struct SimulateOptions {
    /// How many devices; they are named after their profiles and numbered.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=i64::from(simulate::DEVICES_MAX)))]
    devices: u16,
    /// A device by name instead, such as thermostat-2; may be repeated. Of a CSV file without a sensor column: its one sensor.
    #[arg(long = "sensor")]
    sensors: Vec<String>,
    /// One profile for all, instead of each in turn or as a name begins.
    #[arg(long, value_enum)]
    profile: Option<Profile>,
    /// Messages of each device per second.
    #[arg(long, default_value_t = 1.0, value_parser = parse_rate)]
    rate: f64,
    /// How long to publish once all are connected, such as 10m [default: until Ctrl-C].
    #[arg(long, value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Replays this file with its own timestamps instead.
    #[arg(long)]
    csv: Option<PathBuf>,
    /// The file's column with the time.
    #[arg(long, default_value = "timestamp")]
    timestamp_column: String,
    /// The file's column with the sensor.
    #[arg(long, default_value = "sensor")]
    sensor_column: String,
    /// Type under which the file's sensors are registered.
    #[arg(long, default_value = "THERMOSTAT")]
    device_type: String,
}

#[derive(Debug, Subcommand)]
enum PkiCommand {
    /// Issues a device's certificate, or finds the one it has, and prints where it is and its fingerprint.
    Device {
        /// Its sensor id, which becomes the certificate's common name.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
enum TopicsCommand {
    /// Makes the topics that are not there yet.
    Create {
        /// Partitions of readings, alerts and alert state.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i32).range(1..=10_000))]
        partitions: i32,
        /// Copies of each partition.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=7))]
        replication_factor: i32,
    },
}

#[derive(Debug, Subcommand)]
enum VerifyCommand {
    /// Compares the hourly read model with the raw rows and prints every hour that differs.
    Aggregates(WindowOptions),
    /// Compares what the readings topic holds with what the table holds and prints what is missing or double.
    Ledger(WindowOptions),
}

#[derive(Debug, Args)]
struct WindowOptions {
    /// Begin of the time to look at: an instant such as 2026-01-31T12:00:00Z, or a UTC day.
    #[arg(long, value_parser = parse_instant)]
    from: Timestamp,
    /// Its end, which is not looked at itself.
    #[arg(long, value_parser = parse_instant)]
    to: Timestamp,
}

#[derive(Debug, Subcommand)]
enum ServersCommand {
    /// Runs a command with servers of its own, named by TEST_DATABASE_URL and TEST_KAFKA_BOOTSTRAP.
    Run {
        /// A server to use instead of starting one.
        #[arg(long, env = run::DATABASE_URL, hide_env_values = true)]
        database_url: Option<String>,
        /// A broker to use instead of starting one.
        #[arg(long, env = run::KAFKA_BOOTSTRAP)]
        kafka_bootstrap: Option<String>,
        /// PostgreSQL waits for the disk at each commit, as in production: for measurements.
        #[arg(long)]
        durable: bool,
        /// A setting of the PostgreSQL that is started, as NAME=VALUE.
        #[arg(long = "postgres-setting", value_name = "NAME=VALUE")]
        postgres_settings: Vec<String>,
        /// The command and its arguments, after `--`.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

/// What a token's user may do.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    /// Publishes readings over HTTP.
    Device,
    /// Reads aggregates and latest values.
    Analyst,
    /// Manages devices and thresholds.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Analyst => "analyst",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// The SQL that a database is migrated with.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum StorageDialect {
    /// What the server offers.
    Auto,
    /// TimescaleDB: hypertable, compression, continuous aggregate.
    Timescale,
    /// Plain PostgreSQL: day partitions.
    Postgres,
    /// Portable SQL that shards by sensor: YugabyteDB, CockroachDB, Citus.
    Distributed,
}

impl StorageDialect {
    fn wanted(self) -> Option<Dialect> {
        match self {
            Self::Auto => None,
            Self::Timescale => Some(Dialect::Timescale),
            Self::Postgres => Some(Dialect::Postgres),
            Self::Distributed => Some(Dialect::Distributed),
        }
    }
}

/// Runs the command that the arguments name; a failure is printed once, as one line per cause.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    chassis::install_tls_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = runtime.context("start the runtime").and_then(|runtime| {
        let outcome = runtime.block_on(dispatch(arguments));
        // A question that a Kafka client still asks on its own thread holds nobody up.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("iotctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(arguments: Arguments) -> Result<u8> {
    let named = arguments.state.as_deref();
    let offset = arguments.port_offset;
    let progress = Progress::new();
    match arguments.command {
        Command::Up { with, database_url_file, database_ca_file, dialect } => {
            let ports = Ports::new(offset.unwrap_or(0))?;
            let database = database_url_file.map(|file| given_server(&file, database_ca_file)).transpose()?;
            let options = up::Options { with, database, dialect: dialect.wanted() };
            up::up(&State::open(named)?, ports, &options, &progress).await?;
        }
        Command::Down => match State::find(named)? {
            Some(state) => up::down(&state, &progress).await?,
            None => progress.note("nothing runs here"),
        },
        Command::Clean => match State::find(named)? {
            Some(state) => up::clean(&state, &progress).await?,
            None => progress.note("nothing to forget here"),
        },
        Command::Simulate(options) => {
            let state = State::open_installed(named)?;
            let ports = up::ports(&state, offset)?;
            simulate(&state, ports, options, &progress).await?;
        }
        Command::Pki(PkiCommand::Device { name }) => {
            print_device(&State::open_installed(named)?, &name, &progress)?;
        }
        Command::Token { roles, ttl, subject } => {
            let roles: Vec<&str> = roles.into_iter().map(Role::as_str).collect();
            let signer = open_signer(&State::open_installed(named)?, &progress)?;
            println!("{}", signer.mint(&subject, &roles, ttl)?);
        }
        Command::Migrate { dialect, grants } => {
            let mut client = from_env(chassis::postgres::Settings::from_env)?.connect().await?;
            let dialect = database::migrate(&mut client, dialect.wanted()).await?;
            if grants {
                database::grant(&client, dialect).await?;
            }
            println!("dialect {}", dialect.as_str());
        }
        Command::Verify(command) => {
            let env = verify::environment(State::find(named)?.as_ref(), offset, &progress)?;
            return verify(command, env, &progress).await;
        }
        Command::Topics(TopicsCommand::Create { partitions, replication_factor }) => {
            let broker = from_env(chassis::kafka::Settings::from_env)?;
            let settings = topics::Settings { broker, partitions, replication: replication_factor };
            let made = topics::create(&settings).await?;
            println!("made {made} of {} topics; the others were there", schema::topics::ALL.len());
        }
        Command::Servers(ServersCommand::Run {
            database_url,
            kafka_bootstrap,
            durable,
            postgres_settings,
            command,
        }) => {
            let given = Given { database_url, kafka_bootstrap, durable, postgres_settings };
            return run::run(&State::open(named)?, &given, &command, &progress).await;
        }
    }
    Ok(0)
}

async fn verify(command: VerifyCommand, mut env: Env, progress: &Progress) -> Result<u8> {
    let database = chassis::postgres::Settings::from_env(&mut env);
    let broker = match command {
        VerifyCommand::Aggregates(_) => None,
        VerifyCommand::Ledger(_) => Some(chassis::kafka::Settings::from_env(&mut env)),
    };
    env.finish().context("name what to audit as a service is told, or go where `make up` was run")?;
    let client = database.connect().await?;
    let findings = verify::Findings::new();
    let is_clean = match command {
        VerifyCommand::Aggregates(WindowOptions { from, to }) => {
            let window = Window::new(from, to)?;
            let outcome = verify::aggregates::compare(&client, window, progress, &findings).await?;
            let verify::aggregates::Outcome { compared, differing, lost } = outcome;
            let json = json!({"summary": {"compared": compared, "differing": differing, "lost": lost}});
            let line =
                format!("{compared} hours compared, {differing} differ; {lost} dropped days have lost hours");
            findings.found(&line, &json);
            differing + lost == 0
        }
        VerifyCommand::Ledger(WindowOptions { from, to }) => {
            let broker = broker.context("it was just read")?;
            let window = Window::new(from, to)?;
            let outcome = verify::ledger::compare(&client, &broker, window, progress, &findings).await?;
            findings.found(&outcome.to_string(), &json!({"summary": outcome}));
            outcome.is_clean()
        }
    };
    Ok(u8::from(!is_clean))
}

async fn simulate(state: &State, ports: Ports, options: SimulateOptions, progress: &Progress) -> Result<()> {
    let pki = Pki::open_or_create(&state.pki())?;
    let token =
        Signer::open_or_create(&state.jwt())?.mint("simulator", &["operator"], SIMULATION_TOKEN_TTL)?;
    let api = Api::local(ports, token)?;
    let broker =
        simulate::Broker { host: "127.0.0.1".to_owned(), port: ports.of(Service::GATEWAY, Protocol::Mqtt) };
    let site = simulate::Site { pki: &pki, api: &api, broker, progress };
    let started = Instant::now();
    let outcome = match options.csv {
        Some(file) => {
            ensure!(options.sensors.len() <= 1, "a file without a sensor column has one sensor");
            let columns = simulate::csv::Columns {
                sensor: options.sensor_column,
                sensor_id: options.sensors.into_iter().next(),
                timestamp: options.timestamp_column,
            };
            site.replay(&simulate::Replayed { file, columns, device_type: options.device_type }).await?
        }
        None => {
            let cast = simulate::cast(options.devices, &options.sensors, options.profile)?;
            let every = Duration::from_secs_f64(1.0 / options.rate);
            site.invent(
                &simulate::Invented { cast, every, duration: options.duration },
                process::told_to_stop(),
            )
            .await?
        }
    };
    let elapsed = started.elapsed();
    if std::io::stdout().is_terminal() {
        println!("{outcome}, {:.1} s", elapsed.as_secs_f64());
    } else {
        println!("{}", outcome.json(elapsed));
    }
    Ok(())
}

/// Reads settings as a service reads them.
fn from_env<C>(read: impl FnOnce(&mut Env) -> C) -> Result<C> {
    let mut env = Env::process();
    let settings = read(&mut env);
    env.finish()?;
    Ok(settings)
}

/// Reads the server that a file names.
fn given_server(url_file: &Path, ca: Option<PathBuf>) -> Result<database::Server> {
    let url = std::fs::read_to_string(url_file).with_context(|| format!("read {}", url_file.display()))?;
    // Services run in the state folder.
    let ca = ca.map(std::path::absolute).transpose().context("find the CA of the database")?;
    database::Server::new(&url, ca)
}

/// Opens the key that tokens are signed with; who gets a new one hears who will take its tokens.
fn open_signer(state: &State, progress: &Progress) -> Result<Signer> {
    let is_new = !Signer::exists(&state.jwt());
    let signer = Signer::open_or_create(&state.jwt())?;
    if is_new {
        let jwks = signer.jwks_file();
        progress.note(&format!(
            "made a signing key; services take its tokens with JWT_JWKS_FILE={}",
            jwks.display()
        ));
    }
    Ok(signer)
}

fn print_device(state: &State, name: &str, progress: &Progress) -> Result<()> {
    let is_new = !Pki::exists(&state.pki());
    let pki = Pki::open_or_create(&state.pki())?;
    if is_new {
        let ca = pki.device_ca_file();
        progress.note(&format!(
            "made authorities; a gateway takes their devices with TLS_CLIENT_CA_FILE={}",
            ca.display()
        ));
    }
    let files = pki.device_files(name)?;
    println!("ca           {}", pki.ca_file().display());
    println!("certificate  {}", files.cert.display());
    println!("key          {}", files.key.display());
    println!("fingerprint  {}", files.fingerprint_sha256_hex);
    Ok(())
}

/// Finds an optional service by its name.
fn parse_optional_service(name: &str) -> Result<&'static Service> {
    let names = Service::optional().map(|service| service.name).collect::<Vec<_>>().join(", ");
    let found = Service::optional().find(|service| service.name == name);
    found.with_context(|| format!("expected one of: {names}"))
}

/// Reads a number with the unit `s`, `m`, `h` or `d`.
fn parse_duration(text: &str) -> Result<Duration> {
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let seconds = units
        .iter()
        .find_map(|&(unit, seconds)| text.strip_suffix(unit)?.parse::<u32>().ok()?.checked_mul(seconds));
    match seconds {
        Some(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds.into())),
        _ => bail!("expected a number and s, m, h or d, such as 12h"),
    }
}

/// Reads an instant, or a UTC day as its first one.
fn parse_instant(text: &str) -> Result<Timestamp> {
    let day = || Timestamp::parse(&format!("{text}T00:00:00Z"));
    Timestamp::parse(text).or_else(|_| day()).context("expected 2026-01-31T12:00:00Z or 2026-01-31")
}

/// Reads a rate. Whether the gateway and this machine keep up with it shows at the end.
fn parse_rate(text: &str) -> Result<f64> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.001..=10_000.0).contains(rate));
    rate.context("expected messages per second from 0.001 to 10000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_fit_together() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }

    #[test]
    fn instant_is_rfc_3339_or_a_utc_day() {
        assert_eq!(parse_instant("2026-01-31").unwrap(), parse_instant("2026-01-31T01:00:00+01:00").unwrap());
        for text in ["", "yesterday", "2026-02-30", "2026-01-31T12:00:00"] {
            assert!(parse_instant(text).is_err(), "{text}");
        }
    }

    #[test]
    fn duration_is_a_number_with_a_unit() {
        assert_eq!(parse_duration("12h").unwrap(), Duration::from_secs(43_200));
        for text in ["", "h", "12", "0s", "-1h", "99999999d", "1.5h", "12hh"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
