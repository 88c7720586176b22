//! `gantry run logs`, as far as it is stored.

use crate::client::Client;
use crate::failure::{Code, Failure};
use crate::log_writer::LogWriter;
use crate::output::Output;

pub(super) async fn logs(
    client: &Client,
    run: &str,
    from: u64,
    output: Output,
) -> Result<Code, Failure> {
    let mut response = client.log(run, from).await?;
    let mut at = from;
    let mut log = LogWriter::new(output, from);
    loop {
        let chunk = response.chunk().await.map_err(|error| {
            Failure::new(format!("the log broke off after {at} bytes"))
                .with(Code::Unreachable)
                .because(error.without_url())
                .next(format!("go on with --from {at}"))
        })?;
        let Some(chunk) = chunk else {
            log.end()?;
            return Ok(Code::Done);
        };
        log.push(&chunk)?;
        at += chunk.len() as u64;
    }
}
