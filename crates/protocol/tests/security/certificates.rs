//! The authority: each certificate is good for one thing.

use gantry_protocol::{
    Authority, AuthorityError, CertificateRequest, LeafError, PoolKey, SERVER_LIFETIME, Serial,
    verify_signing_leaf,
};
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, PKeyRef, Private};
use openssl::stack::Stack;
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
    SubjectKeyIdentifier,
};
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509VerifyParam;
use openssl::x509::{
    X509, X509ExtendedKeyUsage, X509KeyUsage, X509Name, X509PurposeId, X509Req, X509StoreContext,
    X509StoreContextRef,
};

use proptest::prelude::*;

use crate::support::{AUTHORITY, KEY, NOW, POOL, TOKEN};

/// The use that a signing leaf names, as `docs/security.md` says.
const MESSAGE_SIGNING: &str = "2.25.61111113955422520091199139514954798921";

fn read(pem: &str) -> X509 {
    X509::from_pem(pem.as_bytes()).unwrap()
}

fn is_accepted(pem: &str, purpose: X509PurposeId) -> bool {
    let mut store = X509StoreBuilder::new().unwrap();
    store.add_cert(read(AUTHORITY.certificate_pem())).unwrap();
    store.set_purpose(purpose).unwrap();
    let mut param = X509VerifyParam::new().unwrap();
    param.set_time(NOW);
    store.set_param(&param).unwrap();
    let (store, chain) = (store.build(), Stack::new().unwrap());
    let mut context = X509StoreContext::new().unwrap();
    context.init(&store, &read(pem), &chain, X509StoreContextRef::verify_cert).unwrap()
}

#[test]
fn nothing_of_a_request_but_its_key_is_taken_over() {
    let key = PKey::private_key_from_pem(&KEY.to_pem().unwrap()).unwrap();
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_nid(Nid::COMMONNAME, "01FEKAGP4AYV0DWP4QDFTANRET").unwrap();
    name.append_entry_by_nid(Nid::ORGANIZATIONNAME, "root").unwrap();
    let mut request = X509Req::builder().unwrap();
    request.set_subject_name(&name.build()).unwrap();
    request.set_pubkey(&key).unwrap();
    let mut extensions = Stack::new().unwrap();
    extensions.push(BasicConstraints::new().ca().build().unwrap()).unwrap();
    extensions.push(ExtendedKeyUsage::new().server_auth().build().unwrap()).unwrap();
    let names = SubjectAlternativeName::new()
        .dns("gantry.example.com")
        .build(&request.x509v3_context(None))
        .unwrap();
    extensions.push(names).unwrap();
    request.add_extensions(&extensions).unwrap();
    request.sign(&key, MessageDigest::sha256()).unwrap();
    let pem = String::from_utf8(request.build().to_pem().unwrap()).unwrap();

    let request = CertificateRequest::parse(&pem).unwrap();
    let issued = AUTHORITY.issue_pool(&request, POOL.parse().unwrap(), NOW).unwrap();
    let certificate = read(&issued.pem);
    let subject: Vec<String> = certificate
        .subject_name()
        .entries()
        .map(|entry| entry.data().to_string().unwrap())
        .collect();
    assert_eq!(subject, [POOL]);
    assert!(certificate.subject_alt_names().is_none());
    assert_eq!(certificate.pathlen(), None);
    assert_eq!(certificate.extended_key_usage(), Some(X509ExtendedKeyUsage::SSL_CLIENT));
    assert_eq!(certificate.key_usage(), Some(X509KeyUsage::DIGITAL_SIGNATURE));
    assert!(certificate.public_key().unwrap().public_eq(&key));
    assert_eq!(issued.serial.as_str().len(), 32, "128 bits");
    assert_eq!(Serial::of_certificate(&issued.pem), Some(issued.serial));
}

#[test]
fn serial_numbers_differ() {
    let request = CertificateRequest::create(&KEY).unwrap();
    let issue = || AUTHORITY.issue_pool(&request, POOL.parse().unwrap(), NOW).unwrap().serial;
    assert_ne!(issue(), issue());
}

