//! The certificate of the listeners, replaced while they listen and long before it ends.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{ServerError, unix_now};
use crate::authority::Issuer;
use crate::authority::{IssuerError, write_server};
use crate::clock::millis;
use crate::core::Core;
use crate::data_dir::DataDir;
use crate::tls::TlsSettings;
use crate::transport::EmbeddedBroker;

/// After how long a certificate, which is good for 397 days, is replaced.
const EVERY: Duration = Duration::from_hours(30 * 24);
/// After how long that is tried again when it failed.
const RETRY: Duration = Duration::from_hours(1);

/// All that has to do with the listeners' certificate.
pub(super) struct Renewal {
    pub(super) core: Core,
    pub(super) issuer: Arc<Issuer>,
    /// Not held: its lock ends with the server, not with this.
    pub(super) dir: Weak<DataDir>,
    pub(super) names: Vec<String>,
    /// Of each HTTPS listener.
    pub(super) tls: [TlsSettings; 2],
    pub(super) broker: Arc<EmbeddedBroker>,
}

impl Renewal {
    /// Renews until `leave` is called.
    pub(super) async fn renew_at_times(&self, leave: &CancellationToken) {
        let mut wait = EVERY;
        loop {
            let clock = self.core.clock();
            let next = clock.now().plus_ms(millis(wait));
            if leave.run_until_cancelled(clock.until(next)).await.is_none() {
                return;
            }
            wait = match self.renew().await {
                Ok(()) => EVERY,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, "cannot renew the listeners' certificate; trying again");
                    RETRY
                }
            };
        }
    }

    /// The files first: a server that starts again in between has the new certificate too.
    pub(super) async fn renew(&self) -> Result<(), ServerError> {
        let Some(dir) = self.dir.upgrade() else { return Ok(()) };
        let issuer = &self.issuer;
        let issued = issuer.issue_server(&self.names, unix_now()).map_err(IssuerError::from)?;
        write_server(&dir, &issued)?;
        drop(dir);
        for tls in &self.tls {
            tls.renew(&issued)?;
        }
        self.broker.renew().await?;
        tracing::info!("the listeners have a new certificate");
        Ok(())
    }
}
