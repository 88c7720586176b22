//! What every task works with.

use std::{
    io::{self, IsTerminal, Write},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Result, bail};

use crate::{config::Config, process::Process, say::Say, undo::Undo};

/// What every task works with.
pub struct Context {
    /// What the environment tells.
    pub config: Config,
    /// Shows progress.
    pub say: Say,
    /// What is to be ended and removed when the task ends, however it ends.
    pub undo: Undo,
    assume_yes: bool,
}

impl Context {
    /// A context whose questions are answered yes if `assume_yes`.
    pub fn new(config: Config, say: Say, assume_yes: bool) -> Self {
        let undo = Undo::new(say.clone());
        Self { config, say, undo, assume_yes }
    }

    /// Asks a person before the machine itself is changed.
    pub fn agree(&self, question: &str) -> Result<()> {
        if self.assume_yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() {
            bail!("{question}? nobody is there to answer: run again with --yes");
        }
        print!("     {question}? [Y/n] ");
        io::stdout().flush()?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        match answer.trim().to_lowercase().as_str() {
            "" | "y" | "yes" => Ok(()),
            _ => bail!("stopped as asked"),
        }
    }

    /// Runs a command whose output goes straight to the person, until it ends. False if it failed.
    pub fn show(&self, name: &str, command: &mut Command) -> Result<bool> {
        let start = || Process::spawn(name, command);
        let (process, ticket) = self.undo.start(Duration::from_secs(5), start)?;
        let status = process.wait();
        self.undo.done(ticket);
        Ok(status?.success())
    }

    /// Like [`Self::show`], where failing ends the task.
    pub fn must(&self, name: &str, command: &mut Command) -> Result<()> {
        if self.show(name, command)? {
            Ok(())
        } else {
            bail!("{name} failed: see its output above")
        }
    }

    /// Makes sure that [`as_root`] works. A password is asked for now, because what runs in the background cannot ask.
    pub fn become_root(&self, what_for: &str) -> Result<()> {
        if rustix::process::geteuid().is_root() {
            return Ok(());
        }
        if self.config.find("sudo").is_none() {
            bail!("root has to {what_for}, and there is no sudo: run this again as root");
        }
        if self.show("sudo", as_root("true").stdout(Stdio::null()))? {
            return Ok(());
        }
        bail!(
            "root has to {what_for}, and sudo refuses: run this again as root, or as a user whom sudo serves"
        )
    }
}

/// A command of the machine's administrator: through `sudo` unless we are root.
pub fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        Command::new(program)
    } else {
        let mut command = Command::new("sudo");
        // With nobody at the terminal a question for a password would hang.
        if !io::stdin().is_terminal() {
            command.arg("--non-interactive");
        }
        command.arg(program);
        command
    }
}
