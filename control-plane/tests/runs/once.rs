use gantry_model::{Phase, RunState, RunType, Section};

use crate::launcher::{began, claim, segment, succeeded};
use crate::world::World;

#[tokio::test]
async fn doubled_and_reordered_messages_count_once_and_in_order() {
    let world = World::new().await;
    let run = world.trigger(RunType::Tracked).await;
    let mut launcher = world.welcomed().await;
    let attempt = launcher.offered().unwrap();
    let mut payloads = vec![launcher.say(claim(attempt))];
    payloads.push(launcher.say(began(attempt, Phase::Plan)));
    for n in 0..5 {
        payloads.push(launcher.say(segment(attempt, Section::Plan, n * 5, "hello")));
    }
    payloads.push(launcher.say(succeeded(attempt, false)));
    let mut wild: Vec<_> = payloads.iter().rev().cloned().collect();
    wild.extend(payloads.clone());
    wild.extend(payloads);
    world.bring(&launcher, wild).await;
    world.deliver(&mut [&mut launcher]).await;
    assert_eq!(world.state(run).await, RunState::Finished);
    let sections = world.control_plane.logs.log_sections(run).await.unwrap();
    assert_eq!(sections.iter().map(|it| it.length).collect::<Vec<_>>(), [25]);
    assert!(launcher.waiting.is_empty());
}

#[tokio::test]
async fn a_message_of_another_session_counts_for_nothing() {
    let world = World::new().await;
    let run = world.trigger(RunType::Tracked).await;
    let mut launcher = world.welcomed().await;
    let attempt = launcher.offered().unwrap();
    let old = launcher.spell(&claim(attempt).into(), Some(1));
    world.hello(&mut launcher).await;
    world.bring(&launcher, vec![old]).await;
    world.deliver(&mut [&mut launcher]).await;
    assert!(!launcher.granted(attempt));
    assert_eq!(world.state(run).await, RunState::Preparing);
}

#[tokio::test]
async fn another_worker_cannot_speak_about_a_run_that_it_does_not_own() {
    let world = World::new().await;
    let (run, owner, attempt) = world.reading().await;
    let mut other = world.welcomed().await;
    world.say(&mut other, claim(attempt)).await;
    world.say(&mut other, began(attempt, Phase::Apply)).await;
    world.say(&mut other, segment(attempt, Section::Plan, 0, "lies")).await;
    world.say(&mut other, succeeded(attempt, false)).await;
    let mut heartbeat = other.heartbeat();
    heartbeat.runs.push(attempt);
    world.say(&mut other, heartbeat).await;
    assert_eq!(world.state(run).await, RunState::Preparing);
    assert!(world.control_plane.logs.log_sections(run).await.unwrap().is_empty());
    assert!(!other.granted(attempt));
    assert!(other.waiting.is_empty(), "what is refused is acknowledged all the same");
    let shown = world.control_plane.runs.run(run).await.unwrap();
    assert_eq!(shown.worker, Some(owner.worker));
}

#[tokio::test]
async fn noise_and_unknown_kinds_do_no_harm() {
    let world = World::new().await;
    let mut launcher = world.welcomed().await;
    let noise = vec![
        bytes::Bytes::from_static(b""),
        bytes::Bytes::from_static(b"{}"),
        bytes::Bytes::from(vec![0xff; 1 << 20]),
        bytes::Bytes::from_static(b"{\"v\":9,\"id\":\"x\"}"),
    ];
    world.bring(&launcher, noise).await;
    let heartbeat = launcher.heartbeat();
    world.say(&mut launcher, heartbeat).await;
    assert!(launcher.heard.len() == 1, "only the welcome");
}
