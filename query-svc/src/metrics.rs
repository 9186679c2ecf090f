//! What query-svc counts beside its requests.

use chassis::Chassis;
use prometheus::IntCounter;

/// Counters of the service.
#[derive(Clone)]
pub(crate) struct Metrics {
    /// Answers about hours that were read from the database; every other request shared one or found it in the cache.
    pub(crate) hours_loads: IntCounter,
}

impl Metrics {
    /// Registers them.
    pub(crate) fn register(chassis: &Chassis) -> anyhow::Result<Self> {
        let hours_loads = IntCounter::new(
            "query_hours_loads_total",
            "Answers about hours that were read from the database; every other request shared one or found it in the cache.",
        )?;
        chassis.registry.register(Box::new(hours_loads.clone()))?;
        Ok(Self { hours_loads })
    }
}
