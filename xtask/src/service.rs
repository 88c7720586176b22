//! Programs that run beside the task and write into a log file.
//!
//! A [`Service`] writes to a file, not to a pipe, so it can outlive the task (`--keep`). Waiting for a line is an
//! event (inotify) with a limit, and a failure shows the end of the log.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    mem::MaybeUninit,
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::inotify,
};

use crate::process::{Process, timespec};

/// A program that runs beside the task.
pub struct Service {
    process: Process,
    log: PathBuf,
    follow: Follow,
}

impl Service {
    /// Starts a program in its own process group, so that a Ctrl-C meant for the task does not reach it first.
    pub fn start(name: &str, log: &Path, command: &mut Command) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let follow = Follow::new(log)?;
        let process =
            Process::spawn(name, command.stdout(file.try_clone()?).stderr(file).process_group(0))?;
        Ok(Self { process, log: log.to_path_buf(), follow })
    }

    /// The process, to stop it.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Waits until the program writes a line for which `found` gives something. Lines are seen once.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut found: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            // Asked first: what it wrote before it ended is read below in any case.
            let ended = self.process.wait_for(Duration::ZERO)?;
            while let Some(line) = self.follow.line()? {
                if let Some(value) = found(&line) {
                    return Ok(value);
                }
            }
            if let Some(status) = ended {
                bail!("{} ended ({status}) before {what}{}", self.process.name(), self.tail());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!(
                    "{}: no {what} within {} s{}",
                    self.process.name(),
                    limit.as_secs(),
                    self.tail()
                );
            }
            self.follow.wait(&self.process, left)?;
        }
    }

    /// The end of its log, for an error.
    pub fn tail(&self) -> String {
        tail(&self.log)
    }
}

/// The end of a log, as the tail of an error message.
pub fn tail(log: &Path) -> String {
    let text = std::fs::read(log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(20);
    format!("\n  {} ends:\n    {}", log.display(), lines[from..].join("\n    "))
}

/// Reads a growing file line by line.
struct Follow {
    file: File,
    changes: rustix::fd::OwnedFd,
    read: Vec<u8>,
}

impl Follow {
    fn new(path: &Path) -> Result<Self> {
        let mut file =
            File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        // What an earlier program wrote there is not what this one is waited for.
        file.seek(SeekFrom::End(0)).context("cannot read a log")?;
        let changes = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)
            .context("cannot watch files")?;
        inotify::add_watch(&changes, path, inotify::WatchFlags::MODIFY)
            .with_context(|| format!("cannot watch {}", path.display()))?;
        Ok(Self { file, changes, read: Vec::new() })
    }

    /// The next whole line that the file has already.
    fn line(&mut self) -> Result<Option<String>> {
        if !self.read.contains(&b'\n') {
            self.file.read_to_end(&mut self.read).context("cannot read a log")?;
        }
        let Some(end) = self.read.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        let line = self.read.drain(..=end).collect::<Vec<u8>>();
        Ok(Some(String::from_utf8_lossy(&line[..end]).into_owned()))
    }

    /// Returns when the file has changed, the process has ended or the limit has come.
    fn wait(&self, process: &Process, limit: Duration) -> Result<()> {
        let mut fds = [
            PollFd::new(&self.changes, PollFlags::IN),
            PollFd::new(process.pidfd(), PollFlags::IN),
        ];
        match poll(&mut fds, Some(&timespec(limit))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for a log"),
        }
        // The events say no more than that the file is worth reading again.
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let mut events = inotify::Reader::new(&self.changes, &mut buffer);
        while events.next().is_ok() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(script: &str) -> (tempfile::TempDir, Service) {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let service =
            Service::start("a shell", &log, Command::new("sh").args(["-c", script])).unwrap();
        (folder, service)
    }

    #[test]
    fn a_line_is_awaited_while_the_program_goes_on() {
        let (_folder, mut service) = start("echo first; echo ready: yes; exec sleep 600");
        let value = service.wait_for("ready line", Duration::from_mins(1), |line| {
            Some(line.strip_prefix("ready: ")?.to_owned())
        });
        assert_eq!(value.unwrap(), "yes");
        service.process().stop(Duration::from_mins(1)).unwrap();
    }

    #[test]
    fn lines_of_an_earlier_program_in_the_same_log_do_not_count() {
        let (folder, service) = start("echo ready: old");
        service.process().wait().unwrap();
        let log = folder.path().join("log");
        let mut second =
            Service::start("a shell", &log, Command::new("sh").args(["-c", "echo ready: new"]))
                .unwrap();
        let value = second.wait_for("ready line", Duration::from_mins(1), |line| {
            Some(line.strip_prefix("ready: ")?.to_owned())
        });
        assert_eq!(value.unwrap(), "new");
    }

    #[test]
    fn a_program_that_ends_early_is_an_error_with_the_end_of_its_log() {
        let (_folder, mut service) = start("echo cannot bind; exit 7");
        let error = service
            .wait_for("ready line", Duration::from_mins(1), |_| None::<()>)
            .unwrap_err()
            .to_string();
        assert!(error.contains("before ready line") && error.contains("cannot bind"), "{error}");
    }
}
