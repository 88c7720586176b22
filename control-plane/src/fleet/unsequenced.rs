//! Messages that may be lost: heartbeats, requests for urls, acknowledgements, farewells.

use gantry_model::Attempt;
use gantry_protocol::message::{FromControlPlane, FromLauncher, Heartbeat, NeedUrls, Urls};

use super::verify::Sender;
use crate::core::UnitOfWork;
use crate::error::OperationError;
use crate::fleet::ingest::Ingest;
use crate::store::runs::update_lease;
use crate::store::{outbox, results, workers};

/// The most urls of one request.
const MAX_URLS: u32 = 64;
/// The longest note of a worker about its health that is kept, in characters.
const MAX_NOTE: usize = 500;
/// The most attempts of one heartbeat that are looked at.
const MAX_RUNS: usize = 64;

impl Ingest {
    pub(super) async fn unsequenced(
        &self,
        unit: &mut UnitOfWork,
        sender: &Sender,
        message: FromLauncher,
    ) -> Result<(), OperationError> {
        match message {
            FromLauncher::Heartbeat(heartbeat) => self.heartbeat(unit, sender, heartbeat).await,
            FromLauncher::NeedUrls(wanted) => self.need_urls(unit, sender, wanted).await,
            FromLauncher::Ack(ack) => {
                let deleted =
                    outbox::delete_acknowledged(unit.conn(), sender.key(), ack.up_to).await?;
                // Whoever has taken an offer in may get the next one.
                if deleted > 0 {
                    unit.wake();
                }
                Ok(())
            }
            FromLauncher::Bye(_) => {
                // Whoever said bye is nowhere, so another machine may take its place at once.
                Ok(workers::end_session(unit.conn(), sender.key()).await?)
            }
            FromLauncher::Gone(gone) if gone.nonce == sender.session.nonce => {
                Ok(workers::disconnect(unit.conn(), sender.key()).await?)
            }
            FromLauncher::Unsupported(unsupported) => {
                let kind: String = unsupported.kind.chars().take(64).collect();
                self.notices.say(sender.key(), format_args!("the launcher does not know {kind:?}"));
                Ok(())
            }
            FromLauncher::Gone(_)
            | FromLauncher::Hello(_)
            | FromLauncher::Claim(_)
            | FromLauncher::Decline(_)
            | FromLauncher::Phase(_)
            | FromLauncher::Segment(_)
            | FromLauncher::State(_)
            | FromLauncher::Workspace(_)
            | FromLauncher::Decision(_)
            | FromLauncher::Outputs(_)
            | FromLauncher::Result(_) => Ok(()),
        }
    }

    async fn heartbeat(
        &self,
        unit: &mut UnitOfWork,
        sender: &Sender,
        heartbeat: Heartbeat,
    ) -> Result<(), OperationError> {
        let note: Option<String> = heartbeat.note.map(|note| note.chars().take(MAX_NOTE).collect());
        let now = unit.now();
        let (key, is_healthy) = (sender.key(), heartbeat.is_healthy);
        workers::set_heard(unit.conn(), key, is_healthy, note.as_deref(), now).await?;
        for attempt in heartbeat.runs.into_iter().take(MAX_RUNS) {
            self.renew(unit, sender, attempt).await?;
        }
        unit.wake();
        Ok(())
    }

    async fn renew(
        &self,
        unit: &mut UnitOfWork,
        sender: &Sender,
        attempt: Attempt,
    ) -> Result<(), OperationError> {
        let Some(mut row) = self.run_for(unit, sender, attempt).await? else { return Ok(()) };
        let now = unit.now();
        if row.lifecycle.renew(sender.worker, attempt, now, self.terms()) {
            update_lease(unit.conn(), &row.lifecycle).await?;
        }
        Ok(())
    }

    async fn need_urls(
        &self,
        unit: &mut UnitOfWork,
        sender: &Sender,
        wanted: NeedUrls,
    ) -> Result<(), OperationError> {
        let NeedUrls { attempt, purpose, count } = wanted;
        let session = std::sync::Arc::clone(&sender.session);
        let never = || Urls { attempt, urls: Vec::new(), never: Some(purpose) };
        if !results::was_granted(unit.conn(), sender.key(), attempt).await? {
            sender.refuse(
                attempt,
                "request for URLs",
                "the attempt was never granted to this worker",
            );
            unit.notify(sender.key(), session, FromControlPlane::Urls(never()));
            return Ok(());
        }
        let count = count.clamp(1, MAX_URLS);
        let urls = match self.specs.put_urls(attempt, purpose, count).await {
            Ok(urls) => urls,
            Err(error) => {
                tracing::warn!(%attempt, error = %error, "no URLs yet; the launcher asks again");
                return Ok(());
            }
        };
        if urls.is_empty() {
            unit.notify(sender.key(), session, FromControlPlane::Urls(never()));
            return Ok(());
        }
        // An envelope holds some twenty of the longest.
        for some in urls.chunks(16) {
            let urls = Urls { attempt, urls: some.to_vec(), never: None };
            unit.notify(
                sender.key(),
                std::sync::Arc::clone(&session),
                FromControlPlane::Urls(urls),
            );
        }
        Ok(())
    }
}
