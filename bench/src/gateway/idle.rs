//! What a connection costs that is there and silent.

use super::link::Link;
use super::service::Service;
use super::{Stage, report};
use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _};

/// Handshakes that are under way at a time.
const HANDSHAKES: usize = 32;

/// Connects every device to a new gateway, once in each version, and prints the gateway's memory per
/// connection.
pub(super) async fn measure(stage: &Stage) -> Result<()> {
    for version in [4, 5] {
        let service = Service::start(stage, "gateway-idle", &stage.options.gateway(), false).await?;
        let before = service.resident_bytes()?;
        let devices = &stage.devices[..usize::from(stage.options.idle)];
        let connecting = devices.iter().map(|device| Link::open(service.port, device, version));
        let links: Vec<Link> = futures::stream::iter(connecting)
            .buffer_unordered(HANDSHAKES)
            .try_collect()
            .await
            .context("connect every device")?;
        report::idle(version, links.len(), before, service.resident_bytes()?);
        drop(links);
        service.stop().await?;
    }
    Ok(())
}
