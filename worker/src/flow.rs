//! What comes out of a session through pipes.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use gantry_model::Phase;
use gantry_spool::{Accepted, MAX_OUTPUT, SideFileWriter};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use tokio::net::unix::pipe::Receiver;
use zeroize::Zeroizing;

use crate::environment::MAX_DUMP;
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

/// Puts everything that is said into the spool, until nobody is left who could say more.
///
/// A spool without room holds the phase back, until `force` is set: then output is dropped and counted.
pub(crate) async fn output(mut pipe: Receiver, spool: &Spool, phase: Phase, force: &AtomicBool) {
    let mut buffer = vec![0; MAX_OUTPUT];
    loop {
        let (filled, ended) = read(&mut pipe, &mut buffer).await;
        while filled > 0 && spool.output(phase, &buffer[..filled]) == Accepted::NoRoom {
            if force.load(Ordering::Relaxed) {
                spool.drop_output(filled);
                break;
            }
            spool.changed().await;
        }
        if ended {
            return;
        }
    }
}

/// Keeps what fits of a dump of the environment. `None` if it did not fit.
pub(crate) async fn environment(mut pipe: Receiver) -> Option<Zeroizing<Vec<u8>>> {
    // One size from the beginning: a vector that grows leaves copies of secrets behind.
    let mut dump = Zeroizing::new(vec![0; MAX_DUMP + 1]);
    let mut filled = 0;
    loop {
        // When it is full, the last byte is overwritten until the pipe ends.
        let (read, ended) = read(&mut pipe, &mut dump[filled..]).await;
        filled = (filled + read).min(MAX_DUMP);
        let too_large = filled == MAX_DUMP;
        if ended {
            dump.truncate(filled);
            return (!too_large).then_some(dump);
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
