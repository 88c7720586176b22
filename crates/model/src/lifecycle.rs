//! The lifecycle of a run: every rule of who may run which stage when, as plain functions.
//!
//! Always true: each offer has an epoch of its own, higher than all before; a write stage that was
//! granted is granted again only after [`RunLifecycle::never_started`], which its owner's own journal has
//! to prove; nothing follows a terminal state.

mod give_back;
mod hold;
mod record;
mod recover;
mod refusal;

use crate::{
    Assignment, Attempt, Epoch, JournalId, Lease, LeaseTerms, Phase, RunId, RunState, RunType,
    Stage, Timestamp, WorkerId,
};

pub use self::record::RunRecord;
pub use self::refusal::{InvalidTransition, RunAct};

/// What a claim led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    /// The claimant is the owner now.
    Granted,
    /// It is not about the current offer, or not from the worker that was asked.
    Absorbed,
}

/// How a stage ended, as far as its run goes on from there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All of its phases succeeded.
    Succeeded {
        /// The plan found something to change.
        has_changes: bool,
        /// The same worker goes on with the write stage.
        continues: bool,
    },
    /// A phase failed, or something before the first one, or a policy said no.
    Failed {
        /// Why, in words.
        note: String,
    },
    /// A person or a timeout stopped it.
    Stopped {
        /// Who or what, in words.
        note: String,
    },
    /// It had begun and nobody can say how it ended.
    Unknown {
        /// What is known, in words.
        note: String,
    },
}

/// What the end of a stage led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concluded {
    /// It is not about the current attempt, or not from its owner: nothing changed.
    Absorbed,
    /// The run has no owner any more.
    Released,
    /// The same worker owns the write stage now.
    Continued,
}

/// What time, or a lost journal, did to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expired {
    /// Nothing: it is not due.
    NotDue,
    /// The offer was withdrawn from this worker.
    Withdrawn(WorkerId),
    /// The read stage was taken from this worker and waits for another one, or failed for good.
    Taken(WorkerId),
    /// The write stage's outcome is unknown.
    Unknown(WorkerId),
}

/// What a wish to stop led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopping {
    /// Nothing of it ran: it is over.
    Over,
    /// Its owner has to be told.
    Cancel(Lease),
}

/// The lifecycle of a run, as far as it matters for who may do what with it. Only its transitions change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunLifecycle(RunRecord);

impl RunLifecycle {
    /// A new run, behind all others of its stack.
    #[must_use]
    pub const fn queued(run: RunId, run_type: RunType, autodeploy: bool) -> Self {
        Self(RunRecord {
            run,
            run_type,
            autodeploy,
            state: RunState::Queued,
            stage: run_type.first_stage(),
            epoch: Epoch(0),
            read_attempts: 0,
            assignment: Assignment::Idle,
            stop: None,
            note: None,
            is_unknown: false,
        })
    }

    /// The current attempt; meaningful once it was offered.
    #[must_use]
    pub const fn attempt(&self) -> Attempt {
        Attempt { run: self.0.run, stage: self.0.stage, epoch: self.0.epoch }
    }

    /// When [`RunLifecycle::expire`] has something to do.
    #[must_use]
    pub const fn due(&self) -> Option<Timestamp> {
        match self.0.assignment {
            Assignment::Idle | Assignment::Waiting => None,
            Assignment::Offered { until, .. } => Some(until),
            Assignment::Granted(lease) => Some(match self.0.stage {
                Stage::Read => lease.until,
                Stage::Write => lease.deadline,
            }),
        }
    }

    /// Whether its stage came back from a worker that had it: another one shall have it now.
    #[must_use]
    pub fn came_back(&self) -> bool {
        self.0.read_attempts > 0 && self.0.stage == Stage::Read
    }

