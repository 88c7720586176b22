//! Just enough of the Docker API for a baseline: HTTP over its Unix socket, one connection per call.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// No call of a baseline takes longer.
const LIMIT: Duration = Duration::from_mins(1);

/// The engine's socket.
#[derive(Clone)]
pub struct Docker {
    socket: PathBuf,
}

impl Docker {
    /// The engine that the `docker` command would talk to.
    pub fn new(docker_host: Option<&str>) -> Result<Self> {
        let host = docker_host.unwrap_or("unix:///var/run/docker.sock");
        let socket =
            host.strip_prefix("unix://").context("this bench needs an engine on a Unix socket")?;
        Ok(Self { socket: PathBuf::from(socket) })
    }

    /// A call that is answered with JSON, or with nothing.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let (status, mut stream) = self.send(method, path, body)?;
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .with_context(|| format!("{method} {path}: no whole answer"))?;
        if !(200..300).contains(&status) {
            bail!("{method} {path}: {status} {}", answer.trim());
        }
        Ok(serde_json::from_str(&answer).unwrap_or(Value::Null))
    }

    /// The output of a container that is about to be started.
    pub fn attach(&self, id: &str) -> Result<impl Read + use<>> {
        let path = format!("/containers/{id}/attach?stream=1&stdout=1&stderr=1");
        let (status, stream) = self.send("POST", &path, None)?;
        if status == 101 || status == 200 { Ok(stream) } else { bail!("POST {path}: {status}") }
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, BufReader<UnixStream>)> {
        let mut stream = UnixStream::connect(&self.socket)
            .with_context(|| format!("cannot connect to {}", self.socket.display()))?;
        stream.set_read_timeout(Some(LIMIT))?;
        let body = body.map(Value::to_string).unwrap_or_default();
        // HTTP/1.0: the answer ends with the connection and is never chunked.
        let head = format!(
            "{method} /v1.41{path} HTTP/1.0\r\nHost: docker\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes())?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).with_context(|| format!("{method} {path}: no answer"))?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status =
            status.with_context(|| format!("{method} {path}: not an HTTP answer: {line}"))?;
        while line != "\r\n" && !line.is_empty() {
            line.clear();
            stream.read_line(&mut line)?;
        }
        Ok((status, stream))
    }
}
