//! TLS as the launcher speaks it: rustls on ring, the pool's key in OpenSSL.
//!
//! ring, where the control plane has aws-lc: a launcher waits most of its life, and aws-lc costs each
//! one 2 MB of binary, 1 MB of memory and, for entropy of its own, 30 ms at the start. ring signs with
//! RSA keys of up to 4096 bits only, and a pool's may have 8192: OpenSSL has the key anyway, and signs.

use std::fmt;
use std::sync::Arc;

use gantry_protocol::{PoolKey, PoolToken};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Padding;
use openssl::sign::RsaPssSaltlen;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use rustls::sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey};
use rustls::{ClientConfig, Error, RootCertStore, SignatureAlgorithm, SignatureScheme};

/// The ciphers of every connection.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The authorities in `ca`, PEM, and `others`.
///
/// # Errors
/// When one is none.
pub fn roots(ca: &[u8], others: &[CertificateDer<'static>]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        roots.add(certificate.map_err(unreadable)?)?;
    }
    for certificate in others {
        roots.add(certificate.clone())?;
    }
    Ok(roots)
}

/// Settings of connections that end at one of `roots`, to whom the pool's certificate is shown if they ask
/// for one.
///
/// # Errors
/// When key and certificate cannot be used.
pub fn as_pool(
    token: &PoolToken,
    key: &PoolKey,
    roots: RootCertStore,
) -> Result<ClientConfig, Error> {
    let chain = CertificateDer::pem_slice_iter(token.certificate().as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    let shown = CertifiedKey::new(chain, Arc::new(ClientKey::of(key)?));
    shown.keys_match()?;
    let mut client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
    client.resumption = Resumption::disabled();
    Ok(client)
}

fn unreadable(_: rustls::pki_types::pem::Error) -> Error {
    Error::General("the PEM text cannot be read".to_owned())
}

/// One way in which RSA signs.
#[derive(Clone, Copy)]
struct Way {
    scheme: SignatureScheme,
    digest: fn() -> MessageDigest,
    padding: Padding,
}

/// Those that TLS knows, best first.
const WAYS: [Way; 6] = [
    Way {
        scheme: SignatureScheme::RSA_PSS_SHA512,
        digest: MessageDigest::sha512,
        padding: Padding::PKCS1_PSS,
    },
    Way {
        scheme: SignatureScheme::RSA_PSS_SHA384,
        digest: MessageDigest::sha384,
        padding: Padding::PKCS1_PSS,
    },
    Way {
        scheme: SignatureScheme::RSA_PSS_SHA256,
        digest: MessageDigest::sha256,
        padding: Padding::PKCS1_PSS,
    },
    Way {
        scheme: SignatureScheme::RSA_PKCS1_SHA512,
        digest: MessageDigest::sha512,
        padding: Padding::PKCS1,
    },
    Way {
        scheme: SignatureScheme::RSA_PKCS1_SHA384,
        digest: MessageDigest::sha384,
        padding: Padding::PKCS1,
    },
    Way {
        scheme: SignatureScheme::RSA_PKCS1_SHA256,
        digest: MessageDigest::sha256,
        padding: Padding::PKCS1,
    },
];

/// A pool's key, as it proves to a broker who we are.
pub struct ClientKey {
    pkey: PKey<Private>,
    public: Vec<u8>,
}

impl ClientKey {
    /// Of this pool.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn of(key: &PoolKey) -> Result<Self, Error> {
        let pem = key.to_pem().map_err(|error| Error::General(error.to_string()))?;
        let pkey = PKey::private_key_from_pem(&pem).map_err(|error| failed(&error))?;
        let public = pkey.public_key_to_der().map_err(|error| failed(&error))?;
        Ok(Self { pkey, public })
    }
}

impl SigningKey for ClientKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let way = WAYS.into_iter().find(|way| offered.contains(&way.scheme))?;
        Some(Box::new(OpensslSigner { pkey: self.pkey.clone(), way }))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(self.public.as_slice()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::RSA
    }
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientKey").finish_non_exhaustive()
    }
}

struct OpensslSigner {
    pkey: PKey<Private>,
    way: Way,
}

impl Signer for OpensslSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let digest = (self.way.digest)();
        let sign = || -> Result<Vec<u8>, ErrorStack> {
            let mut signer = openssl::sign::Signer::new(digest, &self.pkey)?;
            signer.set_rsa_padding(self.way.padding)?;
            if self.way.padding == Padding::PKCS1_PSS {
                signer.set_rsa_mgf1_md(digest)?;
                signer.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH)?;
            }
            signer.sign_oneshot_to_vec(message)
        };
        sign().map_err(|error| failed(&error))
    }

    fn scheme(&self) -> SignatureScheme {
        self.way.scheme
    }
}

impl fmt::Debug for OpensslSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpensslSigner").field("scheme", &self.way.scheme).finish_non_exhaustive()
    }
}

fn failed(error: &ErrorStack) -> Error {
    Error::General(format!("OpenSSL failed: {error}"))
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{AlgorithmIdentifier, alg_id};

    use super::*;

    /// What a peer that knows the public key only says of a signature: a peer on rustls, as the broker is.
    fn holds(key: &ClientKey, scheme: SignatureScheme, message: &[u8], signature: &[u8]) -> bool {
        let provider = provider();
        let known = provider.signature_verification_algorithms;
        let (_, algorithms) =
            known.mapping.iter().find(|(known, _)| *known == scheme).expect("ring knows it");
        let rsa = key.pkey.rsa().unwrap().public_key_to_der_pkcs1().unwrap();
        algorithms.iter().any(|algorithm| {
            let rsa_key: AlgorithmIdentifier = alg_id::RSA_ENCRYPTION;
            algorithm.public_key_alg_id() == rsa_key
                && algorithm.verify_signature(&rsa, message, signature).is_ok()
        })
    }

    #[test]
    fn keys_of_every_size_sign_in_every_way_that_a_broker_may_ask_for() {
        for bits in [2048, 4160] {
            let key = ClientKey::of(&PoolKey::generate(bits).unwrap()).unwrap();
            for Way { scheme, .. } in WAYS {
                let signer = key.choose_scheme(&[SignatureScheme::ED25519, scheme]).unwrap();
                assert_eq!(signer.scheme(), scheme);
                let signature = signer.sign(b"a transcript").unwrap();
                assert!(holds(&key, scheme, b"a transcript", &signature), "{bits} {scheme:?}");
                assert!(!holds(&key, scheme, b"another", &signature), "{bits} {scheme:?}");
            }
        }
    }

    #[test]
    fn the_best_scheme_is_chosen_and_a_foreign_one_is_not() {
        let key = ClientKey::of(&PoolKey::generate(2048).unwrap()).unwrap();
        let offered = WAYS.map(|way| way.scheme);
        let chosen = key.choose_scheme(&offered).unwrap();
        assert_eq!(chosen.scheme(), SignatureScheme::RSA_PSS_SHA512);
        assert!(key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).is_none());
        assert_eq!(
            format!("{key:?} {chosen:?}"),
            "ClientKey { .. } OpensslSigner { scheme: RSA_PSS_SHA512, .. }"
        );
    }
}
