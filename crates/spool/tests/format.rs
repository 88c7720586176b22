//! What a reader may rely on, whatever happened to the files.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by a panic"
)]

use std::fs;
use std::path::{Path, PathBuf};

use gantry_model::{MAX_LINEAGE, Phase};
use gantry_spool::order::{MAX_OUTPUTS, MAX_PLAN, MAX_STATE, Order};
use gantry_spool::{
    Accepted, Body, BootTime, Event, Frame, Limits, MAX_EVENT, MAX_PAYLOAD, MAX_STATES, MAX_TEXT,
    Outcome, Position, Reader, SideFile, SideName, SpoolError, WhenFull, Writer,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// Segments of 256 KiB, so that a few frames make several.
const LIMITS: Limits = Limits { quota: Limits::MIN_QUOTA, when_full: WhenFull::Truncate };

fn bodies() -> impl Strategy<Value = Vec<Body>> {
    let output = (any::<u8>(), prop_oneof![4 => 1..2000_usize, 1 => 1..120_000_usize]).prop_map(
        |(byte, length)| Body::Output((0..length).map(|at| byte.wrapping_add(at as u8)).collect()),
    );
    let event = "\\PC{0,40}".prop_map(|text| Body::Event(Event::Note { text }));
    vec(prop_oneof![3 => output, 1 => event], 0..20)
}

/// JSON that is nearly an event.
fn any_event() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "phase_began",
        "phase_ended",
        "state",
        "plan",
        "errored",
        "truncated",
        "stopping",
        "note",
        "ended",
        "x",
    ]);
    let field = prop::sample::select(vec![
        "phase", "code", "number", "serial", "lineage", "file", "bytes", "reason", "text",
        "outcome", "name", "size", "sha256",
    ]);
    let value = prop_oneof![
        Just("null".to_owned()),
        any::<i128>().prop_map(|number| number.to_string()),
        "[ -!#-~]{0,20}".prop_map(|text| format!("{text:?}")),
        Just(r#"{"name":"plan.json","size":1,"sha256":""}"#.to_owned()),
        Just(r#"{"outcome":"failed","reason":""}"#.to_owned()),
        Just("\"plan\"".to_owned()),
    ];
    (name, vec((field, value), 0..8)).prop_map(|(name, fields)| {
        let fields: Vec<_> =
            fields.iter().map(|(field, value)| format!(",{field:?}:{value}")).collect();
        format!("{{\"event\":{name:?}{}}}", fields.concat())
    })
}

fn write(dir: &Path, bodies: &[Body]) {
    let limits = Limits { quota: 1 << 40, ..LIMITS };
    let mut writer = Writer::open(dir, LIMITS).unwrap();
    let mut used = 0;
    for (at, body) in (0..).map(BootTime).zip(bodies) {
        match body {
            Body::Output(bytes) => {
                // A quota below the sum of all would drop some; a fresh writer begins a fresh segment.
                used += bytes.len() as u64 + 100;
                if used > LIMITS.quota / 8 {
                    used = 0;
                    writer = Writer::open(dir, limits).unwrap();
                }
                assert_eq!(writer.output(at, Phase::Plan, bytes).unwrap(), Accepted::Written);
            }
            Body::Event(event) => writer.event(at, None, event).unwrap(),
        }
    }
    writer.sync().unwrap();
}

fn read(dir: &Path, from: Position) -> Result<Vec<Frame>, SpoolError> {
    let mut reader = Reader::open(dir, from)?;
    let mut frames = Vec::new();
    while let Some(frame) = reader.next()? {
        assert!(frame.position < frame.next);
        frames.push(frame);
    }
    Ok(frames)
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|ext| ext == "seg")).collect();
    segments.sort();
    segments
}

