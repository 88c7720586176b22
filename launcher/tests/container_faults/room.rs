//! What a stage has of its host: the tool that the host offers, and so much of the disks.

use gantry_launcher::engine::Signal;
use gantry_launcher::engine::fake::{Call, Happened};
use gantry_model::Stage::{Read, Write};
use gantry_protocol::message::StageOutcome;

use crate::play::{Play, in_time, reason};
use crate::worker::Worker;

/// More than any disk has.
const WITHOUT_END: u64 = 1 << 60;

/// One interrupt, so that the tool ends in good order and what it did is kept.
#[tokio::test]
async fn a_run_that_fills_the_disk_is_interrupted_once_and_names_the_limit() {
    for kind in [Read, Write] {
        let worker = Worker::begins();
        let mut play = Play::new(kind, worker.clone());
        play.engine.has_written(WITHOUT_END);
        let outcome = in_time(play.complete()).await;
        assert!(matches!(outcome, StageOutcome::Stopped { .. }), "{kind}: {outcome:?}");
        let reason = reason(&outcome);
        assert!(reason.contains("GANTRY_DISK_LIMIT"), "{kind}: {reason}");
        assert!(play.log().contains("GANTRY_DISK_LIMIT"), "{kind}: {}", play.log());
        assert_eq!(worker.interrupts(), 1, "{kind}");
        assert!(!play.history().contains(&Happened::Signalled(Signal::Kill)), "{kind}");
    }
}

#[tokio::test]
async fn the_hosts_tool_is_in_every_container_and_cannot_be_changed_there() {
    for kind in [Read, Write] {
        let mut play = Play::new(kind, Worker::begins());
        play.drive();
        in_time(play.engine.asked(Call::Ended, 1)).await;
        let spec = play.engine.spec(&play.name()).unwrap();
        let tool = spec.mounts.iter().find(|mount| mount.target == "/opt/gantry/tool").unwrap();
        assert!(tool.is_read_only && tool.source.ends_with("tools"), "{kind}: {tool:?}");
        play.stop("seen");
        in_time(play.complete()).await;
    }
}
