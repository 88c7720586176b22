//! The HTTP proxy between this host and its control plane: `HTTPS_PROXY` and `NO_PROXY`.

use std::fmt;
use std::net::IpAddr;

use super::{Problem, Value};

/// A proxy that connects to whatever it is told, by CONNECT: for objects and for the broker alike.
#[derive(Clone)]
pub struct Proxy {
    host: String,
    port: u16,
    /// User and password, as they are written in a URL.
    login: Option<Value>,
    exempt: Vec<String>,
}

impl Proxy {
    /// Reads `http://[user:password@]host:port`; the scheme may be left out. `exempt` is `NO_PROXY`.
    ///
    /// # Errors
    /// When it is none that can be used.
    pub fn parse(text: &str, exempt: &str) -> Result<Self, Problem> {
        let rest = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let (login, address) = match rest.rsplit_once('@') {
            Some((login, address)) => (Some(Value::new(login.to_owned())), address),
            None => (None, rest),
        };
        let (host, port) = address.rsplit_once(':').unwrap_or((address, "80"));
        let fits = !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
        let port = port.parse().ok().filter(|port| *port != 0 && fits).ok_or(Problem::Proxy)?;
        let exempt = exempt.split(',').map(|entry| entry.trim().to_ascii_lowercase());
        let exempt = exempt.filter(|entry| !entry.is_empty()).collect();
        Ok(Self { host: host.to_owned(), port, login, exempt })
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// User and password, if it asks for them.
    #[must_use]
    pub fn login(&self) -> Option<(String, Value)> {
        let login = self.login.as_ref()?;
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        Some((plain(user), Value::new(plain(password))))
    }

    /// The whole of it as a URL, its password included.
    #[must_use]
    pub fn url(&self) -> Value {
        let login = self.login.as_ref().map(|login| format!("{}@", login.as_str()));
        Value::new(format!("http://{}{}:{}", login.unwrap_or_default(), self.host, self.port))
    }

    /// Whether it is used on the way to this host. Never to this machine itself.
    #[must_use]
    pub fn is_for(&self, host: &str) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let address: Option<IpAddr> = host.parse().ok();
        if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
            return false;
        }
        !self.exempt.iter().any(|entry| exempts(entry, &host, address))
    }
}

/// Whether an entry of `NO_PROXY` names the host: `*`, an address, a network such as `10.0.0.0/8`, or a
/// domain, which stands for everything below it too.
fn exempts(entry: &str, host: &str, address: Option<IpAddr>) -> bool {
    if entry == "*" {
        return true;
    }
    if let Some(address) = address {
        return match entry.split_once('/') {
            Some((network, bits)) => is_within(address, network, bits),
            None => entry.parse() == Ok(address),
        };
    }
    let domain = entry.rsplit_once(':').map_or(entry, |(domain, _)| domain);
    let domain = domain.trim_start_matches("*.").trim_start_matches('.');
    host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

fn is_within(address: IpAddr, network: &str, bits: &str) -> bool {
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) if bits <= 32 => {
            let differ = address.to_bits() ^ network.to_bits();
            differ.checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(address), IpAddr::V6(network)) if bits <= 128 => {
            let differ = address.to_bits() ^ network.to_bits();
            differ.checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// What is written as `%40` in a URL.
fn plain(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let code = std::str::from_utf8(behind.get(..2).unwrap_or_default()).ok();
        let code = code.filter(|code| *first == b'%' && code.len() == 2);
        if let Some(byte) = code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            bytes.push(byte);
            rest = &behind[2..];
        } else {
            bytes.push(*first);
            rest = behind;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Without the password: it stands in the launcher's log.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_read_as_other_programs_spell_it_and_shows_no_password() {
        let proxy = Proxy::parse("http://me:p%40ss@proxy.example.com:3128/", "").unwrap();
        assert_eq!(format!("{proxy} {proxy:?}"), ["http://proxy.example.com:3128"; 2].join(" "));
        let (user, password) = proxy.login().unwrap();
        assert_eq!((user.as_str(), password.as_str()), ("me", "p@ss"));
        assert_eq!(proxy.url().as_str(), "http://me:p%40ss@proxy.example.com:3128");
        let bare = Proxy::parse("proxy:8080", "").unwrap();
        assert_eq!((bare.host(), bare.port(), bare.login()), ("proxy", 8080, None));
        for wrong in ["https://proxy:443", "socks5://proxy:1080", "proxy:0", "a b:1", ""] {
            assert!(Proxy::parse(wrong, "").is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_proxy_is_used_to_this_machine_and_to_what_is_exempt() {
        let exempt = ".corp.example, plain.example:8443,10.0.0.0/8 ,192.0.2.7,2001:db8::/32";
        let proxy = Proxy::parse("proxy:3128", exempt).unwrap();
        for direct in [
            "localhost",
            "127.0.0.1",
            "[::1]",
            "gantry.corp.example",
            "plain.example",
            "a.plain.example",
            "10.1.2.3",
            "192.0.2.7",
            "2001:db8::5",
        ] {
            assert!(!proxy.is_for(direct), "{direct}");
        }
        for through in ["example.com", "notplain.example", "11.0.0.1", "192.0.2.8", "2001:db9::1"] {
            assert!(proxy.is_for(through), "{through}");
        }
        assert!(!Proxy::parse("proxy:3128", "*").unwrap().is_for("example.com"));
    }
}