#[test]
fn each_certificate_is_accepted_for_one_thing() {
    let server = AUTHORITY.issue_server(&["localhost", "127.0.0.1", "::1"], NOW).unwrap();
    let leaf = AUTHORITY.issue_signing_leaf(NOW).unwrap();
    let uses = |pem: &str| {
        let accepted = |purpose| is_accepted(pem, purpose);
        (
            accepted(X509PurposeId::SSL_CLIENT),
            accepted(X509PurposeId::SSL_SERVER),
            verify_signing_leaf(AUTHORITY.certificate_pem(), pem).is_ok(),
        )
    };
    assert_eq!(uses(TOKEN.certificate()), (true, false, false));
    assert_eq!(uses(&server.pem), (false, true, false));
    assert_eq!(uses(&leaf.pem), (false, false, true));
    assert!(!uses(AUTHORITY.certificate_pem()).2);
}

#[test]
fn a_server_is_known_by_its_names() {
    let server = AUTHORITY.issue_server(&["localhost", "127.0.0.1", "::1"], NOW).unwrap();
    let certificate = read(&server.pem);
    let names = certificate.subject_alt_names().unwrap();
    let dns: Vec<&str> = names.iter().filter_map(|name| name.dnsname()).collect();
    let addresses: Vec<&[u8]> = names.iter().filter_map(|name| name.ipaddress()).collect();
    assert_eq!(dns, ["localhost"]);
    assert_eq!(addresses.len(), 2);
    assert_eq!(addresses[0], [127, 0, 0, 1]);
    let key = PKey::private_key_from_pem(&server.key).unwrap();
    assert!(certificate.public_key().unwrap().public_eq(&key));
    assert_eq!(server.not_after, NOW + i64::try_from(SERVER_LIFETIME.as_secs()).unwrap());
    assert!(!format!("{server:?}").contains("PRIVATE"));

    let none: [&str; 0] = [];
    assert!(matches!(AUTHORITY.issue_server(&none, NOW), Err(AuthorityError::NoServerName)));
    let wrong = AUTHORITY.issue_server(&["a b"], NOW);
    assert!(matches!(wrong, Err(AuthorityError::ServerName(name)) if name == "a b"));
    assert!(AUTHORITY.issue_server(&["x".repeat(63) + ".example.com"], NOW).is_ok());
}

#[test]
fn a_signing_leaf_counts_at_any_time_and_under_its_own_authority_only() {
    let old = AUTHORITY.issue_signing_leaf(0).unwrap();
    let key = verify_signing_leaf(AUTHORITY.certificate_pem(), &old.pem).unwrap();
    assert_eq!(key, old.key.public());
    let signature = old.key.sign(b"welcome").unwrap();
    assert_eq!(key.verify(b"welcome", &signature), Ok(()));

    let foreign = Authority::generate(NOW).unwrap();
    let refused = verify_signing_leaf(foreign.certificate_pem(), &old.pem);
    assert!(matches!(refused, Err(LeafError::Foreign(_))), "{refused:?}");
    let refused = verify_signing_leaf(AUTHORITY.certificate_pem(), "leaf");
    assert_eq!(refused, Err(LeafError::Unreadable));
    assert_eq!(verify_signing_leaf("ca", &old.pem), Err(LeafError::Authority));
}

/// A certificate as the authority would never make it, but with its key.
fn forged(key: &PKeyRef<Private>, usage: &mut ExtendedKeyUsage, days: i64) -> String {
    let issuer = read(AUTHORITY.certificate_pem());
    let issuer_key = PKey::private_key_from_pem(&AUTHORITY.key_pem().unwrap()).unwrap();
    let mut certificate = X509::builder().unwrap();
    certificate.set_version(2).unwrap();
    let serial = BigNum::from_u32(7).unwrap().to_asn1_integer().unwrap();
    certificate.set_serial_number(&serial).unwrap();
    certificate.set_issuer_name(issuer.subject_name()).unwrap();
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_nid(Nid::COMMONNAME, "forged").unwrap();
    certificate.set_subject_name(&name.build()).unwrap();
    certificate.set_pubkey(key).unwrap();
    certificate.set_not_before(&Asn1Time::from_unix(NOW).unwrap()).unwrap();
    certificate.set_not_after(&Asn1Time::from_unix(NOW + days * 86_400).unwrap()).unwrap();
    let context = certificate.x509v3_context(Some(&issuer), None);
    let extensions = [
        BasicConstraints::new().critical().build().unwrap(),
        KeyUsage::new().critical().digital_signature().build().unwrap(),
        usage.build().unwrap(),
        SubjectKeyIdentifier::new().build(&context).unwrap(),
        AuthorityKeyIdentifier::new().keyid(true).build(&context).unwrap(),
    ];
    for extension in extensions {
        certificate.append_extension(extension).unwrap();
    }
    certificate.sign(&issuer_key, MessageDigest::sha256()).unwrap();
    String::from_utf8(certificate.build().to_pem().unwrap()).unwrap()
}

