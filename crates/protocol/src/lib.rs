//! What control plane and launchers say to each other, and how it is kept from others.
//!
//! The [pool token](PoolToken) is where a launcher starts; messages are in [`message`], what a stage is
//! to do in [`spec`]. [`seal()`] and [`open()`] keep things from whoever stores them, a [`Statement`]
//! makes sure that nobody replaced them. Everything stands on OpenSSL. No I/O but on readers and
//! writers that the caller gives, no clock: time is an argument.

pub mod message;
pub mod spec;

mod authority;
mod certificate;
mod csr;
mod digest;
mod key;
mod masking;
mod pem;
pub mod poll;
mod seal;
mod sign;
mod signature;
mod token;

pub use authority::{
    Authority, AuthorityError, LeafError, POOL_LIFETIME, PoolCertificate, SERVER_LIFETIME,
    SIGNING_LEAF_LIFETIME, ServerCertificate, SigningLeaf, verify_signing_leaf,
};
pub use certificate::{InvalidSerial, Serial};
pub use csr::{CertificateRequest, MAX_REQUEST, RequestError};
pub use digest::{Digest, Digester, Fingerprint, InvalidDigest};
pub use key::{
    CryptoError, InvalidSessionKey, KeyError, MAX_KEY_BITS, MIN_KEY_BITS, PoolKey, PublicKey,
    SessionKey, SessionPublicKey,
};
pub use masking::{SHORTEST_MASKED, Unmaskable, check_maskable};
pub use seal::{
    Header, HeaderError, MAX_BYTES, MAX_HEADER, MAX_RECIPIENTS, OpenError, Opener, Recipient,
    RewrapError, SealError, Sealed, SealedBytes, Sealer, Tag, open, open_bytes, rewrap, seal,
    seal_bytes, split,
};
pub use sign::{Kind, Statement};
pub use signature::{InvalidSignatureText, Signature, WrongSignature};
pub use token::{
    Endpoint, InvalidEndpoint, KeyMismatch, MAX_TOKEN, Namespace, PoolToken, TokenError,
    TokenParts, ValidityError,
};
