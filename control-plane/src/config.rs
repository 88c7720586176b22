//! What a server can be told.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use gantry_model::LeaseTerms;
use gantry_protocol::Namespace;
use zeroize::Zeroizing;

use crate::objects::local::files::Limits;

/// Everything that a server can be told, complete.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data directory; made if it is not there.
    pub data: PathBuf,
    /// The PostgreSQL database; none is SQLite's, in the data directory.
    pub database: Option<DatabaseUrl>,
    /// Where the API listens. Port 0 is the port of the last start, or any free one.
    pub api: SocketAddr,
    /// Where the broker listens.
    pub mqtt: SocketAddr,
    /// Where the object store listens.
    pub objects: SocketAddr,
    /// Names and addresses by which the server is reached, for its certificate. The first that is not
    /// this host's own is what others are told.
    pub hosts: Vec<String>,
    /// What all topics begin with.
    pub namespace: Namespace,
    /// How long offers and leases hold.
    pub terms: LeaseTerms,
    /// How large objects may be and how full the disk.
    pub limits: Limits,
}

impl Config {
    /// The usual settings with this data directory.
    #[must_use]
    pub fn new(data: PathBuf) -> Self {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            data,
            database: None,
            api: local(1983),
            mqtt: local(1984),
            objects: local(1985),
            hosts: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            namespace: Namespace::default(),
            terms: LeaseTerms::default(),
            limits: Limits::default(),
        }
    }

    /// All names of the certificate: the hosts, and the addresses that are listened on.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names = self.hosts.clone();
        for address in [self.api, self.mqtt, self.objects] {
            let ip = address.ip().to_string();
            if !address.ip().is_unspecified() && !names.contains(&ip) {
                names.push(ip);
            }
        }
        names
    }

    /// How others are to reach a listener: `host:port`.
    #[must_use]
    pub fn reached_at(&self, listening: SocketAddr) -> String {
        let port = listening.port();
        if let Some(host) = self.hosts.iter().find(|host| !is_own(host)) {
            return match host.parse::<IpAddr>() {
                Ok(ip) => SocketAddr::new(ip, port).to_string(),
                Err(_) => format!("{host}:{port}"),
            };
        }
        if listening.ip().is_unspecified() {
            format!("localhost:{port}")
        } else {
            listening.to_string()
        }
    }

    /// Where it listens for other machines that are told an address which means themselves: to listen
    /// everywhere is of no use without a host that is not this one's own name for itself.
    #[must_use]
    pub fn misleading(&self) -> Vec<SocketAddr> {
        let has_name = self.hosts.iter().any(|host| !is_own(host));
        let all = [self.api, self.mqtt, self.objects].into_iter();
        all.filter(|address| !has_name && address.ip().is_unspecified()).collect()
    }
}

/// Where a PostgreSQL database is: `postgres://user@host/database?parameters`. It may hold a password, so it is shown
/// nowhere and zeroed when dropped.
#[derive(Clone)]
pub struct DatabaseUrl(Zeroizing<String>);

/// Why a text is no [`DatabaseUrl`]. It quotes nothing that may be secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseUrlError {
    /// It begins otherwise.
    #[error("it does not begin with postgres://")]
    Scheme,
    /// It has a parameter that nobody would look at.
    #[error("its parameter {0:?} is not known: there are {known}", known = PARAMETERS.join(", "))]
    Parameter(String),
}

/// Those that PostgreSQL's own clients have and that count here.
const PARAMETERS: [&str; 12] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

impl DatabaseUrl {
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for DatabaseUrl {
    type Err = DatabaseUrlError;

    fn from_str(text: &str) -> Result<Self, DatabaseUrlError> {
        let text = text.trim();
        if !["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
            return Err(DatabaseUrlError::Scheme);
        }
        let parameters = text.split_once('?').map_or("", |(_, parameters)| parameters);
        for parameter in parameters.split('&').filter(|it| !it.is_empty()) {
            // Without a `=` it may be a part of a password that was not encoded.
            let name = parameter.split_once('=').map_or("", |(name, _)| name);
            if !PARAMETERS.contains(&name) {
                return Err(DatabaseUrlError::Parameter(name.chars().take(32).collect()));
            }
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Whether a name means this host wherever it is asked.
fn is_own(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_a_database_is_looked_at_and_never_shown() {
        let parse = |text: &str| text.parse::<DatabaseUrl>();
        let url = "postgres://ann:pass%3Fword@db/gantry?sslmode=verify-full&sslrootcert=/ca.pem";
        let parsed = parse(url).unwrap();
        assert_eq!(parsed.expose(), url);
        assert_eq!(format!("{parsed:?}"), "[redacted]");
        assert_eq!(parse("mysql://ann:secret@db").unwrap_err(), DatabaseUrlError::Scheme);
        let misspelled = parse("postgres://ann:secret@db/gantry?sslmod=require").unwrap_err();
        assert!(misspelled.to_string().starts_with("its parameter \"sslmod\" is not known"));
        let unencoded = parse("postgres://ann:sec?ret@db/gantry").unwrap_err().to_string();
        assert!(!unencoded.contains("ret@"), "{unencoded}");
    }

    #[test]
    fn others_are_told_the_first_host_that_is_not_this_one() {
        let mut config = Config::new(PathBuf::from("data"));
        assert_eq!(config.reached_at(config.api), "127.0.0.1:1983");
        let anywhere = SocketAddr::from(([0, 0, 0, 0], 5));
        assert_eq!(config.reached_at(anywhere), "localhost:5");
        assert_eq!(config.misleading(), []);
        config.mqtt = anywhere;
        assert_eq!(config.misleading(), [anywhere]);
        config.hosts.push("gantry.example.com".to_owned());
        assert_eq!(config.reached_at(anywhere), "gantry.example.com:5");
        assert_eq!(config.misleading(), []);
        config.hosts.insert(0, "2001:db8::1".to_owned());
        assert_eq!(config.reached_at(anywhere), "[2001:db8::1]:5");
        config.api = "10.0.0.1:1983".parse().unwrap();
        config.mqtt = "127.0.0.1:1984".parse().unwrap();
        let names = ["2001:db8::1", "localhost", "127.0.0.1", "gantry.example.com", "10.0.0.1"];
        assert_eq!(config.names(), names);
    }
}