    /// The lease, if `worker` is the owner of exactly this attempt.
    #[must_use]
    pub fn lease_of(&self, worker: WorkerId, attempt: Attempt) -> Option<Lease> {
        match self.0.assignment {
            Assignment::Granted(lease) if lease.worker == worker && attempt == self.attempt() => {
                Some(lease)
            }
            Assignment::Granted(_)
            | Assignment::Offered { .. }
            | Assignment::Idle
            | Assignment::Waiting => None,
        }
    }

    /// Nothing of its stack is in the way any more.
    ///
    /// # Errors
    /// When it is not queued.
    pub fn ready(&mut self) -> Result<(), InvalidTransition> {
        if self.0.state != RunState::Queued {
            return Err(self.refuse(RunAct::MakeReady));
        }
        self.wait(None);
        Ok(())
    }

    /// Offers its stage to a worker.
    ///
    /// # Errors
    /// When it has no stage to hand out.
    pub fn offer(
        &mut self,
        worker: WorkerId,
        now: Timestamp,
        terms: &LeaseTerms,
    ) -> Result<Attempt, InvalidTransition> {
        if self.0.assignment != Assignment::Waiting {
            return Err(self.refuse(RunAct::Offer));
        }
        self.0.epoch = self.0.epoch.next();
        self.0.assignment = Assignment::Offered { worker, until: now.plus_ms(terms.offer_ms) };
        self.enter(self.preparing(), None);
        Ok(self.attempt())
    }

    /// A worker wants what it was offered.
    pub fn claim(
        &mut self,
        worker: WorkerId,
        journal: JournalId,
        attempt: Attempt,
        now: Timestamp,
        terms: &LeaseTerms,
    ) -> Claimed {
        if !self.is_offered(worker, attempt) {
            return Claimed::Absorbed;
        }
        if self.0.stage == Stage::Read {
            self.0.read_attempts += 1;
        }
        self.0.assignment = Assignment::Granted(Lease {
            worker,
            journal,
            until: now.plus_ms(terms.lease_ms),
            deadline: now.plus_ms(terms.write_ms),
            is_continued: false,
        });
        Claimed::Granted
    }

    /// Takes back an offer: its worker declined it or has a new session. False if `worker` was not
    /// offered this.
    pub fn withdraw(&mut self, worker: WorkerId, attempt: Attempt) -> bool {
        let is_offered = self.is_offered(worker, attempt);
        if is_offered {
            self.hand_back(None);
        }
        is_offered
    }

    /// Its owner lives. False if `worker` is not the owner of this attempt.
    pub fn renew(
        &mut self,
        worker: WorkerId,
        attempt: Attempt,
        now: Timestamp,
        terms: &LeaseTerms,
    ) -> bool {
        let Some(lease) = self.lease_of(worker, attempt) else { return false };
        self.0.assignment =
            Assignment::Granted(Lease { until: now.plus_ms(terms.lease_ms), ..lease });
        true
    }

    /// Gives offer or lease a fresh term, after a time in which nobody could be heard. A write
    /// stage's deadline stays, but its owner gets the time to come back and say how it ended.
    pub fn refresh(&mut self, now: Timestamp, terms: &LeaseTerms) {
        match &mut self.0.assignment {
            Assignment::Idle | Assignment::Waiting => {}
            Assignment::Offered { until, .. } => *until = now.plus_ms(terms.offer_ms),
            Assignment::Granted(lease) => {
                lease.until = now.plus_ms(terms.lease_ms);
                // Whoever could not connect for long waits up to a minute before the next try.
                let back = now.plus_ms(terms.lease_ms.saturating_mul(2));
                lease.deadline = lease.deadline.max(back);
            }
        }
    }

