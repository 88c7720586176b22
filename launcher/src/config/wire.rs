//! How the control plane is reached, and whose certificates are believed besides the token's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_protocol::PoolToken;
use reqwest::Url;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;

use super::{Problem, Reader};

/// The longest text of certificates, and the most of them.
const MAX_ROOTS_TEXT: usize = 512 * 1024;
const MAX_ROOTS: usize = 256;

/// How the control plane is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wire {
    /// MQTT over TLS, at the address in the token.
    Mqtt,
    /// Long polls over HTTPS.
    Poll(BaseUrl),
}

/// Where a control plane's HTTPS is: `https://host[:port][/path]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl(Url);

impl BaseUrl {
    /// Reads one.
    ///
    /// # Errors
    /// When it is not such a URL.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let url = Url::parse(text).map_err(|_| Problem::CommsUrl)?;
        let fits = url.scheme() == "https"
            && url.host_str().is_some_and(|host| !host.is_empty())
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if fits { Ok(Self(url)) } else { Err(Problem::CommsUrl) }
    }

    /// The host, as proxies know it.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    /// `host:port`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("{}:{}", self.host(), self.0.port_or_known_default().unwrap_or(443))
    }

    /// What is at this path below it.
    #[must_use]
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.0.as_str().trim_end_matches('/'))
    }
}

/// `SPACELIFT_WORKER_COMMS_PROTOCOL` and what it needs. The URL may be set for other launchers' sake.
pub(super) fn read(reader: &mut Reader<'_>, token: Option<&PoolToken>) -> Option<Wire> {
    const URL: &str = "SPACELIFT_WORKER_COMMS_URL";
    let polls = reader.parsed("SPACELIFT_WORKER_COMMS_PROTOCOL", |text| match text {
        "mqtt" => Ok(false),
        "poll" => Ok(true),
        _ => Err(Problem::Transport),
    })?;
    if !polls {
        return Some(Wire::Mqtt);
    }
    if reader.text(URL).is_some() {
        return reader.optional(URL, BaseUrl::parse).map(Wire::Poll);
    }
    match token?.api.as_deref().map_or(Err(Problem::NoCommsUrl), BaseUrl::parse) {
        Ok(url) => Some(Wire::Poll(url)),
        Err(problem) => {
            reader.refuse(URL, problem);
            None
        }
    }
}

/// What cloud templates hand on: each entry is a PEM text in base64.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    ca_certificates: Vec<String>,
}

/// `ADDITIONAL_ROOT_CAS`.
pub(super) fn roots(reader: &mut Reader<'_>) -> Vec<CertificateDer<'static>> {
    const NAME: &str = "ADDITIONAL_ROOT_CAS";
    let Some(text) = reader.text(NAME) else { return Vec::new() };
    certificates(text).unwrap_or_else(|| {
        reader.refuse(NAME, Problem::Roots);
        Vec::new()
    })
}

/// The certificates of a PEM text, of one in base64, or of such a list in base64.
fn certificates(text: &str) -> Option<Vec<CertificateDer<'static>>> {
    if text.len() > MAX_ROOTS_TEXT {
        return None;
    }
    let pem = if text.contains("-----BEGIN") {
        text.to_owned()
    } else {
        let plain = decode(text)?;
        match serde_json::from_str::<Listed>(&plain) {
            Ok(listed) => {
                let all: Option<Vec<_>> =
                    listed.ca_certificates.iter().map(|entry| decode(entry)).collect();
                all?.join("\n")
            }
            Err(_) => plain,
        }
    };
    let found = CertificateDer::pem_slice_iter(pem.as_bytes()).take(MAX_ROOTS + 1);
    let found = found.collect::<Result<Vec<_>, _>>().ok()?;
    let mut store = RootCertStore::empty();
    let is_good = found.iter().all(|certificate| store.add(certificate.clone()).is_ok());
    (is_good && (1..=MAX_ROOTS).contains(&found.len())).then_some(found)
}

fn decode(text: &str) -> Option<String> {
    let text: String = text.split_whitespace().collect();
    String::from_utf8(STANDARD.decode(text).ok()?).ok()
}