#[test]
fn only_a_short_lived_ed25519_certificate_for_messages_alone_is_a_signing_leaf() {
    let ed = PKey::generate_ed25519().unwrap();
    let rsa = PKey::private_key_from_pem(&KEY.to_pem().unwrap()).unwrap();
    let usage = || {
        let mut usage = ExtendedKeyUsage::new();
        usage.other(MESSAGE_SIGNING);
        usage
    };
    let check = |pem: &str| verify_signing_leaf(AUTHORITY.certificate_pem(), pem).map(drop);
    assert_eq!(check(&forged(&ed, &mut usage(), 1)), Ok(()));
    assert_eq!(check(&forged(&ed, &mut usage(), 2)), Err(LeafError::TooLong));
    assert_eq!(check(&forged(&rsa, &mut usage(), 1)), Err(LeafError::OtherUse));
    let both = forged(&ed, usage().client_auth(), 1);
    assert_eq!(check(&both), Err(LeafError::OtherUse));
    let client = forged(&ed, ExtendedKeyUsage::new().client_auth(), 1);
    assert_eq!(check(&client), Err(LeafError::OtherUse));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Odd DER that says nearly what a leaf says.
    #[test]
    fn a_changed_leaf_never_has_another_key(at in any::<prop::sample::Index>(), bit in 0..8_u8, cut in any::<bool>()) {
        let leaf = AUTHORITY.issue_signing_leaf(NOW).unwrap();
        let mut der = read(&leaf.pem).to_der().unwrap();
        let at = at.index(der.len());
        der[at] ^= 1 << bit;
        if cut {
            der.truncate(at);
        }
        let body = openssl::base64::encode_block(&der);
        let pem = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        if let Ok(key) = verify_signing_leaf(AUTHORITY.certificate_pem(), &pem) {
            prop_assert_eq!(key, leaf.key.public());
        }
        // The other way round: nothing but the authority itself vouches for it.
        if verify_signing_leaf(&pem, &leaf.pem).is_ok() {
            prop_assert!(false, "a leaf vouches for itself");
        }
    }
}

#[test]
fn a_certificate_has_at_most_64_kib() {
    let leaf = AUTHORITY.issue_signing_leaf(NOW).unwrap();
    let padded = |length: usize| format!("{}{}", leaf.pem, "\n".repeat(length - leaf.pem.len()));
    let check = |pem: &str| verify_signing_leaf(AUTHORITY.certificate_pem(), pem).map(drop);
    assert_eq!(check(&padded(64 * 1024)), Ok(()));
    assert_eq!(check(&padded(64 * 1024 + 1)), Err(LeafError::Unreadable));
}

#[test]
fn an_authority_is_read_as_it_was_written() {
    let key = AUTHORITY.key_pem().unwrap();
    let again = Authority::from_pems(AUTHORITY.certificate_pem(), &key).unwrap();
    assert_eq!(again.certificate_pem(), AUTHORITY.certificate_pem());
    let leaf = again.issue_signing_leaf(NOW).unwrap();
    assert!(verify_signing_leaf(AUTHORITY.certificate_pem(), &leaf.pem).is_ok());
    assert!(!format!("{again:?}").contains("PRIVATE"));

    let other = Authority::generate(NOW).unwrap().key_pem().unwrap();
    let refused = Authority::from_pems(AUTHORITY.certificate_pem(), &other);
    assert!(matches!(refused, Err(AuthorityError::KeyMismatch)));
    let refused = Authority::from_pems(AUTHORITY.certificate_pem(), b"key");
    assert!(matches!(refused, Err(AuthorityError::Key)));
    let refused = Authority::from_pems("certificate", &key);
    assert!(matches!(refused, Err(AuthorityError::Certificate)));
    let refused = Authority::from_pems(TOKEN.certificate(), &KEY.to_pem().unwrap());
    assert!(matches!(refused, Err(AuthorityError::NotAuthority)));
}

#[test]
fn pool_keys_sign_requests_for_themselves() {
    let key = PoolKey::from_pem(&KEY.to_pem().unwrap()).unwrap();
    let request = CertificateRequest::create(&key).unwrap();
    let parsed = X509Req::from_pem(request.as_pem().as_bytes()).unwrap();
    let subject = parsed.subject_name().entries_by_nid(Nid::COMMONNAME).next().unwrap();
    assert_eq!(subject.data().to_string().unwrap(), "workers.spacelift.io");
}
