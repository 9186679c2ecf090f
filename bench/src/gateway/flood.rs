//! As fast as acknowledgements come: each connection keeps its window full.

use super::link::Link;
use super::service::Service;
use super::{Run, Stage};
use anyhow::{Context as _, Result, ensure};
use std::time::Instant;
use tokio::task::JoinSet;

/// Publishes `messages` over all connections and waits for every PUBACK; checks that Kafka holds each.
pub(super) async fn run(stage: &Stage, service: &Service, messages: u32) -> Result<Run> {
    let links = links(stage, service).await?;
    let window = u32::from(stage.options.window);
    let share = messages.div_ceil(u32::try_from(links.len())?);
    let held = stage.readings.held()?;
    let (started, cpu) = (Instant::now(), service.cpu()?);
    let mut tasks = JoinSet::new();
    for link in links {
        tasks.spawn(flood(link, share, window));
    }
    let mut acked = 0;
    while let Some(ended) = tasks.join_next().await {
        acked += i64::from(ended??.acked);
    }
    let run = Run { messages: acked, took: started.elapsed(), cpu: service.cpu()?.saturating_sub(cpu) };
    let stored = stage.readings.held()? - held;
    ensure!(stored == acked, "{acked} messages are acknowledged and {stored} are stored");
    Ok(run)
}

async fn flood(mut link: Link, messages: u32, window: u32) -> Result<Link> {
    while link.acked < messages {
        let room = (window - link.in_flight()).min(messages - link.sent);
        if room > 0 {
            link.publish(room).await?;
        }
        link.acknowledged().await?;
    }
    Ok(link)
}

/// Connects every device that publishes; half of them in each version.
pub(super) async fn links(stage: &Stage, service: &Service) -> Result<Vec<Link>> {
    let mut links = Vec::new();
    for (device, version) in stage.publishers().iter().zip([4, 5].into_iter().cycle()) {
        let mut link = Link::open(service.port, device, version).await.context("connect a publisher")?;
        link.load(device, version, stage.options.window);
        links.push(link);
    }
    Ok(links)
}
