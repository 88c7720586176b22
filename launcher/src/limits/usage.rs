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

use rustix::fd::AsFd;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, openat, statat};
use tokio::time::Instant;

/// A run is measured at least this often, and there is no longer rest between two measurings.
const SELDOM: Duration = Duration::from_mins(1);
/// How much longer than a measuring took there is none.
const REST: u32 = 20;
/// What `st_blocks` counts in.
const BLOCK: u128 = 512;
/// The most entries of a directory that are looked at.
const MAX_ENTRIES: usize = 4_000_000;
/// The deepest entries. One directory is held open for each level; what goes deeper cannot be handed on either.
const MAX_DEPTH: usize = 256;

/// A run has more on the disks than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overrun {
    /// More bytes.
    Bytes {
        /// How many it has.
        written: u64,
        /// How many it may have.
        limit: u64,
    },
    /// So many files, or so deep ones, that nobody can tell.
    Uncounted,
}

impl From<Uncounted> for Overrun {
    fn from(_: Uncounted) -> Self {
        Self::Uncounted
    }
}

impl fmt::Display for Overrun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes { written, limit } => write!(
                f,
                "the run has {} MiB in its workspace and its container, and may have {} MiB (GANTRY_DISK_LIMIT): write less, or raise the limit on the launcher",
                written >> 20,
                limit >> 20
            ),
            Self::Uncounted => write!(
                f,
                "the run has more than {MAX_ENTRIES} files in its workspace, or directories more than {MAX_DEPTH} deep, and what they take cannot be measured (GANTRY_DISK_LIMIT): keep fewer there, or set the limit to none on the launcher"
            ),
        }
    }
}

/// A directory has more entries, or deeper ones, than are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uncounted;

/// What was seen of a run's use of the disks.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Bytes of its workspace.
    pub workspace: u64,
    /// Bytes that its container wrote elsewhere; none if the engine did not answer.
    pub container: Option<u64>,
    /// Bytes that were free beside it.
    pub free: Option<u64>,
    /// How long it took to see that.
    pub took: Duration,
}

/// What is known of a run's use of the disks.
#[derive(Debug)]
pub struct Usage {
    /// None as long as it could not be derived.
    limit: Option<u64>,
    written: u64,
    /// What its container had when the engine last answered.
    container: u64,
    /// What was free when it was measured.
    free: Option<u64>,
    /// No measuring before.
    not_before: Instant,
    /// None later.
    at_last: Instant,
}

impl Usage {
    /// Of a run that nobody has looked at. Without a limit, the first whole look gives one.
    #[must_use]
    pub fn of(limit: Option<u64>) -> Self {
        let now = Instant::now();
        Self { limit, written: 0, container: 0, free: None, not_before: now, at_last: now }
    }

    /// Whether it could be over its limit, with so much free now, or was not looked at for long.
    #[must_use]
    pub fn is_due(&self, free: Option<u64>) -> bool {
        let now = Instant::now();
        let lost = self.free.unwrap_or(0).saturating_sub(free.unwrap_or(0));
        let could_have = self.written.saturating_add(lost);
        let may_be_over = self.limit.is_none_or(|limit| could_have > limit);
        now >= self.not_before && (may_be_over || now >= self.at_last)
    }

    /// It was looked at. Gives the limit that came of it, if there was none before: half of what there would be
    /// without the run.
    pub fn saw(&mut self, look: Look) -> Option<u64> {
        let now = Instant::now();
        let rest = look.took.saturating_mul(REST).min(SELDOM);
        (self.not_before, self.at_last) = (now + rest, now + SELDOM);
        self.container = look.container.unwrap_or(self.container);
        self.written = look.workspace.saturating_add(self.container);
        self.free = look.free;
        if self.limit.is_some() {
            return None;
        }
        // What the engine did not tell would be missing in it for good.
        look.container?;
        self.limit = Some(look.free?.saturating_add(self.written) / 2);
        self.limit
    }

