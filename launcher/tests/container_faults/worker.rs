//! A worker binary in the test's own process: it makes the mark and writes the spool, as the real one does.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use gantry_launcher::engine::Spec;
use gantry_launcher::engine::fake::Program;
use gantry_model::Phase;
use gantry_spool::order::exit;
use gantry_spool::{
    Accepted, BootTime, Event, Limits, Outcome, SideFileWriter, SideName, StopReason, WhenFull,
    Writer, has_begun, make_begun,
};

/// How far it goes by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// To its end.
    Quick,
    /// Into its phase.
    Begins,
    /// Nowhere.
    Slow,
}

#[derive(Clone)]
pub struct Worker {
    pace: Pace,
    inside: Arc<Mutex<Inside>>,
}

#[derive(Default)]
struct Inside {
    spool: PathBuf,
    writer: Option<Writer>,
    runs: usize,
    interrupts: usize,
    is_deaf: bool,
}

impl Worker {
    fn new(pace: Pace) -> Self {
        Self { pace, inside: Arc::default() }
    }

    /// Runs its phase and ends well.
    pub fn quick() -> Self {
        Self::new(Pace::Quick)
    }

    /// Begins its phase.
    pub fn begins() -> Self {
        Self::new(Pace::Begins)
    }

    /// Runs, and does not even make the mark.
    pub fn slow() -> Self {
        Self::new(Pace::Slow)
    }

    /// How often phases were run.
    pub fn runs(&self) -> usize {
        self.inside().runs
    }

    /// How often the tool was interrupted.
    pub fn interrupts(&self) -> usize {
        self.inside().interrupts
    }

    /// Whether signals come too early.
    pub fn is_deaf(&self, is_deaf: bool) {
        self.inside().is_deaf = is_deaf;
    }

    /// Makes the mark and begins its phase.
    pub fn begin(&self) {
        let mut inside = self.inside();
        let _begun = make_begun(&inside.spool).expect("the mark was looked for");
        inside.runs += 1;
        let limits = Limits { quota: 64 << 20, when_full: WhenFull::Truncate };
        let mut writer = Writer::open(&inside.spool, limits).unwrap();
        let (at, phase) = (BootTime::now(), Phase::Apply);
        writer.event(at, Some(phase), &Event::PhaseBegan { phase }).unwrap();
        assert_eq!(writer.output(at, phase, b"applying\n").unwrap(), Accepted::Written);
        inside.writer = Some(writer);
    }

    /// Says again and again that its phase begins.
    pub fn begins_again(&self, times: usize) {
        let mut inside = self.inside();
        let writer = inside.writer.as_mut().expect("it has begun");
        let phase = Phase::Apply;
        for _ in 0..times {
            writer.event(BootTime::now(), Some(phase), &Event::PhaseBegan { phase }).unwrap();
        }
    }

    /// A phase leaves a state that Terraform could not hand over.
    pub fn leaves_state(&self) {
        let mut inside = self.inside();
        let mut side = SideFileWriter::create(&inside.spool, 1, 1 << 20).unwrap();
        side.write_all(br#"{"version":4,"serial":9,"lineage":"mine"}"#).unwrap();
        let file = side.finish(SideName::Errored).unwrap();
        let writer = inside.writer.as_mut().expect("it has begun");
        writer.event(BootTime::now(), Some(Phase::Apply), &Event::Errored { file }).unwrap();
    }

    /// Says its last word.
    pub fn end(&self, outcome: Outcome) {
        let mut writer = self.inside().writer.take().expect("it has begun");
        let at = BootTime::now();
        let ended =
            Event::PhaseEnded { phase: Phase::Apply, code: Some(0), signal: None, duration_ms: 1 };
        writer.event(at, Some(Phase::Apply), &ended).unwrap();
        writer.event(at, None, &Event::Ended { outcome }).unwrap();
        writer.sync().unwrap();
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap()
    }
}

impl Program for Worker {
    fn started(&self, spec: &Spec) -> Option<i64> {
        let spool = spec.mounts.iter().find(|mount| mount.target == "/gantry/spool").unwrap();
        self.inside().spool.clone_from(&spool.source);
        if has_begun(&spool.source).unwrap() {
            return Some(exit::BEGUN_BEFORE.into());
        }
        match self.pace {
            Pace::Slow => None,
            Pace::Begins => {
                self.begin();
                None
            }
            Pace::Quick => {
                self.begin();
                self.end(Outcome::Succeeded);
                Some(0)
            }
        }
    }

    fn stopped(&self, _: &Spec) -> Option<i64> {
        let mut inside = self.inside();
        if inside.is_deaf || inside.writer.is_none() {
            return None;
        }
        inside.interrupts += 1;
        drop(inside);
        self.end(Outcome::Stopped { phase: Some(Phase::Apply), reason: StopReason::Asked });
        Some(0)
    }
}
