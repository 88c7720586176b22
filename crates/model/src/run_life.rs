//! The life of a run: every rule of who may run which stage when, as plain functions.
//!
//! Always true: each offer has an epoch of its own, higher than all before; a write stage that was
//! granted is granted again only after [`RunLife::never_started`], which its owner's own journal has
//! to prove; nothing follows a terminal state.

mod give_back;
mod hold;
mod refusal;

use crate::{
    Attempt, Epoch, JournalId, Lease, Phase, RunId, RunState, RunType, Stage, Standing, Terms,
    Timestamp, WorkerId,
};

pub use self::refusal::InvalidTransition;

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

/// A run, as far as it matters for who may do what with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunLife {
    /// Which run.
    pub run: RunId,
    /// What it is for.
    pub run_type: RunType,
    /// Whether a plan's changes need no person.
    pub autodeploy: bool,
    /// What people see.
    pub state: RunState,
    /// The stage that it is in or waits for.
    pub stage: Stage,
    /// The newest offer, or a later number that makes it void.
    pub epoch: Epoch,
    /// How often its read stage was granted.
    pub read_attempts: u32,
    /// How it stands with the workers.
    pub standing: Standing,
    /// Who wants it stopped.
    pub stop: Option<String>,
    /// Why it is in this state, for people.
    pub note: Option<String>,
    /// Its write stage may have changed something and nobody knows what.
    pub is_unknown: bool,
}

impl RunLife {
    /// A new run, behind all others of its stack.
    #[must_use]
    pub const fn queued(run: RunId, run_type: RunType, autodeploy: bool) -> Self {
        Self {
            run,
            run_type,
            autodeploy,
            state: RunState::Queued,
            stage: run_type.first_stage(),
            epoch: Epoch(0),
            read_attempts: 0,
            standing: Standing::Idle,
            stop: None,
            note: None,
            is_unknown: false,
        }
    }

    /// The current attempt; meaningful once it was offered.
    #[must_use]
    pub const fn attempt(&self) -> Attempt {
        Attempt { run: self.run, stage: self.stage, epoch: self.epoch }
    }

    /// When [`RunLife::expire`] has something to do.
    #[must_use]
    pub const fn due(&self) -> Option<Timestamp> {
        match self.standing {
            Standing::Idle | Standing::Waiting => None,
            Standing::Offered { until, .. } => Some(until),
            Standing::Granted(lease) => Some(match self.stage {
                Stage::Read => lease.until,
                Stage::Write => lease.deadline,
            }),
        }
    }

    /// The lease, if `worker` is the owner of exactly this attempt.
    #[must_use]
    pub fn lease_of(&self, worker: WorkerId, attempt: Attempt) -> Option<Lease> {
        match self.standing {
            Standing::Granted(lease) if lease.worker == worker && attempt == self.attempt() => {
                Some(lease)
            }
            Standing::Granted(_)
            | Standing::Offered { .. }
            | Standing::Idle
            | Standing::Waiting => None,
        }
    }

