//! The environment of the phases, and how it is carried from one to the next.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use gantry_spool::order::{Order, Secret};
use gantry_spool::{Carried, Variables};
use rustix::io::{DupFlags, dup2, dup3, fcntl_dupfd_cloexec};
use zeroize::Zeroizing;

use crate::users::User;

/// No environment that is carried on is larger.
pub(crate) const MAX_DUMP: usize = 1024 * 1024;

/// What the shell keeps for itself, and what begins anew in each phase.
const NOT_CARRIED: [&[u8]; 4] = [b"_", b"SHLVL", b"PWD", b"OLDPWD"];

/// Variables by name. Values are zeroed when dropped and never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Environment(Variables);

impl Environment {
    /// What the image sets, then what the order sets.
    ///
    /// Where the image sets no `HOME`, the engine takes that of root, who it thinks runs here.
    pub(crate) fn of_order(
        image: Vec<(OsString, OsString)>,
        order: &Order,
        user: &User,
        root: &str,
    ) -> Self {
        let image = image.into_iter().map(|(name, value)| {
            (name.as_bytes().to_vec(), Zeroizing::new(value.as_bytes().to_vec()))
        });
        let mut image: Variables = image.collect();
        let home = image.entry(b"HOME".to_vec()).or_default();
        if home.is_empty() || home.as_slice() == root.as_bytes() {
            *home = Zeroizing::new(user.home.as_bytes().to_vec());
        }
        let mut environment = Self(gantry_spool::merged(image, order.layers()));
        // The system refuses to start anything with such names or values.
        environment.0.retain(|name, value| {
            !name.is_empty() && !name.contains(&b'=') && !name.contains(&0) && !value.contains(&0)
        });
        environment
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.as_bytes().to_vec(), Zeroizing::new(value.as_bytes().to_vec()));
    }

    /// Reads what `env -0` wrote. `None` if it did not get to its end.
    pub(crate) fn parse(dump: &[u8]) -> Option<Self> {
        let entries = dump.strip_suffix(&[0])?;
        let mut environment = Self::default();
        for entry in entries.split(|byte| *byte == 0) {
            let at = entry.iter().position(|byte| *byte == b'=')?;
            let (name, value) = (&entry[..at], &entry[at + 1..]);
            if !name.is_empty() && !NOT_CARRIED.contains(&name) {
                environment.0.insert(name.to_vec(), Zeroizing::new(value.to_vec()));
            }
        }
        Some(environment)
    }

    /// The variables whose names a shell may not pass on, and that `later`, which a shell has left, lacks.
    pub(crate) fn not_passed_on(&self, later: &Self) -> Vec<String> {
        let is_plain = |name: &[u8]| name.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'_');
        let lost = self.0.keys().filter(|name| !is_plain(name) && !later.0.contains_key(*name));
        lost.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    /// What became of what a stage began with. What is no text is left out.
    pub(crate) fn changes(&self, began: &Self) -> Vec<Carried> {
        let text = |value: Option<&Zeroizing<Vec<u8>>>| {
            value.map(|value| String::from_utf8(value.to_vec()).map(Secret::new)).transpose()
        };
        let names: BTreeSet<&Vec<u8>> = self.0.keys().chain(began.0.keys()).collect();
        names
            .into_iter()
            .filter(|name| self.0.get(*name) != began.0.get(*name))
            .filter_map(|name| {
                Some(Carried {
                    value: text(self.0.get(name)).ok()?,
                    was: text(began.0.get(name)).ok()?,
                    name: String::from_utf8(name.clone()).ok()?,
                })
            })
            .collect()
    }

    /// Makes it the whole environment of a command.
    pub(crate) fn apply(&self, command: &mut Command) {
        command.env_clear();
        for (name, value) in &self.0 {
            command.env(OsStr::from_bytes(name), OsStr::from_bytes(value));
        }
    }

    #[cfg(test)]
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name.as_bytes()).map(|value| value.as_slice())
    }
}

/// A descriptor with a number of one digit, which is all that a POSIX shell can name.
///
/// Between sessions nothing is behind it; during one, the pipe that takes the environment.
#[derive(Debug)]
pub struct EnvironmentSlot {
    nothing: File,
    slot: OwnedFd,
}

impl EnvironmentSlot {
    /// Takes the number. `None` if it is in use: then no environment is carried on.
    #[must_use]
    pub fn reserve() -> Option<Self> {
        // 3 to 6 are what scripts use most, 9 is what they use with flock.
        const LOWEST: RawFd = 8;
        let nothing = File::options().write(true).open("/dev/null").ok()?;
        let slot = fcntl_dupfd_cloexec(&nothing, LOWEST).ok()?;
        (slot.as_raw_fd() < 10).then_some(Self { nothing, slot })
    }

    pub(crate) fn number(&self) -> RawFd {
        self.slot.as_raw_fd()
    }

    /// From here on every child inherits `pipe` under the number.
    pub(crate) fn fill(&mut self, pipe: &OwnedFd) -> io::Result<()> {
        Ok(dup2(pipe, &mut self.slot)?)
    }

    /// From here on no child inherits anything.
    pub(crate) fn empty(&mut self) -> io::Result<()> {
        Ok(dup3(&self.nothing, &mut self.slot, DupFlags::CLOEXEC)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_is_carried_on_without_what_belongs_to_the_shell() {
        let environment =
            Environment::parse(b"A=1\nx=2\0PWD=/x\0SHLVL=2\0_=env\0B==\0C=\0").unwrap();
        assert_eq!(environment.get("A"), Some(&b"1\nx=2"[..]));
        assert_eq!(environment.get("B"), Some(&b"="[..]));
        assert_eq!(environment.get("C"), Some(&b""[..]));
        assert_eq!(environment.0.len(), 3);
    }

    /// A phase can write to the descriptor whatever it likes.
    #[test]
    fn any_dump_is_answered() {
        // A small generator with a fixed seed.
        let mut seed = 7_u32;
        let mut byte = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            b"A=\0\n\xff"[(seed >> 24) as usize % 5]
        };
        for length in 0..2000 {
            let dump: Vec<u8> = (0..length % 60).map(|_| byte()).collect();
            let Some(environment) = Environment::parse(&dump) else { continue };
            for (name, value) in &environment.0 {
                assert!(!name.is_empty() && !name.contains(&0) && !name.contains(&b'='));
                assert!(!value.contains(&0));
            }
        }
    }

    #[test]
    fn a_dump_that_was_cut_off_is_none() {
        for cut in [&b""[..], b"A=1", b"A=1\0B", b"A\0"] {
            assert!(Environment::parse(cut).is_none(), "{cut:?}");
        }
    }
}
