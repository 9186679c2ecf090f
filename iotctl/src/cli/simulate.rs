//! `iotctl simulate`.

use super::parse_duration;
use crate::api::Api;
use crate::pki::Pki;
use crate::process;
use crate::progress::Progress;
use crate::services::{Protocol, Service};
use crate::simulate::{self, Profile};
use crate::state::{Ports, State};
use crate::token::Signer;
use anyhow::{Context as _, Result, ensure};
use clap::Args;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Validity of the token of a simulation; devices are registered at its start.
const TOKEN_TTL: Duration = Duration::from_secs(3600);

#[derive(Debug, Args)]
pub(super) struct SimulateOptions {
    /// How many devices; they are named after their profiles and numbered.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=i64::from(simulate::DEVICES_MAX)))]
    devices: u16,
    /// A device by name instead, such as thermostat-2; may be repeated. Of a CSV file without a sensor
    /// column: its one sensor.
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

/// Publishes as devices that are not there, or replays a file.
pub(super) async fn run(
    state: &State,
    ports: Ports,
    options: SimulateOptions,
    progress: &Progress,
) -> Result<()> {
    let pki = Pki::open_or_create(&state.pki())?;
    let token = Signer::open_or_create(&state.jwt())?.mint("simulator", &["operator"], TOKEN_TTL)?;
    let api = Api::local(ports, token)?;
    let broker =
        simulate::Broker { host: "127.0.0.1".to_owned(), port: ports.of(Service::GATEWAY, Protocol::Mqtt) };
    let environment = simulate::Environment { pki: &pki, api: &api, broker, progress };
    let started = Instant::now();
    let outcome = match options.csv {
        Some(file) => {
            ensure!(options.sensors.len() <= 1, "a file without a sensor column has one sensor");
            let columns = simulate::csv::Columns {
                sensor: options.sensor_column,
                sensor_id: options.sensors.into_iter().next(),
                timestamp: options.timestamp_column,
            };
            environment
                .replay(&simulate::Replayed { file, columns, device_type: options.device_type })
                .await?
        }
        None => {
            let devices = simulate::list_devices(options.devices, &options.sensors, options.profile)?;
            let every = Duration::from_secs_f64(1.0 / options.rate);
            environment
                .generate(
                    &simulate::Generated { devices, every, duration: options.duration },
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

/// Reads a rate. Whether the gateway and this machine keep up with it shows at the end.
fn parse_rate(text: &str) -> Result<f64> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.001..=10_000.0).contains(rate));
    rate.context("expected messages per second from 0.001 to 10000")
}
