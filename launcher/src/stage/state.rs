//! State versions: the one that a stage begins with, and those that it writes.

use std::collections::HashSet;
use std::fs;
use std::io::{BufReader, BufWriter, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use gantry_model::{Epoch, InvalidState, Stage as StageKind, StateHeading, hex};
use gantry_protocol::message::{StageOutcome, StateStored, UrlPurpose};
use gantry_protocol::spec::SealedState;
use gantry_protocol::{
    Digest, Header, Kind, OpenError, PublicKey, Recipient, SealError, Sealed, Statement, seal,
};
use gantry_spool::order::MAX_STATE;
use gantry_spool::{SideFile, open_side_file};
use openssl::sha::Sha256;
use zeroize::Zeroizing;

use super::jobs::Whether;
use super::order::write_new;
use super::waits::{Awaited, STORE};
use super::{Stage, StageError};
use crate::blob::{BlobError, Expected};
use crate::engine::Engine;
use crate::explain::sentence;
use crate::journal::{Change, KeptState};
use crate::log::message_id;
use crate::tool;
use crate::uploads::{Content, Uploader as _};
use crate::workspace::{self, Directories};

/// Larger versions wait on the disk, sealed, until they are stored.
const IN_MEMORY: u64 = 16 << 20;
/// How much is opened at once.
const PART: usize = 64 * 1024;
/// The number that a state which the tool left is kept under.
pub const ERRORED: u64 = u64::MAX;

/// Why a state version cannot be used or kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be had.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// It cannot be opened.
    #[error(
        "the stored state cannot be opened with this pool's key: {0}; if the pool was reset, set GANTRY_FORMER_POOL_KEYS"
    )]
    Open(#[from] OpenError),
    /// It is not what this pool signed.
    #[error(
        "the stored state is not the version that this pool signed ({0}): it was altered, truncated, replaced or rolled back; nothing was run"
    )]
    NotOurs(&'static str),
    /// It cannot be sealed.
    #[error("cannot seal the state version")]
    Seal(#[from] SealError),
    /// A recipient is no key.
    #[error(
        "one of the keys to seal the state to is not a key: look at the stack's pools and the recovery key"
    )]
    Recipient,
    /// The worker binary's file cannot be used.
    #[error(transparent)]
    Spool(#[from] gantry_spool::SpoolError),
    /// The file is not what its frame says.
    #[error("the state version that the stage wrote was changed after it was finished")]
    Changed,
    /// It is none.
    #[error("what the stage wrote is not a state: {0}")]
    NoState(#[from] InvalidState),
    /// Reading or writing failed.
    #[error(
        "cannot read or write a state version on this host: check the disk under GANTRY_STATE_DIR"
    )]
    Io(#[from] std::io::Error),
    /// The directory in memory is full.
    #[error("cannot hand the stack's state to the container: give GANTRY_SECRETS_DIR more room")]
    NoRoom(#[source] std::io::Error),
    /// OpenSSL failed.
    #[error(transparent)]
    Crypto(#[from] gantry_protocol::CryptoError),
}

impl StateError {
    /// Whether a version that the container left can still be kept later: what is in the way is not the
    /// version itself.
    fn may_pass(&self) -> bool {
        use gantry_spool::SpoolError::{Io, NotRegular, TooLarge};
        match self {
            Self::Changed | Self::NoState(_) | Self::Spool(NotRegular { .. } | TooLarge { .. }) => {
                false
            }
            Self::Spool(Io { source, .. }) => source.kind() != std::io::ErrorKind::NotFound,
            Self::Spool(_)
            | Self::Blob(_)
            | Self::Open(_)
            | Self::NotOurs(_)
            | Self::Seal(_)
            | Self::Recipient
            | Self::Io(_)
            | Self::NoRoom(_)
            | Self::Crypto(_) => true,
        }
    }
}

/// Whether the version with this number is stored. Numbers rise, and the first ones are forgotten.
fn is_kept(states: &[KeptState], number: u64) -> bool {
    states.iter().any(|kept| kept.n == number || (number < kept.n && kept.n != ERRORED))
}

/// A version, sealed.
struct Version {
    heading: StateHeading,
    header: Header,
    sha256: Digest,
    length: u64,
    payload: Payload,
}

/// Where a sealed version waits to be stored.
enum Payload {
    Memory(Bytes),
    File(fs::File),
}

/// Seals a version that lies in the spool, when it is a state and what the worker binary said of it.
fn seal_version(
    directories: &Directories,
    file: &SideFile,
    said: Option<StateHeading>,
    recipients: &[Recipient],
) -> Result<Version, StateError> {
    let mut plain = open_side_file(&directories.spool, file.name, MAX_STATE)?;
    let mut hashed = Hashed { inner: (&plain).take(MAX_STATE), hash: Sha256::new() };
    let heading = StateHeading::read(&mut hashed)?;
    // Both times it is read it must be the same, or what is sealed need not be what was looked at.
    if hex(&hashed.hash.finish()) != file.sha256 || said.is_some_and(|said| said != heading) {
        return Err(StateError::Changed);
    }
    plain.rewind()?;
    let (sealed, payload) = if file.size <= IN_MEMORY {
        let mut payload = Vec::new();
        let sealed = seal_from(&plain, file, recipients, &mut payload)?;
        (sealed, Payload::Memory(payload.into()))
    } else {
        let mut payload = workspace::passing_file(&directories.root)?;
        let sealed = seal_from(&plain, file, recipients, BufWriter::new(&mut payload))?;
        (sealed, Payload::File(payload))
    };
    let (header, sha256, length) = (sealed.header, sealed.payload_sha256, sealed.payload_len);
    Ok(Version { heading, header, sha256, length, payload })
}

fn seal_from(
    plain: &fs::File,
    file: &SideFile,
    recipients: &[Recipient],
    into: impl std::io::Write,
) -> Result<Sealed, StateError> {
    let mut sealer = seal(recipients, into)?;
    let mut plain = Hashed { inner: plain.take(MAX_STATE), hash: Sha256::new() };
    let size = std::io::copy(&mut plain, &mut sealer)?;
    if size != file.size || hex(&plain.hash.finish()) != file.sha256 {
        return Err(StateError::Changed);
    }
    Ok(sealer.finish()?)
}

/// Hashes what is read through it.
struct Hashed<R> {
    inner: R,
    hash: Sha256,
}

impl<R: std::io::Read> std::io::Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

impl<E: Engine> Stage<E> {
    /// Gets, checks and opens the state version that the stage begins with, into a new file.
    pub(super) async fn fetch_state(
        &self,
        sealed: &SealedState,
        into: PathBuf,
    ) -> Result<(), StateError> {
        let digest: Digest = sealed
            .payload_sha256
            .parse()
            .map_err(|_| StateError::NotOurs("its hash is not valid"))?;
        let predecessor = match &sealed.predecessor {
            Some(digest) => Some(
                digest.parse().map_err(|_| StateError::NotOurs("its predecessor is not valid"))?,
            ),
            None => None,
        };
        let statement = Statement {
            kind: Kind::State,
            stack: self.spec.stack.clone(),
            run: sealed.run,
            epoch: Epoch(sealed.epoch),
            serial: sealed.serial,
            predecessor,
            payload_sha256: digest,
            payload_len: sealed.payload_size,
        };
        workspace::check(&statement, &sealed.signature, &self.keys())
            .map_err(StateError::NotOurs)?;
        let header: Header =
            sealed.header.parse().map_err(|_| StateError::NotOurs("its header is not valid"))?;
        if sealed.payload_size > MAX_STATE + (1 << 20) {
            return Err(StateError::NotOurs("it is larger than any state"));
        }
        let mut payload = workspace::passing_file(&self.directories.root)?;
        let expected = Expected {
            what: "state version",
            size: sealed.payload_size,
            sha256: Some(&sealed.payload_sha256),
        };
        let awaited = Awaited::new(STORE);
        let got = self.get(&awaited, &sealed.url, expected, &mut payload);
        self.wait(&awaited, got).await.unwrap_or(Err(BlobError::CalledOff))?;
        payload.rewind()?;
        let config = Arc::clone(&self.shared.config);
        self.blocking_of_state(move |whether| {
            let keys: Vec<_> = std::iter::once(&config.key).chain(&config.former_keys).collect();
            let payload = BufReader::new(whether.until(payload));
            let mut plain = gantry_protocol::open(&keys, &header, payload)?;
            write_new(&into, |file| {
                let mut part = Zeroizing::new(vec![0; PART]);
                loop {
                    match plain.read(&mut part).map_err(OpenError::from_io)? {
                        0 => return Ok(()),
                        read => file.write_all(&part[..read]).map_err(StateError::NoRoom)?,
                    }
                }
            })
        })
        .await
    }

    async fn blocking_of_state<T: Send + 'static>(
        &self,
        work: impl FnOnce(Whether) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        self.jobs.run(work).await.unwrap_or_else(|error| Err(error.into()))
    }

    /// Whether what it writes as state is never stored: there is no place for it, however long one waits.
    pub(super) fn only_reads_state(&self) -> bool {
        let may_write = self.spec.state.as_ref().is_none_or(|state| state.can_write);
        self.attempt.stage == StageKind::Read || !may_write
    }

    /// Seals, signs and stores a version that the stage wrote, unless that was done before. `said` is
    /// what the worker binary says of it.
    pub(super) async fn keep_state(
        &self,
        number: u64,
        said: Option<StateHeading>,
        file: &SideFile,
    ) -> Result<(), StageError> {
        let Some(entry) = self.entry() else { return Ok(()) };
        if is_kept(&entry.states, number) {
            return Ok(());
        }
        let Some(spec) = &self.spec.state else {
            return self.leave("the stack's own backend did not take it").await;
        };
        let predecessor = entry
            .states
            .last()
            .map(|kept| kept.payload_sha256.clone())
            .or_else(|| spec.current.as_ref().map(|current| current.payload_sha256.clone()));
        let recipients = self.recipients()?;
        let (directories, file) = (self.directories.clone(), file.clone());
        let seal = move |_| seal_version(&directories, &file, said, &recipients);
        let sealed = self.blocking_of_state(seal).await;
        let Version { heading, header, sha256, length, payload } = match sealed {
            Ok(sealed) => sealed,
            // What this host cannot do now it may do later, and until then nothing of the version goes.
            Err(error) if error.may_pass() => return Err(error.into()),
            Err(error) => return self.leave(&sentence(&error)).await,
        };
        let StateHeading { serial, lineage } = heading;
        let statement = Statement {
            kind: Kind::State,
            stack: self.spec.stack.clone(),
            run: self.attempt.run,
            epoch: self.attempt.epoch,
            serial,
            predecessor: predecessor.as_deref().and_then(|digest| digest.parse().ok()),
            payload_sha256: sha256,
            payload_len: length,
        };
        let content = match &payload {
            Payload::Memory(bytes) => Content::Bytes(bytes),
            Payload::File(file) => Content::File(&Bytes::new(), file),
        };
        let key = match self.store.put(UrlPurpose::State, content).await {
            Err(error @ BlobError::Unwanted { .. }) => return self.leave(&sentence(&error)).await,
            put => put?,
        };
        let config = Arc::clone(&self.shared.config);
        let sign = move |_| Ok(config.key.sign_statement(&statement)?);
        let signature = self.blocking_of_state(sign).await?;
        let payload_sha256 = sha256.to_string();
        let message = StateStored {
            attempt: self.attempt,
            serial,
            lineage,
            header: header.to_string(),
            payload_sha256: payload_sha256.clone(),
            payload_size: length,
            predecessor,
            signature: signature.to_string(),
            key,
        };
        let attempt = self.attempt;
        let kept = move |seq| KeptState { n: number, seq, serial, payload_sha256 };
        self.shared
            .journal
            .write_with(move |next| {
                vec![
                    Change::Queue { id: message_id(), message: message.into() },
                    Change::state(attempt, kept(next)),
                ]
            })
            .await?;
        tracing::info!(attempt = %self.attempt, serial, "a state version is stored");
        Ok(())
    }

    /// A state that the stage wrote cannot be kept. What may be its only copy is not removed; what a
    /// read stage left is nobody's state.
    pub(super) async fn leave(&self, reason: &str) -> Result<(), StageError> {
        tracing::error!(attempt = %self.attempt, reason, "a state of the stage cannot be kept");
        if self.attempt.stage == StageKind::Write {
            let left = Change::left(self.attempt, reason);
            self.shared.journal.write(vec![left]).await?;
        }
        Ok(())
    }

    /// Whether the tool left a state that the worker binary did not live to copy.
    pub(super) fn has_uncollected(&self) -> bool {
        let project = self.directories.source.join(&self.spec.project_root);
        let Some(state) = &tool::of(&self.spec).state else { return false };
        project.join(state.left).symlink_metadata().is_ok_and(|found| found.is_file())
    }

    /// How a stage ended whose state stays on this host: a person has to bring it in before the next run.
    pub(super) fn outcome_of_left(&self) -> Option<StageOutcome> {
        let why = self.entry()?.left?;
        let worker = self.shared.journal.worker();
        let kept = self.directories.kept.display();
        let project = Path::new("workspace/source").join(&self.spec.project_root);
        let project: PathBuf = project.components().collect();
        let state = tool::of(&self.spec).state.as_ref();
        let bring_in = state.map_or_else(
            || format!("look into {}", project.display()),
            |state| (state.bring_in)(&self.spec, &project),
        );
        Some(StageOutcome::Unknown {
            reason: format!(
                "a state that the tool wrote could not be kept ({why}). Its only copy stays on the host of worker {worker}, below {kept}: {bring_in}, and remove that directory"
            ),
        })
    }

    /// A state that could not be kept must not be made.
    pub(super) fn check_recipients(&self) -> Result<(), StateError> {
        self.recipients().map(drop)
    }

    fn recipients(&self) -> Result<Vec<Recipient>, StateError> {
        let named = self.spec.state.iter().flat_map(|state| &state.recipients);
        let mut keys = vec![self.shared.config.key.public().clone()];
        for pem in named {
            let key = PublicKey::parse(pem.as_bytes()).map_err(|_| StateError::Recipient)?;
            if keys.iter().all(|known| known.fingerprint() != key.fingerprint()) {
                keys.push(key);
            }
        }
        keys.iter().map(|key| Ok(Recipient::new(key.clone())?)).collect()
    }

    /// Tells the worker binary of every version that the control plane has, as they are acknowledged.
    /// Never ends by itself.
    pub(super) async fn answer_states(&self) {
        let journal = Arc::clone(&self.shared.journal);
        let mut acknowledged = journal.acknowledgements();
        let mut answered = HashSet::new();
        loop {
            let up_to = *acknowledged.borrow_and_update();
            let states = self.entry().map(|entry| entry.states).unwrap_or_default();
            for state in states.iter().filter(|state| state.seq <= up_to && state.n != ERRORED) {
                if answered.insert(state.n)
                    && let Err(error) = gantry_spool::mark_stored(&self.directories.spool, state.n)
                {
                    tracing::warn!(attempt = %self.attempt, %error, "a state write is not answered");
                }
            }
            if acknowledged.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A version is kept once, though only the latest ones are remembered and the spool is read again.
    #[test]
    fn a_version_that_was_forgotten_is_not_kept_again() {
        let state = |n| KeptState { n, seq: n, serial: n, payload_sha256: String::new() };
        let states = [state(7), state(8), state(ERRORED)];
        assert!(is_kept(&states, 1) && is_kept(&states, 8) && is_kept(&states, ERRORED));
        assert!(!is_kept(&states, 9) && !is_kept(&[state(7)], ERRORED));
    }

    /// What somebody did to the file is final; what this host could not do is tried again, or the
    /// version would be lost.
    #[test]
    fn only_what_the_container_did_to_a_version_is_final() {
        let io = |kind: std::io::ErrorKind| gantry_spool::SpoolError::Io {
            action: "open",
            name: gantry_spool::SideName::State(1).to_string(),
            source: kind.into(),
        };
        let link = gantry_spool::SpoolError::NotRegular { name: String::new() };
        let none = StateError::NoState(InvalidState::Version);
        let missing = io(std::io::ErrorKind::NotFound).into();
        for theirs in [link.into(), missing, none, StateError::Changed] {
            assert!(!theirs.may_pass(), "{theirs}");
        }
        for ours in [io(std::io::ErrorKind::PermissionDenied).into(), StateError::Recipient] {
            assert!(ours.may_pass(), "{ours}");
        }
    }
}
