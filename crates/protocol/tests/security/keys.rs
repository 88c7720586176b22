//! Pool keys: what is taken, and what is said of what is not.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_protocol::{
    CertificateRequest, KeyError, PoolKey, PublicKey, Signature, WrongSignature,
};
use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::symm::Cipher;

use crate::support::{KEY, OTHER_KEY, TOKEN, told};

fn key_pem() -> String {
    String::from_utf8(KEY.to_pem().unwrap().to_vec()).unwrap()
}

#[test]
fn a_key_is_read_from_base64_however_it_was_wrapped() {
    let text = STANDARD.encode(key_pem());
    let mut wrapped = String::new();
    for line in text.as_bytes().chunks(76) {
        writeln!(wrapped, " {}\r", str::from_utf8(line).unwrap()).unwrap();
    }
    for value in [text.as_str(), wrapped.as_str(), text.trim_end_matches('=')] {
        assert_eq!(PoolKey::from_environment(value).unwrap().public(), KEY.public());
    }
}

#[test]
fn a_key_is_read_in_both_pem_forms_and_beside_its_certificate() {
    let rsa = Rsa::private_key_from_pem(key_pem().as_bytes()).unwrap();
    let pkcs1 = String::from_utf8(rsa.private_key_to_pem().unwrap()).unwrap();
    assert!(pkcs1.contains("BEGIN RSA PRIVATE KEY"));
    let beside = format!("Bag Attributes\n{}\n{pkcs1}", TOKEN.certificate());
    for text in [pkcs1, beside] {
        assert_eq!(PoolKey::from_pem(text.as_bytes()).unwrap().public(), KEY.public());
    }
}

#[test]
fn what_is_no_pool_key_is_told_apart() {
    let rsa = Rsa::private_key_from_pem(key_pem().as_bytes()).unwrap();
    let cipher = Cipher::aes_256_cbc();
    let old = rsa.private_key_to_pem_passphrase(cipher, b"secret").unwrap();
    let new = PKey::from_rsa(rsa).unwrap();
    let new = new.private_key_to_pem_pkcs8_passphrase(cipher, b"secret").unwrap();
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let ec = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let small = Rsa::generate(1024).unwrap();
    let request = CertificateRequest::create(&KEY).unwrap();
    let cases = [
        ("not pem", b"secret".to_vec()),
        ("empty", vec![]),
        ("binary", vec![0xff; 64]),
        ("encrypted", new),
        ("encrypted, old form", old),
        ("certificate", TOKEN.certificate().as_bytes().to_vec()),
        ("public key", KEY.public().to_pem().unwrap().into_bytes()),
        ("request", request.as_pem().as_bytes().to_vec()),
        ("elliptic", ec.private_key_to_pem_pkcs8().unwrap()),
        ("small", small.private_key_to_pem().unwrap()),
        ("cut", key_pem().as_bytes()[..900].to_vec()),
        ("damaged", key_pem().replacen("MII", "AAA", 1).into_bytes()),
    ];
    let mut said = String::new();
    for (name, pem) in cases {
        let error = PoolKey::from_environment(&STANDARD.encode(pem)).unwrap_err();
        writeln!(said, "{name}: {}", told(&error)).unwrap();
    }
    for (name, value) in
        [("not base64", "s3cr3t!"), ("bare", &key_pem()), ("long", &"A".repeat(1 << 17))]
    {
        let error = PoolKey::from_environment(value).unwrap_err();
        writeln!(said, "{name}: {}", told(&error)).unwrap();
    }
    assert!(!said.contains("s3cr3t"));
    insta::assert_snapshot!(said);
}

#[test]
fn private_parts_of_another_key_are_no_key() {
    let rsa = |pem: &[u8]| Rsa::private_key_from_pem(pem).unwrap();
    let (ours, other) = (rsa(&KEY.to_pem().unwrap()), rsa(&OTHER_KEY.to_pem().unwrap()));
    let own = |number: &openssl::bn::BigNumRef| number.to_owned().unwrap();
    let mixed = Rsa::from_private_components(
        own(ours.n()),
        own(ours.e()),
        own(other.d()),
        own(other.p().unwrap()),
        own(other.q().unwrap()),
        own(other.dmp1().unwrap()),
        own(other.dmq1().unwrap()),
        own(other.iqmp().unwrap()),
    );
    let pem = mixed.unwrap().private_key_to_pem().unwrap();
    assert!(matches!(PoolKey::from_pem(&pem), Err(KeyError::Damaged)));
}

#[test]
fn a_public_key_is_the_same_from_certificate_and_key_in_pem_and_der() {
    let pem = KEY.public().to_pem().unwrap();
    let der = PKey::public_key_from_pem(pem.as_bytes()).unwrap().public_key_to_der().unwrap();
    let certificate = openssl::x509::X509::from_pem(TOKEN.certificate().as_bytes()).unwrap();
    let certificate_der = certificate.to_der().unwrap();
    for bytes in [pem.as_bytes(), &der, TOKEN.certificate().as_bytes(), &certificate_der] {
        let key = PublicKey::parse(bytes).unwrap();
        assert_eq!(&key, KEY.public());
        assert_eq!(key.fingerprint().to_string(), gantry_protocol::Digest::of(&der).to_string());
    }
    assert!(matches!(PublicKey::parse(b"key"), Err(KeyError::NotPublic)));
    assert!(matches!(PublicKey::parse(&KEY.to_pem().unwrap()), Err(KeyError::NotPublic)));
}

#[test]
fn sizes_outside_of_the_range_are_not_made() {
    assert!(matches!(PoolKey::generate(1024), Err(KeyError::Size(1024))));
    assert!(matches!(PoolKey::generate(16384), Err(KeyError::Size(16384))));
}

#[test]
fn a_public_exponent_of_one_is_no_key() {
    let rsa = Rsa::private_key_from_pem(&KEY.to_pem().unwrap()).unwrap();
    let one = openssl::bn::BigNum::from_u32(1).unwrap();
    let weak = Rsa::from_public_components(rsa.n().to_owned().unwrap(), one).unwrap();
    let der = PKey::from_rsa(weak).unwrap().public_key_to_der().unwrap();
    assert!(matches!(PublicKey::parse(&der), Err(KeyError::Exponent)));
}

#[test]
fn only_the_pools_own_signature_of_these_bytes_counts() {
    let signature = KEY.sign_pss(b"message").unwrap();
    assert_eq!(KEY.public().verify_pss(b"message", &signature), Ok(()));
    assert_eq!(KEY.public().verify_pss(b"massage", &signature), Err(WrongSignature));
    assert_eq!(OTHER_KEY.public().verify_pss(b"message", &signature), Err(WrongSignature));
    let mut changed = signature.as_bytes().to_vec();
    changed[100] ^= 1;
    let changed = Signature::from_bytes(changed).unwrap();
    assert_eq!(KEY.public().verify_pss(b"message", &changed), Err(WrongSignature));
    let short = Signature::from_bytes(vec![1]).unwrap();
    assert_eq!(KEY.public().verify_pss(b"message", &short), Err(WrongSignature));
    assert_eq!(signature.to_string().parse(), Ok(signature));
}

#[test]
fn a_key_does_not_show() {
    let shown = format!("{:?}", *KEY);
    assert!(shown.starts_with("PoolKey { fingerprint:"), "{shown}");
    let rsa = Rsa::private_key_from_pem(&KEY.to_pem().unwrap()).unwrap();
    let secret = rsa.d().to_hex_str().unwrap().to_lowercase();
    assert!(!shown.to_lowercase().contains(&secret[..16]));
}
