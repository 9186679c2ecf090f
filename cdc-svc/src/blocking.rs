//! Steps that block, off the runtime's own threads.

use anyhow::Context;

/// Runs a step that blocks on a thread of its own. A step that panics takes its caller, and so the process,
/// with it.
pub(crate) async fn blocking<T: Send + 'static>(
    step: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    match tokio::task::spawn_blocking(step).await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(error).context("run a blocking step"),
        },
    }
}
