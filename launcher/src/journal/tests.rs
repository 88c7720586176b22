use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, io};

use gantry_model::{Epoch, MessageId, RunId, Stage};
use gantry_protocol::message::{Claim, Decision, FromLauncher};
use proptest::prelude::*;
use ulid::Ulid;

use super::*;

fn ids() -> (JournalId, WorkerId) {
    (JournalId::from_ulid(Ulid::from_parts(1, 1)), WorkerId::from_ulid(Ulid::from_parts(2, 2)))
}

fn open(directory: &Path) -> Journal {
    Journal::open(directory, ids).expect("the journal opens")
}

fn attempt(n: u64) -> Attempt {
    Attempt { run: RunId::from_ulid(Ulid::from_parts(n, 0)), stage: Stage::Read, epoch: Epoch(1) }
}

fn claim(n: u64) -> Change {
    let message = FromLauncher::Claim(Claim { attempt: attempt(n) });
    Change::Queue { id: MessageId::from_ulid(Ulid::from_parts(n, 7)), message }
}

#[test]
fn what_was_written_is_known_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let before = {
        let journal = open(directory.path());
        journal.write_now(vec![Change::granted(attempt(1), "boot".to_owned()), claim(1)]).unwrap();
        journal.write_now(vec![Change::step(attempt(1), Step::Starting)]).unwrap();
        journal.write_now(vec![claim(2), Change::stop(attempt(1), "asked".to_owned())]).unwrap();
        journal.acknowledge(1).unwrap();
        (journal.entries(), journal.waiting(0))
    };
    for _ in 0..3 {
        let journal = open(directory.path());
        assert_eq!((journal.entries(), journal.waiting(0)), before);
        assert_eq!(before.0[0].step, Step::Starting);
        assert_eq!(before.1.iter().map(|waiting| waiting.seq).collect::<Vec<_>>(), [2]);
    }
}

/// The control plane gives away what a hello does not name, so a grant that was still on its way to the
/// journal must not be taken after it.
#[tokio::test]
async fn a_grant_of_a_session_that_is_over_is_not_taken() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    let session = |n| SessionId::from_ulid(Ulid::from_parts(n, 0));
    assert!(!journal.grant(attempt(1), "boot", session(1)).await.unwrap());
    journal.opened(session(1));
    assert!(journal.grant(attempt(1), "boot", session(1)).await.unwrap());
    assert_eq!(journal.greet().len(), 1);
    assert!(!journal.grant(attempt(2), "boot", session(1)).await.unwrap());
    journal.opened(session(2));
    assert!(!journal.grant(attempt(2), "boot", session(1)).await.unwrap());
    assert_eq!(open(directory.path()).entries().len(), 1);
}

#[test]
fn a_seq_is_never_used_twice() {
    let directory = tempfile::tempdir().unwrap();
    for expected in 1..6 {
        let journal = open(directory.path());
        assert_eq!(journal.write_now(vec![claim(expected)]).unwrap(), Some(expected));
        journal.acknowledge(expected).unwrap();
    }
}

#[test]
fn another_version_and_a_foreign_file_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()));
    let path = directory.path().join("journal");
    for content in [&b"GNTRYJ\0\x02"[..], b"something else"] {
        fs::write(&path, content).unwrap();
        let refused = Journal::open(directory.path(), ids).unwrap_err();
        assert!(matches!(refused, JournalError::Version { .. }), "{refused}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A crash can cut the last frame anywhere: what came before it is whole.
    #[test]
    fn a_cut_at_any_byte_leaves_whole_frames(steps in 1usize..8, cut in 0usize..600) {
        let directory = tempfile::tempdir().unwrap();
        let mut lengths = Vec::new();
        {
            let journal = open(directory.path());
            for n in 0..steps as u64 {
                lengths.push(fs::metadata(directory.path().join("journal")).unwrap().len());
                journal.write_now(vec![Change::granted(attempt(n), String::new()), claim(n)]).unwrap();
            }
        }
        let path = directory.path().join("journal");
        let bytes = fs::read(&path).unwrap();
        let last = usize::try_from(*lengths.last().unwrap()).unwrap();
        let keep = (last + cut).min(bytes.len());
        fs::write(&path, &bytes[..keep]).unwrap();
        let whole = if keep == bytes.len() { steps } else { steps - 1 };
        let journal = open(directory.path());
        prop_assert_eq!(journal.entries().len(), whole);
        prop_assert_eq!(journal.waiting(0).len(), whole);
    }

    /// Damage elsewhere is told: it never drops what follows in silence.
    #[test]
    fn damage_before_the_last_frame_is_told(at in 0usize..10_000, flip in 1u8..=255) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut last = 0;
        {
            let journal = open(directory.path());
            for n in 0..6 {
                last = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
                journal.write_now(vec![Change::granted(attempt(n), String::new())]).unwrap();
            }
        }
        let mut bytes = fs::read(&path).unwrap();
        bytes[at % last] ^= flip;
        fs::write(&path, &bytes).unwrap();
        let refused = Journal::open(directory.path(), ids).map(|journal| journal.entries().len());
        prop_assert!(refused.is_err(), "{refused:?} of 6 are known");
    }
}