    /// Does what is due by now. A read stage whose lease lapsed waits for another worker; a write
    /// stage never does: it may have changed real infrastructure, and a person decides what follows.
    pub fn expire(&mut self, now: Timestamp, terms: &LeaseTerms) -> Expired {
        if self.due().is_none_or(|due| now < due) {
            return Expired::NotDue;
        }
        match (self.0.assignment, self.0.stage) {
            (Assignment::Idle | Assignment::Waiting, _) => Expired::NotDue,
            (Assignment::Offered { worker, .. }, _) => {
                self.hand_back(None);
                Expired::Withdrawn(worker)
            }
            (Assignment::Granted(lease), Stage::Read) => {
                self.take("its worker stopped responding", terms);
                Expired::Taken(lease.worker)
            }
            (Assignment::Granted(lease), Stage::Write) => {
                self.lose("its worker did not report its end in time");
                Expired::Unknown(lease.worker)
            }
        }
    }

    /// A phase began. False if that is not about the current attempt or not from its owner.
    pub fn began(&mut self, worker: WorkerId, attempt: Attempt, phase: Phase) -> bool {
        if self.lease_of(worker, attempt).is_none() {
            return false;
        }
        self.enter(phase.run_state(), None);
        true
    }

    /// The stage is over.
    pub fn conclude(
        &mut self,
        worker: WorkerId,
        attempt: Attempt,
        outcome: Outcome,
        now: Timestamp,
        terms: &LeaseTerms,
    ) -> Concluded {
        let Some(lease) = self.lease_of(worker, attempt) else { return Concluded::Absorbed };
        match outcome {
            Outcome::Succeeded { has_changes, continues } => {
                return self.succeed(lease, has_changes, continues, now, terms);
            }
            Outcome::Failed { note } => self.end(RunState::Failed, Some(note)),
            Outcome::Stopped { note } => self.end(RunState::Stopped, Some(note)),
            // A read stage has changed nothing, so it is just started anew.
            Outcome::Unknown { note } => match self.0.stage {
                Stage::Read => self.take(&note, terms),
                Stage::Write => self.lose(&note),
            },
        }
        Concluded::Released
    }

    fn succeed(
        &mut self,
        lease: Lease,
        has_changes: bool,
        continues: bool,
        now: Timestamp,
        terms: &LeaseTerms,
    ) -> Concluded {
        let next = self.0.run_type.stage_after(self.0.stage).filter(|_| has_changes);
        let Some(next) = next else {
            self.end(RunState::Finished, None);
            return Concluded::Released;
        };
        if continues && self.0.autodeploy {
            self.0.stage = next;
            self.0.assignment = Assignment::Granted(Lease {
                until: now.plus_ms(terms.lease_ms),
                deadline: now.plus_ms(terms.write_ms),
                is_continued: true,
                ..lease
            });
            self.enter(self.preparing(), None);
            return Concluded::Continued;
        } else if let Some(by) = &self.0.stop {
            let note = format!("stopped by {by} when its plan had just ended");
            self.end(RunState::Stopped, Some(note));
        } else {
            self.0.assignment = Assignment::Idle;
            self.enter(RunState::Unconfirmed, None);
            if self.0.autodeploy {
                let note = "confirmed by the stack's autodeploy".to_owned();
                self.confirm(Some(note)).expect("it is unconfirmed");
            }
        }
        Concluded::Released
    }

    /// Its plan shall be carried out.
    ///
    /// # Errors
    /// When it does not wait for that.
    pub fn confirm(&mut self, note: Option<String>) -> Result<(), InvalidTransition> {
        let next = self.0.run_type.stage_after(self.0.stage);
        let Some(next) = next.filter(|_| self.0.state == RunState::Unconfirmed) else {
            return Err(self.refuse(RunAct::Confirm));
        };
        self.0.stage = next;
        self.0.assignment = Assignment::Waiting;
        self.enter(RunState::Confirmed, note);
        Ok(())
    }

    /// Its plan shall not be carried out, or it shall not run at all.
    ///
    /// # Errors
    /// When it runs already or is over.
    pub fn discard(&mut self, note: Option<String>) -> Result<(), InvalidTransition> {
        let states = [RunState::Queued, RunState::Ready, RunState::Unconfirmed];
        if !states.contains(&self.0.state) {
            return Err(self.refuse(RunAct::Discard));
        }
        self.end(RunState::Discarded, note);
        Ok(())
    }

