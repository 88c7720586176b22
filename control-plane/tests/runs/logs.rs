use bytes::Bytes;
use gantry_control_plane::logs::LogScope;
use gantry_control_plane::objects::Objects as _;
use gantry_model::{Attempt, Epoch, RunId, Section};
use gantry_protocol::message::StageResult;

use crate::launcher::{Launcher, closing, segment, succeeded};
use crate::world::World;

impl World {
    async fn write(
        &self,
        launcher: &mut Launcher,
        attempt: Attempt,
        section: Section,
        offset: u64,
        text: &'static str,
    ) {
        let segment = segment(attempt, section, offset, text);
        self.objects.put(&segment.key, Bytes::from_static(text.as_bytes())).await.unwrap();
        self.say(launcher, segment).await;
    }

    async fn log(&self, run: RunId, scope: LogScope) -> (String, bool) {
        let (mut text, mut from) = (Vec::new(), 0);
        loop {
            // Small parts, so that they end anywhere.
            let part = self.control_plane.logs.read_log(run, scope, from, 4).await.unwrap();
            text.extend_from_slice(&part.bytes);
            if part.bytes.is_empty() {
                return (String::from_utf8(text).unwrap(), part.is_finished);
            }
            from = part.next;
        }
    }
}

#[tokio::test]
async fn a_log_is_read_as_it_was_written_and_is_finished_when_the_result_closes_it() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.reading().await;
    world.write(&mut launcher, attempt, Section::Initialize, 0, "init ").await;
    world.write(&mut launcher, attempt, Section::Plan, 0, "first line, ").await;
    world.write(&mut launcher, attempt, Section::Plan, 12, "second line").await;
    assert_eq!(world.log(run, LogScope::Run).await, ("init first line, second line".into(), false));
    let log = vec![closing(Section::Initialize, 5), closing(Section::Plan, 23)];
    world.say(&mut launcher, StageResult { log, ..succeeded(attempt, false) }).await;
    assert_eq!(world.log(run, LogScope::Run).await, ("init first line, second line".into(), true));
    let plan = LogScope::Section(attempt, Section::Plan);
    assert_eq!(world.log(run, plan).await, ("first line, second line".into(), true));
    assert!(world.control_plane.runs.attempts(run).await.unwrap()[0].is_log_complete);
    assert!(
        world.control_plane.logs.log_sections(run).await.unwrap().iter().all(|it| it.is_complete)
    );
}

#[tokio::test]
async fn a_segment_that_leaves_a_gap_or_is_not_the_attempts_own_is_refused() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.reading().await;
    world.write(&mut launcher, attempt, Section::Plan, 7, "late").await;
    let mut foreign = segment(attempt, Section::Plan, 0, "stolen");
    foreign.key = "log/01J00000000000000000000000/1/x".into();
    world.say(&mut launcher, foreign).await;
    assert_eq!(world.log(run, LogScope::Run).await.0, "");
    world.write(&mut launcher, attempt, Section::Plan, 0, "right").await;
    assert_eq!(world.log(run, LogScope::Run).await.0, "right");
}

#[tokio::test]
async fn an_older_attempts_log_is_kept_apart() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.reading().await;
    world.write(&mut launcher, attempt, Section::Plan, 0, "old ").await;
    world.clock.advance_ms(60_000);
    world.deliver(&mut [&mut launcher]).await;
    let next = world.claim(&mut launcher).await;
    world.write(&mut launcher, attempt, Section::Plan, 4, "late").await;
    world.write(&mut launcher, next, Section::Plan, 0, "new").await;
    assert_eq!(world.log(run, LogScope::Run).await.0, "old new");
    let of = |attempt| LogScope::Section(attempt, Section::Plan);
    assert_eq!(world.log(run, of(attempt)).await.0, "old late");
    assert_eq!(world.log(run, of(next)).await.0, "new");
    let unknown = Attempt { epoch: Epoch(77), ..attempt };
    assert_eq!(world.log(run, of(unknown)).await.0, "");
}

#[tokio::test]
async fn who_watches_a_run_sees_its_log_grow() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.reading().await;
    let mut changes = world.control_plane.runs.watch(run);
    changes.mark_unchanged();
    world.write(&mut launcher, attempt, Section::Plan, 0, "text").await;
    assert!(changes.has_changed().unwrap());
}
