//! The envelope: what it looks like on the wire, what its signature covers, what is refused.

use std::collections::BTreeMap;

use gantry_model::{Attempt, Epoch, JournalId, MessageId, PoolId, RunId, Section, Stage, WorkerId};
use gantry_protocol::message::{
    Binding, Claim, Direction, Envelope, EnvelopeError, FromControlPlane, FromLauncher, Grant,
    Hello, MAX_ENVELOPE, PutUrl, RunInHand, Segment, StageOutcome, StageResult, Step, UrlPurpose,
    Versions,
};
use gantry_protocol::{SessionKey, Signature};
use proptest::prelude::*;
use ulid::Ulid;

fn ulid(n: u64) -> Ulid {
    Ulid::from_parts(n, 0)
}

fn attempt() -> Attempt {
    Attempt { run: RunId::from_ulid(ulid(1)), stage: Stage::Write, epoch: Epoch(7) }
}

fn id() -> MessageId {
    MessageId::from_ulid(ulid(2))
}

fn binding(nonce: &str) -> Binding<'_> {
    Binding {
        direction: Direction::FromLauncher,
        pool: PoolId::from_ulid(ulid(3)),
        worker: WorkerId::from_ulid(ulid(4)),
        nonce,
    }
}

fn encode(message: &FromLauncher, seq: Option<u64>, key: &SessionKey, nonce: &str) -> Vec<u8> {
    let sign = |bytes: &[u8]| key.sign(bytes).expect("it fits").as_bytes().to_vec();
    Envelope::encode(message, id(), seq, &binding(nonce), sign).expect("it fits")
}

fn open(
    bytes: &[u8],
    key: &SessionKey,
    binding: &Binding<'_>,
) -> Result<FromLauncher, EnvelopeError> {
    let public = key.public();
    Envelope::decode(bytes)?.open(binding, |bytes, signature| {
        Signature::from_bytes(signature.to_vec())
            .is_ok_and(|signature| public.verify(bytes, &signature).is_ok())
    })
}

fn claim() -> FromLauncher {
    Claim { attempt: attempt() }.into()
}

#[test]
fn a_message_comes_back_as_it_was() {
    let key = SessionKey::generate().unwrap();
    let bytes = encode(&claim(), Some(3), &key, "nonce");
    assert_eq!(open(&bytes, &key, &binding("nonce")).unwrap(), claim());
}

#[test]
fn a_message_is_worth_nothing_elsewhere() {
    let key = SessionKey::generate().unwrap();
    let bytes = encode(&claim(), Some(3), &key, "nonce");
    let here = binding("nonce");
    let elsewhere = [
        Binding { nonce: "another", ..here },
        Binding { direction: Direction::FromControlPlane, ..here },
        Binding { pool: PoolId::from_ulid(ulid(9)), ..here },
        Binding { worker: WorkerId::from_ulid(ulid(9)), ..here },
    ];
    for binding in elsewhere {
        assert!(matches!(open(&bytes, &key, &binding), Err(EnvelopeError::Signature(_))));
    }
    let foreign = SessionKey::generate().unwrap();
    assert!(matches!(open(&bytes, &foreign, &here), Err(EnvelopeError::Signature(_))));
}

