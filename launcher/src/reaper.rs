//! Removes what no journal knows: containers and directories that a crash left before they were noted
//! or after they were done with, and containers that an engine made late.

use std::collections::HashSet;
use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::engine::{Engine, EngineError, POOL_LABEL};
use crate::journal::Journal;
use crate::workspace::remove;

/// How often it is looked.
pub const EVERY: Duration = Duration::from_secs(60);

/// Removes the containers of this worker and the directories of attempts that the journal does not hold.
///
/// # Errors
/// When the engine does not answer. What cannot be removed is only said: it stands in no run's way.
pub async fn reap<E: Engine>(
    engine: &E,
    journal: &Journal,
    config: &Config,
) -> Result<(), EngineError> {
    reap_containers(engine, journal, config).await?;
    sweep(&config.state_dir.join("runs"), &config.secrets_dir, &known(journal));
    Ok(())
}

/// Removes, again and again, what an engine that hung made when nobody waited for it any more: the container of a
/// stage that is over. Directories wait for the next start; a grant makes its own before it is known.
pub async fn watch<E: Engine>(engine: E, journal: Arc<Journal>, config: Arc<Config>) -> Infallible {
    loop {
        tokio::time::sleep(EVERY).await;
        if let Err(error) = reap_containers(&engine, &journal, &config).await {
            tracing::debug!(%error, "what is left over cannot be looked for now");
        }
    }
}

async fn reap_containers<E: Engine>(
    engine: &E,
    journal: &Journal,
    config: &Config,
) -> Result<(), EngineError> {
    let labels = [
        (POOL_LABEL, config.token.pool.to_string()),
        ("gantry.worker", journal.worker().to_string()),
    ];
    let found = engine.list(&labels).await?;
    // Only now: a stage is in the journal before its container is made, and until that is removed.
    let known = known(journal);
    for name in found {
        if !known.contains(&name) {
            tracing::warn!(container = name, "removing a container that no journal knows");
            if let Err(error) = engine.remove(&name).await {
                tracing::error!(container = name, %error, "it cannot be removed");
            }
        }
    }
    Ok(())
}

fn known(journal: &Journal) -> HashSet<String> {
    journal.entries().iter().map(|entry| entry.attempt.name()).collect()
}

/// The directory in memory belongs to others too, so only what has its counterpart here is ours.
fn sweep(directory: &Path, secrets: &Path, known: &HashSet<String>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if known.contains(&name) {
            continue;
        }
        tracing::warn!(directory = name, "removing a directory that no journal knows");
        let removed = remove(&secrets.join(&name)).and_then(|()| remove(&entry.path()));
        if let Err(error) = removed {
            tracing::error!(directory = name, %error, "it cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A journal that was moved away, or an order that its container never read.
    #[test]
    fn secrets_of_a_stage_that_nobody_knows_go_with_it() {
        let (state, secrets) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for name in ["known", "gone"] {
            fs::create_dir(state.path().join(name)).unwrap();
            fs::create_dir(secrets.path().join(name)).unwrap();
            fs::write(secrets.path().join(name).join("order.json"), "secret").unwrap();
        }
        fs::create_dir(secrets.path().join("another launcher's")).unwrap();
        sweep(state.path(), secrets.path(), &HashSet::from(["known".to_owned()]));
        let left = |path: &Path| {
            let names = fs::read_dir(path).unwrap();
            let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(left(state.path()), ["known"]);
        assert_eq!(left(secrets.path()), ["another launcher's", "known"]);
    }
}
