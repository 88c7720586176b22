//! `gantry server`: starts a control plane.

use clap::Args;

use crate::failure::{Code, Failure};

/// Arguments of `gantry server`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Where everything is kept; made on the first start. One server at a time
    #[arg(long, env = "GANTRY_DATA", value_name = "DIR", default_value = "gantry-data")]
    data: std::path::PathBuf,
    /// Where the HTTPS API listens; port 0 takes any free one and keeps it
    #[arg(long, env = "GANTRY_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:1983")]
    listen: std::net::SocketAddr,
    /// Where the MQTT broker listens
    #[arg(long, env = "GANTRY_MQTT_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:1984")]
    mqtt_listen: std::net::SocketAddr,
    /// Where the S3 endpoint listens
    #[arg(
        long,
        env = "GANTRY_OBJECTS_LISTEN",
        value_name = "ADDR",
        default_value = "127.0.0.1:1985"
    )]
    objects_listen: std::net::SocketAddr,
    /// A name or address by which clients reach this server, for its TLS certificate; may be
    /// repeated
    #[arg(long = "host", env = "GANTRY_HOST", value_name = "NAME", value_delimiter = ',',
          default_values = ["localhost", "127.0.0.1"])]
    hosts: Vec<String>,
}

/// Runs the server until it is told to leave.
pub fn perform(arguments: &Arguments) -> Result<Code, Failure> {
    Err(Failure::new(format!("the server is not there yet: {arguments:?}")))
}
