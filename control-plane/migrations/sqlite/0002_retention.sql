-- What is forgotten in time, what people say about a stack, and indexes for what is asked often.

-- When a run's workspaces and specs are removed from the object store; none if that is done, or the run is not over.
ALTER TABLE runs ADD COLUMN clear_at BIGINT;
UPDATE runs SET clear_at = updated_at
    WHERE state IN ('FINISHED', 'FAILED', 'STOPPED', 'CANCELED', 'DISCARDED', 'SKIPPED');
CREATE INDEX runs_to_clear ON runs (clear_at) WHERE clear_at IS NOT NULL;

-- When it last said hello.
ALTER TABLE journals ADD COLUMN heard_at BIGINT NOT NULL DEFAULT 0;
UPDATE journals SET heard_at = COALESCE(
    (SELECT w.heard_at FROM workers w WHERE w.pool = journals.pool AND w.id = journals.worker), 0);
CREATE INDEX journals_by_age ON journals (heard_at);
CREATE INDEX journals_of_worker ON journals (pool, worker, heard_at, journal);

ALTER TABLE nonces ADD COLUMN at BIGINT NOT NULL DEFAULT 0;
UPDATE nonces SET at = COALESCE(
    (SELECT w.heard_at FROM workers w WHERE w.pool = nonces.pool AND w.id = nonces.worker), 0);
CREATE INDEX nonces_by_age ON nonces (at);
CREATE INDEX nonces_of_worker ON nonces (pool, worker, at, nonce);

ALTER TABLE stacks ADD COLUMN description TEXT NOT NULL DEFAULT '';
ALTER TABLE stacks ADD COLUMN provider TEXT NOT NULL DEFAULT '';
ALTER TABLE stacks ADD COLUMN namespace TEXT NOT NULL DEFAULT '';
ALTER TABLE stacks ADD COLUMN repository TEXT NOT NULL DEFAULT '';
ALTER TABLE stacks ADD COLUMN branch TEXT NOT NULL DEFAULT '';

CREATE INDEX workers_connected ON workers (pool, id) WHERE is_connected = 1;
CREATE INDEX sources_of_stack ON sources (stack, key);
CREATE INDEX states_by_serial ON states (stack, serial, id) WHERE orphaned IS NULL;
-- Without those that only show what would change.
CREATE INDEX runs_that_change ON runs (stack, id) WHERE type <> 'PROPOSED';
DROP INDEX outbox_due;
CREATE INDEX outbox_due ON outbox (next_at, seq);
