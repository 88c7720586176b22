//! How our certificates are made.

use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{Asn1Flag, EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{HasPublic, PKey, PKeyRef, Private};
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, KeyUsage, SubjectAlternativeName,
    SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509Builder, X509Extension, X509Name};

use super::{AUTHORITY_LIFETIME, Authority, LEEWAY};
use crate::certificate::Serial;
use crate::pem;

/// What differs between the certificates that an authority issues.
pub(super) struct Profile<'a, T> {
    pub(super) common_name: &'a str,
    pub(super) key: &'a PKeyRef<T>,
    /// The one thing that it is good for.
    pub(super) usage: X509Extension,
    pub(super) names: Option<&'a SubjectAlternativeName>,
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

/// A new key on P-256.
pub(super) fn ec_key() -> Result<PKey<Private>, ErrorStack> {
    let mut group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    group.set_asn1_flag(Asn1Flag::NAMED_CURVE);
    PKey::from_ec_key(EcKey::generate(&group)?)
}

/// The authority's own certificate: it may issue others, but no further authorities.
pub(super) fn self_signed(key: &PKeyRef<Private>, now_unix: i64) -> Result<X509, ErrorStack> {
    let number = random_serial()?;
    // Unlike names tell two authorities apart where only the issuer's name is shown.
    let serial = Serial::of_number(&number)?;
    let common_name = format!("Gantry {}", serial.as_str().get(..8).unwrap_or_default());
    let not_before = now_unix.saturating_sub_unsigned(LEEWAY.as_secs());
    let not_after = now_unix.saturating_add_unsigned(AUTHORITY_LIFETIME.as_secs());
    let name = name(&common_name)?;
    let mut certificate = start(&number, &name, key, not_before, not_after)?;
    certificate.set_issuer_name(&name)?;
    certificate.append_extension(BasicConstraints::new().critical().ca().pathlen(0).build()?)?;
    certificate.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build()?)?;
    let identifier = SubjectKeyIdentifier::new().build(&certificate.x509v3_context(None, None))?;
    certificate.append_extension(identifier)?;
    certificate.sign(key, MessageDigest::sha256())?;
    Ok(certificate.build())
}

/// Issues a certificate that may issue no other.
pub(super) fn issue<T: HasPublic>(
    authority: &Authority,
    profile: Profile<'_, T>,
) -> Result<X509, ErrorStack> {
    let subject = name(profile.common_name)?;
    let (not_before, not_after) = (profile.not_before, profile.not_after);
    let mut certificate = start(&random_serial()?, &subject, profile.key, not_before, not_after)?;
    certificate.set_issuer_name(authority.certificate.subject_name())?;
    certificate.append_extension(BasicConstraints::new().critical().build()?)?;
    certificate.append_extension(KeyUsage::new().critical().digital_signature().build()?)?;
    certificate.append_extension(profile.usage)?;
    let context = certificate.x509v3_context(Some(&authority.certificate), None);
    let mut extensions = vec![
        SubjectKeyIdentifier::new().build(&context)?,
        AuthorityKeyIdentifier::new().keyid(true).build(&context)?,
    ];
    if let Some(names) = profile.names {
        extensions.push(names.build(&context)?);
    }
    for extension in extensions {
        certificate.append_extension(extension)?;
    }
    certificate.sign(&authority.key, MessageDigest::sha256())?;
    Ok(certificate.build())
}

fn start<T: HasPublic>(
    serial: &BigNum,
    subject: &X509Name,
    key: &PKeyRef<T>,
    not_before: i64,
    not_after: i64,
) -> Result<X509Builder, ErrorStack> {
    let mut certificate = X509::builder()?;
    certificate.set_version(2)?;
    let serial: Asn1Integer = serial.to_asn1_integer()?;
    certificate.set_serial_number(&serial)?;
    certificate.set_subject_name(subject)?;
    certificate.set_pubkey(key)?;
    let not_before = Asn1Time::from_unix(not_before)?;
    certificate.set_not_before(&not_before)?;
    let not_after = Asn1Time::from_unix(not_after)?;
    certificate.set_not_after(&not_after)?;
    Ok(certificate)
}

/// 128 random bits, the highest of them set so that all serial numbers have the same length.
fn random_serial() -> Result<BigNum, ErrorStack> {
    let mut number = BigNum::new()?;
    number.rand(128, MsbOption::ONE, false)?;
    Ok(number)
}

fn name(common_name: &str) -> Result<X509Name, ErrorStack> {
    let mut name = X509Name::builder()?;
    name.append_entry_by_nid(Nid::COMMONNAME, common_name)?;
    Ok(name.build())
}

pub(super) fn pem_text(certificate: &X509) -> Result<String, ErrorStack> {
    certificate.to_pem().map(pem::text)
}