fn truncate(path: &Path, length: u64) {
    fs::File::options().write(true).open(path).unwrap().set_len(length).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn everything_is_read_as_it_was_written_from_any_frame_on(bodies in bodies()) {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &bodies);
        let frames = read(dir.path(), Position::START).unwrap();
        prop_assert_eq!(frames.iter().map(|frame| &frame.body).collect::<Vec<_>>(), bodies.iter().collect::<Vec<_>>());
        for (index, frame) in frames.iter().enumerate() {
            prop_assert_eq!(&read(dir.path(), frame.position).unwrap(), &frames[index..]);
            prop_assert_eq!(&read(dir.path(), frame.next).unwrap(), &frames[index + 1..]);
        }
    }

    #[test]
    fn files_cut_anywhere_give_a_prefix(bodies in bodies(), at in any::<Index>(), cut in any::<Index>()) {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &bodies);
        let frames = read(dir.path(), Position::START).unwrap();
        let segments = segments(dir.path());
        let at = at.index(segments.len());
        let length = fs::metadata(&segments[at]).unwrap().len();
        truncate(&segments[at], cut.index(length as usize + 1) as u64);
        // With the later segments, only what was torn is missing.
        let left = read(dir.path(), Position::START).unwrap();
        let kept = left.iter().filter(|frame| frame.position.segment as usize == at).count();
        let wanted: Vec<_> = frames
            .iter()
            .filter(|frame| frame.position.segment as usize != at)
            .map(|frame| frame.position)
            .collect();
        let others: Vec<_> = left
            .iter()
            .filter(|frame| frame.position.segment as usize != at)
            .map(|frame| frame.position)
            .collect();
        prop_assert_eq!(others, wanted);
        // Without them, the frames before the cut are all there is.
        for later in &segments[at + 1..] {
            fs::remove_file(later).unwrap();
        }
        let before = frames.iter().filter(|frame| (frame.position.segment as usize) < at).count();
        prop_assert_eq!(&read(dir.path(), Position::START).unwrap(), &frames[..before + kept]);
    }

    #[test]
    fn a_reader_that_looks_at_any_instant_sees_each_frame_once(bodies in bodies(), steps in vec(1..60_000_usize, 1..8)) {
        let (whole, growing) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(whole.path(), &bodies);
        let mut reader = Reader::open(growing.path(), Position::START).unwrap();
        let mut seen = Vec::new();
        let mut steps = steps.iter().cycle();
        for segment in segments(whole.path()) {
            let bytes = fs::read(&segment).unwrap();
            let copy = growing.path().join(segment.file_name().unwrap());
            let mut written = 0;
            while written < bytes.len() {
                written = bytes.len().min(written + steps.next().unwrap());
                fs::write(&copy, &bytes[..written]).unwrap();
                while let Some(frame) = reader.next().unwrap() {
                    seen.push(frame.body);
                }
            }
        }
        prop_assert_eq!(seen, bodies);
    }

    #[test]
    fn a_changed_byte_is_never_read_as_output(bodies in bodies(), at in any::<Index>(), change in 1..=255_u8) {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &bodies);
        let frames = read(dir.path(), Position::START).unwrap();
        let segments = segments(dir.path());
        let segment = &segments[at.index(segments.len())];
        let mut bytes = fs::read(segment).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        fs::write(segment, bytes).unwrap();
        let mut reader = Reader::open(dir.path(), Position::START).unwrap();
        let mut frames = frames.iter();
        while let Ok(Some(frame)) = reader.next() {
            // A length that grew can hide frames at a segment's end, never make up others.
            prop_assert!(frames.any(|genuine| *genuine == frame));
        }
    }

    /// Frames whose checksum is right, as a hostile writer makes them.
    #[test]
    fn any_frame_is_answered(kind in 0..4_u8, phase in 0..8_u8, payload in prop_oneof![vec(any::<u8>(), 0..200), any_event().prop_map(String::into_bytes)]) {
        let _ = read_one(kind, phase, 0, &payload);
    }

    #[test]
    fn any_order_is_answered(noise in vec(any::<u8>(), 0..200), text in any_event()) {
        prop_assert!(Order::from_json(&noise).is_err());
        prop_assert!(Order::from_json(text.as_bytes()).is_err());
    }

    #[test]
    fn noise_is_an_error_or_nothing(noise in vec(any::<u8>(), 0..400), header in any::<bool>(), offset in 0..500_u64) {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = if header { b"GANTRYSP\x01\0\0\0\0\0\0\0".to_vec() } else { Vec::new() };
        bytes.extend(noise);
        fs::write(dir.path().join("00000000.seg"), bytes).unwrap();
        let _ = read(dir.path(), Position::START);
        let _ = read(dir.path(), Position { segment: 0, offset });
        let _ = read(dir.path(), Position { segment: 0, offset: u64::MAX - offset });
    }
}

