//! What a full spool does to a phase.

use std::time::Duration;

use gantry_spool::{
    Body, Event, Limits, MAX_OUTPUT, Outcome, Position, Reader, StopReason, WhenFull,
};

use crate::harness::{Run, order};

const QUOTA: u64 = Limits::MIN_QUOTA;
/// Five times the quota, each line another.
const FLOOD: &str = "trap '' INT; seq -w 1 700000; echo end";
const FLOOD_BYTES: u64 = 700_000 * 7 + 4;

fn run(when_full: WhenFull) -> Run {
    let mut order = order(FLOOD);
    order.spool = Limits { quota: QUOTA, when_full };
    order.grace_ms = 1000;
    Run::start(&order)
}

fn used(run: &Run) -> u64 {
    let entries = std::fs::read_dir(run.spool()).unwrap().map(Result::unwrap);
    let segments = entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(".seg"));
    segments.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
}

#[test]
fn a_reading_stage_waits_for_room_and_loses_nothing() {
    let run = run(WhenFull::Block);
    run.until("a full spool", |run| used(run) > QUOTA - MAX_OUTPUT as u64 - 1000);
    let mut reader = Reader::open(&run.spool(), Position::START).unwrap();
    let mut log = Vec::new();
    loop {
        match reader.next().unwrap().map(|frame| frame.body) {
            Some(Body::Output(bytes)) => log.extend(bytes),
            Some(Body::Event(Event::Ended { outcome })) => {
                assert_eq!(outcome, Outcome::Succeeded);
                break;
            }
            Some(Body::Event(event)) => assert!(!matches!(event, Event::Truncated { .. })),
            None => {
                assert!(used(&run) <= QUOTA + 64 * 1024, "{} bytes", used(&run));
                reader.remove_before(reader.position()).unwrap();
                run.wait_for_change(Duration::from_millis(200));
            }
        }
    }
    let log = String::from_utf8(log).unwrap();
    assert_eq!(log.len() as u64, FLOOD_BYTES);
    let mut lines = log.lines();
    for number in 1..=700_000 {
        assert_eq!(lines.next().and_then(|line| line.parse().ok()), Some(number));
    }
    assert_eq!(lines.next(), Some("end"));
}

#[test]
fn a_writing_stage_goes_on_and_counts_what_it_drops() {
    let mut run = run(WhenFull::Truncate);
    assert_eq!(run.outcome(), Outcome::Succeeded);
    let dropped: u64 = run
        .events()
        .iter()
        .map(|event| if let Event::Truncated { bytes } = event { *bytes } else { 0 })
        .sum();
    assert!(dropped > 0);
    assert_eq!(run.log().len() as u64 + dropped, FLOOD_BYTES);
    assert!(run.log().starts_with("000001\n000002\n"));
}

#[test]
fn a_stage_that_waits_for_room_can_be_stopped() {
    let mut run = run(WhenFull::Block);
    run.until("a full spool", |run| used(run) > QUOTA - MAX_OUTPUT as u64 - 1000);
    run.signal("TERM");
    let reason = StopReason::Asked;
    assert!(matches!(run.outcome(), Outcome::Stopped { reason: stopped, .. } if stopped == reason));
    assert!(run.events().iter().any(|event| matches!(event, Event::Truncated { .. })));
}
