//! The promises, one by one.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use gantry_launcher::engine::{Engine, EngineError, Mount, Signal, State};
use tokio::time::timeout;

use crate::side::{STOPPED, Side, USER};

/// Far more than anything takes here; only to end a test that hangs.
const LIMIT: Duration = Duration::from_secs(120);
const ENDED: Option<State> = Some(State::Exited { code: 7, is_out_of_memory: false });

pub async fn in_time(test: impl Future<Output = ()>) {
    timeout(LIMIT, test).await.expect("an engine answers");
}

/// What an engine says to something that it does not do.
fn refusal<T: std::fmt::Debug>(answer: Result<T, EngineError>) -> String {
    let error = answer.expect_err("it is refused");
    assert!(matches!(error, EngineError::Refused { .. }), "{error:?}");
    assert!(!error.is_passing(), "{error:?}");
    error.to_string()
}

pub async fn it_says_what_it_is(side: &mut impl Side) {
    let version = side.engine().ping().await.unwrap();
    assert!(version.split_once(' ').is_some_and(|(_, number)| !number.is_empty()), "{version}");
}

pub async fn it_says_what_its_host_has(side: &mut impl Side) {
    let capacity = side.engine().capacity().await.unwrap();
    assert!(capacity.memory > Some(256 << 20) && capacity.processors > Some(0), "{capacity:?}");
}

pub async fn an_image_says_what_it_sets(side: &mut impl Side) {
    let image = side.engine().image(&side.spec().image).await.unwrap().unwrap();
    assert_eq!(image.user, USER);
    assert!(image.environment.iter().any(|entry| entry.starts_with("PATH=")), "{image:?}");
    assert_eq!(side.engine().image("gantry-none:none").await.unwrap(), None);
}

pub async fn a_container_is_made_once_and_found_by_its_name(side: &mut impl Side) {
    let (engine, spec) = (side.engine(), side.spec());
    assert_eq!(engine.state(&spec.name).await.unwrap(), None);
    engine.create(&spec).await.unwrap();
    assert_eq!(engine.state(&spec.name).await.unwrap(), Some(State::Created));
    engine.create(&spec).await.unwrap();
    side.again().await.create(&spec).await.unwrap();
    assert_eq!(side.all().await, [spec.name]);
    assert_eq!(side.ran(), 0);
}

pub async fn a_container_is_started_once(side: &mut impl Side) {
    let (engine, spec) = (side.engine(), side.spec());
    engine.create(&spec).await.unwrap();
    engine.start(&spec.name).await.unwrap();
    side.is_up().await;
    engine.start(&spec.name).await.unwrap();
    side.again().await.start(&spec.name).await.unwrap();
    engine.create(&spec).await.unwrap();
    assert_eq!(engine.state(&spec.name).await.unwrap(), Some(State::Running));
    assert_eq!(side.ran(), 1);
}

/// That is why the barrier is asked before each start.
pub async fn a_container_that_ended_runs_again_when_it_is_started(side: &mut impl Side) {
    let (engine, spec) = (side.engine(), side.spec());
    engine.create(&spec).await.unwrap();
    for times in 1..=2 {
        engine.start(&spec.name).await.unwrap();
        side.is_up().await;
        side.let_go().await;
        engine.ended(&spec.name).await.unwrap();
        assert_eq!(engine.state(&spec.name).await.unwrap(), ENDED);
        assert_eq!(side.ran(), times);
    }
}

pub async fn the_end_is_seen_by_whoever_asks_later(side: &mut impl Side) {
    let (engine, spec) = (side.engine(), side.spec());
    engine.create(&spec).await.unwrap();
    engine.start(&spec.name).await.unwrap();
    side.is_up().await;
    let again = side.again().await;
    let (first, second) = (engine.ended(&spec.name), again.ended(&spec.name));
    let (first, second, ()) = tokio::join!(first, second, side.let_go());
    first.unwrap();
    second.unwrap();
    let again = side.again().await;
    again.ended(&spec.name).await.unwrap();
    assert_eq!(again.state(&spec.name).await.unwrap(), ENDED);
}

pub async fn a_wait_that_is_dropped_changes_nothing(side: &mut impl Side) {
    let (engine, spec) = (side.engine(), side.spec());
    engine.create(&spec).await.unwrap();
    engine.start(&spec.name).await.unwrap();
    side.is_up().await;
    let mut waiting = Box::pin(engine.ended(&spec.name));
    assert!(timeout(Duration::from_millis(50), &mut waiting).await.is_err());
    drop(waiting);
    assert_eq!(engine.state(&spec.name).await.unwrap(), Some(State::Running));
    side.let_go().await;
    engine.ended(&spec.name).await.unwrap();
    assert_eq!(engine.state(&spec.name).await.unwrap(), ENDED);
}

pub async fn what_never_ran_has_ended(side: &mut impl Side) {
    let (engine, spec) = (side.engine(), side.spec());
    engine.ended(&spec.name).await.unwrap();
    engine.create(&spec).await.unwrap();
    engine.ended(&spec.name).await.unwrap();
}