    /// Nothing of its stack is in the way any more.
    ///
    /// # Errors
    /// When it is not queued.
    pub fn ready(&mut self) -> Result<(), InvalidTransition> {
        if self.state != RunState::Queued {
            return Err(self.refuse("make ready"));
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
        terms: &Terms,
    ) -> Result<Attempt, InvalidTransition> {
        if self.standing != Standing::Waiting {
            return Err(self.refuse("offer"));
        }
        self.epoch = self.epoch.next();
        self.standing = Standing::Offered { worker, until: now.plus_ms(terms.offer_ms) };
        let is_second_half = self.state == RunState::Confirmed;
        self.enter(
            if is_second_half { RunState::PreparingApply } else { RunState::Preparing },
            None,
        );
        Ok(self.attempt())
    }

    /// A worker wants what it was offered.
    pub fn claim(
        &mut self,
        worker: WorkerId,
        journal: JournalId,
        attempt: Attempt,
        now: Timestamp,
        terms: &Terms,
    ) -> Claimed {
        if !self.is_offered(worker, attempt) {
            return Claimed::Absorbed;
        }
        if self.stage == Stage::Read {
            self.read_attempts += 1;
        }
        self.standing = Standing::Granted(Lease {
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
        terms: &Terms,
    ) -> bool {
        let Some(lease) = self.lease_of(worker, attempt) else { return false };
        self.standing = Standing::Granted(Lease { until: now.plus_ms(terms.lease_ms), ..lease });
        true
    }

    /// Gives offer or lease a fresh term, after a time in which nobody could be heard. A write
    /// stage's deadline stays, but its owner gets the time to come back and say how it ended.
    pub fn refresh(&mut self, now: Timestamp, terms: &Terms) {
        match &mut self.standing {
            Standing::Idle | Standing::Waiting => {}
            Standing::Offered { until, .. } => *until = now.plus_ms(terms.offer_ms),
            Standing::Granted(lease) => {
                lease.until = now.plus_ms(terms.lease_ms);
                // Whoever could not connect for long waits up to a minute before the next try.
                let back = now.plus_ms(terms.lease_ms.saturating_mul(2));
                lease.deadline = lease.deadline.max(back);
            }
        }
    }

    /// Does what is due by now. A read stage whose lease lapsed waits for another worker; a write
    /// stage never does: it may have changed real infrastructure, and a person decides what follows.
    pub fn expire(&mut self, now: Timestamp, terms: &Terms) -> Expired {
        if self.due().is_none_or(|due| now < due) {
            return Expired::NotDue;
        }
        match (self.standing, self.stage) {
            (Standing::Idle | Standing::Waiting, _) => Expired::NotDue,
            (Standing::Offered { worker, .. }, _) => {
                self.hand_back(None);
                Expired::Withdrawn(worker)
            }
            (Standing::Granted(lease), Stage::Read) => {
                self.take("its worker stopped responding", terms);
                Expired::Taken(lease.worker)
            }
            (Standing::Granted(lease), Stage::Write) => {
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
        terms: &Terms,
    ) -> Concluded {
        let Some(lease) = self.lease_of(worker, attempt) else { return Concluded::Absorbed };
        match outcome {
            Outcome::Succeeded { has_changes, continues } => {
                return self.succeed(lease, has_changes, continues, now, terms);
            }
            Outcome::Failed { note } => self.end(RunState::Failed, Some(note)),
            Outcome::Stopped { note } => self.end(RunState::Stopped, Some(note)),
            // A read stage has changed nothing, so it is just started anew.
            Outcome::Unknown { note } => match self.stage {
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
        terms: &Terms,
    ) -> Concluded {
        let has_second_half = match self.run_type {
            RunType::Tracked | RunType::Destroy => self.stage == Stage::Read,
            RunType::Proposed | RunType::Task | RunType::Testing => false,
        };
        if !has_second_half || !has_changes {
            self.end(RunState::Finished, None);
        } else if continues && self.autodeploy {
            self.stage = Stage::Write;
            self.standing = Standing::Granted(Lease {
                until: now.plus_ms(terms.lease_ms),
                deadline: now.plus_ms(terms.write_ms),
                is_continued: true,
                ..lease
            });
            self.enter(RunState::PreparingApply, None);
            return Concluded::Continued;
        } else if let Some(by) = &self.stop {
            let note = format!("stopped by {by} when its plan had just ended");
            self.end(RunState::Stopped, Some(note));
        } else {
            self.standing = Standing::Idle;
            self.enter(RunState::Unconfirmed, None);
            if self.autodeploy {
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
        if self.state != RunState::Unconfirmed {
            return Err(self.refuse("confirm"));
        }
        self.stage = Stage::Write;
        self.standing = Standing::Waiting;
        self.enter(RunState::Confirmed, note);
        Ok(())
    }

    /// Its plan shall not be carried out, or it shall not run at all.
    ///
    /// # Errors
    /// When it runs already or is over.
    pub fn discard(&mut self, note: Option<String>) -> Result<(), InvalidTransition> {
        let states = [RunState::Queued, RunState::Ready, RunState::Unconfirmed];
        if !states.contains(&self.state) {
            return Err(self.refuse("discard"));
        }
        self.end(RunState::Discarded, note);
        Ok(())
    }

    /// Someone wants it to stop. What was not granted is over at once; an owner is asked to end it.
    ///
    /// # Errors
    /// When it waits for a person, or is over.
    pub fn stop(&mut self, by: &str) -> Result<Stopping, InvalidTransition> {
        if self.state == RunState::Unconfirmed || self.state.is_terminal() {
            return Err(self.refuse("stop"));
        }
        match self.standing {
            Standing::Granted(lease) => {
                self.stop = Some(by.to_owned());
                Ok(Stopping::Cancel(lease))
            }
            Standing::Offered { .. } | Standing::Idle | Standing::Waiting => {
                if matches!(self.standing, Standing::Offered { .. }) {
                    self.epoch = self.epoch.next();
                }
                self.end(RunState::Canceled, Some(format!("canceled by {by}")));
                Ok(Stopping::Over)
            }
        }
    }

    fn is_offered(&self, to: WorkerId, attempt: Attempt) -> bool {
        match self.standing {
            Standing::Offered { worker, .. } => worker == to && attempt == self.attempt(),
            Standing::Idle | Standing::Waiting | Standing::Granted(_) => false,
        }
    }

    /// Takes a read stage from its owner.
    fn take(&mut self, why: &str, terms: &Terms) {
        if let Some(by) = &self.stop {
            let note = format!("stopped by {by}; {why}");
            self.epoch = self.epoch.next();
            self.end(RunState::Stopped, Some(note));
        } else if self.read_attempts >= terms.read_attempts {
            let note = format!(
                "given up after {} attempts: in the last one, {why}. Trigger it again when the \
                 pool's workers are well",
                self.read_attempts
            );
            self.epoch = self.epoch.next();
            self.end(RunState::Failed, Some(note));
        } else {
            self.hand_back(Some(format!("attempt {} ended: {why}", self.read_attempts)));
        }
    }

    /// Nobody knows how the write stage ended.
    fn lose(&mut self, why: &str) {
        self.is_unknown = true;
        let note = format!(
            "outcome unknown: {why}. The stack is locked: look at what the stage has really \
             changed, then unlock it"
        );
        self.end(RunState::Failed, Some(note));
    }

    /// Makes the present offer or grant void and lets the stage wait for a worker.
    fn hand_back(&mut self, note: Option<String>) {
        self.epoch = self.epoch.next();
        match &self.stop {
            // It was granted and nothing of it ran.
            Some(by) => {
                let note = format!("canceled by {by}");
                self.end(RunState::Canceled, Some(note));
            }
            None => self.wait(note),
        }
    }

    fn wait(&mut self, note: Option<String>) {
        self.standing = Standing::Waiting;
        let is_second_half =
            self.stage == Stage::Write && self.run_type.first_stage() == Stage::Read;
        self.enter(if is_second_half { RunState::Confirmed } else { RunState::Ready }, note);
    }

    fn end(&mut self, state: RunState, note: Option<String>) {
        self.standing = Standing::Idle;
        self.enter(state, note);
    }

    fn enter(&mut self, state: RunState, note: Option<String>) {
        self.state = state;
        self.note = note;
    }

    const fn refuse(&self, act: &'static str) -> InvalidTransition {
        InvalidTransition { act, state: self.state }
    }
}
