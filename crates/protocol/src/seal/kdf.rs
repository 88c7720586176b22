//! The file key and the keys that are made from it.

use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::rand::rand_bytes;
use openssl::sign::Signer;
use zeroize::Zeroizing;

/// A key of 256 bits, zeroed when dropped.
pub(crate) type Key = Zeroizing<[u8; 32]>;

/// How many bytes a file key has.
pub(super) const FILE_KEY: usize = 16;
/// How many bytes stand before the first chunk.
pub(super) const NONCE: usize = 16;

/// What a header holds for each recipient and a payload is encrypted with.
pub(super) struct FileKey(Zeroizing<[u8; FILE_KEY]>);

impl FileKey {
    /// A new one, at random.
    pub(super) fn generate() -> Result<Self, crate::CryptoError> {
        let mut key = Zeroizing::new([0; FILE_KEY]);
        rand_bytes(key.as_mut_slice())?;
        Ok(Self(key))
    }

    /// The one with these bytes, if they are as many as it has.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut key = Zeroizing::new([0; FILE_KEY]);
        (bytes.len() == FILE_KEY).then(|| {
            key.copy_from_slice(bytes);
            Self(key)
        })
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// The code that binds a header, up to and including its `---`, to this key.
    pub(super) fn mac(&self, header: &[u8]) -> Result<Key, ErrorStack> {
        hmac(hkdf(&[], self.as_bytes(), b"header")?.as_slice(), &[header])
    }

    /// The key of a payload that starts with `nonce`.
    pub(super) fn payload_key(&self, nonce: &[u8; NONCE]) -> Result<Key, ErrorStack> {
        hkdf(nonce, self.as_bytes(), b"payload")
    }
}

/// 32 bytes that only those can make who have `secret`, others for each `purpose`.
pub(crate) fn derived(secret: &[u8], purpose: &str) -> Result<Key, ErrorStack> {
    hkdf(b"gantry derived v1", secret, purpose.as_bytes())
}

/// HKDF with SHA-256 (RFC 5869), for one block of output.
fn hkdf(salt: &[u8], secret: &[u8], info: &[u8]) -> Result<Key, ErrorStack> {
    // An absent salt is as many zeros as the digest has bytes; OpenSSL takes no empty HMAC key.
    let salt = if salt.is_empty() { &[0; 32] } else { salt };
    hmac(hmac(salt, &[secret])?.as_slice(), &[info, &[1]])
}

fn hmac(key: &[u8], message: &[&[u8]]) -> Result<Key, ErrorStack> {
    let key = PKey::hmac(key)?;
    let mut signer = Signer::new(MessageDigest::sha256(), &key)?;
    message.iter().try_for_each(|part| signer.update(part))?;
    let mut code = Zeroizing::new([0; 32]);
    signer.sign(code.as_mut_slice())?;
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5869, test cases 1 and 3, first 32 bytes.
    #[test]
    fn keys_are_derived_as_the_standard_says() {
        let salt: Vec<u8> = (0..=0x0c).collect();
        let info: Vec<u8> = (0xf0..=0xf9).collect();
        let with_salt = hkdf(&salt, &[0x0b; 22], &info).unwrap();
        assert_eq!(with_salt[..8], [0x3c, 0xb2, 0x5f, 0x25, 0xfa, 0xac, 0xd5, 0x7a]);
        let without = hkdf(&[], &[0x0b; 22], &[]).unwrap();
        assert_eq!(without[..8], [0x8d, 0xa4, 0xe7, 0x75, 0xa5, 0x63, 0xc1, 0x8f]);
    }
}
