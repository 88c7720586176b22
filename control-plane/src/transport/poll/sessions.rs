//! The sessions that are open: by token, and by worker.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use gantry_model::{PoolId, WorkerId};
use gantry_protocol::Digest;
use gantry_protocol::poll::{Code, append};
use openssl::error::ErrorStack;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::super::{Delivery, Identity};
use super::{MAX_PER_POOL, MAX_SESSIONS};

/// How many messages wait for a launcher that does not fetch them.
const MAX_QUEUE: usize = 128;

/// The most requests with messages that a session makes at the same time: one, and one whose connection
/// broke and which has to notice yet.
const MAX_POSTS: usize = 2;

/// How long a session may last. The signing leaf that its hello was answered with does not last longer.
const LIFETIME: Duration = Duration::from_hours(24);

/// What a token is known by: whoever reads this process's memory later finds none.
pub(super) type Key = [u8; 32];

/// The key of a token.
pub(super) fn key(token: &str) -> Key {
    *Digest::of(token.as_bytes()).as_bytes()
}

/// Open sessions.
#[derive(Default)]
pub(super) struct Sessions {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    open: HashMap<Key, Session>,
    workers: HashMap<WorkerId, Key>,
    pools: HashMap<PoolId, usize>,
    /// Those that another launcher took over, for as long as theirs may ask.
    taken_over: HashMap<Key, Instant>,
}

struct Session {
    identity: Identity,
    keep_alive: Duration,
    will: Option<Bytes>,
    /// What the launcher has not fetched yet.
    queue: VecDeque<Bytes>,
    /// Wakes whoever waits for the session to have something, or to end.
    changed: Arc<Notify>,
    /// The number of the last request for messages: it alone gets any.
    turn: u64,
    /// How many requests there are now, and how many of them bring messages.
    requests: usize,
    posts: usize,
    /// When the last request ended.
    heard: Instant,
    opened: Instant,
}

/// A request within a session.
pub(super) struct Visit<'a> {
    sessions: &'a Sessions,
    key: Key,
    is_post: bool,
    pub(super) identity: Identity,
    pub(super) keep_alive: Duration,
    pub(super) changed: Arc<Notify>,
    /// Its number, among those that ask for messages.
    turn: u64,
}

/// What a request for messages finds.
pub(super) enum Found {
    /// A body with messages.
    Messages(Vec<u8>),
    /// Nothing yet.
    Nothing,
    /// Another request has come for them.
    Replaced,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens one, and ends the one that the worker had. Gives its token.
    pub(super) fn open(
        &self,
        identity: Identity,
        keep_alive: Duration,
        will: Option<Bytes>,
    ) -> Result<Result<String, Code>, ErrorStack> {
        let mut random = [0; 32];
        openssl::rand::rand_bytes(&mut random)?;
        let token = URL_SAFE_NO_PAD.encode(random);
        Ok(self.lock().open(key(&token), identity, keep_alive, will).map(|()| token))
    }

    /// A request for messages begins. Earlier ones end.
    pub(super) fn fetch(&self, key: Key) -> Result<Visit<'_>, Code> {
        self.enter(key, false)
    }

    /// A request with messages begins.
    pub(super) fn post(&self, key: Key) -> Result<Visit<'_>, Code> {
        self.enter(key, true)
    }

    fn enter(&self, key: Key, is_post: bool) -> Result<Visit<'_>, Code> {
        let mut inner = self.lock();
        let session = inner.session(&key)?;
        if is_post {
            if session.posts >= MAX_POSTS {
                return Err(Code::TooMany);
            }
            session.posts += 1;
        } else {
            session.turn += 1;
            session.changed.notify_waiters();
        }
        session.requests += 1;
        let (turn, keep_alive) = (session.turn, session.keep_alive);
        let (identity, changed) = (session.identity.clone(), Arc::clone(&session.changed));
        Ok(Visit { sessions: self, key, is_post, identity, keep_alive, changed, turn })
    }

    /// Puts a message where the worker's launcher fetches it.
    pub(super) fn send(
        &self,
        worker: WorkerId,
        is_meant: impl Fn(&Identity) -> bool,
        payload: Bytes,
    ) -> Delivery {
        let mut inner = self.lock();
        let Some(session) = inner.of(worker) else { return Delivery::NotConnected };
        if !is_meant(&session.identity) || session.queue.len() >= MAX_QUEUE {
            return Delivery::NotConnected;
        }
        session.queue.push_back(payload);
        session.changed.notify_waiters();
        Delivery::Sent
    }

    /// When the worker's session was opened, if it has one in this pool.
    pub(super) fn opened_at(&self, pool: PoolId, worker: WorkerId) -> Option<Instant> {
        let mut inner = self.lock();
        inner.of(worker).filter(|it| it.identity.pool == pool).map(|it| it.opened)
    }

    /// Ends the matching ones without their wills, and says how many there were.
    pub(super) fn close(&self, is_meant: impl Fn(&Identity) -> bool) -> usize {
        let mut inner = self.lock();
        let meant = inner.open.iter().filter(|(_, session)| is_meant(&session.identity));
        let keys: Vec<Key> = meant.map(|(key, _)| *key).collect();
        keys.iter().filter_map(|key| inner.remove(key)).count()
    }

    /// Ends the worker's session for one that it has elsewhere.
    pub(super) fn take_over(&self, pool: PoolId, worker: WorkerId) {
        let mut inner = self.lock();
        if inner.of(worker).is_some_and(|session| session.identity.pool == pool) {
            inner.replace(worker);
        }
    }

    /// The launcher leaves. It has said all that it wanted to.
    pub(super) fn leave(&self, key: &Key) {
        self.lock().remove(key);
    }

    /// Ends those whose launchers have not been heard for too long, and gives their wills.
    pub(super) fn lapse(&self) -> Vec<(Identity, Bytes)> {
        let mut inner = self.lock();
        let now = Instant::now();
        inner.taken_over.retain(|_, until| *until > now);
        let lapsed = inner.open.iter().filter(|(_, session)| session.is_over(now));
        let keys: Vec<Key> = lapsed.map(|(key, _)| *key).collect();
        let ended = keys.iter().filter_map(|key| inner.remove(key));
        ended.filter_map(|session| Some((session.identity, session.will?))).collect()
    }
}

