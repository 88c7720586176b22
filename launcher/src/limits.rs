//! What a run may take from its host: memory, processors, processes and disk.
//!
//! By default it is what the host has, less a reserve for launcher, engine and system, so that a run that takes
//! without end ends itself and nothing else. When memory is short all the same, containers go first and the
//! launcher last.

mod usage;

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

pub use self::usage::{Look, Overrun, Uncounted, Usage, free, of_directory, one_of_each_disk};

use crate::config::{Amounts, Limit};
use crate::engine::Limits;

/// What is kept back of the memory: an eighth, within these bounds.
const MEMORY_RESERVE: (u64, u64) = (384 << 20, 2 << 30);
/// What is kept back of the processors: a tenth, at most one.
const NANO: u64 = 1_000_000_000;
/// What is kept free of a disk: a twentieth, at most this.
const DISK_RESERVE: u64 = 2 << 30;
/// How readily the kernel ends what: from -1000, never, to 1000, first.
const OURS: i32 = -900;
/// The same of containers. The worker binary gives its phases the highest.
pub const CONTAINERS: i64 = 500;
const SCORE: &str = "/proc/self/oom_score_adj";

/// What the host of an engine has, and what the engine can keep a container from taking.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Processors.
    pub processors: Option<u64>,
    /// Whether a container's memory can be limited.
    pub limits_memory: bool,
    /// Whether a container's processor time can be limited.
    pub limits_processors: bool,
    /// Whether the number of a container's processes can be limited.
    pub limits_processes: bool,
    /// Where the engine keeps images and what containers write, if that is on this host.
    pub root: Option<PathBuf>,
}

/// A limit that is asked for and that the engine cannot keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unkept(pub &'static str);

/// What containers get on this host; and what of it the engine cannot keep.
#[must_use]
pub fn of_containers(amounts: &Amounts, capacity: &Capacity) -> (Limits, Vec<Unkept>) {
    let memory = match amounts.memory {
        Limit::OfHost => capacity.memory.map(less_memory),
        Limit::None => None,
        Limit::At(bytes) => Some(bytes),
    };
    let nano_cpus = match amounts.nano_cpus {
        Limit::OfHost => capacity.processors.map(less_processors),
        Limit::None => None,
        // More than there are, an engine refuses.
        Limit::At(nano) => {
            Some(capacity.processors.map_or(nano, |there| nano.min(there.saturating_mul(NANO))))
        }
    };
    let mut unkept = Vec::new();
    let mut kept = |limit: Option<u64>, can: bool, wanted: bool, what| {
        if !can && (wanted || limit.is_some()) {
            unkept.push(Unkept(what));
        }
        limit.filter(|_| can)
    };
    let memory_wanted = amounts.memory == Limit::OfHost;
    let processors_wanted = amounts.nano_cpus == Limit::OfHost;
    let can_memory = capacity.limits_memory && (memory.is_some() || !memory_wanted);
    let can_processors = capacity.limits_processors && (nano_cpus.is_some() || !processors_wanted);
    let limits = Limits {
        memory: kept(memory, can_memory, memory_wanted, "memory"),
        nano_cpus: kept(nano_cpus, can_processors, processors_wanted, "processor time"),
        processes: kept(amounts.processes, capacity.limits_processes, true, "number of processes"),
        shared_memory: amounts.shared_memory,
    };
    (limits, unkept)
}

fn less_memory(total: u64) -> u64 {
    let reserve = (total / 8).clamp(MEMORY_RESERVE.0, MEMORY_RESERVE.1);
    total.saturating_sub(reserve).max(total / 2)
}

fn less_processors(there: u64) -> u64 {
    let total = there.saturating_mul(NANO);
    total - (total / 10).min(NANO)
}

/// A disk that has less free than is to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LowDisk {
    path: PathBuf,
    free: u64,
    reserve: u64,
}

impl fmt::Display for LowDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = |bytes: u64| bytes >> 20;
        write!(
            f,
            "the disk of {} on the launcher's host has {} MiB free, and {} MiB are kept for launcher, engine and system (GANTRY_DISK_RESERVE): write less, or give the host a larger disk",
            self.path.display(),
            mebibytes(self.free),
            mebibytes(self.reserve)
        )
    }
}

/// Says so if the disk of this directory has less free than `reserve`, or than the default. One that cannot be
/// asked, as that of an engine elsewhere, is passed over. What is `held` counts as free on its own disk.
#[must_use]
pub fn low_disk(path: &Path, reserve: Option<u64>, held: Held<'_>) -> Option<LowDisk> {
    let disk = rustix::fs::statvfs(path).ok()?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let reserve = reserve.unwrap_or_else(|| disk_reserve(disk.f_blocks, disk.f_frsize));
    (free < reserve && free.saturating_add(held.on_disk_of(path)) < reserve).then(|| LowDisk {
        path: path.to_owned(),
        free,
        reserve,
    })
}

/// Bytes that go by themselves when an outage is over.
#[derive(Debug, Clone, Copy, Default)]
pub struct Held<'a> {
    /// A directory on their disk; there are none without it.
    pub by: Option<&'a Path>,
    /// How many they may be at most.
    pub at_most: u64,
}

