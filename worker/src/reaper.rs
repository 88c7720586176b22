//! Waits for processes: for those that we started, and for the orphans that every PID 1 inherits.
//!
//! Nothing else in this program may wait for a process: whoever waits for *any* child takes the exit
//! status of all of them. So children are started with [`std::process::Command`], whose handle is
//! dropped at once, and their end is asked for here.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process_group, test_kill_process_group, wait,
};
use tokio::signal::unix::{SignalKind, signal};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
}

impl Ending {
    pub(crate) const fn is_success(self) -> bool {
        matches!(self.code, Some(0))
    }

    /// `exit code 1`, `signal 9`.
    pub(crate) fn describe(self) -> String {
        match (self.code, self.signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "no exit code".to_owned(),
        }
    }
}

pub(crate) struct Reaper {
    children: tokio::signal::unix::Signal,
    /// Those that somebody asked about or will ask about. `None` while they run.
    ours: HashMap<Pid, Option<Ending>>,
}

impl Reaper {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { children: signal(SignalKind::child())?, ours: HashMap::new() })
    }

    /// Takes charge of a child. Call it before anything is awaited after the child's start.
    pub(crate) fn adopt(&mut self, pid: Pid) {
        self.ours.insert(pid, None);
    }

    /// Resolves when the adopted child has ended. Cancel safe.
    pub(crate) async fn ended(&mut self, pid: Pid) -> Ending {
        loop {
            self.reap();
            if let Some(Some(ending)) = self.ours.get(&pid).copied() {
                self.ours.remove(&pid);
                return ending;
            }
            self.children.recv().await;
        }
    }

    /// Resolves when no process of the group is left. Cancel safe.
    pub(crate) async fn group_gone(&mut self, group: Pid) {
        loop {
            self.reap();
            if test_kill_process_group(group) == Err(Errno::SRCH) {
                return;
            }
            // Its members become our children when their parents are gone; those of living parents end unseen.
            let _ = tokio::time::timeout(Duration::from_millis(100), self.children.recv()).await;
        }
    }

    /// Kills every process but this one, and reaps until none is left. False if some outlived even that.
    pub(crate) async fn kill_all(&mut self, group: Pid) -> bool {
        const TRIES: usize = 200;
        // As PID 1 of the container, "everyone" is what the phases left and nothing else.
        let target = if getpid().is_init() { Pid::INIT } else { group };
        for _ in 0..TRIES {
            // SRCH: nobody is left who could be killed; those who died may still wait to be reaped.
            let nobody = kill_process_group(target, Signal::KILL) == Err(Errno::SRCH);
            if self.reap() && nobody {
                return true;
            }
            let _ = tokio::time::timeout(Duration::from_millis(50), self.children.recv()).await;
        }
        false
    }

    /// Takes every exit status that waits. True if no child is left.
    fn reap(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => self.record(pid, status),
                Err(Errno::INTR) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }

    fn record(&mut self, pid: Pid, status: WaitStatus) {
        let ending = Ending { code: status.exit_status(), signal: status.terminating_signal() };
        if let Some(slot) = self.ours.get_mut(&pid) {
            *slot = Some(ending);
        }
    }
}
