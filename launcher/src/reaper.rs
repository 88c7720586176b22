//! Removes what no journal knows: containers and directories that a crash left before they were noted
//! or after they were done with.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use crate::config::Config;
use crate::container::{Engine, EngineError, POOL_LABEL};
use crate::journal::Journal;
use crate::workspace::remove;

/// Removes the containers of this worker and the directories of attempts that the journal does not hold.
///
/// # Errors
/// When the engine does not answer. A directory that cannot be removed is only said.
pub async fn reap<E: Engine>(
    engine: &E,
    journal: &Journal,
    config: &Config,
) -> Result<(), EngineError> {
    let known: HashSet<String> =
        journal.entries().iter().map(|entry| entry.attempt.name()).collect();
    let labels = [
        (POOL_LABEL, config.token.pool.to_string()),
        ("gantry.worker", journal.worker().to_string()),
    ];
    for name in engine.list(&labels).await? {
        if !known.contains(&name) {
            tracing::warn!(container = name, "removing a container that no journal knows");
            engine.remove(&name).await?;
        }
    }
    sweep(&config.state_dir.join("runs"), &known);
    Ok(())
}

fn sweep(directory: &Path, known: &HashSet<String>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if known.contains(&name) {
            continue;
        }
        tracing::warn!(directory = name, "removing a directory that no journal knows");
        if let Err(error) = remove(&entry.path()) {
            tracing::error!(directory = name, %error, "it cannot be removed");
        }
    }
}
