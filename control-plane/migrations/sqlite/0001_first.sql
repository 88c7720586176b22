-- Types: TEXT, BIGINT, BLOB. Ids and JSON are TEXT, instants are milliseconds since 1970, booleans 0 and 1.

CREATE TABLE settings (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    secret_sha256 TEXT NOT NULL,
    role TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    last_used_at BIGINT,
    revoked_at BIGINT
);

CREATE TABLE audit (
    id TEXT PRIMARY KEY,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    act TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL
);

CREATE TABLE pools (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    labels TEXT NOT NULL,
    certificate TEXT NOT NULL,
    serial TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT
);

CREATE TABLE certificates (
    serial TEXT PRIMARY KEY,
    pool TEXT NOT NULL REFERENCES pools (id),
    issued_at BIGINT NOT NULL,
    revoked_at BIGINT
);

CREATE TABLE workers (
    id TEXT NOT NULL,
    pool TEXT NOT NULL REFERENCES pools (id),
    created_at BIGINT NOT NULL,
    available_at BIGINT,
    heard_at BIGINT NOT NULL,
    is_connected BIGINT NOT NULL,
    is_drained BIGINT NOT NULL,
    is_healthy BIGINT NOT NULL,
    is_passed_over BIGINT NOT NULL,
    note TEXT,
    run TEXT,
    session TEXT NOT NULL,
    instance TEXT NOT NULL,
    machine TEXT NOT NULL,
    journal TEXT NOT NULL,
    sent BIGINT NOT NULL,
    metadata TEXT NOT NULL,
    versions TEXT NOT NULL,
    engine TEXT NOT NULL,
    PRIMARY KEY (pool, id)
);
CREATE INDEX workers_idle ON workers (pool, id)
    WHERE is_connected = 1 AND is_drained = 0 AND is_healthy = 1 AND is_passed_over = 0 AND run IS NULL;

-- How far each journal was taken in, of those that a worker was heard with last. It has a new journal only
-- when it lost the old one.
CREATE TABLE journals (
    pool TEXT NOT NULL,
    worker TEXT NOT NULL,
    journal TEXT NOT NULL,
    received BIGINT NOT NULL,
    PRIMARY KEY (pool, worker, journal)
);

-- The nonces that a worker used last: an old hello, sent again, must not speak for it.
CREATE TABLE nonces (
    pool TEXT NOT NULL,
    worker TEXT NOT NULL,
    nonce TEXT NOT NULL,
    PRIMARY KEY (pool, worker, nonce)
) WITHOUT ROWID;

CREATE TABLE stacks (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    pool TEXT NOT NULL REFERENCES pools (id),
    project_root TEXT NOT NULL,
    image TEXT,
    hooks TEXT NOT NULL,
    environment TEXT NOT NULL,
    secrets_version BIGINT NOT NULL,
    secrets TEXT,
    labels TEXT NOT NULL,
    is_autodeploy BIGINT NOT NULL,
    keeps_state BIGINT NOT NULL,
    lock_by TEXT,
    lock_note TEXT,
    lock_at BIGINT,
    source TEXT,
    state_current TEXT,
    blocker TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT
);

CREATE TABLE sources (
    id TEXT PRIMARY KEY,
    stack TEXT NOT NULL REFERENCES stacks (id),
    key TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    size BIGINT NOT NULL,
    author TEXT NOT NULL,
    message TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    uploaded TEXT NOT NULL
);
CREATE INDEX sources_as_uploaded ON sources (stack, uploaded);

CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    stack TEXT NOT NULL REFERENCES stacks (id),
    pool TEXT NOT NULL REFERENCES pools (id),
    type TEXT NOT NULL,
    rank BIGINT NOT NULL,
    is_autodeploy BIGINT NOT NULL,
    source TEXT NOT NULL REFERENCES sources (id),
    command TEXT,
    triggered_by TEXT NOT NULL,
    -- The person who confirmed its plan last; none if nobody or autodeploy did.
    confirmed_by TEXT,
    metadata TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    state TEXT NOT NULL,
    stage TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    read_attempts BIGINT NOT NULL,
    standing TEXT NOT NULL,
    worker TEXT,
    journal TEXT,
    until_at BIGINT,
    deadline_at BIGINT,
    is_continued BIGINT NOT NULL,
    due_at BIGINT,
    stop_by TEXT,
    note TEXT,
    is_unknown BIGINT NOT NULL,
    has_changes BIGINT,
    delta TEXT,
    outputs TEXT NOT NULL,
    history_count BIGINT NOT NULL,
    log_length BIGINT NOT NULL
);
CREATE INDEX runs_of_stack ON runs (stack, id);
CREATE INDEX runs_waiting ON runs (pool, rank, id) WHERE standing = 'waiting';
CREATE INDEX runs_queued ON runs (stack, id) WHERE state = 'QUEUED';
CREATE INDEX runs_due ON runs (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX runs_of_worker ON runs (pool, worker) WHERE worker IS NOT NULL;

CREATE TABLE history (
    run TEXT NOT NULL REFERENCES runs (id),
    n BIGINT NOT NULL,
    state TEXT NOT NULL,
    at BIGINT NOT NULL,
    note TEXT,
    PRIMARY KEY (run, n)
);

CREATE TABLE attempts (
    run TEXT NOT NULL REFERENCES runs (id),
    epoch BIGINT NOT NULL,
    stage TEXT NOT NULL,
    worker TEXT NOT NULL,
    offered_at BIGINT NOT NULL,
    granted_at BIGINT,
    ended_at BIGINT,
    end_note TEXT,
    -- A result came.
    is_reported BIGINT NOT NULL,
    is_log_complete BIGINT NOT NULL,
    PRIMARY KEY (run, epoch, stage)
);

CREATE TABLE segments (
    run TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    stage TEXT NOT NULL,
    section BIGINT NOT NULL,
    start BIGINT NOT NULL,
    length BIGINT NOT NULL,
    sha256 TEXT NOT NULL,
    key TEXT NOT NULL,
    -- Where in the whole run's log it stands; none if it came when its attempt was not current any more.
    run_start BIGINT,
    PRIMARY KEY (run, epoch, stage, section, start)
);
CREATE INDEX segments_of_run ON segments (run, run_start) WHERE run_start IS NOT NULL;

CREATE TABLE closings (
    run TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    stage TEXT NOT NULL,
    section BIGINT NOT NULL,
    length BIGINT NOT NULL,
    PRIMARY KEY (run, epoch, stage, section)
);

CREATE TABLE states (
    id TEXT PRIMARY KEY,
    stack TEXT NOT NULL REFERENCES stacks (id),
    run TEXT NOT NULL REFERENCES runs (id),
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
    UNIQUE (stack, payload_sha256)
);
CREATE INDEX states_of_stack ON states (stack, id);

CREATE TABLE workspaces (
    run TEXT NOT NULL REFERENCES runs (id),
    epoch BIGINT NOT NULL,
    key TEXT NOT NULL,
    size BIGINT NOT NULL,
    payload_sha256 TEXT NOT NULL,
    payload_size BIGINT NOT NULL,
    signature TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (run, epoch)
);

-- Outputs that a result has no room for, by their place among all of the run's.
CREATE TABLE outputs (
    run TEXT NOT NULL REFERENCES runs (id),
    n BIGINT NOT NULL,
    name TEXT NOT NULL,
    is_sensitive BIGINT NOT NULL,
    value TEXT,
    PRIMARY KEY (run, n)
);

CREATE TABLE decisions (
    run TEXT NOT NULL REFERENCES runs (id),
    epoch BIGINT NOT NULL,
    stage TEXT NOT NULL,
    is_allowed BIGINT NOT NULL,
    denials TEXT NOT NULL,
    policy_sha256 TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (run, epoch, stage)
);

-- What a worker's present session has not acknowledged yet.
CREATE TABLE outbox (
    pool TEXT NOT NULL,
    worker TEXT NOT NULL,
    seq BIGINT NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    next_at BIGINT NOT NULL,
    PRIMARY KEY (pool, worker, seq)
);
CREATE INDEX outbox_due ON outbox (next_at);
