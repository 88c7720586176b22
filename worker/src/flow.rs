//! What comes out of a session through pipes.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use gantry_model::Phase;
use gantry_spool::{Accepted, MAX_OUTPUT, SideFileWriter};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use tokio::net::unix::pipe::Receiver;
use zeroize::Zeroizing;

use crate::environment::{Environment, MAX_DUMP};
use crate::marks::Marks;
use crate::spool::Spool;

/// A pipe whose reading end is ours; the other one is for children alone.
pub(crate) fn pipe() -> io::Result<(Receiver, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    // Larger frames make the spool fast. What an unprivileged process may have is enough.
    let _ = fcntl_setpipe_size(&read, 1024 * 1024);
    Ok((Receiver::from_owned_fd(read)?, write))
}

/// Reads what is there: how many bytes, and whether the pipe's end was reached.
async fn read(pipe: &mut Receiver, buffer: &mut [u8]) -> (usize, bool) {
    if pipe.readable().await.is_err() {
        return (0, true);
    }
    let mut filled = 0;
    while filled < buffer.len() {
        match pipe.try_read(&mut buffer[filled..]) {
            Ok(0) => return (filled, true),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(_) => return (filled, true),
        }
    }
    (filled, false)
}

/// How the log of a session gets on.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Set by whoever waits no longer: output that finds no room is dropped and counted.
    pub(crate) force: AtomicBool,
    /// The spool has no room, and the phase is being held back.
    pub(crate) is_held: AtomicBool,
}

/// Puts everything that is said into the spool, until nobody is left who could say more.
pub(crate) async fn output(mut pipe: Receiver, spool: &Spool, phase: Phase, progress: &Progress) {
    let mut buffer = vec![0; MAX_OUTPUT];
    loop {
        let (filled, ended) = read(&mut pipe, &mut buffer).await;
        while filled > 0 && spool.output(phase, &buffer[..filled]) == Accepted::NoRoom {
            if progress.force.load(Ordering::Relaxed) {
                spool.drop_output(filled);
                break;
            }
            progress.is_held.store(true, Ordering::Relaxed);
            spool.changed().await;
        }
        progress.is_held.store(false, Ordering::Relaxed);
        if ended {
            return;
        }
    }
}

/// What a session reports through its descriptor.
pub(crate) struct Reported {
    /// How far it got.
    pub(crate) marks: Marks,
    /// What it leaves to the next one. `None` if it did not get to saying so, or said too much.
    pub(crate) environment: Option<Environment>,
}

/// Takes what a session reports.
pub(crate) async fn reports(pipe: Receiver) -> Reported {
    let (dump, fits) = dump(pipe).await;
    let (marks, rest) = Marks::take(&dump);
    let environment = if fits { Environment::parse(rest) } else { None };
    Reported { marks, environment }
}

/// Reads a dump, and whether that is all of it.
async fn dump(mut pipe: Receiver) -> (Zeroizing<Vec<u8>>, bool) {
    // One size from the beginning: a vector that grows leaves copies of secrets behind.
    let mut dump = Zeroizing::new(vec![0; MAX_DUMP + 1]);
    let (mut filled, mut fits) = (0, true);
    loop {
        let (read, ended) = read(&mut pipe, &mut dump[filled..]).await;
        filled += read;
        if filled > MAX_DUMP {
            // The rest is read and forgotten; reports stand at the begin.
            (filled, fits) = (MAX_DUMP, false);
        }
        if ended {
            dump.truncate(filled);
            return (dump, fits);
        }
    }
}

/// Copies everything into a side file. After a failure the rest is read and forgotten.
pub(crate) async fn capture(mut pipe: Receiver, file: &mut SideFileWriter) -> io::Result<()> {
    let mut buffer = vec![0; MAX_OUTPUT];
    let mut result = Ok(());
    loop {
        let (filled, ended) = read(&mut pipe, &mut buffer).await;
        if result.is_ok() {
            result = file.write_all(&buffer[..filled]);
        }
        if ended {
            return result;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dump_is_kept_up_to_its_limit_and_read_to_its_end_beyond() {
        for (size, is_kept) in
            [(0, true), (MAX_DUMP, true), (MAX_DUMP + 1, false), (5 * MAX_DUMP + 7, false)]
        {
            let (pipe, end) = pipe().unwrap();
            let writer = std::thread::spawn(move || {
                std::fs::File::from(end).write_all(&vec![b'x'; size]).unwrap();
            });
            let (dump, fits) = dump(pipe).await;
            writer.join().unwrap();
            assert_eq!((dump.len(), fits), (size.min(MAX_DUMP), is_kept), "{size}");
        }
    }
}
