//! Whether this host can run stages: what the engine says, where the mounts are, what room there is.
//!
//! Looked at before the pool hears of the launcher, and every 15 s from then on. What is wrong is a
//! complaint: while it lasts the worker takes no run, and its row says why.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::statvfs;

use crate::config::Config;
use crate::engine::{Engine, Needs};
use crate::explain::sentence;
use crate::health::{Complaints, Source};

/// How often a host that is well is looked at: as often as a heartbeat tells of it.
const EVERY: Duration = Duration::from_secs(15);
/// How often one that is not: it may be well again.
const AGAIN: Duration = Duration::from_secs(3);
/// How long each question may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Below this much room for the state directory no run can be taken: 256 MiB.
const ROOM: u64 = 256 << 20;
/// Below this much room for secrets no order can be written: 8 MiB.
const SECRETS_ROOM: u64 = 8 << 20;
/// What tells a launcher in a container that paths of the host may be none of its own.
const IN_A_CONTAINER: [&str; 2] = ["/.dockerenv", "/run/.containerenv"];

/// Looks again and again.
pub async fn watch<E: Engine>(
    engine: E,
    config: Arc<Config>,
    complaints: Complaints,
) -> Infallible {
    loop {
        let pause = if complaints.has(&Source::Host) { AGAIN } else { EVERY };
        tokio::time::sleep(pause).await;
        look(&engine, &config, &complaints).await;
        complaints.rest();
    }
}

/// Looks once, and complains or takes the complaint back.
pub async fn look<E: Engine>(engine: &E, config: &Arc<Config>, complaints: &Complaints) {
    let mut wrong = of_the_engine(engine, config).await;
    wrong.extend(of_the_disks(config).await);
    let was_wrong = complaints.has(&Source::Host);
    if wrong.is_empty() {
        if was_wrong {
            tracing::info!("this host can run stages again");
        }
        complaints.withdraw(&Source::Host);
        return;
    }
    let complaint = wrong.join("; ");
    if !was_wrong {
        tracing::error!(complaint, "this host cannot run stages, so it takes none until it can");
    }
    complaints.make(Source::Host, complaint);
}

async fn of_the_engine<E: Engine>(engine: &E, config: &Config) -> Vec<String> {
    let needs = Needs { network: &config.network, runtime: config.runtime.as_deref() };
    match tokio::time::timeout(PATIENCE, engine.lacks(&needs)).await {
        Ok(Ok(lacking)) => lacking,
        Ok(Err(error)) => vec![sentence(&error)],
        Err(_) => vec![format!("{} did not answer within {} s", engine.name(), PATIENCE.as_secs())],
    }
}

/// A disk that hangs must not hold up the runtime.
async fn of_the_disks(config: &Arc<Config>) -> Vec<String> {
    let config = Arc::clone(config);
    let looked = tokio::task::spawn_blocking(move || {
        let mut wrong = missing_mounts(&config);
        let disks = [
            ("GANTRY_STATE_DIR", &config.state_dir, ROOM),
            ("GANTRY_SECRETS_DIR", &config.secrets_dir, SECRETS_ROOM),
        ];
        wrong.extend(disks.into_iter().filter_map(|(name, path, least)| short(name, path, least)));
        wrong
    });
    match tokio::time::timeout(PATIENCE, looked).await {
        Ok(Ok(wrong)) => wrong,
        Ok(Err(error)) => vec![sentence(&error)],
        Err(_) => vec![format!(
            "the disk under GANTRY_STATE_DIR did not answer within {} s",
            PATIENCE.as_secs()
        )],
    }
}

fn missing_mounts(config: &Config) -> Vec<String> {
    if IN_A_CONTAINER.iter().any(|sign| Path::new(sign).exists()) {
        return Vec::new();
    }
    let missing = config.mounts.iter().filter(|mount| !mount.host.exists());
    let missing = missing.map(|mount| {
        format!(
            "{} is to be mounted into runs and is not on this host: create it, or take it out of SPACELIFT_WORKER_EXTRA_MOUNTS",
            mount.host.display()
        )
    });
    missing.collect()
}

/// What is wrong with the disk that holds `path`, if anything is.
fn short(name: &str, path: &Path, least: u64) -> Option<String> {
    let room = match statvfs(path) {
        Ok(room) => room,
        Err(error) => return Some(format!("{name} {} cannot be used: {error}", path.display())),
    };
    let left = room.f_bavail.saturating_mul(room.f_frsize);
    // Some file systems have no fixed number of files.
    let has_no_files = room.f_files > 0 && room.f_favail == 0;
    if left >= least && !has_no_files {
        return None;
    }
    let what = if has_no_files { "files".to_owned() } else { format!("{} MiB", least >> 20) };
    Some(format!(
        "the disk under {name} {} is full ({} MiB are left, and a run needs {what}): make room there",
        path.display(),
        left >> 20
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_room_is_named_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(short("GANTRY_STATE_DIR", directory.path(), 1), None);
        let full = short("GANTRY_STATE_DIR", directory.path(), u64::MAX).unwrap();
        assert!(full.starts_with("the disk under GANTRY_STATE_DIR"), "{full}");
        assert!(full.ends_with("make room there"), "{full}");
        let gone = short("GANTRY_STATE_DIR", &directory.path().join("none"), 1).unwrap();
        assert!(gone.contains("cannot be used"), "{gone}");
    }
}
