//! One `hello` and all that follows it, without a wire.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use gantry_launcher::session::exchange::{Beginning, Context, Effect, End, Exchange};
use gantry_launcher::session::fake::{Counterpart, Known, MemoryOutgoing, Said};
use gantry_launcher::session::{
    Health, Identity, Outgoing as _, Receipt, SessionError, SessionEvent, Timing,
};
use gantry_launcher::transport::LinkError;
use gantry_model::WorkerId;
use gantry_protocol::Authority;
use gantry_protocol::message::{
    Ack, Decision, Envelope, FromControlPlane, FromLauncher, Heartbeat, NeedUrls, RefusalReason,
    Refused, Unsupported, UrlPurpose,
};
use insta::assert_snapshot;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;
use tokio::time::Instant;

use crate::pool::{
    attempt, counterpart, grant, identity, in_hand, now_unix, nowhere, outgoing, pool, report,
    token, worker,
};

/// A launcher and the control plane that it talks to.
struct Talk {
    identity: Identity,
    outgoing: Arc<MemoryOutgoing>,
    health: Health,
    now: Instant,
    room: usize,
    exchange: Exchange,
    hello: Bytes,
    will: Bytes,
    counterpart: Counterpart,
    known: Known,
}

impl Talk {
    fn begin(id: WorkerId) -> Self {
        Self::with(id, outgoing())
    }

    fn with(id: WorkerId, outgoing: Arc<MemoryOutgoing>) -> Self {
        let (mut identity, counterpart) = (identity(&token(nowhere()), id), counterpart());
        let (health, now, room) = (Health::default(), Instant::now(), 256);
        let beginning = Exchange::begin(
            &mut Context {
                identity: &mut identity,
                outgoing: &*outgoing,
                health: &health,
                now,
                room,
            },
            &Timing::default(),
        );
        let Beginning { exchange, will, hello } = beginning.unwrap();
        let known = counterpart.meet(id, &hello).unwrap();
        Self { identity, outgoing, health, now, room, exchange, hello, will, counterpart, known }
    }

    /// Begins, and is welcome.
    fn open(id: WorkerId) -> Self {
        let mut talk = Self::begin(id);
        talk.welcome(0);
        talk
    }

    fn welcome(&mut self, received: u64) -> Vec<Effect> {
        let welcome = self.counterpart.welcome(received);
        self.say(None, &welcome.into())
    }

