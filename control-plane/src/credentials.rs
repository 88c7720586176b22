//! What the control plane proves itself with, and what it gives to pools.
//!
//! [`Credentials`] hides where the certificate authority's key is; the rest of the control plane
//! never sees it.

use gantry_model::PoolId;

/// A certificate for a pool, and the token that its launchers are started with.
#[derive(Debug, Clone)]
pub struct IssuedPool {
    /// The certificate, PEM.
    pub certificate: String,
    /// Its serial as [`crate::broker::serial_text`] spells it.
    pub serial: String,
    /// The token's text. It holds no secret: the private key stays with the user.
    pub token: String,
}

/// The certificate whose key signs this process's messages to launchers.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// The certificate, PEM.
    pub pem: String,
    /// For how much longer it may be relied on, in milliseconds.
    pub valid_ms: u64,
    /// Which of the process's leaves it is, for [`Credentials::sign`].
    pub generation: u64,
}

/// Why a certificate or a signature was not made.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The user's request cannot be signed; the message says why and what to do.
    #[error("{0}")]
    Request(String),
    /// The authority failed.
    #[error("the certificate authority failed: {0}")]
    Failed(String),
}

/// Issues certificates and signs messages.
pub trait Credentials: Send + Sync + 'static {
    /// Signs a pool's certificate request, PEM, and makes the pool's token. Takes milliseconds.
    ///
    /// # Errors
    /// When the request is wrong or the authority fails.
    fn issue_pool(&self, pool: PoolId, csr: &str) -> Result<IssuedPool, CredentialsError>;

    /// The present signing leaf.
    fn leaf(&self) -> Leaf;

    /// Signs with the key of the leaf of this generation, Ed25519. A session keeps to the leaf that
    /// its `welcome` carried, so a former leaf signs until it expires.
    ///
    /// # Errors
    /// When that leaf has expired, or the authority fails.
    fn sign(&self, generation: u64, bytes: &[u8]) -> Result<Vec<u8>, CredentialsError>;
}
