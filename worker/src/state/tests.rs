use std::io::Write;

use gantry_spool::{Body, Limits, Position, Reader, WhenFull, lay_out, mark_stored};

use super::*;

struct Stage {
    dir: tempfile::TempDir,
    server: StateServer,
}

fn stage(current: Option<&str>, can_write: bool) -> Stage {
    let dir = tempfile::tempdir().unwrap();
    lay_out(dir.path()).unwrap();
    let limits = Limits { quota: Limits::MIN_QUOTA, when_full: WhenFull::Block };
    let spool = Spool::open(dir.path(), limits).unwrap();
    let order_dir = tempfile::tempdir().unwrap();
    if let Some(state) = current {
        std::fs::write(order_dir.path().join("current"), state).unwrap();
    }
    let current = current.map(|_| "current".to_owned());
    let order = StateOrder { current, can_write, answer_after_ms: 60_000 };
    let server = StateServer::new(spool, &order, order_dir.path()).unwrap();
    assert!(
        std::fs::read_dir(order_dir.path()).unwrap().next().is_none(),
        "the given state is taken away"
    );
    Stage { dir, server }
}

impl Stage {
    fn post(&self, state: &str) -> Result<Option<u64>, Refused> {
        let mut file = self.server.begin_write()?;
        file.write_all(state.as_bytes()).unwrap();
        Ok(self.server.write(file)?.map(|written| written.number))
    }

    fn events(&self) -> Vec<Event> {
        let mut reader = Reader::open(self.dir.path(), Position::START).unwrap();
        let mut events = Vec::new();
        while let Some(frame) = reader.next().unwrap() {
            if let Body::Event(event) = frame.body {
                events.push(event);
            }
        }
        events
    }
}

fn state(serial: u64, more: &str) -> String {
    format!(r#"{{"version":4,"serial":{serial},"lineage":"l","more":"{more}"}}"#)
}

#[test]
fn a_state_is_read_back_as_it_was_written() {
    let stage = stage(None, true);
    assert_eq!(stage.server.read().unwrap(), None);
    assert_eq!(stage.post(&state(1, "a")).unwrap(), Some(1));
    assert_eq!(stage.post(&state(2, "b")).unwrap(), Some(2));
    assert_eq!(stage.server.read().unwrap().unwrap(), state(2, "b").as_bytes());
    let serials: Vec<_> = stage
        .events()
        .into_iter()
        .map(|event| {
            let Event::State { number, serial, lineage, file } = event else { panic!("{event:?}") };
            (number, serial, lineage, file.name)
        })
        .collect();
    let l = || "l".to_owned();
    assert_eq!(serials, [(1, 1, l(), SideName::State(1)), (2, 2, l(), SideName::State(2))]);
}

#[test]
fn the_same_again_is_no_new_version_and_other_bytes_are_a_conflict() {
    let stage = stage(None, true);
    assert_eq!(stage.post(&state(3, "a")).unwrap(), Some(1));
    assert_eq!(stage.post(&state(3, "a")).unwrap(), Some(1));
    assert!(matches!(stage.post(&state(3, "b")), Err(Refused::Conflict { serial: 3, present: 3 })));
    assert!(matches!(stage.post(&state(2, "a")), Err(Refused::Conflict { serial: 2, present: 3 })));
    assert_eq!(stage.events().len(), 1);
}

#[test]
fn the_given_state_sent_back_is_no_new_version() {
    let stage = stage(Some(&state(7, "a")), true);
    assert_eq!(stage.server.read().unwrap().unwrap(), state(7, "a").as_bytes());
    assert_eq!(stage.post(&state(7, "a")).unwrap(), None);
    assert!(matches!(stage.post(&state(7, "b")), Err(Refused::Conflict { .. })));
    assert_eq!(stage.post(&state(8, "a")).unwrap(), Some(1));
}

#[test]
fn what_is_no_state_is_refused_and_leaves_nothing() {
    let stage = stage(None, true);
    let long = format!(r#"{{"serial":1,"lineage":"{}"}}"#, "x".repeat(300));
    for wrong in
        ["", "{}", "[]", r#"{"serial":-1,"lineage":"l"}"#, r#"{"serial":1,"lineage":"l"} x"#, &long]
    {
        assert!(matches!(stage.post(wrong), Err(Refused::NoState)), "{wrong}");
    }
    let left = std::fs::read_dir(stage.dir.path()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("side-")), "{left:?}");
}

#[test]
fn a_run_that_may_only_look_locks_and_writes_nothing() {
    let stage = stage(None, false);
    assert!(matches!(stage.server.check_write(None), Err(Refused::ReadOnly)));
    stage.server.lock(Bytes::from_static(br#"{"ID":"a"}"#)).unwrap();
}

#[test]
fn a_lock_is_taken_again_by_its_holder_alone() {
    let stage = stage(None, true);
    let (a, b) =
        (Bytes::from_static(br#"{"ID":"a","Who":"x"}"#), Bytes::from_static(br#"{"ID":"b"}"#));
    stage.server.unlock(&a).unwrap();
    stage.server.lock(a.clone()).unwrap();
    stage.server.lock(a.clone()).unwrap();
    assert!(matches!(stage.server.lock(b.clone()), Err(Refused::Locked(info)) if info == a));
    assert!(matches!(stage.server.unlock(&b), Err(Refused::Locked(info)) if info == a));
    assert!(matches!(stage.server.check_write(Some("b")), Err(Refused::Locked(_))));
    stage.server.check_write(Some("a")).unwrap();
    stage.server.unlock(&a).unwrap();
    stage.server.lock(b).unwrap();
    assert!(matches!(stage.server.lock(Bytes::new()), Err(Refused::NoLock)));
}

#[tokio::test]
async fn a_stored_version_is_answered_at_once() {
    let stage = stage(None, true);
    stage.post(&state(1, "a")).unwrap();
    mark_stored(stage.dir.path(), 1).unwrap();
    stage.server.stored(Written { number: 1, at: BootTime::now() }).await;
}

#[tokio::test]
async fn an_unstored_version_is_answered_after_a_while() {
    let stage = stage(None, true);
    let long_ago = BootTime(BootTime::now().0.saturating_sub(60_000_000_000));
    stage.server.stored(Written { number: 1, at: long_ago }).await;
}

#[test]
fn only_the_whole_password_opens() {
    let stage = stage(None, true);
    let whole = stage.server.authorization.clone();
    assert!(stage.server.is_authorized(whole.as_bytes()));
    assert!(!stage.server.is_authorized(&whole.as_bytes()[1..]));
    assert!(!stage.server.is_authorized(b""));
}
