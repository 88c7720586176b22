//! Keys and sealing on this machine: what makes that the server never sees a key or a secret.

use std::path::{Path, PathBuf};

use gantry_protocol::spec::SecretBundle;
use gantry_protocol::{CertificateRequest, PoolKey, PoolToken, Recipient, SealedBytes, seal_bytes};
use zeroize::Zeroizing;

use crate::failure::{Explain as _, Failure};
use crate::file;

/// How many bits a new key has.
const BITS: u32 = 4096;
/// The longest file with a key or a request.
const MAX_FILE: u64 = 64 * 1024;

/// Makes a key and writes it to `path`, which must not exist.
pub fn make(path: &Path) -> Result<PoolKey, Failure> {
    file::must_be_free(path)?;
    let cannot = || format!("cannot make the key {}", path.display());
    let key = PoolKey::generate(BITS).or_say(cannot)?;
    file::create(path, &key.to_pem().or_say(cannot)?)?;
    Ok(key)
}

/// Reads a pool's or a recovery key.
pub fn read(path: &Path) -> Result<PoolKey, Failure> {
    let content = file::read(path, MAX_FILE)?;
    let is_token =
        std::str::from_utf8(&content).is_ok_and(|text| PoolToken::parse(text.trim()).is_ok());
    if is_token {
        return Err(Failure::new(format!(
            "{} is a pool's token, not a private key",
            path.display()
        ))
        .next("give the file with the key: it begins with -----BEGIN"));
    }
    PoolKey::from_pem(&content)
        .or_say(|| format!("cannot use {} as key", path.display()))
        .map_err(|failure| failure.next("give an RSA private key in PEM"))
}

/// Reads several keys.
pub fn read_all(paths: &[PathBuf]) -> Result<Vec<PoolKey>, Failure> {
    paths.iter().map(|path| read(path)).collect()
}

/// A request for a certificate of `key`.
pub fn request(key: &PoolKey) -> Result<CertificateRequest, Failure> {
    CertificateRequest::create(key).or_say(|| "cannot make a certificate signing request".into())
}

/// Reads a request that was made elsewhere.
pub fn read_request(path: &Path) -> Result<CertificateRequest, Failure> {
    let content = file::read(path, MAX_FILE)?;
    let text = std::str::from_utf8(&content)
        .or_say(|| format!("{} is not a certificate signing request", path.display()))?;
    CertificateRequest::parse(text).or_say(|| format!("cannot use {}", path.display()))
}

/// Seals secrets to public keys or certificates in PEM.
pub fn seal(bundle: &SecretBundle, recipients: &[String]) -> Result<SealedBytes, Failure> {
    let cannot = || "cannot seal the secrets".to_owned();
    let recipients = recipients
        .iter()
        .map(|pem| Recipient::parse(pem.as_bytes()))
        .collect::<Result<Vec<_>, _>>()
        .or_say(cannot)?;
    let plain = Zeroizing::new(serde_json::to_vec(bundle).or_say(cannot)?);
    seal_bytes(&recipients, &plain).or_say(cannot)
}

#[cfg(test)]
mod tests {
    use gantry_protocol::spec::Secret;

    use super::*;

    #[test]
    fn secrets_open_with_the_keys_that_they_were_sealed_to() {
        let pool = PoolKey::generate(2048).unwrap();
        let recovery = PoolKey::generate(2048).unwrap();
        let other = PoolKey::generate(2048).unwrap();
        let bundle = SecretBundle {
            stack: "network".into(),
            secrets: vec![Secret { name: "TOKEN".into(), value: "hush".into() }],
        };
        let recipients = [pool.public().to_pem().unwrap(), recovery.public().to_pem().unwrap()];
        let sealed = seal(&bundle, &recipients).unwrap();
        for key in [&pool, &recovery] {
            let opened: SecretBundle =
                serde_json::from_slice(&sealed.open(&[key]).unwrap()).unwrap();
            assert_eq!(
                (opened.stack.as_str(), opened.secrets[0].value.as_str()),
                ("network", "hush")
            );
        }
        assert!(sealed.open(&[&other]).is_err());
        assert!(!sealed.to_file().windows(4).any(|bytes| bytes == b"hush"));
    }
}
