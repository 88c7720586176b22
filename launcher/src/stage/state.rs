//! State versions: the one that a stage begins with, and those that it writes.

use std::collections::HashSet;
use std::io::Read as _;
use std::sync::Arc;

use bytes::Bytes;
use gantry_model::{Epoch, Stage as StageKind};
use gantry_protocol::message::{StateStored, UrlPurpose};
use gantry_protocol::spec::SealedState;
use gantry_protocol::{
    Digest, Header, Kind, OpenError, PublicKey, Recipient, SealError, Statement, seal,
};
use gantry_spool::order::MAX_STATE;
use gantry_spool::{SideFile, open_side_file};
use openssl::sha::Sha256;
use zeroize::Zeroizing;

use super::waits::{Awaited, STORE};
use super::{Stage, StageError};
use crate::blob::{BlobError, Expected, hex};
use crate::container::Engine;
use crate::journal::{Change, KeptState};
use crate::log::message_id;
use crate::store::{Content, Keep as _};
use crate::workspace;

/// The number that an `errored.tfstate` is kept under.
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
    /// Reading failed.
    #[error("cannot read the state version that the stage wrote")]
    Io(#[from] std::io::Error),
    /// OpenSSL failed.
    #[error(transparent)]
    Crypto(#[from] gantry_protocol::CryptoError),
}

impl StateError {
    /// Whether the fault is this host's, and not that of whoever wrote into the spool.
    pub(super) fn is_ours(&self) -> bool {
        use gantry_spool::SpoolError::{Io, NotRegular, TooLarge};
        match self {
            Self::Changed | Self::Spool(NotRegular { .. } | TooLarge { .. }) => false,
            Self::Spool(Io { source, .. }) => source.kind() != std::io::ErrorKind::NotFound,
            Self::Spool(_)
            | Self::Blob(_)
            | Self::Open(_)
            | Self::NotOurs(_)
            | Self::Seal(_)
            | Self::Recipient
            | Self::Io(_)
            | Self::Crypto(_) => true,
        }
    }
}

/// Whether the version with this number is stored. Numbers rise, and the first ones are forgotten.
fn is_kept(states: &[KeptState], number: u64) -> bool {
    states.iter().any(|kept| kept.n == number || (number < kept.n && kept.n != ERRORED))
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
    /// Gets, checks and opens the state version that the stage begins with.
    pub(super) async fn fetch_state(
        &self,
        sealed: &SealedState,
    ) -> Result<Zeroizing<Vec<u8>>, StateError> {
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
        let mut payload = Vec::new();
        let expected = Expected {
            what: "state version",
            size: sealed.payload_size,
            sha256: Some(&sealed.payload_sha256),
        };
        let awaited = Awaited::new(STORE);
        let got = self.get(&awaited, &sealed.url, expected, &mut payload);
        self.wait(&awaited, got).await.unwrap_or(Err(BlobError::CalledOff))?;
        let mut plain = gantry_protocol::open(&self.keys(), &header, payload.as_slice())?;
        let mut state = Zeroizing::new(Vec::with_capacity(payload.len()));
        plain.read_to_end(&mut state).map_err(OpenError::from_io)?;
        Ok(state)
    }

    /// Whether what it writes as state is never stored: there is no place for it, however long one waits.
    pub(super) fn only_reads_state(&self) -> bool {
        let may_write = self.spec.state.as_ref().is_none_or(|state| state.can_write);
        self.attempt.stage == StageKind::Read || !may_write
    }

    /// Seals, signs and stores a version that the stage wrote, unless that was done before.
    pub(super) async fn keep_state(
        &self,
        number: u64,
        serial: u64,
        lineage: String,
        file: &SideFile,
    ) -> Result<(), StageError> {
        let Some(entry) = self.entry() else { return Ok(()) };
        let (Some(spec), false) = (&self.spec.state, is_kept(&entry.states, number)) else {
            return Ok(());
        };
        let predecessor = entry
            .states
            .last()
            .map(|kept| kept.payload_sha256.clone())
            .or_else(|| spec.current.as_ref().map(|current| current.payload_sha256.clone()));
        let (sealed, statement) = match self.seal_state(serial, predecessor.as_deref(), file) {
            Ok(sealed) => sealed,
            // What this host cannot do now it may do later, and until then nothing of the version goes.
            Err(error) if error.is_ours() => return Err(error.into()),
            Err(error) => {
                tracing::error!(attempt = %self.attempt, %error, "a state version cannot be kept");
                return Ok(());
            }
        };
        let payload = Bytes::from(sealed.payload);
        let key = self.store.put(UrlPurpose::State, Content::Bytes(&payload)).await?;
        let signature = self.shared.config.key.sign_statement(&statement);
        let signature = signature.map_err(|error| self.at()(std::io::Error::other(error)))?;
        let payload_sha256 = statement.payload_sha256.to_string();
        let message = StateStored {
            attempt: self.attempt,
            serial,
            lineage,
            header: sealed.header.to_string(),
            payload_sha256: payload_sha256.clone(),
            payload_size: statement.payload_len,
            predecessor,
            signature: signature.to_string(),
            key,
        };
        let kept = |seq| KeptState { n: number, seq, serial, payload_sha256 };
        self.shared.journal.write_with(|next| {
            vec![
                Change::Queue { id: message_id(), message: message.into() },
                Change::state(self.attempt, kept(next)),
            ]
        })?;
        tracing::info!(attempt = %self.attempt, serial, "a state version is stored");
        Ok(())
    }

    fn seal_state(
        &self,
        serial: u64,
        predecessor: Option<&str>,
        file: &SideFile,
    ) -> Result<(gantry_protocol::SealedBytes, Statement), StateError> {
        let recipients = self.recipients()?;
        let plain = open_side_file(&self.directories.spool, file.name, MAX_STATE)?;
        let mut payload = Vec::new();
        let mut sealer = seal(&recipients, &mut payload)?;
        let mut plain = Hashed { inner: plain.take(MAX_STATE), hash: Sha256::new() };
        let size = std::io::copy(&mut plain, &mut sealer)?;
        let sealed = sealer.finish()?;
        if size != file.size || hex(&plain.hash.finish()) != file.sha256 {
            return Err(StateError::Changed);
        }
        let statement = Statement {
            kind: Kind::State,
            stack: self.spec.stack.clone(),
            run: self.attempt.run,
            epoch: self.attempt.epoch,
            serial,
            predecessor: predecessor.and_then(|digest| digest.parse().ok()),
            payload_sha256: sealed.payload_sha256,
            payload_len: sealed.payload_len,
        };
        Ok((gantry_protocol::SealedBytes { header: sealed.header, payload }, statement))
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
            name: "state-1.tfstate".to_owned(),
            source: kind.into(),
        };
        let link = gantry_spool::SpoolError::NotRegular { name: String::new() };
        for theirs in [link.into(), io(std::io::ErrorKind::NotFound).into(), StateError::Changed] {
            assert!(!theirs.is_ours(), "{theirs}");
        }
        for ours in [io(std::io::ErrorKind::PermissionDenied).into(), StateError::Recipient] {
            assert!(ours.is_ours(), "{ours}");
        }
    }
}