#[test]
fn what_does_not_fit_is_refused_and_named() {
    let key = SessionKey::generate().unwrap();
    let here = binding("nonce");
    let sign = |bytes: &[u8]| key.sign(bytes).unwrap().as_bytes().to_vec();
    let without = Envelope::encode(&claim(), id(), None, &here, sign);
    assert!(matches!(without, Err(EnvelopeError::Seq(kind)) if kind == "claim"));
    let mut grant = Grant { attempt: attempt(), urls: Vec::new() };
    let url = PutUrl {
        purpose: UrlPurpose::Log,
        key: "log/1".to_owned(),
        url: "x".repeat(MAX_ENVELOPE),
        valid_ms: 1,
    };
    grant.urls.push(url);
    let large =
        Envelope::encode(&FromControlPlane::from(grant), id(), Some(1), &here, |_| Vec::new());
    assert!(matches!(large, Err(EnvelopeError::TooLarge { .. })));
    let noise = vec![b'x'; 1 << 20];
    assert!(
        matches!(Envelope::decode(&noise), Err(EnvelopeError::TooLarge { size }) if size == 1 << 20)
    );
    let later = br#"{"v":2,"id":"0000000000000000000000000A","kind":"claim","body":{},"sig":""}"#;
    assert!(matches!(Envelope::decode(later), Err(EnvelopeError::Version(2))));
}

#[test]
fn unknown_fields_are_ignored_and_unknown_kinds_told() {
    let text =
        br#"{"v":1,"id":"0000000000000000000000000A","kind":"dance","body":{},"sig":"","more":1}"#;
    let envelope = Envelope::decode(text).unwrap();
    let opened = envelope.open::<FromLauncher>(&binding(""), |_, _| true);
    assert!(matches!(opened, Err(EnvelopeError::UnknownKind(kind)) if kind == "dance"));
}

/// The wire form: a change here is a change of the protocol.
#[test]
fn messages_on_the_wire() {
    let hello = Hello {
        nonce: "bm9uY2U=".to_owned(),
        instance: ulid(5).to_string(),
        machine: "4c4c4544".to_owned(),
        journal: JournalId::from_ulid(ulid(6)),
        runs: vec![RunInHand { attempt: attempt(), step: Step::LogComplete }],
        versions: Versions { launcher: "0.1.0".to_owned(), protocol: vec![1] },
        capacity: 1,
        engine: "docker".to_owned(),
        pools: vec![PoolId::from_ulid(ulid(3))],
        metadata: BTreeMap::from([("instance_id".to_owned(), "i-1".to_owned())]),
        clock_ms: 1,
        session_key: "a2V5".to_owned(),
    };
    let segment = Segment {
        attempt: attempt(),
        section: Section::Apply,
        offset: 10,
        length: 5,
        sha256: "00".repeat(32),
        key: "log/a/b".to_owned(),
    };
    let result = StageResult {
        attempt: attempt(),
        outcome: StageOutcome::Failed {
            reason: "no".to_owned(),
            phase: Some(gantry_model::Phase::Apply),
            code: Some(1),
        },
        delta: None,
        outputs: Vec::new(),
        log: Vec::new(),
        continues: false,
    };
    let messages: [(FromLauncher, Option<u64>); 4] = [
        (hello.into(), None),
        (claim(), Some(1)),
        (segment.into(), Some(2)),
        (result.into(), Some(3)),
    ];
    let wire: Vec<serde_json::Value> = messages
        .iter()
        .map(|(message, seq)| {
            let bytes =
                Envelope::encode(message, id(), *seq, &binding("n"), |_| b"signature".to_vec());
            serde_json::from_slice(&bytes.unwrap()).unwrap()
        })
        .collect();
    insta::assert_json_snapshot!(wire);
}

proptest! {
    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(envelope) = Envelope::decode(&noise) {
            let _ = envelope.open::<FromLauncher>(&binding(""), |_, _| true);
            let _ = envelope.open::<FromControlPlane>(&binding(""), |_, _| true);
        }
    }

    /// A byte that was changed on the way makes the message another one, or none, never the same.
    #[test]
    fn a_changed_byte_is_noticed(at in any::<prop::sample::Index>(), flip in 1u8..=127) {
        let key = SessionKey::generate().unwrap();
        let mut bytes = encode(&claim(), Some(3), &key, "nonce");
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        // Only the spelling of the envelope's own JSON may differ without being noticed.
        if let Ok(message) = open(&bytes, &key, &binding("nonce")) {
            prop_assert_eq!(message, claim());
        }
    }
}