pub async fn a_container_is_asked_to_stop_or_killed(side: &mut impl Side) {
    let (engine, spec) = (side.engine(), side.spec());
    engine.create(&spec).await.unwrap();
    for (signal, code) in [(Signal::Stop, STOPPED), (Signal::Kill, 137)] {
        engine.start(&spec.name).await.unwrap();
        side.is_up().await;
        engine.signal(&spec.name, signal).await.unwrap();
        engine.ended(&spec.name).await.unwrap();
        assert_eq!(
            engine.state(&spec.name).await.unwrap(),
            Some(State::Exited { code, is_out_of_memory: false })
        );
    }
}

pub async fn what_does_not_run_takes_no_signal(side: &mut impl Side) {
    let (engine, spec) = (side.engine(), side.spec());
    engine.signal(&spec.name, Signal::Kill).await.unwrap();
    engine.create(&spec).await.unwrap();
    engine.signal(&spec.name, Signal::Stop).await.unwrap();
    assert_eq!(engine.state(&spec.name).await.unwrap(), Some(State::Created));
}

pub async fn a_container_is_removed_running_or_not(side: &mut impl Side) {
    let (engine, spec) = (side.engine(), side.spec());
    engine.remove(&spec.name).await.unwrap();
    for is_running in [false, true] {
        engine.create(&spec).await.unwrap();
        if is_running {
            engine.start(&spec.name).await.unwrap();
            side.is_up().await;
        }
        engine.remove(&spec.name).await.unwrap();
        assert_eq!(engine.state(&spec.name).await.unwrap(), None);
        engine.ended(&spec.name).await.unwrap();
        engine.remove(&spec.name).await.unwrap();
    }
    assert!(side.all().await.is_empty());
}

pub async fn several_may_remove_at_once(side: &mut impl Side) {
    let (engine, spec) = (side.engine(), side.spec());
    engine.create(&spec).await.unwrap();
    engine.start(&spec.name).await.unwrap();
    side.is_up().await;
    let gone = || async {
        engine.remove(&spec.name).await.unwrap();
        assert_eq!(engine.state(&spec.name).await.unwrap(), None);
    };
    tokio::join!(gone(), gone(), gone());
}

pub async fn several_may_make_at_once(side: &mut impl Side) {
    let (engine, spec) = (side.engine(), side.spec());
    let made = || async {
        engine.create(&spec).await.unwrap();
        assert_eq!(engine.state(&spec.name).await.unwrap(), Some(State::Created));
    };
    tokio::join!(made(), made(), made());
    assert_eq!(side.all().await, [spec.name]);
}

pub async fn what_was_removed_can_be_made_again(side: &mut impl Side) {
    let (engine, spec) = (side.engine(), side.spec());
    for _ in 0..3 {
        engine.create(&spec).await.unwrap();
        engine.remove(&spec.name).await.unwrap();
    }
    engine.create(&spec).await.unwrap();
    assert_eq!(engine.state(&spec.name).await.unwrap(), Some(State::Created));
}

pub async fn containers_are_found_by_all_of_their_labels(side: &mut impl Side) {
    let (engine, spec) = (side.engine(), side.spec());
    engine.create(&spec).await.unwrap();
    let own = [spec.name.clone()];
    let labels: Vec<_> = spec.labels.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
    assert!(labels.len() > 1);
    assert_eq!(engine.list(&labels).await.unwrap(), own);
    assert_eq!(engine.list(&labels[..1]).await.unwrap(), own);
    let mut other: BTreeMap<_, _> = labels.into_iter().collect();
    "another".clone_into(other.values_mut().next().unwrap());
    let other: Vec<_> = other.into_iter().collect();
    assert!(engine.list(&other).await.unwrap().is_empty());
    engine.start(&spec.name).await.unwrap();
    side.is_up().await;
    assert_eq!(side.all().await, own);
}

pub async fn an_image_that_is_not_here_is_refused(side: &mut impl Side) {
    let (engine, mut spec) = (side.engine(), side.spec());
    "gantry-none:none".clone_into(&mut spec.image);
    let said = refusal(engine.create(&spec).await);
    assert!(said.contains("create the container"), "{said}");
    let said = said.to_lowercase();
    assert!(said.contains("no such image") && said.contains("gantry-none:none"), "{said}");
    assert_eq!(engine.state(&spec.name).await.unwrap(), None);
}

pub async fn an_image_that_nobody_has_cannot_be_pulled(side: &mut impl Side) {
    // Nobody listens at port 1.
    let said = refusal(side.engine().pull("localhost:1/gantry-none:none", &|_| {}).await);
    assert!(said.contains("pull"), "{said}");
}

pub async fn a_mount_of_nothing_is_refused(side: &mut impl Side) {
    let (engine, mut spec) = (side.engine(), side.spec());
    spec.mounts.push(Mount {
        source: "/nonexistent/gantry".into(),
        target: "/mnt/none".to_owned(),
        is_read_only: true,
    });
    let said = refusal(engine.create(&spec).await);
    assert!(said.contains("/nonexistent/gantry"), "{said}");
    assert_eq!(engine.state(&spec.name).await.unwrap(), None);
    // Nor is something made there that nobody asked for.
    assert!(!std::path::Path::new("/nonexistent/gantry").exists());
}

pub async fn what_is_not_there_cannot_be_started(side: &mut impl Side) {
    let (engine, spec) = (side.engine(), side.spec());
    let said = refusal(engine.start(&spec.name).await);
    assert!(said.to_lowercase().contains("no such container"), "{said}");
    assert!(said.contains(&spec.name), "{said}");
}
