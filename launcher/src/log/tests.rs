use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use gantry_model::{Epoch, JournalId, Phase, RunId, Stage, WorkerId};
use gantry_protocol::message::FromLauncher;
use proptest::prelude::*;

use super::*;
use crate::session::Outgoing as _;

/// Objects in memory. A put may be cut off after the object is there: the crash that leaves an orphan.
#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

impl Uploader for Shelf {
    async fn put(&self, _: UrlPurpose, content: Content<'_>) -> Result<String, BlobError> {
        let Content::Bytes(bytes) = content else { panic!("a log is bytes") };
        let mut shelf = self.0.lock().unwrap();
        let key = format!("log/{}", shelf.len());
        shelf.insert(key.clone(), bytes.to_vec());
        Ok(key)
    }
}

/// One frame of a spool.
#[derive(Debug, Clone)]
enum Given {
    Output(Vec<u8>),
    Section(Phase),
    Gap,
}

fn given() -> impl Strategy<Value = Vec<Given>> {
    let output = prop::collection::vec(prop::sample::select(b"abc\n".to_vec()), 0..12);
    let phase = prop::sample::select(vec![Phase::Initialize, Phase::Plan]);
    prop::collection::vec(
        prop_oneof![8 => output.prop_map(Given::Output), 1 => phase.prop_map(Given::Section), 1 => Just(Given::Gap)],
        1..30,
    )
}

/// What happens behind each frame that is read.
#[derive(Debug, Clone, Copy)]
enum Then {
    Nothing,
    Cut,
    Crash,
}

fn attempt() -> Attempt {
    Attempt { run: RunId::from_ulid(Ulid::from_parts(1, 1)), stage: Stage::Read, epoch: Epoch(1) }
}

fn open(directory: &Path) -> Arc<Journal> {
    let ids = || {
        (JournalId::from_ulid(Ulid::from_parts(1, 1)), WorkerId::from_ulid(Ulid::from_parts(1, 2)))
    };
    Arc::new(Journal::open(directory, ids).unwrap())
}

fn place(frame: usize) -> Position {
    Position { segment: 0, offset: frame as u64 }
}

/// Reads all frames, crashing where `then` says so, and gives the journal and the shelf at the end.
async fn run(
    directory: &Path,
    frames: &[Given],
    then: &[Then],
    secrets: &Secrets,
) -> (Arc<Journal>, Shelf) {
    let shelf = Shelf::default();
    let mut then = then.iter().copied();
    'restart: loop {
        let journal = open(directory);
        if journal.entry(attempt()).is_none() {
            journal.write(vec![Change::granted(attempt(), String::new())]).await.unwrap();
        }
        let mark = journal.entry(attempt()).unwrap().mark;
        let mut log = Log::resume(attempt(), Arc::clone(&journal), shelf.clone(), secrets, mark);
        let first = usize::try_from(log.position().offset).unwrap();
        for (at, frame) in frames.iter().enumerate().skip(first) {
            match frame {
                Given::Output(output) => {
                    log.output(place(at), place(at + 1), output).await.unwrap();
                }
                Given::Section(phase) => {
                    log.end_section(Some(place(at + 1)), Some((*phase).into()), Vec::new())
                        .await
                        .unwrap();
                }
                Given::Gap => log.record_gap(place(at + 1), "gap".to_owned()).await.unwrap(),
            }
            match then.next().unwrap_or(Then::Nothing) {
                Then::Nothing => {}
                Then::Cut => log.cut(Vec::new()).await.unwrap(),
                Then::Crash => continue 'restart,
            }
        }
        log.end_section(Some(place(frames.len())), None, Vec::new()).await.unwrap();
        return (journal, shelf);
    }
}