    /// Whether it has more than it may.
    #[must_use]
    pub fn overrun(&self) -> Option<Overrun> {
        let (written, limit) = (self.written, self.limit?);
        (written > limit).then_some(Overrun::Bytes { written, limit })
    }
}

/// The first of these directories on each disk. One that cannot be asked stays: its disk may come.
#[must_use]
pub fn one_of_each_disk(paths: impl IntoIterator<Item = PathBuf>) -> Vec<PathBuf> {
    let mut seen = Vec::new();
    let mut is_first = |path: &PathBuf| {
        let Ok(disk) = fs::metadata(path).map(|about| about.dev()) else { return true };
        let is_first = !seen.contains(&disk);
        seen.push(disk);
        is_first
    };
    paths.into_iter().filter(|path| is_first(path)).collect()
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
///
/// # Errors
/// When there is more in it than is looked at.
pub async fn of_directory(path: PathBuf) -> Result<u64, Uncounted> {
    let given_up = Flag(Arc::default());
    let seen = Arc::clone(&given_up.0);
    let sum = tokio::task::spawn_blocking(move || sum(&path, MAX_ENTRIES, &seen));
    sum.await.unwrap_or(Ok(0))
}

struct Flag(Arc<AtomicBool>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What the files below `path` take from the disk. Every directory is opened from the one above it and no link is
/// followed; nothing is remembered but the way down. One of several names of a file counts for its share. What this
/// user may not look into is not seen.
fn sum(path: &Path, most: usize, given_up: &AtomicBool) -> Result<u64, Uncounted> {
    let (mut bytes, mut entries) = (0_u64, 0);
    let mut way: Vec<Dir> = enter(CWD, path).into_iter().collect();
    while let Some(directory) = way.last_mut() {
        let Some(Ok(entry)) = directory.read() else {
            way.pop();
            continue;
        };
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if given_up.load(Ordering::Relaxed) {
            break;
        }
        entries += 1;
        if entries > most {
            return Err(Uncounted);
        }
        let Ok(directory) = directory.fd() else { continue };
        let Ok(about) = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        bytes = bytes.saturating_add(taken(&about));
        if is_directory(&about) {
            let inner = enter(directory, name);
            if way.len() > MAX_DEPTH {
                return Err(Uncounted);
            }
            way.extend(inner);
        }
    }
    Ok(bytes)
}

fn enter(above: impl AsFd, name: impl rustix::path::Arg) -> Option<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Dir::new(openat(above, name, flags, Mode::empty()).ok()?).ok()
}

fn is_directory(about: &Stat) -> bool {
    FileType::from_raw_mode(about.st_mode).is_dir()
}

fn taken(about: &Stat) -> u64 {
    let names = if is_directory(about) { 1 } else { u128::from(about.st_nlink).max(1) };
    let blocks = u128::try_from(about.st_blocks).unwrap_or(0);
    u64::try_from(blocks * BLOCK / names).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const NO_TIME: Duration = Duration::ZERO;

    fn look(workspace: u64, container: Option<u64>, free: u64) -> Look {
        Look { workspace, container, free: Some(free), took: NO_TIME }
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_is_measured_when_the_disk_lost_what_it_may_have_and_now_and_then() {
        let mut usage = Usage::of(Some(100));
        assert!(usage.is_due(Some(1000)));
        usage.saw(look(15, Some(5), 1000));
        assert_eq!(usage.overrun(), None);
        assert!(!usage.is_due(Some(1000)) && !usage.is_due(Some(920)));
        assert!(usage.is_due(Some(919)));
        // It was somebody else.
        usage.saw(look(25, Some(5), 919));
        assert!(!usage.is_due(Some(849)) && usage.is_due(Some(848)));
        tokio::time::advance(SELDOM).await;
        assert!(usage.is_due(Some(5000)), "others may have freed what it took");
        usage.saw(look(96, Some(5), 5000));
        assert_eq!(usage.overrun(), Some(Overrun::Bytes { written: 101, limit: 100 }));
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_to_measure_is_measured_less_often_and_not_seldom() {
        for (took, rest) in [(2, 40), (3600, 60)] {
            let mut usage = Usage::of(Some(100));
            usage.saw(Look { took: Duration::from_secs(took), ..look(0, Some(0), 1000) });
            tokio::time::advance(Duration::from_secs(rest - 1)).await;
            assert!(!usage.is_due(Some(0)), "{took}");
            tokio::time::advance(Duration::from_secs(1)).await;
            assert!(usage.is_due(Some(0)), "{took}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_default_is_half_of_what_there_is_without_the_run() {
        for (workspace, container, free) in [(0, 0, 1000), (300, 100, 600)] {
            let mut usage = Usage::of(None);
            assert_eq!(usage.saw(look(workspace, Some(container), free)), Some(500));
            assert_eq!(usage.saw(look(501, Some(0), 0)), None);
            assert_eq!(usage.overrun(), Some(Overrun::Bytes { written: 501, limit: 500 }));
        }
        let nobody_tells = Look { free: None, ..look(0, Some(0), 0) };
        assert_eq!(Usage::of(None).saw(nobody_tells), None);
    }

    /// Others have filled the disk since: that is no reason to stop it.
    #[tokio::test(start_paused = true)]
    async fn a_limit_that_is_known_is_not_derived_again() {
        let mut usage = Usage::of(Some(500));
        assert_eq!(usage.saw(look(400, Some(0), 10)), None);
        assert_eq!(usage.overrun(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_does_not_answer_gives_no_limit_and_takes_nothing_away() {
        let mut usage = Usage::of(None);
        assert_eq!(usage.saw(look(0, None, 600)), None);
        assert!(usage.is_due(Some(600)), "it is tried again");
        assert_eq!(usage.saw(look(0, Some(400), 600)), Some(500));
        usage.saw(look(101, None, 499));
        assert_eq!(usage.overrun(), Some(Overrun::Bytes { written: 501, limit: 500 }));
    }

    #[test]
    fn two_directories_on_one_disk_are_one_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        fs::create_dir(&first).unwrap();
        fs::create_dir(&second).unwrap();
        let (elsewhere, none) = (PathBuf::from("/proc"), dir.path().join("none"));
        let disks = one_of_each_disk([first.clone(), second, elsewhere.clone(), none.clone()]);
        assert_eq!(disks, [first, elsewhere, none]);
    }

    #[tokio::test]
    async fn a_directory_is_summed_up_by_what_it_takes_from_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(inner.join("file"), dir.path().join("again")).unwrap();
        symlink("/", dir.path().join("link")).unwrap();
        let sparse = fs::File::create(dir.path().join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        let bytes = of_directory(dir.path().to_owned()).await.unwrap();
        assert!((1 << 20..(1 << 20) + 65536).contains(&bytes), "{bytes}");
        assert_eq!(of_directory(dir.path().join("none")).await, Ok(0));
        // One that was swapped for a link.
        assert_eq!(of_directory(dir.path().join("link")).await, Ok(0));
    }

    /// What a run makes must not take the launcher's memory or time, nor stay unseen.
    #[test]
    fn a_directory_with_too_many_entries_or_too_deep_ones_is_not_summed_up() {
        let dir = tempfile::tempdir().unwrap();
        let sum = |most| sum(dir.path(), most, &AtomicBool::new(false));
        let deepest = dir.path().join("d/".repeat(MAX_DEPTH));
        fs::create_dir_all(&deepest).unwrap();
        sum(MAX_DEPTH).unwrap();
        fs::write(deepest.join("file"), "").unwrap();
        assert_eq!(sum(MAX_DEPTH), Err(Uncounted));
        sum(MAX_DEPTH + 1).unwrap();
        fs::create_dir(deepest.join("deeper")).unwrap();
        assert_eq!(sum(MAX_ENTRIES), Err(Uncounted));
        let said = Overrun::from(Uncounted).to_string();
        assert!(said.contains("GANTRY_DISK_LIMIT"), "{said}");
    }
}