/// However many state versions a container reports, the journal can be written anew.
#[test]
fn an_entry_fits_a_frame_whatever_its_container_does() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    journal.write_now(vec![Change::granted(attempt(1), String::new())]).unwrap();
    for n in 1..=9000 {
        let payload_sha256 = "a".repeat(64);
        let state = KeptState { n, seq: n, serial: n, payload_sha256 };
        journal.lock().known.apply(Record::State { attempt: attempt(1), state });
    }
    let records = journal.lock().known.records();
    drop(journal);
    File::open(directory.path(), |_| {}).unwrap().rewrite(&records).unwrap();
    let states = open(directory.path()).entry(attempt(1)).unwrap().states;
    assert_eq!(states.last().map(|kept| kept.n), Some(9000));
}

/// A policy may say more than any message, and the run must be denied all the same.
#[test]
fn a_message_that_fits_no_frame_is_kept_shorter() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    let decision = Decision {
        attempt: attempt(1),
        is_allowed: false,
        denials: vec!["\u{1f6ab}".repeat(4096); 100],
        policy_sha256: String::new(),
    };
    let id = MessageId::from_ulid(Ulid::from_parts(1, 7));
    let queued = Change::Queue { id, message: decision.into() };
    assert_eq!(journal.write_now(vec![queued]).unwrap(), Some(1));
    let waiting = open(directory.path()).waiting(0);
    let FromLauncher::Decision(decision) = waiting[0].message().unwrap() else {
        panic!("{waiting:?}")
    };
    assert!(!decision.is_allowed && decision.denials[0].starts_with('\u{1f6ab}'));
}

/// A disk that takes its time: it counts, and each synchronisation but the first of all waits for a word.
struct Disk {
    syncs: Arc<AtomicUsize>,
    go_on: std::sync::mpsc::Sender<()>,
}

fn slow(directory: &Path) -> (Journal, Disk) {
    let (go_on, waits) = std::sync::mpsc::channel();
    let syncs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&syncs);
    let sync = Sync(Box::new(move |file: &fs::File| {
        counted.fetch_add(1, Ordering::SeqCst);
        waits.recv().map_err(io::Error::other)?;
        file.sync_data()
    }));
    (Journal::open_with(directory, sync, ids).unwrap(), Disk { syncs, go_on })
}

/// Polls once: what is asked is on its way.
fn begin<F: Future>(future: &mut Pin<Box<F>>) {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_pending(), "the disk has not answered");
}

#[tokio::test]
async fn many_that_wait_at_once_share_a_synchronisation() {
    const MANY: u64 = 64;
    let directory = tempfile::tempdir().unwrap();
    let (journal, disk) = slow(directory.path());
    let mut first = Box::pin(journal.write(vec![claim(1)]));
    begin(&mut first);
    while disk.syncs.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    let mut rest: Vec<_> = (2..=MANY).map(|n| Box::pin(journal.write(vec![claim(n)]))).collect();
    rest.iter_mut().for_each(begin);
    // Nothing is known, nor sent, before it is durable.
    assert_eq!((journal.waiting(0).len(), *journal.changed().borrow()), (0, 0));
    disk.go_on.send(()).unwrap();
    assert_eq!(first.await.unwrap(), Some(1));
    assert_eq!(journal.waiting(0).len(), 1);
    disk.go_on.send(()).unwrap();
    for (n, written) in (2..).zip(rest) {
        assert_eq!(written.await.unwrap(), Some(n));
    }
    assert_eq!(disk.syncs.load(Ordering::SeqCst), 2, "{MANY} changes");
    drop(journal);
    let waiting = open(directory.path()).waiting(MANY - 4);
    assert_eq!(
        waiting.iter().map(|it| it.seq).collect::<Vec<_>>(),
        [MANY - 3, MANY - 2, MANY - 1, MANY]
    );
}

/// Somebody who stops waiting, as at a stop, must not read a journal that lacks what is about to come.
#[tokio::test]
async fn a_write_that_is_given_up_is_known_when_it_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, disk) = slow(directory.path());
    let mut written = Box::pin(journal.write(vec![claim(1)]));
    begin(&mut written);
    disk.go_on.send(()).unwrap();
    drop(written);
    assert_eq!(journal.waiting(0).len(), 1);
}

/// What waits behind a frame that the disk did not take is told of it, or counted anew: no seq is left out.
#[tokio::test]
async fn after_a_failure_the_order_has_no_gap() {
    let directory = tempfile::tempdir().unwrap();
    let fails = Arc::new(AtomicUsize::new(1));
    let sync = Sync(Box::new(move |file: &fs::File| {
        match fails.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => Err(io::ErrorKind::StorageFull.into()),
            Err(_) => file.sync_data(),
        }
    }));
    let journal = Journal::open_with(directory.path(), sync, ids).unwrap();
    journal.write(vec![claim(1)]).await.unwrap_err();
    assert_eq!(journal.waiting(0).len(), 0);
    assert_eq!(journal.write(vec![claim(2)]).await.unwrap(), Some(1));
    drop(journal);
    assert_eq!(open(directory.path()).waiting(0).len(), 1);
}

/// A hello that is made while a grant is on its way to the disk names it: else it would be given away.
#[tokio::test]
async fn a_hello_names_what_is_being_granted() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, disk) = slow(directory.path());
    let session = SessionId::from_ulid(Ulid::from_parts(1, 0));
    journal.opened(session);
    let mut granted = Box::pin(journal.grant(attempt(1), "boot", session));
    begin(&mut granted);
    while disk.syncs.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    assert_eq!(journal.greet().len(), 1);
    disk.go_on.send(()).unwrap();
    assert!(granted.await.unwrap());
    assert_eq!((journal.greet().len(), journal.entries().len()), (1, 1));
}
