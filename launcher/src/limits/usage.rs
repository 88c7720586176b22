//! How much a run has written, told by what is left of the disks and now and then by looking.
//!
//! To sum up a directory costs more the larger it is, and the host's disks say at once when something
//! grows. So a run is measured when they have lost so much that it could be over its limit, and now and
//! then, because others free what it takes.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Limit;

/// A run is measured at least this often.
const SELDOM: Duration = Duration::from_mins(1);
/// How much longer than a measuring took there is none.
const REST: u32 = 20;
/// What `st_blocks` counts in.
const BLOCK: u64 = 512;

/// A run has more on the disks than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overrun {
    /// Bytes that it has.
    pub written: u64,
    /// Bytes that it may have.
    pub limit: u64,
}

impl fmt::Display for Overrun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the run has {} MiB in its workspace and its container, and may have {} MiB (GANTRY_DISK_LIMIT): write less, or raise the limit on the launcher",
            self.written >> 20,
            self.limit >> 20
        )
    }
}

/// What is known of a run's use of the disks.
#[derive(Debug)]
pub struct Usage {
    limit: u64,
    written: u64,
    /// What was free when it was measured.
    free: Option<u64>,
    /// No measuring before.
    not_before: Instant,
    /// None later.
    at_last: Instant,
}

impl Usage {
    /// Of a run that has `written` so much, with `free` bytes left; none if it has no limit. Unless one is
    /// set, it is half of what there would be without the run, if that can be told.
    #[must_use]
    pub fn begin(limit: Limit, written: u64, free: Option<u64>, took: Duration) -> Option<Self> {
        let limit = match limit {
            Limit::None => return None,
            Limit::At(bytes) => bytes,
            Limit::OfHost => free?.saturating_add(written) / 2,
        };
        let now = Instant::now();
        let mut usage = Self { limit, written, free: None, not_before: now, at_last: now };
        usage.measured(written, free, took);
        Some(usage)
    }

    /// Whether it could be over its limit, with so much free now, or was not looked at for long.
    #[must_use]
    pub fn is_due(&self, free: Option<u64>) -> bool {
        let now = Instant::now();
        let lost = self.free.unwrap_or(0).saturating_sub(free.unwrap_or(0));
        let may_be_over = self.written.saturating_add(lost) > self.limit;
        now >= self.not_before && (may_be_over || now >= self.at_last)
    }

    /// It was looked at, which took so long.
    pub fn measured(&mut self, written: u64, free: Option<u64>, took: Duration) {
        let now = Instant::now();
        let rest = took.saturating_mul(REST);
        (self.written, self.free) = (written, free);
        (self.not_before, self.at_last) = (now + rest, now + rest.max(SELDOM));
    }

    /// Whether it has more than it may.
    #[must_use]
    pub fn overrun(&self) -> Option<Overrun> {
        let Self { written, limit, .. } = *self;
        (written > limit).then_some(Overrun { written, limit })
    }
}

/// Free bytes of the disks of these directories together; none if none of them can be asked.
#[must_use]
pub fn free(paths: &[PathBuf]) -> Option<u64> {
    let free = |path: &PathBuf| {
        let disk = rustix::fs::statvfs(path).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    };
    paths.iter().filter_map(free).reduce(u64::saturating_add)
}

/// Sums up a directory on a thread of its own, which ends soon when nobody waits for it any more.
pub async fn of_directory(path: PathBuf) -> u64 {
    let given_up = Flag(Arc::default());
    let seen = Arc::clone(&given_up.0);
    tokio::task::spawn_blocking(move || sum(&path, &seen)).await.unwrap_or(0)
}

struct Flag(Arc<AtomicBool>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What the files below `path` take from the disk. Links are not followed, and one of several names of a
/// file counts for its share. What this user may not look into, or lies too deep for a path, is not seen.
fn sum(path: &Path, given_up: &AtomicBool) -> u64 {
    let (mut bytes, mut open) = (0_u64, vec![path.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if given_up.load(Ordering::Relaxed) {
                return bytes;
            }
            let Ok(about) = entry.metadata() else { continue };
            if about.is_dir() {
                open.push(entry.path());
            }
            let share = if about.is_dir() { 1 } else { about.nlink().max(1) };
            bytes = bytes.saturating_add(about.blocks().saturating_mul(BLOCK) / share);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_TIME: Duration = Duration::ZERO;

    #[tokio::test(start_paused = true)]
    async fn a_run_is_measured_when_the_disk_lost_what_it_may_have_and_now_and_then() {
        let mut usage = Usage::begin(Limit::At(100), 20, Some(1000), NO_TIME).unwrap();
        assert_eq!(usage.overrun(), None);
        assert!(!usage.is_due(Some(1000)) && !usage.is_due(Some(920)));
        assert!(usage.is_due(Some(919)));
        // It was somebody else.
        usage.measured(30, Some(919), NO_TIME);
        assert!(!usage.is_due(Some(849)) && usage.is_due(Some(848)));
        tokio::time::advance(SELDOM).await;
        assert!(usage.is_due(Some(5000)), "others may have freed what it took");
        usage.measured(101, Some(5000), NO_TIME);
        assert_eq!(usage.overrun(), Some(Overrun { written: 101, limit: 100 }));
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_to_measure_is_measured_less_often() {
        let usage = Usage::begin(Limit::At(100), 0, Some(1000), Duration::from_secs(2)).unwrap();
        assert!(!usage.is_due(Some(0)));
        tokio::time::advance(Duration::from_secs(40)).await;
        assert!(usage.is_due(Some(0)) && !usage.is_due(Some(1000)));
    }

    /// A launcher that adopts a run finds the limit that the one before it had.
    #[tokio::test(start_paused = true)]
    async fn the_default_is_half_of_what_there_is_without_the_run() {
        for (written, free) in [(0, 1000), (400, 600)] {
            let mut usage = Usage::begin(Limit::OfHost, written, Some(free), NO_TIME).unwrap();
            usage.measured(501, Some(0), NO_TIME);
            assert_eq!(usage.overrun().unwrap().limit, 500);
        }
        assert!(Usage::begin(Limit::None, 0, Some(0), NO_TIME).is_none());
        assert!(Usage::begin(Limit::OfHost, 0, None, NO_TIME).is_none());
    }

    #[tokio::test]
    async fn a_directory_is_summed_up_by_what_it_takes_from_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(inner.join("file"), dir.path().join("again")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("link")).unwrap();
        let sparse = fs::File::create(dir.path().join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        let bytes = of_directory(dir.path().to_owned()).await;
        assert!((1 << 20..(1 << 20) + 65536).contains(&bytes), "{bytes}");
        assert_eq!(of_directory(dir.path().join("none")).await, 0);
    }
}
