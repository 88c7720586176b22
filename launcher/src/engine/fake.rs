//! A container engine in memory, for tests.
//!
//! [`Fake`] keeps the promises of the real one. What its containers do is a [`Program`]'s; which calls
//! fail, hang, or have their effect while the answer is lost is told with [`Fake::fail`], and
//! [`Fake::cut`] takes the whole socket away. What truly happened stands in [`Fake::history`].

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::{Engine, EngineError, EngineName, Image, Needs, Signal, Spec, State};
use crate::limits::Capacity;

/// Where it says it is.
const AT: &str = "fake:///";
/// What it says it is called.
const NAME: EngineName = "Fake";

/// What runs in the containers.
pub trait Program: Send + Sync + 'static {
    /// The container was started. Gives the exit code if it ends at once.
    fn started(&self, spec: &Spec) -> Option<i64> {
        let _ = spec;
        None
    }

    /// The container was asked to stop. Gives the exit code if it does.
    fn stopped(&self, spec: &Spec) -> Option<i64> {
        let _ = spec;
        Some(143)
    }
}

/// A program that goes on until it is stopped.
#[derive(Debug, Clone, Copy)]
pub struct Endless;

impl Program for Endless {}

/// A question to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// [`Engine::ping`]
    Ping,
    /// [`Engine::lacks`]
    Lacks,
    /// [`Engine::capacity`]
    Capacity,
    /// [`Engine::image`]
    Image,
    /// [`Engine::pull`]
    Pull,
    /// [`Engine::create`]
    Create,
    /// [`Engine::start`]
    Start,
    /// [`Engine::state`]
    State,
    /// [`Engine::ended`]
    Ended,
    /// [`Engine::signal`]
    Signal,
    /// [`Engine::remove`]
    Remove,
    /// [`Engine::list`]
    List,
}

impl Call {
    const fn words(self) -> &'static str {
        match self {
            Self::Ping => "say its version",
            Self::Lacks => "inspect the network",
            Self::Capacity => "say what its host has",
            Self::Image => "inspect the image",
            Self::Pull => "pull the image",
            Self::Create => "create the container",
            Self::Start => "start the container",
            Self::State => "inspect the container",
            Self::Ended => "wait for the container",
            Self::Signal => "signal the container",
            Self::Remove => "remove the container",
            Self::List => "list containers",
        }
    }
}

/// What goes wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Whether what was asked happens all the same.
    pub happens: bool,
    /// What is answered.
    pub answer: Answer,
}

/// What a call is answered that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// No.
    No,
    /// Nothing: the connection breaks.
    Lost,
    /// Nothing, until whoever asked has no patience left.
    Late,
}

/// Something that truly happened to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// It was made.
    Made,
    /// It was started.
    Started,
    /// It got a signal.
    Signalled(Signal),
    /// It was removed.
    Removed,
}

/// An engine. Its clones are connections to the same one.
#[derive(Clone)]
pub struct Fake {
    inside: Arc<Mutex<Inside>>,
    program: Arc<dyn Program>,
    patience: Duration,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Inside {
    here: BTreeMap<String, Image>,
    elsewhere: BTreeMap<String, Image>,
    containers: BTreeMap<String, Container>,
    /// Each with the number of calls that come before it.
    faults: VecDeque<(Call, usize, Fault)>,
    asked: Vec<Call>,
    history: Vec<(String, Happened)>,
    is_cut: bool,
    lacks_network: bool,
    /// What it says that each container has written.
    written: Option<u64>,
    /// How many calls met no socket since it was cut.
    missed: usize,
}

struct Container {
    spec: Spec,
    state: State,
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fake")
    }
}

impl Fake {
    /// An engine without images, whose containers all run `program`. A call that gets no answer is given
    /// up after `patience`.
    #[must_use]
    pub fn new(program: impl Program, patience: Duration) -> Self {
        Self {
            inside: Arc::default(),
            program: Arc::new(program),
            patience,
            changed: watch::Sender::new(0),
        }
    }

    /// Puts an image on the host.
    pub fn has_image(&self, name: &str, image: Image) {
        self.change(|inside| inside.here.insert(name.to_owned(), image));
    }

    /// Puts an image into the registry, from which it can be pulled.
    pub fn can_pull(&self, name: &str, image: Image) {
        self.change(|inside| inside.elsewhere.insert(name.to_owned(), image));
    }

    /// So many bytes were written by whatever container is asked about.
    pub fn has_written(&self, bytes: u64) {
        self.change(|inside| inside.written = Some(bytes));
    }

    /// The next `call` that has no fault yet gets this one.
    pub fn fail(&self, call: Call, fault: Fault) {
        self.fail_later(call, 0, fault);
    }

    /// The `call` behind so many good ones gets this fault.
    pub fn fail_later(&self, call: Call, good: usize, fault: Fault) {
        self.change(|inside| inside.faults.push_back((call, good, fault)));
    }

    /// Takes the network of containers away, or brings it back.
    pub fn lacks_network(&self, lacks: bool) {
        self.change(|inside| inside.lacks_network = lacks);
    }

