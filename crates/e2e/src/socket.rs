//! Docker's socket, with somebody in between: it can be taken away, and single answers can be spoiled.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// A request to Docker, told by its method and a part of its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Make a container.
    Create,
    /// Start a container.
    Start,
    /// Remove a container.
    Remove,
}

impl Asked {
    fn is(self, line: &str) -> bool {
        let (method, part) = match self {
            Self::Create => ("POST ", "/containers/create?"),
            Self::Start => ("POST ", "/start "),
            Self::Remove => ("DELETE ", "/containers/"),
        };
        line.starts_with(method) && line.contains(part)
    }
}

/// What becomes of an answer to what Docker did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoilt {
    /// The connection breaks instead.
    Dropped,
    /// It says that it did not.
    Denied,
}

const DENIAL: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n\
    Content-Length: 29\r\nConnection: close\r\n\r\n{\"message\":\"something broke\"}";

#[derive(Debug, Default)]
struct Wire {
    is_cut: bool,
    streams: Vec<UnixStream>,
    /// The next answer to this is to be spoilt.
    armed: Option<(Asked, Spoilt)>,
    /// How many answers were spoilt.
    spoilt: usize,
}

type Shared = Arc<Mutex<Wire>>;

fn lock(wire: &Shared) -> MutexGuard<'_, Wire> {
    wire.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A socket that passes everything to Docker's.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    away: PathBuf,
    wire: Shared,
    listener: Option<JoinHandle<()>>,
}

impl Socket {
    /// One in `dir` to the engine that the tests use.
    #[must_use]
    pub fn to_docker(dir: &Path) -> Self {
        let host = std::env::var_os("DOCKER_HOST").and_then(|host| host.into_string().ok());
        let host = host.unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned());
        let target = host.strip_prefix("unix://").expect("the tests' Docker has a Unix socket");
        let target = PathBuf::from(target);
        let (path, away) = (dir.join("docker.sock"), dir.join("docker.away"));
        let listener = UnixListener::bind(&path).expect("the directory takes a socket");
        let wire = Shared::default();
        let weak = Arc::downgrade(&wire);
        let listener = thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Some(wire) = weak.upgrade() else { return };
                connect(&near, &target, &wire);
            }
        });
        Self { path, away, wire, listener: Some(listener) }
    }

    /// As `DOCKER_HOST` spells it.
    #[must_use]
    pub fn host(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// Takes it away: connections break, and there is nothing to connect to.
    pub fn cut(&self) {
        fs::rename(&self.path, &self.away).expect("it is there");
        let mut wire = lock(&self.wire);
        wire.is_cut = true;
        for stream in wire.streams.drain(..) {
            // The other side may have closed it.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Brings it back.
    pub fn mend(&self) {
        lock(&self.wire).is_cut = false;
        fs::rename(&self.away, &self.path).expect("it was taken away");
    }

    /// Spoils the next answer to this.
    pub fn spoil(&self, asked: Asked, spoilt: Spoilt) {
        lock(&self.wire).armed = Some((asked, spoilt));
    }

    /// How many answers were spoilt.
    #[must_use]
    pub fn spoilt(&self) -> usize {
        lock(&self.wire).spoilt
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        for stream in lock(&self.wire).streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.wire = Shared::default();
        // Wakes the listener, which then sees that nobody holds the wire any more.
        let _ = UnixStream::connect(&self.path).or_else(|_| UnixStream::connect(&self.away));
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

fn connect(near: &UnixStream, target: &Path, wire: &Shared) {
    let Ok(far) = UnixStream::connect(target) else { return };
    let pair = || Some((near.try_clone().ok()?, far.try_clone().ok()?));
    let (Some(there), Some(back), Some(kept)) = (pair(), pair(), pair()) else { return };
    let mut state = lock(wire);
    if state.is_cut {
        return;
    }
    state.streams.extend([kept.0, kept.1]);
    drop(state);
    let spoilt = Arc::new(Mutex::new(None));
    let (on_request, on_answer) = (Arc::clone(&spoilt), spoilt);
    let (asking, answering) = (Arc::downgrade(wire), Arc::downgrade(wire));
    // Both end with their connection, which the wire's end breaks.
    thread::spawn(move || {
        pass(there, |chunk, _| {
            let wire = asking.upgrade()?;
            let mut wire = lock(&wire);
            // A client sends a request when the answer to the one before is there, its head first.
            let head = String::from_utf8_lossy(chunk);
            let line = head.lines().next().unwrap_or_default();
            if let Some((_, how)) = wire.armed.take_if(|(asked, _)| asked.is(line)) {
                *on_request.lock().unwrap_or_else(PoisonError::into_inner) = Some(how);
            }
            Some(())
        });
    });
    thread::spawn(move || {
        pass((back.1, back.0), |_, near| {
            let how = on_answer.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(how) = how else { return Some(()) };
            if how == Spoilt::Denied {
                // Nobody may be there any more.
                let _ = near.write_all(DENIAL);
            }
            let wire = answering.upgrade()?;
            lock(&wire).spoilt += 1;
            None
        });
    });
}

/// Passes everything on that `look` lets pass, until it does not.
fn pass(
    (mut from, mut to): (UnixStream, UnixStream),
    mut look: impl FnMut(&[u8], &mut UnixStream) -> Option<()>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let chunk = &buffer[..length];
        if look(chunk, &mut to).is_none() || to.write_all(chunk).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
