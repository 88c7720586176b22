//! Statements: what a pool says of a workspace or a state version, signed with its key.
//!
//! Whoever can write the object store can replace a sealed thing by another one. So a statement binds
//! the payload's digest to what the thing is, whose it is and what came before it, and it is checked
//! before the payload is opened.

use gantry_model::{Epoch, RunId, StackId};
use serde::{Deserialize, Serialize};

use crate::{CryptoError, Digest, PoolKey, PublicKey, Signature, WrongSignature};

/// What every statement starts with, and nothing else that a pool key signs.
const PREFIX: &[u8] = b"gantry statement v1\0";

/// What a sealed thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// What a read stage leaves to the write stage.
    Workspace,
    /// A version of a stack's state.
    State,
}

impl Kind {
    /// The word for it in statements.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Workspace => "workspace",
            Self::State => "state",
        }
    }
}

/// What a pool says of one sealed payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// What it is.
    pub kind: Kind,
    /// Whose it is.
    pub stack: StackId,
    /// The run that made it.
    pub run: RunId,
    /// The offer of the run under which it was made.
    pub epoch: Epoch,
    /// Its number among those of its kind.
    pub serial: u64,
    /// The payload's digest of the one before it, if there was one.
    pub predecessor: Option<Digest>,
    /// The digest of the payload, encrypted.
    pub payload_sha256: Digest,
    /// How many bytes the payload has, encrypted.
    pub payload_len: u64,
}

impl Statement {
    /// The bytes that are signed: the words `gantry statement v1` and a zero, then each field in the
    /// order above behind its length in four bytes, numbers in eight, all of them big-endian. No
    /// predecessor is a field without bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let run = self.run.to_string();
        let predecessor = self.predecessor.as_ref().map_or(&[][..], |digest| digest.as_bytes());
        let fields: [&[u8]; 8] = [
            self.kind.as_str().as_bytes(),
            self.stack.as_str().as_bytes(),
            run.as_bytes(),
            &self.epoch.0.to_be_bytes(),
            &self.serial.to_be_bytes(),
            predecessor,
            self.payload_sha256.as_bytes(),
            &self.payload_len.to_be_bytes(),
        ];
        let mut bytes = PREFIX.to_vec();
        for field in fields {
            push(&mut bytes, field);
        }
        bytes
    }
}

fn push(bytes: &mut Vec<u8>, field: &[u8]) {
    let len = u32::try_from(field.len()).expect("no field has more than 63 bytes");
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(field);
}

impl PoolKey {
    /// Signs a statement.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn sign_statement(&self, statement: &Statement) -> Result<Signature, CryptoError> {
        self.sign_pss(&statement.to_bytes())
    }
}

impl PublicKey {
    /// Checks what [`PoolKey::sign_statement`] made. Whether the statement says what is wanted is the
    /// caller's to compare.
    ///
    /// # Errors
    /// When this key did not sign this statement.
    pub fn verify_statement(
        &self,
        statement: &Statement,
        signature: &Signature,
    ) -> Result<(), WrongSignature> {
        self.verify_pss(&statement.to_bytes(), signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement() -> Statement {
        Statement {
            kind: Kind::State,
            stack: "network".parse().unwrap(),
            run: "01FEKAGP4AYV0DWP4QDFTANRES".parse().unwrap(),
            epoch: Epoch(3),
            serial: 7,
            predecessor: None,
            payload_sha256: Digest::from_bytes([0xaa; 32]),
            payload_len: 0x0102,
        }
    }

    #[test]
    fn the_signed_bytes_are_these() {
        let expected = [
            &b"gantry statement v1\0"[..],
            b"\0\0\0\x05state",
            b"\0\0\0\x07network",
            b"\0\0\0\x1a01FEKAGP4AYV0DWP4QDFTANRES",
            b"\0\0\0\x08\0\0\0\0\0\0\0\x03",
            b"\0\0\0\x08\0\0\0\0\0\0\0\x07",
            b"\0\0\0\0",
            b"\0\0\0\x20",
            &[0xaa; 32],
            b"\0\0\0\x08\0\0\0\0\0\0\x01\x02",
        ];
        assert_eq!(statement().to_bytes(), expected.concat());
    }

    #[test]
    fn a_statement_is_bound_to_each_of_its_fields() {
        let signed = statement().to_bytes();
        let changes: [fn(&mut Statement); 8] = [
            |it| it.kind = Kind::Workspace,
            |it| it.stack = "networks".parse().unwrap(),
            |it| it.run = "01FEKAGP4AYV0DWP4QDFTANRET".parse().unwrap(),
            |it| it.epoch = Epoch(4),
            |it| it.serial = 6,
            |it| it.predecessor = Some(Digest::from_bytes([0; 32])),
            |it| it.payload_sha256 = Digest::from_bytes([0xab; 32]),
            |it| it.payload_len = 0x0103,
        ];
        for change in changes {
            let mut other = statement();
            change(&mut other);
            assert_ne!(other.to_bytes(), signed, "{other:?}");
        }
    }
}
