//! What we read from certificates.

use std::fmt;
use std::str::FromStr;

use openssl::asn1::{Asn1IntegerRef, Asn1Time, Asn1TimeRef};
use openssl::bn::BigNum;
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::x509::{X509, X509Ref};
use serde::{Deserialize, Serialize};

use crate::pem;

/// The longest certificate text that is looked at.
pub(crate) const MAX_PEM: usize = 64 * 1024;
/// The most hex digits of a serial number: 20 bytes.
const MAX_DIGITS: usize = 40;

/// A text that is no serial number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a certificate's serial number is 1 to {MAX_DIGITS} hex digits")]
pub struct InvalidSerial;

/// A certificate's serial number. As text it is lower-case hex without leading zeros, however it was
/// spelled before, so that two spellings of one number are equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Serial(String);

impl Serial {
    /// The serial number of the first certificate in `pem`, if there is one.
    #[must_use]
    pub fn of_certificate(pem: &str) -> Option<Self> {
        let certificate = parse(pem)?;
        Self::of(certificate.serial_number()).ok()
    }

    /// The serial number of a certificate, DER, if it is one.
    #[must_use]
    pub fn of_der(der: &[u8]) -> Option<Self> {
        Self::of(X509::from_der(der).ok()?.serial_number()).ok()
    }

    pub(crate) fn of(number: &Asn1IntegerRef) -> Result<Self, ErrorStack> {
        let digits = number.to_bn()?.to_hex_str()?.to_lowercase();
        Ok(Self(digits.trim_start_matches('0').to_owned()))
    }

    pub(crate) fn of_number(number: &BigNum) -> Result<Self, ErrorStack> {
        let digits = number.to_hex_str()?.to_lowercase();
        Ok(Self(digits.trim_start_matches('0').to_owned()))
    }

    /// The number as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Serial {
    type Err = InvalidSerial;

    fn from_str(text: &str) -> Result<Self, InvalidSerial> {
        // `openssl x509 -text` puts a colon between the bytes.
        if text.len() > MAX_DIGITS / 2 * 3 {
            return Err(InvalidSerial);
        }
        let digits = text.replace(':', "").to_lowercase();
        let digits = digits.trim_start_matches('0');
        let fits = (1..=MAX_DIGITS).contains(&digits.len());
        if fits && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            Ok(Self(digits.to_owned()))
        } else {
            Err(InvalidSerial)
        }
    }
}

impl TryFrom<String> for Serial {
    type Error = InvalidSerial;

    fn try_from(text: String) -> Result<Self, InvalidSerial> {
        text.parse()
    }
}

impl From<Serial> for String {
    fn from(serial: Serial) -> Self {
        serial.0
    }
}

/// The first certificate in `pem`.
pub(crate) fn parse(pem: &str) -> Option<X509> {
    if pem.len() > MAX_PEM {
        return None;
    }
    X509::from_der(&pem::content(pem, &["CERTIFICATE"])?).ok()
}

/// The one common name of the subject; none if there are several.
pub(crate) fn common_name(certificate: &X509Ref) -> Option<String> {
    let mut names = certificate.subject_name().entries_by_nid(Nid::COMMONNAME);
    let name = names.next()?.data().to_string().ok()?;
    names.next().is_none().then_some(name)
}

/// Seconds since 1970.
pub(crate) fn unix(time: &Asn1TimeRef) -> Option<i64> {
    let since = Asn1Time::from_unix(0).ok()?.diff(time).ok()?;
    Some(i64::from(since.days) * 86_400 + i64::from(since.secs))
}

/// The content of the extended key usage extension: DER of a sequence of object ids.
pub(crate) fn extended_key_usage(certificate: &X509Ref) -> Option<Vec<u8>> {
    const SEQUENCE: u8 = 0x30;
    const OBJECT_ID: u8 = 0x06;
    const BOOLEAN: u8 = 0x01;
    const OCTETS: u8 = 0x04;
    /// `[3]` of the certificate's body.
    const EXTENSIONS: u8 = 0xa3;
    /// 2.5.29.37
    const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];

    let der = certificate.to_der().ok()?;
    let body = Der(Der(&der).expect(SEQUENCE)?).expect(SEQUENCE)?;
    let list = Der(body).find(|tag, _| tag == EXTENSIONS)?;
    let list = Der(list).expect(SEQUENCE)?;
    let extension = Der(list).find(|tag, content| {
        tag == SEQUENCE && Der(content).expect(OBJECT_ID) == Some(EXTENDED_KEY_USAGE)
    })?;
    let mut parts = Der(extension);
    parts.expect(OBJECT_ID)?;
    let (tag, content) = parts.next()?;
    match tag {
        OCTETS => Some(content.to_vec()),
        BOOLEAN => parts.expect(OCTETS).map(<[u8]>::to_vec),
        _ => None,
    }
}

/// DER values, one after the other. The parts of a certificate are shorter than 64 KiB.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next value's tag and content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk()?;
        let (len, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81 => rest.split_first().map(|(&len, rest)| (usize::from(len), rest))?,
            0x82 => {
                let (&len, rest) = rest.split_first_chunk()?;
                (usize::from(u16::from_be_bytes(len)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn expect(&mut self, wanted: u8) -> Option<&'a [u8]> {
        self.next().filter(|(tag, _)| *tag == wanted).map(|(_, content)| content)
    }

    fn find(mut self, is_wanted: impl Fn(u8, &'a [u8]) -> bool) -> Option<&'a [u8]> {
        while let Some((tag, content)) = self.next() {
            if is_wanted(tag, content) {
                return Some(content);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_has_one_spelling() {
        let serial: Serial = "00:AB:0c".parse().unwrap();
        assert_eq!(serial.as_str(), "ab0c");
        assert_eq!("0aB0C".parse(), Ok(serial));
        for wrong in ["", "0", "-1", "xyz", &"1".repeat(41)] {
            assert_eq!(wrong.parse::<Serial>(), Err(InvalidSerial), "{wrong}");
        }
    }
}
