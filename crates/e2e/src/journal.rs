//! The launcher's journal as it grows: a test strikes at the very step that it wants.
//!
//! The format is documented: eight bytes of header, then frames of length, CRC-32 and a JSON array of records. A
//! launcher that starts writes the file anew under the same name, so the tail follows the name.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

const HEADER: u64 = 8;
/// How long to look away between two looks: less than the disk needs for one synchronised write.
const PAUSE: Duration = Duration::from_micros(100);

/// A record to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// `read` or `write`.
    pub stage: &'static str,
    /// `granted`, `policy_begun`, a step such as `created`, `ended`, `state`, `result_sent` or `removed`.
    pub what: &'static str,
}

impl Moment {
    fn is(self, record: &Value) -> bool {
        let of = |kind: &str| {
            let body = &record[kind];
            body["attempt"]["stage"] == self.stage
        };
        match self.what {
            "granted" => of("granted"),
            "policy_begun" => of("policy_begun"),
            "state" => of("state"),
            "ended" => of("ended"),
            "result_sent" => of("result"),
            "removed" => of("removed"),
            step => of("step") && record["step"]["step"] == step,
        }
    }
}

/// Reads a journal as it grows.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    inode: u64,
    at: u64,
}

impl Tail {
    /// Of the journal in a launcher's state directory, from its present end.
    #[must_use]
    pub fn of(state_dir: &Path) -> Self {
        let mut tail = Self { path: state_dir.join("journal"), inode: 0, at: HEADER };
        let _ = tail.next();
        tail
    }

    /// The records that came since the last call.
    fn next(&mut self) -> Vec<Value> {
        let mut records = Vec::new();
        let Ok(file) = File::open(&self.path) else { return records };
        let Ok(about) = file.metadata() else { return records };
        if about.ino() != self.inode {
            (self.inode, self.at) = (about.ino(), HEADER);
        }
        while self.at + 8 <= about.len() {
            let Some(payload) = frame(&file, self.at) else { break };
            self.at += 8 + payload.len() as u64;
            let frame: Vec<Value> =
                serde_json::from_slice(&payload).expect("a frame is a JSON array");
            records.extend(frame);
        }
        records
    }

    /// Waits until the record of this moment is in the file. Spins: what comes next is to come at once.
    pub fn wait(&mut self, moment: Moment, limit: Duration) {
        let begin = Instant::now();
        while !self.next().iter().any(|record| moment.is(record)) {
            assert!(
                begin.elapsed() < limit,
                "waited {limit:?} in vain for {moment:?} in the journal"
            );
            thread::sleep(PAUSE);
        }
    }
}

fn frame(file: &File, at: u64) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    file.read_exact_at(&mut length, at).ok()?;
    let mut payload = vec![0; u32::from_be_bytes(length) as usize];
    file.read_exact_at(&mut payload, at + 8).ok()?;
    // A frame that is being written: its end is not there yet.
    payload.ends_with(b"]").then_some(payload)
}