    /// Takes the socket away: connections break, new ones are refused. Containers go on.
    pub fn cut(&self) {
        self.change(|inside| (inside.is_cut, inside.missed) = (true, 0));
    }

    /// Brings the socket back.
    pub fn mend(&self) {
        self.change(|inside| inside.is_cut = false);
    }

    /// The engine starts the container for somebody who does not wait for its answer any more.
    ///
    /// # Errors
    /// What the engine would have answered.
    pub fn start_late(&self, name: &str) -> Result<(), String> {
        if let Some(spec) = self.change(|inside| inside.start(name))?
            && let Some(code) = self.program.started(&spec)
        {
            self.exit(name, code);
        }
        Ok(())
    }

    /// The container's program ends with this code, if it runs.
    pub fn exit(&self, name: &str, code: i64) {
        self.change(|inside| inside.exit(name, code));
    }

    /// The container is gone, and nobody asked for it.
    pub fn vanish(&self, name: &str) {
        self.change(|inside| inside.containers.remove(name));
    }

    /// What the container is made of; none if there is none.
    #[must_use]
    pub fn spec(&self, name: &str) -> Option<Spec> {
        self.inside().containers.get(name).map(|container| container.spec.clone())
    }

    /// What truly happened to a container, in order.
    #[must_use]
    pub fn history(&self, name: &str) -> Vec<Happened> {
        let inside = self.inside();
        let own = inside.history.iter().filter(|(whose, _)| whose == name);
        own.map(|(_, happened)| *happened).collect()
    }

    /// Waits until this was asked so many times since the beginning, answered or not.
    pub async fn asked(&self, call: Call, times: usize) {
        self.until(|inside| inside.asked.iter().filter(|asked| **asked == call).count() >= times)
            .await;
    }

    /// Waits until somebody met no socket since it was cut.
    pub async fn missed(&self) {
        self.until(|inside| inside.missed > 0).await;
    }

    async fn until(&self, is_so: impl Fn(&Inside) -> bool) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if is_so(&self.inside()) {
                return;
            }
            // The sender lives as long as `self`.
            let _ = changed.changed().await;
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inside) -> T) -> T {
        let changed = change(&mut self.inside());
        self.changed.send_modify(|version| *version += 1);
        changed
    }

    /// Does what is asked, unless a fault says otherwise, and answers.
    async fn answer<T>(
        &self,
        call: Call,
        effect: impl FnOnce(&Self) -> Result<T, String>,
    ) -> Result<T, EngineError> {
        let (is_cut, fault) = self.change(|inside| {
            inside.asked.push(call);
            inside.missed += usize::from(inside.is_cut);
            (inside.is_cut, inside.fault(call))
        });
        if is_cut {
            return Err(unreachable(call));
        }
        let Some(fault) = fault else {
            return effect(self).map_err(|message| refused(call, message));
        };
        if fault.happens {
            // Whoever asked hears nothing of it.
            drop(effect(self));
        }
        match fault.answer {
            Answer::No => Err(refused(call, "something broke".to_owned())),
            Answer::Lost => Err(unreachable(call)),
            Answer::Late => {
                tokio::time::sleep(self.patience).await;
                Err(EngineError::Late {
                    engine: NAME,
                    at: AT.to_owned(),
                    what: call.words().to_owned(),
                    limit: self.patience,
                })
            }
        }
    }
}

impl Inside {
    fn fault(&mut self, call: Call) -> Option<Fault> {
        let at = self.faults.iter().position(|(of, ..)| *of == call)?;
        match self.faults.get_mut(at) {
            Some((_, good @ 1.., _)) => {
                *good -= 1;
                None
            }
            Some((_, 0, _)) | None => self.faults.remove(at).map(|(.., fault)| fault),
        }
    }

    fn note(&mut self, name: &str, happened: Happened) {
        self.history.push((name.to_owned(), happened));
    }

    fn state(&self, name: &str) -> Option<State> {
        self.containers.get(name).map(|container| container.state)
    }

    /// The container, if it runs.
    fn running(&mut self, name: &str) -> Option<&mut Container> {
        self.containers.get_mut(name).filter(|container| container.state == State::Running)
    }

    fn exit(&mut self, name: &str, code: i64) {
        if let Some(container) = self.running(name) {
            container.state = State::Exited { code, is_out_of_memory: false };
        }
    }

    /// An image by its name or its id.
    fn image(&self, name: &str) -> Option<&Image> {
        let by_id = || self.here.values().find(|it| !name.is_empty() && it.id == name);
        self.here.get(name).or_else(by_id)
    }

    fn create(&mut self, spec: &Spec) -> Result<(), String> {
        if self.containers.contains_key(&spec.name) {
            return Ok(());
        }
        if self.image(&spec.image).is_none() {
            return Err(format!("No such image: {}", spec.image));
        }
        if let Some(mount) = spec.mounts.iter().find(|mount| !mount.source.exists()) {
            let path = mount.source.display();
            return Err(format!("bind source path does not exist: {path}"));
        }
        let container = Container { spec: spec.clone(), state: State::Created };
        self.containers.insert(spec.name.clone(), container);
        self.note(&spec.name, Happened::Made);
        Ok(())
    }