#[test]
fn a_spool_without_segments_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(read(dir.path(), Position::START).unwrap(), []);
    assert!(matches!(
        Reader::open(&dir.path().join("none"), Position::START),
        Err(SpoolError::Io { .. })
    ));
}

#[test]
fn a_length_beyond_the_bound_is_corrupt_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = b"GANTRYSP\x01\0\0\0\0\0\0\0".to_vec();
    bytes.extend(u32::MAX.to_le_bytes());
    bytes.extend([1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    fs::write(dir.path().join("00000000.seg"), bytes).unwrap();
    let error = read(dir.path(), Position::START).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the spool is corrupt at segment 0, byte 16: a frame is longer than the format allows"
    );
}

/// A segment with one frame as a hostile writer makes it: right in all but what it says.
fn segment_with(kind: u8, phase: u8, reserved: u16, payload: &[u8]) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
    header.extend([kind, phase]);
    header.extend(reserved.to_le_bytes());
    header.extend(7_u64.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header);
    crc.update(payload);
    let segment = b"GANTRYSP\x01\0\0\0\0\0\0\0";
    [segment, &header[..], &crc.finalize().to_le_bytes(), payload].concat()
}

fn read_one(kind: u8, phase: u8, reserved: u16, payload: &[u8]) -> Result<Vec<Frame>, SpoolError> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("00000000.seg"), segment_with(kind, phase, reserved, payload))
        .unwrap();
    read(dir.path(), Position::START)
}

