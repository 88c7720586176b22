//! A wire that can be cut: a TCP proxy between a launcher and its broker.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Everything passes.
    Open,
    /// Connections stay open and nothing passes.
    Held,
    /// Connections are broken and new ones refused.
    Cut,
}

#[derive(Debug)]
struct Wire {
    mode: Mutex<(Mode, Vec<TcpStream>)>,
    changed: Condvar,
}

impl Wire {
    fn lock(&self) -> MutexGuard<'_, (Mode, Vec<TcpStream>)> {
        self.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, mode: Mode) {
        let mut state = self.lock();
        state.0 = mode;
        if mode == Mode::Cut {
            for stream in state.1.drain(..) {
                // The other side may have closed it.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        self.changed.notify_all();
    }

    /// Waits while the wire is held; whether it is open then.
    fn passes(&self) -> bool {
        let state = self.lock();
        let state = self.changed.wait_while(state, |state| state.0 == Mode::Held);
        state.unwrap_or_else(PoisonError::into_inner).0 == Mode::Open
    }
}

/// A proxy on a free port of the loopback.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    wire: Arc<Wire>,
    listener: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Passes everything to and from `target`.
    #[must_use]
    pub fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let wire =
            Arc::new(Wire { mode: Mutex::new((Mode::Open, Vec::new())), changed: Condvar::new() });
        let target = target.to_owned();
        let accepting = Arc::clone(&wire);
        let listener = thread::spawn(move || {
            for accepted in listener.incoming().map_while(Result::ok) {
                if Arc::strong_count(&accepting) == 1 {
                    return;
                }
                if accepting.lock().0 != Mode::Cut {
                    connect(&accepted, &target, &accepting);
                }
            }
        });
        Self { address, wire, listener: Some(listener) }
    }

    /// Its address, `127.0.0.1:<port>`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Breaks all connections and refuses new ones.
    pub fn cut(&self) {
        self.wire.set(Mode::Cut);
    }

    /// Lets nothing pass and closes nothing.
    pub fn hold(&self) {
        self.wire.set(Mode::Held);
    }

    /// Lets everything pass again.
    pub fn mend(&self) {
        self.wire.set(Mode::Open);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.wire.set(Mode::Cut);
        self.wire =
            Arc::new(Wire { mode: Mutex::new((Mode::Cut, Vec::new())), changed: Condvar::new() });
        // Wakes the listener, which then sees that nobody holds the wire any more.
        let _ = TcpStream::connect(self.address);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

fn connect(near: &TcpStream, target: &str, wire: &Arc<Wire>) {
    let Ok(far) = TcpStream::connect(target) else { return };
    let pair = || Some((near.try_clone().ok()?, far.try_clone().ok()?));
    let (Some(there), Some(back), Some(kept)) = (pair(), pair(), pair()) else { return };
    wire.lock().1.extend([kept.0, kept.1]);
    for (from, to) in [there, (back.1, back.0)] {
        let wire = Arc::downgrade(wire);
        // Ends with its connection, which the wire's end breaks.
        thread::spawn(move || {
            let (mut from, mut to) = (from, to);
            let mut buffer = [0; 16 * 1024];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                let passes = wire.upgrade().is_some_and(|wire| wire.passes());
                if !passes || to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        });
    }
}