    fn act(
        &mut self,
        act: impl FnOnce(&mut Exchange, &mut Context<'_>) -> Vec<Effect>,
    ) -> Vec<Effect> {
        let mut context = Context {
            identity: &mut self.identity,
            outgoing: &*self.outgoing,
            health: &self.health,
            now: self.now,
            room: self.room,
        };
        act(&mut self.exchange, &mut context)
    }

    fn arrive(&mut self, payload: &[u8]) -> Vec<Effect> {
        self.act(|exchange, context| exchange.arrive(context, payload))
    }

    fn say(&mut self, seq: Option<u64>, message: &FromControlPlane) -> Vec<Effect> {
        let payload = self.counterpart.say(&self.known, seq, message).unwrap();
        self.arrive(&payload)
    }

    fn fill(&mut self) -> Vec<Said> {
        let effects = self.act(Exchange::fill);
        self.said(effects)
    }

    fn tick_after(&mut self, span: Duration) -> Vec<Effect> {
        self.now += span;
        self.act(Exchange::tick)
    }

    /// What was said, heard by the control plane. Nothing else may have happened.
    fn said(&self, effects: Vec<Effect>) -> Vec<Said> {
        effects.into_iter().map(|effect| self.heard(&effect).expect("only messages")).collect()
    }

    fn heard(&self, effect: &Effect) -> Option<Said> {
        match effect {
            Effect::Publish(bytes) => Some(self.counterpart.hear(&self.known, bytes).unwrap()),
            Effect::Acknowledge(_) | Effect::Tell(_) | Effect::Refuse(_) | Effect::End(_) => None,
        }
    }

    fn messages(&self, effects: &[Effect]) -> Vec<FromLauncher> {
        effects.iter().filter_map(|effect| self.heard(effect)).map(|said| said.message).collect()
    }

    fn acknowledge(&mut self, receipts: &[Receipt]) -> Vec<Said> {
        let receipts: BTreeSet<_> = receipts.iter().copied().collect();
        let effects = self.act(|exchange, context| exchange.acknowledge(context, &receipts));
        self.said(effects)
    }
}

/// The sentence of the one refusal.
fn refusal(effects: &[Effect]) -> String {
    match effects {
        [Effect::Refuse(refusal)] => refusal.to_string(),
        other => panic!("a refusal was expected: {other:?}"),
    }
}

fn told(effects: &[Effect]) -> Vec<(Option<Receipt>, FromControlPlane)> {
    let mut messages = Vec::new();
    for effect in effects {
        if let Effect::Tell(SessionEvent::Message { receipt, message }) = effect {
            messages.push((*receipt, message.clone()));
        }
    }
    messages
}

#[test]
fn hello_says_everything_and_is_signed_with_the_pool_key() {
    let journal = outgoing();
    journal.set_runs(vec![in_hand(1), in_hand(2)]);
    let talk = Talk::with(worker(1), journal);
    let hello = &talk.known.hello;
    assert_eq!(hello.runs, [in_hand(1), in_hand(2)]);
    assert_eq!(hello.metadata["instance_id"], "i-0abc");
    assert_eq!(hello.journal, talk.outgoing.journal());
    assert_eq!(STANDARD.decode(&hello.nonce).unwrap().len(), 32);
    assert!(talk.counterpart.meet(worker(2), &talk.hello).is_err(), "it is for one worker");
    let will = talk.counterpart.hear(&talk.known, &talk.will).unwrap().message;
    let FromLauncher::Gone(gone) = will else { panic!("{will:?}") };
    assert_eq!(gone.nonce, hello.nonce);
}

#[test]
fn a_welcome_counts_only_for_its_own_hello() {
    let mut first = Talk::begin(worker(1));
    let welcome = first.counterpart.welcome(0).into();
    let replayed = first.counterpart.say(&first.known, None, &welcome).unwrap();
    let mut second = Talk::begin(worker(1));
    // The generator of the test begins anew: make it another nonce, as a real one would.
    let journal = Arc::clone(&second.outgoing);
    let again = Exchange::begin(
        &mut Context {
            identity: &mut second.identity,
            outgoing: &*journal,
            health: &second.health,
            now: second.now,
            room: 256,
        },
        &Timing::default(),
    );
    second.exchange = again.unwrap().exchange;
    assert_snapshot!(
        refusal(&second.arrive(&replayed)),
        @"a welcome message whose signature does not fit: it is from elsewhere or of another session"
    );
    assert!(!second.exchange.is_open());
    first.arrive(&replayed);
    assert!(first.exchange.is_open());
}

#[test]
fn what_is_not_from_the_control_plane_to_this_session_is_refused_in_one_sentence() {
    let mut talk = Talk::open(worker(1));
    let mut other = Talk::open(worker(2));
    let good =
        |talk: &mut Talk| talk.counterpart.say(&talk.known, Some(1), &grant(1).into()).unwrap();
    let foreign = good(&mut other);
    let own = {
        talk.outgoing.push(report(1));
        match &talk.act(Exchange::fill)[..] {
            [Effect::Publish(bytes)] => bytes.clone(),
            effects => panic!("{effects:?}"),
        }
    };
    let changed = |change: &dyn Fn(&mut Value), payload: &[u8]| {
        let mut value: Value = serde_json::from_slice(payload).unwrap();
        change(&mut value);
        serde_json::to_vec(&value).unwrap()
    };
    let one = good(&mut talk);
    let cases: Vec<Vec<u8>> = vec![
        foreign,
        own.to_vec(),
        changed(&|it| it["seq"] = 2.into(), &one),
        changed(&|it| it["kind"] = "offer".into(), &one),
        changed(&|it| it["body"]["attempt"]["epoch"] = 9.into(), &one),
        changed(&|it| it["sig"] = "".into(), &one),
        changed(&|it| it["sig"] = "A".repeat(5000).into(), &one),
        changed(&|it| it["v"] = 2.into(), &one),
        b"{}".to_vec(),
        b"\xff\x00".to_vec(),
        vec![b'x'; 1 << 20],
    ];
    let refusals: Vec<_> = cases.iter().map(|case| refusal(&talk.arrive(case))).collect();
    assert_snapshot!(refusals.join("\n"));
    assert_eq!(told(&talk.arrive(&one)).len(), 1, "the session goes on");
}

#[test]
fn only_a_signing_leaf_of_the_tokens_authority_speaks() {
    let mut talk = Talk::begin(worker(1));
    let elsewhere = Authority::generate(now_unix()).unwrap();
    let leaf = elsewhere.issue_signing_leaf(now_unix()).unwrap().pem;
    let server = pool().authority.issue_server(&["localhost"], now_unix()).unwrap().pem;
    let mut refusals = Vec::new();
    for leaf in [leaf, server, pool().certificate.clone(), "no PEM".to_owned()] {
        let mut welcome = talk.counterpart.welcome(0);
        welcome.leaf = leaf;
        refusals.push(refusal(&talk.say(None, &welcome.into())));
    }
    assert_snapshot!(refusals.join("\n"));
    assert!(!talk.exchange.is_open());
}

#[test]
fn nothing_counts_before_the_welcome() {
    let mut talk = Talk::begin(worker(1));
    let effects = talk.say(Some(1), &grant(1).into());
    assert_snapshot!(refusal(&effects), @"a grant message before the welcome");
    talk.outgoing.push(report(1));
    assert!(talk.act(Exchange::fill).is_empty());
}

#[test]
fn a_welcome_opens_once() {
    let mut talk = Talk::begin(worker(1));
    let welcome: FromControlPlane = talk.counterpart.welcome(0).into();
    let effects = talk.say(None, &welcome);
    assert!(matches!(&effects[0], Effect::Tell(SessionEvent::Opened(_))), "{effects:?}");
    assert!(talk.say(None, &welcome).is_empty(), "doubled by the broker");
    assert_snapshot!(
        refusal(&talk.welcome(0)),
        @"another welcome for a session that is open"
    );
}

#[test]
fn a_launcher_that_is_refused_goes_no_further() {
    let mut talk = Talk::begin(worker(1));
    let refused = talk.counterpart.refused(RefusalReason::PoolReset, "the pool was reset");
    let effects = talk.say(None, &refused.into());
    let [Effect::End(End::Refused(Refused { reason: RefusalReason::PoolReset, .. }))] =
        &effects[..]
    else {
        panic!("{effects:?}")
    };
    assert!(talk.welcome(0).is_empty());
}

#[test]
fn messages_come_in_order_and_once_each() {
    let mut talk = Talk::open(worker(1));
    let payloads: Vec<_> = (1..=3)
        .map(|seq| {
            let grant = grant(u128::from(seq)).into();
            talk.counterpart.say(&talk.known, Some(seq), &grant).unwrap()
        })
        .collect();
    let mut runs = Vec::new();
    for place in [1, 1, 2, 0, 0, 2] {
        let effects = talk.arrive(&payloads[place]);
        runs.extend(told(&effects).into_iter().map(|(_, message)| message));
    }
    assert_eq!(runs, [grant(1).into(), grant(2).into(), grant(3).into()]);
}

#[test]
fn only_what_is_durable_here_is_acknowledged() {
    let mut talk = Talk::open(worker(1));
    let mut receipts = Vec::new();
    for seq in 1..=3 {
        let effects = talk.say(Some(seq), &grant(1).into());
        receipts.push(told(&effects)[0].0.unwrap());
    }
    assert!(talk.acknowledge(&receipts[1..]).is_empty(), "the first is missing");
    let said = talk.acknowledge(&receipts[..1]);
    assert_eq!(said[0].message, Ack { up_to: 3 }.into());
    // Sent again because the acknowledgement was lost: acknowledged again, not taken again.
    let effects = talk.say(Some(2), &grant(1).into());
    assert_eq!(talk.messages(&effects), [Ack { up_to: 3 }.into()]);
}

#[test]
fn a_receipt_of_an_earlier_session_acknowledges_nothing() {
    let mut first = Talk::open(worker(1));
    let effects = first.say(Some(1), &grant(1).into());
    let late = told(&effects)[0].0.unwrap();
    let mut second = Talk::begin(worker(1));
    let _ = second.counterpart.welcome(0); // The second session has another id than the first.
    second.welcome(0);
    second.say(Some(1), &grant(2).into());
    assert!(second.acknowledge(&[late]).is_empty());
}

#[test]
fn what_is_not_acknowledged_is_sent_again_as_it_was() {
    let mut talk = Talk::open(worker(1));
    for number in 1..=3 {
        talk.outgoing.push(report(number));
    }
    let sent = talk.fill();
    assert_eq!(sent.iter().map(|said| said.seq).collect::<Vec<_>>(), [Some(1), Some(2), Some(3)]);
    assert!(talk.fill().is_empty(), "not before its time");
    assert!(talk.tick_after(Duration::from_secs(4)).is_empty());
    talk.say(None, &Ack { up_to: 1 }.into());
    talk.outgoing.acknowledge(1).unwrap();
    assert!(talk.tick_after(Duration::from_secs(4)).is_empty(), "progress gives new time");
    let effects = talk.tick_after(Duration::from_secs(1));
    assert_eq!(talk.said(effects), sent[1..], "the same ids and places");
    assert!(talk.tick_after(Duration::from_secs(5)).len() < 2, "then after longer waits");
    let effects = talk.tick_after(Duration::from_secs(5));
    assert_eq!(talk.messages(&effects).iter().filter(|it| **it == report(2)).count(), 1);
}

#[test]
fn a_session_begins_behind_what_the_control_plane_has() {
    let mut talk = Talk::begin(worker(1));
    for number in 1..=5 {
        talk.outgoing.push(report(number));
    }
    let effects = talk.welcome(3);
    assert!(matches!(effects[0], Effect::Acknowledge(3)), "{effects:?}");
    talk.outgoing.acknowledge(3).unwrap();
    let said = talk.fill();
    assert_eq!(said.iter().map(|said| said.seq).collect::<Vec<_>>(), [Some(4), Some(5)]);
}

#[test]
fn a_control_plane_that_was_set_back_is_told_apart() {
    let mut talk = Talk::begin(worker(1));
    for number in 1..=5 {
        talk.outgoing.push(report(number));
    }
    talk.outgoing.acknowledge(4).unwrap();
    let effects = talk.welcome(2);
    let [Effect::End(End::Fatal(error @ SessionError::Gap { has: 2, begins: 5 }))] = &effects[..]
    else {
        panic!("{effects:?}")
    };
    assert_snapshot!(gantry_launcher::explain::explain(error), @"
    the control plane has messages of this journal up to 2 and the journal goes on at 5
      next: the control plane was set back, perhaps restored from a backup: move GANTRY_STATE_DIR away and start with an empty one. If GANTRY_STATE_DIR/runs is not empty, let the containers of those runs end before, and keep it: what they wrote lies there
    ");
}

/// Also when nothing waits here: it would be found out by the first run, and by each one that follows.
#[test]
fn an_idle_launcher_is_told_at_the_welcome_that_its_control_plane_was_set_back() {
    let mut talk = Talk::begin(worker(1));
    for number in 1..=5 {
        talk.outgoing.push(report(number));
    }
    talk.outgoing.acknowledge(5).unwrap();
    let effects = talk.welcome(0);
    let [Effect::End(End::Fatal(SessionError::Gap { has: 0, begins: 6 }))] = &effects[..] else {
        panic!("{effects:?}")
    };
}

/// Otherwise what this journal says from now on would be taken for repeated, and nobody would notice.
#[test]
fn a_journal_that_was_set_back_is_told_apart() {
    let mut talk = Talk::begin(worker(1));
    for number in 1..=5 {
        talk.outgoing.push(report(number));
    }
    let effects = talk.welcome(6);
    let [Effect::End(End::Fatal(error @ SessionError::Ahead { has: 6, last: 5 }))] = &effects[..]
    else {
        panic!("{effects:?}")
    };
    assert_snapshot!(gantry_launcher::explain::explain(error), @"
    the control plane has messages of this journal up to 6 and the journal ends at 5
      next: GANTRY_STATE_DIR was set back, perhaps by a snapshot of this machine: remove the containers that its runs left, then start with an empty GANTRY_STATE_DIR
    ");
    assert!(!talk.exchange.is_open());

    let mut talk = Talk::begin(worker(1));
    let effects = talk.welcome(u64::MAX);
    assert!(matches!(effects[..], [Effect::End(End::Fatal(_))]), "{effects:?}");
}

/// What a container or a policy put into a message must not hold up the journal.
#[test]
fn a_message_that_is_too_long_is_cut_and_sent() {
    let mut talk = Talk::open(worker(1));
    let denials = vec!["\u{1}".repeat(4096); 100];
    let decision =
        Decision { attempt: attempt(1), is_allowed: false, denials, policy_sha256: "a".repeat(64) };
    talk.outgoing.push(decision.into());
    talk.outgoing.push(report(1));
    let said = talk.fill();
    assert_eq!(said.iter().map(|said| said.seq).collect::<Vec<_>>(), [Some(1), Some(2)]);
    let FromLauncher::Decision(cut) = &said[0].message else { panic!("{said:?}") };
    assert!(!cut.is_allowed && cut.denials[0].starts_with("\u{1}\u{1}"));
    assert_eq!(cut.denials.last().unwrap(), &format!("and {} more", 101 - cut.denials.len()));
    let effects = talk.tick_after(Duration::from_secs(5));
    let again = effects.iter().filter_map(|effect| talk.heard(effect));
    assert_eq!(again.filter(|it| it.seq.is_some()).collect::<Vec<_>>(), said, "as it was");
}

#[test]
fn no_more_is_on_its_way_than_the_other_side_keeps() {
    let mut talk = Talk::open(worker(1));
    for number in 1..=100 {
        talk.outgoing.push(report(number));
    }
    assert_eq!(talk.fill().len(), 64);
    assert!(talk.fill().is_empty());
    talk.say(None, &Ack { up_to: 10 }.into());
    talk.outgoing.acknowledge(10).unwrap();
    assert_eq!(talk.fill().len(), 10);
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_is_refused() {
    let mut talk = Talk::open(worker(1));
    talk.outgoing.push(report(1));
    talk.fill();
    assert_snapshot!(
        refusal(&talk.say(None, &Ack { up_to: 2 }.into())),
        @"an acknowledgement up to 2 when only 1 was sent"
    );
    let effects = talk.say(None, &Ack { up_to: 1 }.into());
    assert!(matches!(effects[..], [Effect::Acknowledge(1)]), "{effects:?}");
}

#[test]
fn heartbeats_name_the_runs_and_the_health() {
    let mut talk = Talk::begin(worker(1));
    let effects = talk.welcome(0);
    let heartbeat = |runs: &[_], note: Option<&str>| -> Vec<FromLauncher> {
        let (runs, note) = (runs.to_vec(), note.map(str::to_owned));
        vec![Heartbeat { runs, is_healthy: note.is_none(), note }.into()]
    };
    assert_eq!(talk.messages(&effects), heartbeat(&[], None), "one at once");
    talk.outgoing.set_runs(vec![in_hand(7)]);
    talk.health.complaint = Some("the disk is full".to_owned());
    assert!(talk.tick_after(Duration::from_millis(14_999)).is_empty());
    let effects = talk.tick_after(Duration::from_millis(1));
    assert_eq!(talk.messages(&effects), heartbeat(&[attempt(7)], Some("the disk is full")));
    assert_eq!(talk.exchange.wake_at(), Some(talk.now + Duration::from_secs(15)));
}

#[test]
fn an_unknown_kind_is_answered_and_holds_nothing_up() {
    let mut talk = Talk::open(worker(1));
    let run = attempt(5).run;
    let body = format!(r#"{{"attempt":{{"run":"{run}","stage":"read","epoch":1}},"x":1}}"#);
    let unknown = talk.counterpart.say_unknown(&talk.known, Some(1), "levitate", &body).unwrap();
    let effects = talk.arrive(&unknown);
    assert!(matches!(&effects[0], Effect::Refuse(_)));
    assert_eq!(
        talk.messages(&effects),
        [
            Unsupported { kind: "levitate".to_owned(), run: Some(run) }.into(),
            Ack { up_to: 1 }.into()
        ]
    );
    assert_eq!(told(&talk.say(Some(2), &grant(1).into())).len(), 1);
    // Unsigned noise of an unknown kind is not answered.
    let mut forged = Envelope::decode(&unknown).unwrap();
    forged.kind = "float".to_owned();
    refusal(&talk.arrive(&serde_json::to_vec(&forged).unwrap()));
    // And `unsupported` never is.
    let unsupported = Unsupported { kind: "phase".to_owned(), run: None };
    assert_snapshot!(
        refusal(&talk.say(None, &unsupported.into())),
        @"the control plane is older than this launcher: it does not know phase messages"
    );
}

#[test]
fn what_the_main_loop_cannot_take_is_left_to_its_sender() {
    let mut talk = Talk::open(worker(1));
    talk.room = 3;
    let payload = talk.counterpart.say(&talk.known, Some(1), &grant(1).into()).unwrap();
    assert_snapshot!(
        refusal(&talk.arrive(&payload)),
        @"a grant message while too many wait to be dealt with: it will be sent again"
    );
    talk.room = 256;
    assert_eq!(told(&talk.arrive(&payload)).len(), 1);
}

#[test]
fn messages_that_may_be_lost_go_out_only_while_a_session_is_open() {
    let need: FromLauncher =
        NeedUrls { attempt: attempt(1), purpose: UrlPurpose::Log, count: 4 }.into();
    let mut talk = Talk::begin(worker(1));
    assert!(talk.act(|exchange, context| exchange.send(context, &need)).is_empty());
    talk.welcome(0);
    let effects = talk.act(|exchange, context| exchange.send(context, &need));
    assert_eq!(talk.messages(&effects), [need]);
}

#[test]
fn no_answer_ends_it_and_a_spent_leaf_renews_it() {
    let mut talk = Talk::begin(worker(1));
    assert!(talk.tick_after(Duration::from_secs(9)).is_empty());
    let effects = talk.tick_after(Duration::from_secs(1));
    assert!(matches!(effects[..], [Effect::End(End::Lost(LinkError::NoWelcome))]), "{effects:?}");

    let mut talk = Talk::begin(worker(1));
    let mut welcome = talk.counterpart.welcome(0);
    welcome.leaf_valid_ms = 20_000;
    talk.say(None, &welcome.into());
    talk.tick_after(Duration::from_secs(19));
    let effects = talk.tick_after(Duration::from_secs(1));
    assert!(matches!(effects[..], [Effect::End(End::Lost(LinkError::LeafSpent))]), "{effects:?}");
    assert_eq!(talk.exchange.wake_at(), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What a broker may bring is anything, in any state of the session. It is refused or absorbed, and
    /// what was meant for this session still counts afterwards.
    #[test]
    fn whatever_arrives_the_session_goes_on(noise in vec(any::<u8>(), 0..300), at in any::<Index>(), flip in any::<u8>()) {
        let mut talk = Talk::begin(worker(1));
        let welcome: FromControlPlane = talk.counterpart.welcome(0).into();
        let mut welcome = talk.counterpart.say(&talk.known, None, &welcome).unwrap();
        let place = at.index(welcome.len());
        welcome[place] ^= flip;
        talk.arrive(&noise);
        talk.arrive(&welcome);
        welcome[place] ^= flip;
        talk.arrive(&welcome);
        prop_assert!(talk.exchange.is_open());
        let mut one = talk.counterpart.say(&talk.known, Some(1), &grant(1).into()).unwrap();
        let place = at.index(one.len());
        one[place] ^= flip;
        let mut taken = told(&talk.arrive(&one));
        taken.extend(told(&talk.arrive(&noise)));
        one[place] ^= flip;
        taken.extend(told(&talk.arrive(&one)));
        let messages: Vec<_> = taken.into_iter().map(|(_, message)| message).collect();
        prop_assert_eq!(messages, [grant(1).into()]);
    }
}