fn is_taken(event: &Event) -> bool {
    let frames = read_one(2, 0, 0, &serde_json::to_vec(event).unwrap());
    match frames {
        Ok(frames) => {
            assert_eq!(frames.len(), 1);
            true
        }
        Err(SpoolError::Corrupt { .. }) => false,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn frames_are_taken_up_to_their_limits_and_not_beyond() {
    let length = |kind, length: usize| read_one(kind, 2, 0, &vec![b' '; length]);
    assert_eq!(length(1, 0).unwrap().len(), 1);
    assert_eq!(length(1, MAX_PAYLOAD).unwrap().len(), 1);
    assert!(matches!(length(1, MAX_PAYLOAD + 1), Err(SpoolError::Corrupt { .. })));
    let event = |length: usize| {
        let mut json = br#"{"event":"phase_began","phase":"plan"}"#.to_vec();
        json.resize(length, b' ');
        read_one(2, 0, 0, &json)
    };
    assert_eq!(event(MAX_EVENT).unwrap().len(), 1);
    assert!(matches!(event(MAX_EVENT + 1), Err(SpoolError::Corrupt { .. })));
    for (kind, phase, reserved) in [(0, 2, 0), (3, 2, 0), (1, 6, 0), (1, 255, 0), (1, 2, 1)] {
        let read = read_one(kind, phase, reserved, b"x");
        assert!(matches!(read, Err(SpoolError::Corrupt { .. })), "{kind} {phase} {reserved}");
    }
}

#[test]
fn events_are_taken_up_to_their_limits_and_not_beyond() {
    let note = |length| Event::Note { text: "x".repeat(length) };
    assert!(is_taken(&note(MAX_TEXT)) && !is_taken(&note(MAX_TEXT + 1)));
    let failed = |length| Event::Ended {
        outcome: Outcome::Failed {
            phase: None,
            code: None,
            signal: None,
            reason: "x".repeat(length),
        },
    };
    assert!(is_taken(&failed(MAX_TEXT)) && !is_taken(&failed(MAX_TEXT + 1)));

    let file = |name, size| SideFile { name, size, sha256: "0a".repeat(32) };
    let state = |number, lineage: usize, file| Event::State {
        number,
        serial: u64::MAX,
        lineage: "l".repeat(lineage),
        file,
    };
    let sound = |number| file(SideName::State(number), MAX_STATE);
    assert!(is_taken(&state(1, MAX_LINEAGE, sound(1))));
    assert!(is_taken(&state(MAX_STATES, 0, sound(MAX_STATES))));
    assert!(!is_taken(&state(1, MAX_LINEAGE + 1, sound(1))));
    assert!(!is_taken(&state(0, 0, sound(0))));
    assert!(!is_taken(&state(MAX_STATES + 1, 0, sound(MAX_STATES + 1))));
    assert!(!is_taken(&state(1, 0, sound(2))), "the file of another version");
    assert!(!is_taken(&state(1, 0, file(SideName::State(1), MAX_STATE + 1))));
    assert!(!is_taken(&state(1, 0, SideFile { sha256: "0A".repeat(32), ..sound(1) })));
    assert!(!is_taken(&state(1, 0, SideFile { sha256: "0a".repeat(33), ..sound(1) })));

    for (name, max) in [
        (SideName::Plan, MAX_PLAN),
        (SideName::Outputs, MAX_OUTPUTS),
        (SideName::Environment, gantry_spool::MAX_CARRIED),
        (SideName::Errored, MAX_STATE),
    ] {
        let event = |file| match name {
            SideName::Plan => Event::Plan { file },
            SideName::Outputs => Event::Outputs { file },
            SideName::Environment => Event::Environment { file },
            SideName::Errored | SideName::State(_) => Event::Errored { file },
        };
        assert!(is_taken(&event(file(name, max))) && !is_taken(&event(file(name, max + 1))));
        assert!(!is_taken(&event(file(SideName::State(1), 1))));
    }
}

#[test]
fn json_without_a_bottom_is_no_event() {
    let deep = "[".repeat(30_000) + &"]".repeat(30_000);
    let json = format!(r#"{{"event":"phase_began","phase":"plan","more":{deep}}}"#);
    // Whether or not it is taken: it ends.
    let _ = read_one(2, 0, 0, json.as_bytes());
    assert!(read_one(2, 0, 0, deep.as_bytes()).is_err());
}

#[test]
fn a_later_version_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("00000000.seg"), b"GANTRYSP\x02\0\0\0\0\0\0\0").unwrap();
    assert!(matches!(read(dir.path(), Position::START), Err(SpoolError::Version { found: 2 })));
}

#[test]
fn links_pipes_and_directories_are_refused_without_waiting() {
    use std::os::unix::fs::symlink;

    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[Body::Output(b"x".to_vec())]);
    let (real, segment) = (dir.path().join("real"), dir.path().join("00000000.seg"));
    fs::rename(&segment, &real).unwrap();
    let plants: [fn(&Path, &Path); 3] = [
        |real, segment| symlink(real, segment).unwrap(),
        |_, segment| {
            let (mode, kind) = (rustix::fs::Mode::from_raw_mode(0o600), rustix::fs::FileType::Fifo);
            rustix::fs::mknodat(rustix::fs::CWD, segment, kind, mode, 0).unwrap();
        },
        |_, segment| fs::create_dir(segment).unwrap(),
    ];
    for plant in plants {
        plant(&real, &segment);
        let error = read(dir.path(), Position::START).unwrap_err();
        assert!(matches!(error, SpoolError::NotRegular { .. }), "{error}");
        fs::remove_file(&segment).or_else(|_| fs::remove_dir(&segment)).unwrap();
    }
}

#[test]
fn removed_segments_are_gone_and_a_missing_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let bodies: Vec<_> = (0..4).map(|byte| Body::Output(vec![byte; 120_000])).collect();
    write(dir.path(), &bodies);
    let mut reader = Reader::open(dir.path(), Position::START).unwrap();
    let first = reader.next().unwrap().unwrap();
    reader.remove_before(first.next).unwrap();
    assert_eq!(read(dir.path(), Position::START).unwrap().len(), 4, "a segment in use stays");
    while reader.next().unwrap().is_some() {}
    let end = reader.position();
    assert!(end.segment > 0);
    reader.remove_before(end).unwrap();
    assert_eq!(segments(dir.path()).len(), 1);
    assert!(matches!(read(dir.path(), Position::START), Err(SpoolError::Missing { segment: 0 })));
    assert_eq!(read(dir.path(), end).unwrap(), []);
}