    /// Gives what was started; none if it runs already.
    fn start(&mut self, name: &str) -> Result<Option<Spec>, String> {
        let Some(container) = self.containers.get_mut(name) else {
            return Err(format!("No such container: {name}"));
        };
        if container.state == State::Running {
            return Ok(None);
        }
        container.state = State::Running;
        let spec = container.spec.clone();
        self.note(name, Happened::Started);
        Ok(Some(spec))
    }
}

impl Engine for Fake {
    fn name(&self) -> EngineName {
        NAME
    }

    async fn ping(&self) -> Result<String, EngineError> {
        self.answer(Call::Ping, |_| Ok("fake 1".to_owned())).await
    }

    async fn lacks(&self, needs: &Needs<'_>) -> Result<Vec<String>, EngineError> {
        let (network, is_lacking) = (needs.network, self.inside().lacks_network);
        let lacking = is_lacking.then(|| format!("{NAME} has no network {network}"));
        self.answer(Call::Lacks, |_| Ok(lacking.into_iter().collect())).await
    }

    async fn capacity(&self) -> Result<Capacity, EngineError> {
        let capacity = |_: &Self| {
            Ok(Capacity {
                memory: Some(8 << 30),
                processors: Some(4),
                limits_memory: true,
                limits_processors: true,
                limits_processes: true,
                root: None,
            })
        };
        self.answer(Call::Capacity, capacity).await
    }

    async fn image(&self, name: &str) -> Result<Option<Image>, EngineError> {
        let found = |fake: &Self| Ok(fake.inside().image(name).cloned());
        self.answer(Call::Image, found).await
    }

    async fn pull(
        &self,
        name: &str,
        progress: &(dyn Fn(String) + Send + Sync),
    ) -> Result<(), EngineError> {
        let pull = |fake: &Self| {
            let found = fake.inside().elsewhere.get(name).cloned();
            let stored = found.ok_or_else(|| format!("{name}: not found"))?;
            progress(format!("{name}: Pull complete"));
            fake.change(|inside| inside.here.insert(name.to_owned(), stored));
            Ok(())
        };
        self.answer(Call::Pull, pull).await
    }

    async fn create(&self, spec: &Spec) -> Result<(), EngineError> {
        let create = |fake: &Self| fake.change(|inside| inside.create(spec));
        self.answer(Call::Create, create).await
    }

    async fn start(&self, name: &str) -> Result<(), EngineError> {
        self.answer(Call::Start, |fake| fake.start_late(name)).await
    }

    async fn state(&self, name: &str) -> Result<Option<State>, EngineError> {
        self.answer(Call::State, |fake| Ok(fake.inside().state(name))).await
    }

    async fn ended(&self, name: &str) -> Result<(), EngineError> {
        self.answer(Call::Ended, |_| Ok(())).await?;
        self.until(|inside| inside.is_cut || inside.state(name) != Some(State::Running)).await;
        if self.inside().is_cut { Err(unreachable(Call::Ended)) } else { Ok(()) }
    }

    async fn signal(&self, name: &str, signal: Signal) -> Result<(), EngineError> {
        let send = |fake: &Self| {
            let Some(spec) = fake.change(|inside| {
                let spec = inside.running(name)?.spec.clone();
                inside.note(name, Happened::Signalled(signal));
                Some(spec)
            }) else {
                return Ok(());
            };
            let code = match signal {
                Signal::Stop => fake.program.stopped(&spec),
                Signal::Kill => Some(137),
            };
            if let Some(code) = code {
                fake.exit(name, code);
            }
            Ok(())
        };
        self.answer(Call::Signal, send).await
    }

    async fn remove(&self, name: &str) -> Result<(), EngineError> {
        let remove = |fake: &Self| {
            fake.change(|inside| {
                if inside.containers.remove(name).is_some() {
                    inside.note(name, Happened::Removed);
                }
            });
            Ok(())
        };
        self.answer(Call::Remove, remove).await
    }

    async fn written(&self, _: &str) -> Result<Option<u64>, EngineError> {
        Ok(self.inside().written)
    }

    async fn list(&self, labels: &[(&str, String)]) -> Result<Vec<String>, EngineError> {
        let list = |fake: &Self| {
            let inside = fake.inside();
            let has_all = |container: &Container| {
                let own = &container.spec.labels;
                labels.iter().all(|(name, value)| own.get(*name) == Some(value))
            };
            let found = inside.containers.iter().filter(|(_, container)| has_all(container));
            Ok(found.map(|(name, _)| name.clone()).collect())
        };
        self.answer(Call::List, list).await
    }
}

fn unreachable(call: Call) -> EngineError {
    EngineError::Unreachable {
        engine: NAME,
        at: AT.to_owned(),
        what: call.words().to_owned(),
        why: "nobody listens there",
    }
}

fn refused(call: Call, message: String) -> EngineError {
    EngineError::Refused { engine: NAME, what: call.words().to_owned(), message }
}