/// The stored log, as the control plane puts it together: only what continues a section counts.
fn stored(journal: &Journal, shelf: &Shelf) -> BTreeMap<Section, Vec<u8>> {
    let mut log: BTreeMap<Section, Vec<u8>> = BTreeMap::new();
    let mut after = 0;
    loop {
        let waiting = journal.waiting(after);
        let Some(last) = waiting.last() else { return log };
        after = last.seq;
        for waiting in waiting {
            let FromLauncher::Segment(segment) = waiting.message().unwrap() else { continue };
            let section = log.entry(segment.section).or_default();
            assert_eq!(segment.offset, section.len() as u64, "a gap or a doubled byte");
            section.extend_from_slice(&shelf.0.lock().unwrap()[&segment.key]);
        }
    }
}

/// What the phases wrote, masked in one go.
fn expected(frames: &[Given], secrets: &Secrets) -> BTreeMap<Section, Vec<u8>> {
    let mut log: BTreeMap<Section, Vec<u8>> = BTreeMap::new();
    let mut section = Section::Conclude;
    let mut part = Vec::new();
    let mut before = Vec::new();
    let mut end = |log: &mut BTreeMap<Section, Vec<u8>>, section, part: &mut Vec<u8>| {
        let mut masker = Masker::new(secrets);
        let mut masked = Vec::new();
        masker.push(part, &mut masked);
        masker.finish(&mut masked);
        part.clear();
        if !masked.is_empty() {
            before.clone_from(&masked);
            log.entry(section).or_default().extend(masked);
        }
        let text = log.get(&Section::Conclude).unwrap_or(&before);
        text.last().is_some_and(|last| *last != b'\n')
    };
    for frame in frames {
        match frame {
            Given::Output(output) => part.extend_from_slice(output),
            Given::Section(phase) => {
                end(&mut log, section, &mut part);
                section = (*phase).into();
            }
            Given::Gap => {
                let is_mid_line = end(&mut log, section, &mut part);
                let line: &[u8] = if is_mid_line { b"\ngap\n" } else { b"gap\n" };
                log.entry(Section::Conclude).or_default().extend(line);
            }
        }
    }
    end(&mut log, section, &mut part);
    log
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Wherever the launcher dies and however the log is cut, the stored log is the masked output, once
    /// and in order.
    #[test]
    fn a_crash_loses_doubles_and_unmasks_nothing(
        frames in given(),
        then in prop::collection::vec(
            prop::sample::select(vec![Then::Nothing, Then::Nothing, Then::Cut, Then::Crash]), 0..60),
    ) {
        let mut secrets = Secrets::default();
        secrets.insert("A", b"abcab").unwrap();
        secrets.insert("B", b"cabb\nc").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (journal, shelf) = runtime.block_on(run(directory.path(), &frames, &then, &secrets));
        prop_assert_eq!(stored(&journal, &shelf), expected(&frames, &secrets));
    }
}

#[tokio::test]
async fn the_closing_lines_begin_a_line_whatever_the_last_phase_left() {
    for (left, expected) in [
        ("no line feed", "\nover\nand out\n"),
        ("a line\n", "over\nand out\n"),
        ("", "over\nand out\n"),
    ] {
        let (directory, shelf) = (tempfile::tempdir().unwrap(), Shelf::default());
        let (journal, secrets) = (open(directory.path()), Secrets::default());
        journal.write(vec![Change::granted(attempt(), String::new())]).await.unwrap();
        let resume = || {
            let mark = journal.entry(attempt()).unwrap().mark;
            Log::resume(attempt(), Arc::clone(&journal), shelf.clone(), &secrets, mark)
        };
        let mut log = resume();
        log.end_section(Some(place(1)), Some(Phase::Plan.into()), Vec::new()).await.unwrap();
        log.output(place(1), place(2), left.as_bytes()).await.unwrap();
        log.end_section(Some(place(3)), None, Vec::new()).await.unwrap();
        // Another launcher says how it ended.
        let mut log = resume();
        log.say(Section::Conclude, &["over".to_owned()], Vec::new()).await.unwrap();
        log.say(Section::Conclude, &["and out".to_owned()], Vec::new()).await.unwrap();
        let stored = stored(&journal, &shelf);
        assert_eq!(stored[&Section::Conclude], expected.as_bytes(), "{left:?}");
    }
}
