//! Waiting for what no event announces, within a limit.

use std::thread;
use std::time::{Duration, Instant};

/// How long to look away between two looks.
const PAUSE: Duration = Duration::from_millis(25);

/// Looks again and again until there is something to be seen.
pub fn until<T>(what: &str, limit: Duration, look: impl FnMut() -> Option<T>) -> T {
    until_seen(what, limit, PAUSE, look)
}

/// The same with another pause, for a look that takes a program.
pub(crate) fn until_seen<T>(
    what: &str,
    limit: Duration,
    pause: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let begin = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begin.elapsed() < limit, "waited {limit:?} in vain for {what}");
        thread::sleep(pause);
    }
}