    /// Someone wants it to stop. What was not granted is over at once; an owner is asked to end it.
    ///
    /// # Errors
    /// When it waits for a person, or is over.
    pub fn stop(&mut self, by: &str) -> Result<Stopping, InvalidTransition> {
        if self.0.state == RunState::Unconfirmed || self.0.state.is_terminal() {
            return Err(self.refuse(RunAct::Stop));
        }
        match self.0.assignment {
            Assignment::Granted(lease) => {
                self.0.stop = Some(by.to_owned());
                Ok(Stopping::Cancel(lease))
            }
            Assignment::Offered { .. } | Assignment::Idle | Assignment::Waiting => {
                if matches!(self.0.assignment, Assignment::Offered { .. }) {
                    self.0.epoch = self.0.epoch.next();
                }
                self.end(RunState::Canceled, Some(format!("canceled by {by}")));
                Ok(Stopping::Over)
            }
        }
    }

    fn is_offered(&self, to: WorkerId, attempt: Attempt) -> bool {
        match self.0.assignment {
            Assignment::Offered { worker, .. } => worker == to && attempt == self.attempt(),
            Assignment::Idle | Assignment::Waiting | Assignment::Granted(_) => false,
        }
    }

    /// Takes a read stage from its owner.
    fn take(&mut self, why: &str, terms: &LeaseTerms) {
        if let Some(by) = &self.0.stop {
            let note = format!("stopped by {by}; {why}");
            self.0.epoch = self.0.epoch.next();
            self.end(RunState::Stopped, Some(note));
        } else if self.0.read_attempts >= terms.read_attempts {
            let note = format!(
                "given up after {} attempts: in the last one, {why}. Trigger it again when the \
                 pool's workers are well",
                self.0.read_attempts
            );
            self.0.epoch = self.0.epoch.next();
            self.end(RunState::Failed, Some(note));
        } else {
            self.hand_back(Some(format!("attempt {} ended: {why}", self.0.read_attempts)));
        }
    }

    /// Nobody knows how the write stage ended.
    fn lose(&mut self, why: &str) {
        self.0.is_unknown = true;
        let note = format!(
            "outcome unknown: {why}. The stack is locked: look at what the stage has really \
             changed, then unlock it"
        );
        self.end(RunState::Failed, Some(note));
    }

    /// Makes the present offer or grant void and lets the stage wait for a worker.
    fn hand_back(&mut self, note: Option<String>) {
        self.0.epoch = self.0.epoch.next();
        match &self.0.stop {
            // It was granted and nothing of it ran.
            Some(by) => {
                let note = format!("canceled by {by}");
                self.end(RunState::Canceled, Some(note));
            }
            None => self.wait(note),
        }
    }

    fn wait(&mut self, note: Option<String>) {
        self.0.assignment = Assignment::Waiting;
        self.enter(if self.is_begun() { RunState::Confirmed } else { RunState::Ready }, note);
    }

    /// Whether a stage of it came before the present one: its plan was confirmed.
    fn is_begun(&self) -> bool {
        self.0.stage != self.0.run_type.first_stage()
    }

    /// The state in which its stage is handed to a worker.
    fn preparing(&self) -> RunState {
        if self.is_begun() { RunState::PreparingApply } else { RunState::Preparing }
    }

    fn end(&mut self, state: RunState, note: Option<String>) {
        self.0.assignment = Assignment::Idle;
        self.enter(state, note);
    }

    fn enter(&mut self, state: RunState, note: Option<String>) {
        self.0.state = state;
        self.0.note = note;
    }

    const fn refuse(&self, act: RunAct) -> InvalidTransition {
        InvalidTransition { act, state: self.0.state }
    }
}
