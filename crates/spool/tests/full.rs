//! What happens when there is no room.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::path::Path;
use std::process::Command;

use gantry_model::Phase;
use gantry_spool::{
    Accepted, Body, BootTime, Event, Limits, MAX_OUTPUT, Position, Reader, SpoolError, WhenFull,
    Writer,
};

const AT: BootTime = BootTime(1);
const PHASE: Phase = Phase::Apply;

fn limits(when_full: WhenFull) -> Limits {
    Limits { quota: Limits::MIN_QUOTA, when_full }
}

/// Output bytes and bytes said to be dropped.
fn count(reader: &mut Reader) -> (u64, u64) {
    let (mut output, mut dropped) = (0, 0);
    while let Some(frame) = reader.next().unwrap() {
        match frame.body {
            Body::Output(bytes) => output += bytes.len() as u64,
            Body::Event(Event::Truncated { bytes }) => dropped += bytes,
            Body::Event(_) => {}
        }
    }
    (output, dropped)
}

#[test]
fn a_quota_that_no_writer_could_keep_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error =
        Writer::open(dir.path(), Limits { quota: 1000, when_full: WhenFull::Block }).unwrap_err();
    assert!(matches!(error, SpoolError::QuotaTooSmall { .. }));
}

#[test]
fn a_blocking_spool_takes_more_when_the_reader_made_room() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), limits(WhenFull::Block)).unwrap();
    let mut reader = Reader::open(dir.path(), Position::START).unwrap();
    let chunk = vec![7; MAX_OUTPUT];
    let (mut offered, mut refused) = (0_u64, 0);
    while offered < 40 {
        match writer.output(AT, PHASE, &chunk).unwrap() {
            Accepted::Written => offered += 1,
            Accepted::NoRoom => {
                refused += 1;
                writer.event(AT, None, &Event::Note { text: "events go through".into() }).unwrap();
                // Its present segment stays, and there is room again all the same.
                count(&mut reader);
                reader.remove_before(reader.position()).unwrap();
            }
            Accepted::Dropped => panic!("a blocking spool drops nothing"),
        }
    }
    assert!(refused > 5);
}

#[test]
fn a_truncating_spool_says_how_much_it_dropped_where_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), limits(WhenFull::Truncate)).unwrap();
    let mut reader = Reader::open(dir.path(), Position::START).unwrap();
    let mut offered = 0;
    for _ in 0..3 {
        for _ in 0..10 {
            let _ = writer.output(AT, PHASE, &vec![1; 200_000]).unwrap();
            offered += 200_000;
        }
        let (output, _) = count(&mut reader);
        assert!(output > 0);
        reader.remove_before(reader.position()).unwrap();
        assert_eq!(writer.output(AT, PHASE, b"room").unwrap(), Accepted::Written);
        offered += 4;
    }
    writer.event(AT, None, &Event::Note { text: "end".into() }).unwrap();
    let mut dir_reader = Reader::open(dir.path(), reader.position()).unwrap();
    let last = std::iter::from_fn(|| dir_reader.next().unwrap()).last().unwrap();
    assert_eq!(last.body, Body::Event(Event::Note { text: "end".into() }));
    assert!(offered > 0);
}

/// The disk of this test is a file system of 6 MiB, mounted in a namespace of its own.
#[test]
fn a_full_disk_tears_no_frame_and_lets_events_through() {
    const INNER: &str = "GANTRY_SPOOL_TEST_FULL_DISK";
    if let Some(dir) = std::env::var_os(INNER) {
        return fill_the_disk(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg("mount -t tmpfs -o size=6m none \"$0\" && exec \"$1\" --exact \"$2\" --nocapture")
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .arg("a_full_disk_tears_no_frame_and_lets_events_through")
        .env(INNER, dir.path())
        .status()
        .expect("this test needs unshare: apt-get install util-linux");
    assert!(status.success(), "{status}; are unprivileged user namespaces forbidden on this host?");
}

fn fill_the_disk(dir: &Path) {
    let limits = Limits { quota: Limits::WRITE_QUOTA, when_full: WhenFull::Truncate };
    let mut writer = Writer::open(dir, limits).unwrap();
    let (mut offered, mut refused) = (0, 0);
    // Not a multiple of a page, so that the last write is a part of a frame.
    let chunk = vec![9; MAX_OUTPUT - 1000];
    while refused < 3 {
        offered += chunk.len() as u64;
        refused += u32::from(writer.output(AT, PHASE, &chunk).unwrap() == Accepted::Dropped);
    }
    let note = Event::Note { text: "the disk is full".into() };
    writer.event(AT, None, &note).unwrap();
    writer.sync().unwrap();
    let mut reader = Reader::open(dir, Position::START).unwrap();
    let (output, dropped) = count(&mut reader);
    assert_eq!(output + dropped, offered);
    assert!(dropped >= 3 * chunk.len() as u64);

    reader.remove_before(reader.position()).unwrap();
    assert_eq!(writer.output(AT, PHASE, b"room").unwrap(), Accepted::Written);
    assert_eq!(count(&mut reader), (4, 0));
}
