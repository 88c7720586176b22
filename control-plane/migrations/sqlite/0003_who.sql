-- Who did it: a state that a run came to, and a state version that a person pushed.

ALTER TABLE history ADD COLUMN by_actor TEXT;
ALTER TABLE runs ADD COLUMN stopped_by TEXT;

-- A person's push has no run: its `run` is the push's own id, which the pool's signature names.
CREATE TABLE states_3 (
    id TEXT PRIMARY KEY,
    stack TEXT NOT NULL REFERENCES stacks (id),
    run TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    stage TEXT NOT NULL,
    serial BIGINT NOT NULL,
    lineage TEXT NOT NULL,
    header TEXT NOT NULL,
    payload_sha256 TEXT NOT NULL,
    payload_size BIGINT NOT NULL,
    predecessor TEXT,
    signature TEXT NOT NULL,
    key TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    orphaned TEXT,
    pushed_by TEXT,
    UNIQUE (stack, payload_sha256)
);
INSERT INTO states_3 (id, stack, run, epoch, stage, serial, lineage, header, payload_sha256, payload_size, predecessor,
    signature, key, created_at, orphaned)
    SELECT id, stack, run, epoch, stage, serial, lineage, header, payload_sha256, payload_size, predecessor,
        signature, key, created_at, orphaned FROM states;
DROP TABLE states;
ALTER TABLE states_3 RENAME TO states;
CREATE INDEX states_of_stack ON states (stack, id);
CREATE INDEX states_by_serial ON states (stack, serial, id) WHERE orphaned IS NULL;
