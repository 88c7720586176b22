//! The envelope: what it looks like on the wire, what its signature covers, what is refused.

use std::collections::BTreeMap;

use gantry_model::{Attempt, Epoch, JournalId, MessageId, PoolId, RunId, Section, Stage, WorkerId};
use gantry_protocol::message::{
    Arrival, Binding, Bye, Claim, Closing, Decision, Decline, Direction, Envelope, EnvelopeError,
    FromControlPlane, FromLauncher, Grant, Heartbeat, Hello, MAX_ENVELOPE, Output, PutUrl,
    RunInHand, Segment, StageOutcome, StageResult, StateStored, Step, UrlPurpose, Versions, Window,
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

/// A `bye` whose envelope has exactly this size.
fn of_size(size: usize) -> Result<Vec<u8>, EnvelopeError> {
    let bye = |length| -> FromLauncher { Bye { reason: "x".repeat(length) }.into() };
    let encode = |message| Envelope::encode(&message, id(), None, &binding(""), |_| vec![7; 64]);
    let rest = encode(bye(0))?.len();
    encode(bye(size - rest))
}

#[test]
fn an_envelope_has_at_most_64_kib() {
    let largest = of_size(MAX_ENVELOPE).unwrap();
    assert_eq!(largest.len(), MAX_ENVELOPE);
    assert!(Envelope::decode(&largest).is_ok());
    let over = of_size(MAX_ENVELOPE + 1);
    assert!(matches!(over, Err(EnvelopeError::TooLarge { size }) if size == MAX_ENVELOPE + 1));
    let padded = [&largest[..], b" "].concat();
    assert!(matches!(Envelope::decode(&padded), Err(EnvelopeError::TooLarge { .. })));
}

#[test]
fn a_signature_has_at_most_1368_characters() {
    let open = |characters: usize| {
        let mut envelope = Envelope::decode(&of_size(1000).unwrap()).unwrap();
        envelope.sig = "A".repeat(characters);
        let mut asked = false;
        let _ = envelope.open::<FromLauncher>(&binding(""), |_, _| {
            asked = true;
            true
        });
        asked
    };
    assert!(open(1368));
    assert!(!open(1372));
}

#[test]
fn json_without_a_bottom_is_no_message() {
    let deep = "[".repeat(30_000) + &"]".repeat(30_000);
    let envelope = |kind: &str, body: &str| {
        format!(
            r#"{{"v":1,"id":"0000000000000000000000000A","kind":"{kind}","body":{body},"sig":""}}"#
        )
    };
    for kind in ["result", "bye", "dance"] {
        for body in [deep.clone(), format!(r#"{{"outputs":{deep},"more":{deep}}}"#)] {
            let text = envelope(kind, &body);
            let Ok(envelope) = Envelope::decode(text.as_bytes()) else { continue };
            assert!(envelope.open::<FromLauncher>(&binding(""), |_, _| true).is_err());
        }
    }
    assert!(Envelope::decode(deep.as_bytes()).is_err());
    assert!(Envelope::decode("{\"v\":".repeat(10_000).as_bytes()).is_err());
}

#[test]
fn at_most_64_messages_wait_behind_a_gap() {
    let mut window = Window::after(0);
    for seq in 2..=66 {
        assert_eq!(window.arrive(seq, seq), Arrival::Early);
    }
    let Arrival::Next(next) = window.arrive(1, 1) else { panic!("nothing was missing") };
    assert_eq!((next.len(), window.received()), (65, 65), "the one too many is sent again");
    assert_eq!(window.arrive(66, 66), Arrival::Next(vec![(66, 66)]));
    // Numbers that no honest sender reaches.
    assert_eq!(window.arrive(u64::MAX, 0), Arrival::Early);
    assert_eq!(window.arrive(0, 0), Arrival::Repeated);
    assert_eq!(Window::after(u64::MAX).arrive(u64::MAX, 0), Arrival::Repeated);
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

/// Every message of a launcher's that holds something of a container, a policy or a person.
fn with_texts(text: &str, count: usize) -> Vec<FromLauncher> {
    let outputs = (0..count)
        .map(|number| Output {
            name: format!("{text}{number}"),
            is_sensitive: false,
            value: Some(serde_json::json!({ "value": text })),
        })
        .collect();
    let closing = Closing { section: Section::Plan, length: u64::MAX };
    let decision = Decision {
        attempt: attempt(),
        is_allowed: false,
        denials: vec![text.to_owned(); count],
        policy_sha256: "a".repeat(64),
    };
    let state = StateStored {
        attempt: attempt(),
        serial: u64::MAX,
        lineage: text.to_owned(),
        header: "h".repeat(32 * 1024),
        payload_sha256: "a".repeat(64),
        payload_size: u64::MAX,
        predecessor: Some("a".repeat(64)),
        signature: "s".repeat(1368),
        key: "k".repeat(256),
    };
    let result = StageResult {
        attempt: attempt(),
        outcome: StageOutcome::Failed { reason: text.to_owned(), phase: None, code: Some(1) },
        delta: None,
        outputs,
        log: vec![closing; 7],
        continues: false,
    };
    let reason = || text.to_owned();
    let heartbeat = Heartbeat { runs: vec![attempt()], is_healthy: false, note: Some(reason()) };
    vec![
        decision.into(),
        state.into(),
        result.into(),
        heartbeat.into(),
        Bye { reason: reason() }.into(),
        Decline { attempt: attempt(), reason: reason() }.into(),
    ]
}

#[test]
fn a_short_message_loses_no_more_than_it_must() {
    let mut messages = with_texts("why", 3);
    let shortened: Vec<_> = messages.iter().map(|it| it.clone().shortened()).collect();
    for message in &mut messages {
        if let FromLauncher::Result(result) = message {
            result.outputs.iter_mut().for_each(|output| output.value = None);
        }
    }
    assert_eq!(shortened, messages);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a container, a policy or a person put into it.
    #[test]
    fn a_shortened_message_fits(text in any::<char>(), length in 0..70_000_usize, count in 0..600_usize) {
        let text: String = std::iter::repeat_n(text, length).collect();
        // Long and many at once would only take long.
        let count = if length > 1000 { count % 8 } else { count };
        for message in with_texts(&text, count) {
            let seq = gantry_protocol::message::Message::is_sequenced(&message).then_some(u64::MAX);
            let shortened = message.clone().shortened();
            let encoded = Envelope::encode(&shortened, id(), seq, &binding(""), |_| vec![7; 64]);
            prop_assert!(encoded.is_ok(), "{:?}", encoded);
        }
    }

    /// Any JSON under the name of any kind is a message or an error.
    #[test]
    fn any_body_is_answered(kind in 0..40_usize, change in any::<prop::sample::Index>(), value in "[0-9]{1,25}|\"[a-z]{0,9}\"|null|true|\\[\\]|\\{\\}|-1|1e400") {
        let mut messages = with_texts("a", 1);
        messages.push(claim());
        let message = &messages[kind % messages.len()];
        let body = gantry_protocol::message::Message::body(message).unwrap();
        let mut body: serde_json::Value = serde_json::from_str(body.get()).unwrap();
        let fields = body.as_object_mut().unwrap();
        let name = fields.keys().nth(change.index(fields.len())).unwrap().clone();
        if let Ok(value) = serde_json::from_str(&value) {
            fields.insert(name, value);
        }
        let body = serde_json::value::to_raw_value(&body).unwrap();
        let kind = gantry_protocol::message::Message::kind(message);
        let _ = <FromLauncher as gantry_protocol::message::Message>::from_body(kind, &body);
        let _ = <FromControlPlane as gantry_protocol::message::Message>::from_body(kind, &body);
    }
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