impl Held<'_> {
    fn on_disk_of(self, path: &Path) -> u64 {
        let disk = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
        match self.by {
            Some(by) if disk(by).is_some_and(|disk_of_them| Some(disk_of_them) == disk(path)) => {
                gantry_spool::held(by).unwrap_or(0).min(self.at_most)
            }
            Some(_) | None => 0,
        }
    }
}

fn disk_reserve(blocks: u64, size: u64) -> u64 {
    (blocks.saturating_mul(size) / 20).min(DISK_RESERVE)
}

/// Makes this process one of the last that the kernel ends when memory is short.
///
/// # Errors
/// When the user may not do that: then whoever starts it has to.
pub fn go_last() -> io::Result<()> {
    let present = fs::read_to_string(SCORE)?;
    if present.trim().parse::<i32>().is_ok_and(|present| present <= OURS) {
        return Ok(());
    }
    fs::write(SCORE, OURS.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn host(memory: u64, processors: u64) -> Capacity {
        Capacity {
            memory: Some(memory),
            processors: Some(processors),
            limits_memory: true,
            limits_processors: true,
            limits_processes: true,
            root: None,
        }
    }

    fn amounts() -> Amounts {
        Amounts {
            memory: Limit::OfHost,
            nano_cpus: Limit::OfHost,
            processes: Some(4096),
            shared_memory: 64 << 20,
            disk: Limit::OfHost,
            disk_reserve: None,
        }
    }

    #[test]
    fn a_container_gets_what_the_host_has_less_a_reserve() {
        for (memory, processors, expected) in [
            (32 * GIB, 8, (30 * GIB, 7_200_000_000)),
            (8 * GIB, 2, (7 * GIB, 1_800_000_000)),
            (GIB, 1, (GIB - (384 << 20), 900_000_000)),
            (512 << 20, 64, (256 << 20, 63_000_000_000)),
        ] {
            let (limits, unkept) = of_containers(&amounts(), &host(memory, processors));
            let got = (limits.memory.unwrap(), limits.nano_cpus.unwrap());
            assert_eq!(got, expected, "{memory} {processors}");
            assert_eq!((limits.processes, unkept), (Some(4096), Vec::new()));
        }
    }

    #[test]
    fn a_variable_has_the_last_word() {
        let set = Amounts {
            memory: Limit::At(GIB),
            nano_cpus: Limit::At(500_000_000),
            processes: None,
            ..amounts()
        };
        let (limits, unkept) = of_containers(&set, &host(32 * GIB, 8));
        assert_eq!((limits.memory, limits.nano_cpus), (Some(GIB), Some(500_000_000)));
        assert_eq!(limits.processes, None);
        assert!(unkept.is_empty());
        let none = Amounts { memory: Limit::None, nano_cpus: Limit::None, ..set };
        let (limits, unkept) =
            of_containers(&none, &Capacity { limits_processes: true, ..Capacity::default() });
        assert_eq!((limits.memory, limits.nano_cpus), (None, None));
        assert!(unkept.is_empty());
        // More processors than there are.
        let many = Amounts { nano_cpus: Limit::At(64 * NANO), ..amounts() };
        assert_eq!(of_containers(&many, &host(GIB, 2)).0.nano_cpus, Some(2 * NANO));
    }

    /// Nobody is told that something is limited which is not.
    #[test]
    fn what_the_engine_cannot_keep_is_named() {
        let cannot = Capacity { limits_memory: false, limits_processes: false, ..host(GIB, 2) };
        let (limits, unkept) = of_containers(&amounts(), &cannot);
        assert_eq!((limits.memory, limits.processes), (None, None));
        assert_eq!(unkept, [Unkept("memory"), Unkept("number of processes")]);
        let (_, unkept) = of_containers(&amounts(), &Capacity::default());
        assert_eq!(unkept.len(), 3);
    }

    #[test]
    fn a_disk_is_low_below_its_reserve() {
        let dir = tempfile::tempdir().unwrap();
        let none = Held::default();
        assert_eq!(low_disk(dir.path(), Some(0), none), None);
        assert_eq!(low_disk(Path::new("/none"), Some(u64::MAX), none), None);
        let low = low_disk(dir.path(), Some(u64::MAX), none).unwrap();
        assert_eq!(low.path, dir.path());
        assert!(low.to_string().contains("GANTRY_DISK_RESERVE"), "{low}");
        assert_eq!(disk_reserve(100 << 20, 4096), DISK_RESERVE);
        assert_eq!(disk_reserve(1 << 20, 1000), (1000 << 20) / 20);
    }

    #[test]
    fn what_a_spool_holds_back_counts_as_free_on_its_own_disk() {
        let spool = tempfile::tempdir().unwrap();
        fs::write(spool.path().join("00000000.seg"), vec![1; 1 << 20]).unwrap();
        fs::write(spool.path().join("plan.json"), vec![1; 1 << 20]).unwrap();
        let held = |at_most| Held { by: Some(spool.path()), at_most };
        assert!(held(GIB).on_disk_of(spool.path()) >= 1 << 20);
        assert!(held(GIB).on_disk_of(spool.path()) < 2 << 20);
        assert_eq!(held(1000).on_disk_of(spool.path()), 1000);
        assert_eq!(held(GIB).on_disk_of(Path::new("/proc")), 0);
        assert_eq!(Held::default().on_disk_of(spool.path()), 0);
    }
}