impl Inner {
    fn open(
        &mut self,
        key: Key,
        identity: Identity,
        keep_alive: Duration,
        will: Option<Bytes>,
    ) -> Result<(), Code> {
        let Identity { pool, worker, .. } = identity;
        match self.of(worker) {
            Some(session) if session.identity.pool != pool => return Err(Code::ForeignWorker),
            Some(_) => self.replace(worker),
            None => {
                let of_pool = self.pools.get(&pool).copied().unwrap_or_default();
                if self.open.len() >= MAX_SESSIONS || of_pool >= MAX_PER_POOL {
                    return Err(Code::TooMany);
                }
            }
        }
        let now = Instant::now();
        let session = Session {
            identity,
            keep_alive,
            will,
            queue: VecDeque::new(),
            changed: Arc::default(),
            turn: 0,
            requests: 0,
            posts: 0,
            heard: now,
            opened: now,
        };
        self.open.insert(key, session);
        self.workers.insert(worker, key);
        *self.pools.entry(pool).or_default() += 1;
        Ok(())
    }

    fn session(&mut self, key: &Key) -> Result<&mut Session, Code> {
        let is_taken_over = self.taken_over.contains_key(key);
        let code = if is_taken_over { Code::TakenOver } else { Code::NoSession };
        self.open.get_mut(key).ok_or(code)
    }

    fn of(&mut self, worker: WorkerId) -> Option<&mut Session> {
        self.open.get_mut(self.workers.get(&worker)?)
    }

    /// Ends the worker's session, whose launcher is told that another one is the worker now.
    fn replace(&mut self, worker: WorkerId) {
        let Some(key) = self.workers.get(&worker).copied() else { return };
        let Some(session) = self.remove(&key) else { return };
        // As many as there may be sessions; whoever comes later is told that there is none.
        if self.taken_over.len() < MAX_SESSIONS {
            self.taken_over.insert(key, Instant::now() + session.keep_alive * 2);
        }
    }

    fn remove(&mut self, key: &Key) -> Option<Session> {
        let session = self.open.remove(key)?;
        let Identity { pool, worker, .. } = session.identity;
        if self.workers.get(&worker) == Some(key) {
            self.workers.remove(&worker);
        }
        if let Some(count) = self.pools.get_mut(&pool) {
            *count -= 1;
            if *count == 0 {
                self.pools.remove(&pool);
            }
        }
        session.changed.notify_waiters();
        Some(session)
    }
}

impl Session {
    /// A request is held for one keep-alive, and the next one follows it at once.
    fn is_over(&self, now: Instant) -> bool {
        let is_silent = self.requests == 0 && now >= self.heard + self.keep_alive * 2;
        is_silent || now >= self.opened + LIFETIME
    }
}

impl Visit<'_> {
    /// What there is to fetch.
    pub(super) fn look(&self) -> Result<Found, Code> {
        let mut inner = self.sessions.lock();
        let session = inner.session(&self.key)?;
        if session.turn != self.turn {
            return Ok(Found::Replaced);
        }
        let (mut body, mut count) = (Vec::new(), 0);
        while let Some(first) = session.queue.front() {
            if !append(&mut body, &mut count, first) {
                break;
            }
            session.queue.pop_front();
        }
        Ok(if count == 0 { Found::Nothing } else { Found::Messages(body) })
    }

    /// Whether the session is still there.
    pub(super) fn check(&self) -> Result<(), Code> {
        self.sessions.lock().session(&self.key).map(drop)
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        let mut inner = self.sessions.lock();
        if let Some(session) = inner.open.get_mut(&self.key) {
            session.requests -= 1;
            session.posts -= usize::from(self.is_post);
            session.heard = Instant::now();
        }
    }
}
