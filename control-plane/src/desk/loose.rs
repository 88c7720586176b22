//! Messages that may be lost: heartbeats, requests for urls, acknowledgements, farewells.

use gantry_model::Attempt;
use gantry_protocol::message::{FromControlPlane, FromLauncher, Heartbeat, NeedUrls, Urls};

use super::Sender;
use crate::control_plane::ControlPlane;
use crate::error::OperationError;
use crate::store::to_db;
use crate::unit::Unit;

/// The most urls of one request.
const MAX_URLS: u32 = 64;
/// The longest note of a worker about its health that is kept, in characters.
const MAX_NOTE: usize = 500;
/// The most attempts of one heartbeat that are looked at.
const MAX_RUNS: usize = 64;

impl ControlPlane {
    pub(super) async fn loose(
        &self,
        unit: &mut Unit,
        sender: &Sender,
        message: FromLauncher,
    ) -> Result<(), OperationError> {
        match message {
            FromLauncher::Heartbeat(heartbeat) => self.heartbeat(unit, sender, heartbeat).await,
            FromLauncher::NeedUrls(wanted) => self.need_urls(unit, sender, wanted).await,
            FromLauncher::Ack(ack) => {
                let delete = "DELETE FROM outbox WHERE pool = $1 AND worker = $2 AND seq <= $3";
                let deleted = sqlx::query(delete)
                    .bind(sender.pool.to_string())
                    .bind(sender.worker.to_string())
                    .bind(to_db(ack.up_to))
                    .execute(unit.conn())
                    .await?;
                // Whoever has taken an offer in may get the next one.
                if deleted.rows_affected() > 0 {
                    unit.wake();
                }
                Ok(())
            }
            FromLauncher::Bye(_) => {
                // Whoever said bye is nowhere, so another machine may take its place at once.
                away(
                    unit,
                    sender,
                    "UPDATE workers SET is_connected = 0, session = '' \
                                    WHERE pool = $1 AND id = $2",
                )
                .await
            }
            FromLauncher::Gone(gone) if gone.nonce == sender.bond.nonce => {
                away(
                    unit,
                    sender,
                    "UPDATE workers SET is_connected = 0 \
                                    WHERE pool = $1 AND id = $2",
                )
                .await
            }
            FromLauncher::Unsupported(unsupported) => {
                let kind: String = unsupported.kind.chars().take(64).collect();
                self.tell(sender.key(), format_args!("the launcher does not know {kind:?}"));
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
        unit: &mut Unit,
        sender: &Sender,
        heartbeat: Heartbeat,
    ) -> Result<(), OperationError> {
        let note: Option<String> = heartbeat.note.map(|note| note.chars().take(MAX_NOTE).collect());
        let now = unit.now();
        let update = "UPDATE workers SET heard_at = $3, is_connected = 1, is_healthy = $4, \
                      note = $5, is_passed_over = 0 WHERE pool = $1 AND id = $2";
        sqlx::query(update)
            .bind(sender.pool.to_string())
            .bind(sender.worker.to_string())
            .bind(to_db(now.0))
            .bind(i64::from(heartbeat.is_healthy))
            .bind(note)
            .execute(unit.conn())
            .await?;
        for attempt in heartbeat.runs.into_iter().take(MAX_RUNS) {
            self.renew(unit, sender, attempt).await?;
        }
        unit.wake();
        Ok(())
    }

    async fn renew(
        &self,
        unit: &mut Unit,
        sender: &Sender,
        attempt: Attempt,
    ) -> Result<(), OperationError> {
        let until = unit.now().plus_ms(self.terms().lease_ms);
        // Of a write stage the deadline is due, and that does not move.
        let update = "UPDATE runs SET until_at = $6, \
                      due_at = CASE WHEN stage = 'read' THEN $6 ELSE due_at END \
                      WHERE id = $1 AND epoch = $2 AND stage = $3 AND pool = $4 AND worker = $5 \
                      AND standing = 'granted'";
        sqlx::query(update)
            .bind(attempt.run.to_string())
            .bind(to_db(attempt.epoch.0))
            .bind(attempt.stage.as_str())
            .bind(sender.pool.to_string())
            .bind(sender.worker.to_string())
            .bind(to_db(until.0))
            .execute(unit.conn())
            .await?;
        Ok(())
    }

    async fn need_urls(
        &self,
        unit: &mut Unit,
        sender: &Sender,
        wanted: NeedUrls,
    ) -> Result<(), OperationError> {
        let NeedUrls { attempt, purpose, count } = wanted;
        let bond = std::sync::Arc::clone(&sender.bond);
        let never = || Urls { attempt, urls: Vec::new(), never: Some(purpose) };
        if !owned(unit, sender, attempt).await? {
            sender.refuse(
                attempt,
                "request for URLs",
                "the attempt was never granted to this worker",
            );
            unit.say(sender.key(), bond, FromControlPlane::Urls(never()));
            return Ok(());
        }
        let count = count.clamp(1, MAX_URLS);
        let urls = match self.put_urls(attempt, purpose, count).await {
            Ok(urls) => urls,
            Err(error) => {
                tracing::warn!(%attempt, error = %error, "no URLs yet; the launcher asks again");
                return Ok(());
            }
        };
        if urls.is_empty() {
            unit.say(sender.key(), bond, FromControlPlane::Urls(never()));
            return Ok(());
        }
        // An envelope holds some twenty of the longest.
        for some in urls.chunks(16) {
            let urls = Urls { attempt, urls: some.to_vec(), never: None };
            unit.say(sender.key(), std::sync::Arc::clone(&bond), FromControlPlane::Urls(urls));
        }
        Ok(())
    }
}

async fn away(unit: &mut Unit, sender: &Sender, sql: &'static str) -> Result<(), OperationError> {
    sqlx::query(sql)
        .bind(sender.pool.to_string())
        .bind(sender.worker.to_string())
        .execute(unit.conn())
        .await?;
    Ok(())
}

/// Whether the attempt was ever granted to the sender. Current or not: what it stored then is kept.
pub(super) async fn owned(
    unit: &mut Unit,
    sender: &Sender,
    attempt: Attempt,
) -> Result<bool, OperationError> {
    let select = "SELECT 1 FROM attempts a JOIN runs r ON r.id = a.run WHERE a.run = $1 \
                  AND a.epoch = $2 AND a.stage = $3 AND a.worker = $4 AND r.pool = $5 \
                  AND a.granted_at IS NOT NULL";
    let row = sqlx::query(select)
        .bind(attempt.run.to_string())
        .bind(to_db(attempt.epoch.0))
        .bind(attempt.stage.as_str())
        .bind(sender.worker.to_string())
        .bind(sender.pool.to_string())
        .fetch_optional(unit.conn())
        .await?;
    Ok(row.is_some())
}
