//! What the kernel says about the container's memory, and who goes first when it is used up.

use std::fs;
use std::path::Path;

/// As both versions of control groups show it in the container.
const V2: &str = "/sys/fs/cgroup";
const V1: &str = "/sys/fs/cgroup/memory";
/// A limit from here on is none.
const NO_LIMIT: u64 = 1 << 60;
const SCORE: &str = "/proc/self/oom_score_adj";

/// The container's account, as it stood at an instant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Account {
    kills: u64,
    limit: Option<u64>,
    peak: Option<u64>,
}

impl Account {
    /// How it stands now. Where nothing is said, nothing was killed.
    pub(crate) fn now() -> Self {
        Self::of(Path::new(V2), Path::new(V1))
    }

    fn of(v2: &Path, v1: &Path) -> Self {
        let number = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let kills = |path: &Path| {
            let text = fs::read_to_string(path).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
            line.trim().parse().ok()
        };
        let (kills, limit, peak) = match kills(&v2.join("memory.events")) {
            Some(kills) => (kills, number(&v2.join("memory.max")), number(&v2.join("memory.peak"))),
            None => (
                kills(&v1.join("memory.oom_control")).unwrap_or(0),
                number(&v1.join("memory.limit_in_bytes")),
                number(&v1.join("memory.max_usage_in_bytes")),
            ),
        };
        Self { kills, limit: limit.filter(|limit| *limit < NO_LIMIT), peak }
    }

    /// What was killed for want of memory since `before`, and what to do about it.
    pub(crate) fn killed_since(self, before: Self) -> Option<String> {
        let kills = self.kills.checked_sub(before.kills).filter(|kills| *kills > 0)?;
        let what = if kills == 1 { "a process".to_owned() } else { format!("{kills} processes") };
        let about = match (self.limit, self.peak) {
            (Some(limit), Some(peak)) => {
                format!("limit {}, peak {}", mebibytes(limit), mebibytes(peak))
            }
            (Some(limit), None) => format!("limit {}", mebibytes(limit)),
            (None, Some(peak)) => format!("the host ran out of it, peak {}", mebibytes(peak)),
            (None, None) => "the host ran out of it".to_owned(),
        };
        Some(format!(
            "the kernel killed {what} of it for want of memory ({about}): let the tool do less at once, as with -parallelism, or give runs more with GANTRY_MEMORY_LIMIT on a host that has it"
        ))
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// While this lives, what is started is the first that the kernel kills: never the worker binary, which has
/// to tell how it ended.
pub(crate) struct FirstToGo(Option<String>);

impl FirstToGo {
    pub(crate) fn begin() -> Self {
        let own = fs::read_to_string(SCORE).ok();
        // Where that is not to be had, they are equals.
        let raised = own.filter(|_| fs::write(SCORE, "1000").is_ok());
        Self(raised)
    }
}

impl Drop for FirstToGo {
    fn drop(&mut self) {
        if let Some(own) = &self.0 {
            let _ = fs::write(SCORE, own.trim());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(files: &[(&str, &str)]) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let (v2, v1) = (dir.path().join("v2"), dir.path().join("v1"));
        for place in [&v2, &v1] {
            fs::create_dir(place).unwrap();
        }
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        Account::of(&v2, &v1).killed_since(Account::default())
    }

    #[test]
    fn what_was_killed_is_said_with_limit_and_peak() {
        let events = "low 0\nhigh 0\nmax 9\noom 1\noom_kill 2\noom_group_kill 0\n";
        let both = said(&[
            ("v2/memory.events", events),
            ("v2/memory.max", "536870912\n"),
            ("v2/memory.peak", "536866816\n"),
        ]);
        let both = both.unwrap();
        assert!(
            both.contains("killed 2 processes") && both.contains("limit 512 MiB, peak 511 MiB"),
            "{both}"
        );
        let old = said(&[
            ("v1/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
            ("v1/memory.limit_in_bytes", "9223372036854771712\n"),
            ("v1/memory.max_usage_in_bytes", "1048576\n"),
        ]);
        let old = old.unwrap();
        assert!(
            old.contains("killed a process") && old.contains("the host ran out of it, peak 1 MiB"),
            "{old}"
        );
        assert_eq!(said(&[]), None);
        assert_eq!(said(&[("v2/memory.events", "oom_kill 0\n"), ("v2/memory.max", "max\n")]), None);
    }
}
