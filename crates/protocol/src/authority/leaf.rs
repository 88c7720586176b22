//! The leaf under which the control plane signs its messages.

use std::fmt;

use openssl::asn1::Asn1Object;
use openssl::error::ErrorStack;
use openssl::stack::Stack;
use openssl::x509::extension::ExtendedKeyUsage;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509, X509Ref, X509StoreContext};

use super::profile::{Profile, issue, pem_text};
use super::{Authority, SIGNING_LEAF_LIFETIME};
use crate::certificate::{self, extended_key_usage, unix};
use crate::{CryptoError, SessionKey, SessionPublicKey};

/// Names the use "signs Gantry's messages". Object ids below 2.25 are random numbers that need no
/// register.
const MESSAGE_SIGNING: &str = "2.25.61111113955422520091199139514954798921";

/// A certificate that is no signing leaf of an authority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// The authority's certificate cannot be read.
    #[error("the authority's certificate cannot be read: fetch the pool's token again")]
    Authority,
    /// The leaf cannot be read.
    #[error("the control plane's signing certificate cannot be read")]
    Unreadable,
    /// Another authority's.
    #[error(
        "the control plane's signing certificate is not from the token's authority ({0}): another control plane answers, or the pool's token is of another one"
    )]
    Foreign(String),
    /// A certificate for something else.
    #[error("the control plane's signing certificate is not for signing messages")]
    OtherUse,
    /// One that would outlive its purpose.
    #[error("the control plane's signing certificate is valid for longer than allowed")]
    TooLong,
    /// OpenSSL failed.
    #[error("the OpenSSL library failed: check its installation and configuration on this host")]
    Crypto,
}

impl From<ErrorStack> for LeafError {
    fn from(_: ErrorStack) -> Self {
        Self::Crypto
    }
}

/// The control plane's signing key and its certificate.
#[derive(Clone)]
pub struct SigningLeaf {
    /// The certificate, which `welcome` carries.
    pub pem: String,
    /// The key, which is never stored.
    pub key: SessionKey,
}

impl fmt::Debug for SigningLeaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningLeaf").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a key for signing messages, and a certificate that says so for
    /// [`SIGNING_LEAF_LIFETIME`].
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn issue_signing_leaf(&self, now_unix: i64) -> Result<SigningLeaf, CryptoError> {
        let key = SessionKey::generate()?;
        let certificate = issue(
            self,
            Profile {
                common_name: "Gantry messages",
                key: key.pkey(),
                usage: ExtendedKeyUsage::new().critical().other(MESSAGE_SIGNING).build()?,
                names: None,
                not_before: now_unix,
                not_after: now_unix.saturating_add_unsigned(SIGNING_LEAF_LIFETIME.as_secs()),
            },
        )?;
        Ok(SigningLeaf { pem: pem_text(&certificate)?, key })
    }
}

/// The key of a signing leaf, which the authority of `authority_pem` issued for nothing else.
///
/// No clock is looked at: the receiver counts [`SIGNING_LEAF_LIFETIME`] from the `welcome` that
/// brought the leaf, on its own monotonic clock.
///
/// # Errors
/// One for each way in which it is none. The authority's other certificates are.
pub fn verify_signing_leaf(
    authority_pem: &str,
    leaf_pem: &str,
) -> Result<SessionPublicKey, LeafError> {
    let authority = certificate::parse(authority_pem).ok_or(LeafError::Authority)?;
    let leaf = certificate::parse(leaf_pem).ok_or(LeafError::Unreadable)?;
    check_chain(authority, &leaf)?;
    if !is_for_message_signing(&leaf)? {
        return Err(LeafError::OtherUse);
    }
    let from = unix(leaf.not_before()).ok_or(LeafError::Unreadable)?;
    let until = unix(leaf.not_after()).ok_or(LeafError::Unreadable)?;
    if until.saturating_sub(from) > i64::try_from(SIGNING_LEAF_LIFETIME.as_secs()).unwrap_or(0) {
        return Err(LeafError::TooLong);
    }
    SessionPublicKey::of(&*leaf.public_key()?).map_err(|_| LeafError::OtherUse)
}

fn check_chain(authority: X509, leaf: &X509Ref) -> Result<(), LeafError> {
    let mut store = X509StoreBuilder::new()?;
    store.add_cert(authority)?;
    store.set_flags(X509VerifyFlags::NO_CHECK_TIME | X509VerifyFlags::X509_STRICT)?;
    let store = store.build();
    let mut context = X509StoreContext::new()?;
    let verdict = context.init(&store, leaf, &*Stack::new()?, |context| {
        Ok(if context.verify_cert()? { None } else { Some(context.error()) })
    })?;
    verdict.map_or(Ok(()), |why| Err(LeafError::Foreign(why.error_string().to_owned())))
}

/// Whether signing messages is the one use that the certificate names, and it issues no others.
fn is_for_message_signing(leaf: &X509Ref) -> Result<bool, LeafError> {
    let object = Asn1Object::from_str(MESSAGE_SIGNING)?;
    let id = object.as_slice();
    let len = u8::try_from(id.len()).expect("the object id has 20 bytes");
    let only_use = [&[0x30, len + 2, 0x06, len][..], id].concat();
    Ok(leaf.pathlen().is_none() && extended_key_usage(leaf).is_some_and(|it| it == only_use))
}
