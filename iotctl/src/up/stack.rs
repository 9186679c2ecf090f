//! What runs, in the order in which it was started.

use super::programs::{Program, SIMULATOR};
use crate::process::{self, Process, Stop, end_leftover};
use crate::progress::Progress;
use crate::servers::kafka::Kafka;
use crate::servers::postgres::Postgres;
use crate::services::Service;
use crate::state::{Ports, State};
use anyhow::{Context as _, Result, bail};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Longest time for the services to become ready together; a debug build on two busy cores is the slowest
/// case.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// Interval between questions whether a service is ready.
const READY_POLL: Duration = Duration::from_millis(100);
/// Longest time for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Running servers and services. Dropping it ends them all; [`Stack::stop`] does it in order.
#[derive(Default)]
pub(super) struct Stack {
    pub(super) postgres: Option<Postgres>,
    pub(super) kafka: Option<Kafka>,
    services: Vec<Process>,
}

impl Stack {
    pub(super) fn start(&mut self, program: &Program, state: &State) -> Result<()> {
        let mut command = process::command(&program.path, Stop::TERM.signal);
        command.args(&program.arguments).env_clear().envs(program.environment.iter().cloned());
        command.current_dir(state.path(""));
        let log = state.path(&format!("logs/{}.log", program.name));
        let pid_file = state.path(&format!("run/{}.pid", program.name));
        self.services.push(Process::start(program.name, &mut command, &log, &pid_file, Stop::TERM)?);
        Ok(())
    }

    /// Waits until every service says that it is ready.
    pub(super) async fn wait_ready(&mut self, ports: Ports) -> Result<String> {
        // Nothing here is asked over https; the system may have no authorities.
        let client = reqwest_rustls::Client::builder().timeout(ANSWER_WITHIN).no_proxy();
        let client = client.tls_certs_only(Vec::new()).build();
        let client = client.context("make an HTTP client")?;
        let deadline = Instant::now() + READY_WITHIN;
        for place in 0..self.services.len() {
            let name = self.services[place].name();
            let service = Service::ALL.into_iter().find(|service| service.name == name);
            let service = service.with_context(|| format!("{name} is no service"))?;
            let url = format!("http://127.0.0.1:{}/readyz", ports.at(service.admin_port));
            loop {
                for service in &mut self.services {
                    service.ensure_running()?;
                }
                let said = match client.get(&url).send().await {
                    Ok(answer) if answer.status().is_success() => break,
                    Ok(answer) => answer.text().await.unwrap_or_default(),
                    Err(_) => "no answer".to_owned(),
                };
                if Instant::now() > deadline {
                    let service = &self.services[place];
                    bail!(
                        "{} is not ready ({}); its log is {}",
                        service.name(),
                        said.trim(),
                        service.log().display()
                    );
                }
                sleep(READY_POLL).await;
            }
        }
        Ok(self.services.iter().map(Process::name).collect::<Vec<_>>().join(", "))
    }

    /// Says once of each process that has ended how it did; the others go on. Without its servers nothing can
    /// go on.
    pub(super) fn report_ended(&mut self, progress: &Progress) -> Result<()> {
        self.services.retain_mut(|service| match service.ensure_running() {
            Ok(()) => true,
            Err(ended) => {
                progress.note(&format!("{ended}\nthe others go on"));
                false
            }
        });
        for server in
            self.postgres.iter_mut().map(Postgres::process).chain(self.kafka.iter_mut().map(Kafka::process))
        {
            server.ensure_running()?;
        }
        Ok(())
    }

    /// Says where to look when something does not come through, and what has ended.
    pub(super) fn describe(&mut self, state: &State) -> String {
        let ended = self.services.iter_mut().filter_map(|service| service.ensure_running().err());
        let ended: Vec<String> = ended.map(|error| error.to_string()).collect();
        format!("look into the logs in {}\n{}", state.path("logs").display(), ended.join("\n"))
            .trim()
            .to_owned()
    }

    /// Stops everything in the reverse order of its start; what does not end cleanly is reported and killed.
    pub(super) async fn stop(self, progress: &Progress) {
        let mut troubles = Vec::new();
        let started = Instant::now();
        let stop = async {
            for service in self.services.into_iter().rev() {
                let (name, log) = (service.name().to_owned(), service.log().display().to_string());
                match service.stop().await {
                    Ok(status) if status.success() => {}
                    Ok(status) => troubles.push(format!("{name} ended with {status}; its log is {log}")),
                    Err(error) => troubles.push(format!("{error:#}")),
                }
            }
            if let Some(kafka) = self.kafka {
                troubles.extend(kafka.stop().await.err().map(|error| format!("{error:#}")));
            }
            if let Some(postgres) = self.postgres {
                troubles.extend(postgres.stop().await.err().map(|error| format!("{error:#}")));
            }
            Ok(format!("after {:.1} s", started.elapsed().as_secs_f64()))
        };
        // It cannot fail: troubles are collected, because the rest has to stop all the same.
        let _ = progress.step("everything is stopped", stop).await;
        for trouble in troubles {
            progress.note(&trouble);
        }
    }
}

/// Ends what a killed run left behind, services before servers; says how many processes that were.
pub(super) async fn end_leftovers(state: &State) -> Result<usize> {
    let mut ended = 0;
    let services = [SIMULATOR].into_iter().chain(Service::ALL.into_iter().map(|service| service.name));
    let services = services.map(|name| (state.path(&format!("run/{name}.pid")), Stop::TERM));
    let servers = [
        (state.path("kafka/kafka.pid"), crate::servers::kafka::STOP),
        (state.path("postgres/postgres.pid"), crate::servers::postgres::STOP),
    ];
    for (pid_file, stop) in services.chain(servers) {
        ended += usize::from(end_leftover(&pid_file, stop).await?);
    }
    Ok(ended)
}
