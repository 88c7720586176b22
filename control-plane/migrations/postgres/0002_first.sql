-- Types: TEXT, BIGINT. Ids and JSON are TEXT, ordered by their bytes as in SQLite; instants are milliseconds since 1970,
-- booleans 0 and 1.

CREATE TABLE settings (
    name TEXT COLLATE "C" PRIMARY KEY,
    value TEXT COLLATE "C" NOT NULL
);

CREATE TABLE api_keys (
    id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    secret_sha256 TEXT COLLATE "C" NOT NULL,
    role TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT COLLATE "C" NOT NULL,
    last_used_at BIGINT,
    revoked_at BIGINT
);

CREATE TABLE audit (
    id TEXT COLLATE "C" PRIMARY KEY,
    at BIGINT NOT NULL,
    actor TEXT COLLATE "C" NOT NULL,
    act TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    detail TEXT COLLATE "C" NOT NULL
);

CREATE TABLE pools (
    id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE,
    description TEXT COLLATE "C" NOT NULL,
    labels TEXT COLLATE "C" NOT NULL,
    certificate TEXT COLLATE "C" NOT NULL,
    serial TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT
);

CREATE TABLE certificates (
    serial TEXT COLLATE "C" PRIMARY KEY,
    pool TEXT COLLATE "C" NOT NULL REFERENCES pools (id),
    issued_at BIGINT NOT NULL,
    revoked_at BIGINT
);

CREATE TABLE workers (
    id TEXT COLLATE "C" NOT NULL,
    pool TEXT COLLATE "C" NOT NULL REFERENCES pools (id),
    created_at BIGINT NOT NULL,
    available_at BIGINT,
    heard_at BIGINT NOT NULL,
    is_connected BIGINT NOT NULL,
    is_drained BIGINT NOT NULL,
    is_healthy BIGINT NOT NULL,
    is_passed_over BIGINT NOT NULL,
    note TEXT COLLATE "C",
    run TEXT COLLATE "C",
    session TEXT COLLATE "C" NOT NULL,
    instance TEXT COLLATE "C" NOT NULL,
    machine TEXT COLLATE "C" NOT NULL,
    journal TEXT COLLATE "C" NOT NULL,
    sent BIGINT NOT NULL,
    metadata TEXT COLLATE "C" NOT NULL,
    versions TEXT COLLATE "C" NOT NULL,
    engine TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (pool, id)
);
CREATE INDEX workers_idle ON workers (pool, id)
    WHERE is_connected = 1 AND is_drained = 0 AND is_healthy = 1 AND is_passed_over = 0 AND run IS NULL;

-- How far each journal was taken in, of those that a worker was heard with last. It has a new journal only
-- when it lost the old one.
CREATE TABLE journals (
    pool TEXT COLLATE "C" NOT NULL,
    worker TEXT COLLATE "C" NOT NULL,
    journal TEXT COLLATE "C" NOT NULL,
    received BIGINT NOT NULL,
    -- When it last said hello.
    heard_at BIGINT NOT NULL,
    PRIMARY KEY (pool, worker, journal)
);

-- The nonces that a worker used last: an old hello, sent again, must not speak for it.
CREATE TABLE nonces (
    pool TEXT COLLATE "C" NOT NULL,
    worker TEXT COLLATE "C" NOT NULL,
    nonce TEXT COLLATE "C" NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (pool, worker, nonce)
);

CREATE TABLE stacks (
    id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    pool TEXT COLLATE "C" NOT NULL REFERENCES pools (id),
    project_root TEXT COLLATE "C" NOT NULL,
    image TEXT COLLATE "C",
    hooks TEXT COLLATE "C" NOT NULL,
    environment TEXT COLLATE "C" NOT NULL,
    secrets_version BIGINT NOT NULL,
    secrets TEXT COLLATE "C",
    labels TEXT COLLATE "C" NOT NULL,
    is_autodeploy BIGINT NOT NULL,
    keeps_state BIGINT NOT NULL,
    lock_by TEXT COLLATE "C",
    lock_note TEXT COLLATE "C",
    lock_at BIGINT,
    source TEXT COLLATE "C",
    state_current TEXT COLLATE "C",
    blocker TEXT COLLATE "C",
    description TEXT COLLATE "C" NOT NULL,
    provider TEXT COLLATE "C" NOT NULL,
    namespace TEXT COLLATE "C" NOT NULL,
    repository TEXT COLLATE "C" NOT NULL,
    branch TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT
);

CREATE TABLE sources (
    id TEXT COLLATE "C" PRIMARY KEY,
    stack TEXT COLLATE "C" NOT NULL REFERENCES stacks (id),
    key TEXT COLLATE "C" NOT NULL,
    sha256 TEXT COLLATE "C" NOT NULL,
    size BIGINT NOT NULL,
    author TEXT COLLATE "C" NOT NULL,
    message TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    uploaded TEXT COLLATE "C" NOT NULL
);
CREATE INDEX sources_as_uploaded ON sources (stack, uploaded);

CREATE TABLE runs (
    id TEXT COLLATE "C" PRIMARY KEY,
    stack TEXT COLLATE "C" NOT NULL REFERENCES stacks (id),
    pool TEXT COLLATE "C" NOT NULL REFERENCES pools (id),
    type TEXT COLLATE "C" NOT NULL,
    rank BIGINT NOT NULL,
    is_autodeploy BIGINT NOT NULL,
    source TEXT COLLATE "C" NOT NULL REFERENCES sources (id),
    command TEXT COLLATE "C",
    triggered_by TEXT COLLATE "C" NOT NULL,
    -- The person who confirmed its plan last; none if nobody or autodeploy did.
    confirmed_by TEXT COLLATE "C",
    metadata TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    stage TEXT COLLATE "C" NOT NULL,
    epoch BIGINT NOT NULL,
    read_attempts BIGINT NOT NULL,
    standing TEXT COLLATE "C" NOT NULL,
    worker TEXT COLLATE "C",
    journal TEXT COLLATE "C",
    until_at BIGINT,
    deadline_at BIGINT,
    is_continued BIGINT NOT NULL,
    due_at BIGINT,
    stop_by TEXT COLLATE "C",
    note TEXT COLLATE "C",
    is_unknown BIGINT NOT NULL,
    has_changes BIGINT,
    delta TEXT COLLATE "C",
    outputs TEXT COLLATE "C" NOT NULL,
    history_count BIGINT NOT NULL,
    -- When its workspaces and specs are removed from the object store; none if that is done, or it is not over.
    clear_at BIGINT,
    log_length BIGINT NOT NULL
);
CREATE INDEX runs_of_stack ON runs (stack, id);
CREATE INDEX runs_waiting ON runs (pool, rank, id) WHERE standing = 'waiting';
CREATE INDEX runs_queued ON runs (stack, id) WHERE state = 'QUEUED';
CREATE INDEX runs_due ON runs (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX runs_of_worker ON runs (pool, worker) WHERE worker IS NOT NULL;

CREATE TABLE history (
    run TEXT COLLATE "C" NOT NULL REFERENCES runs (id),
    n BIGINT NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    at BIGINT NOT NULL,
    note TEXT COLLATE "C",
    PRIMARY KEY (run, n)
);

CREATE TABLE attempts (
    run TEXT COLLATE "C" NOT NULL REFERENCES runs (id),
    epoch BIGINT NOT NULL,
    stage TEXT COLLATE "C" NOT NULL,
    worker TEXT COLLATE "C" NOT NULL,
    offered_at BIGINT NOT NULL,
    granted_at BIGINT,
    ended_at BIGINT,
    end_note TEXT COLLATE "C",
    -- A result came.
    is_reported BIGINT NOT NULL,
    is_log_complete BIGINT NOT NULL,
    PRIMARY KEY (run, epoch, stage)
);

CREATE TABLE segments (
    run TEXT COLLATE "C" NOT NULL,
    epoch BIGINT NOT NULL,
    stage TEXT COLLATE "C" NOT NULL,
    section BIGINT NOT NULL,
    start BIGINT NOT NULL,
    length BIGINT NOT NULL,
    sha256 TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    -- Where in the whole run's log it stands; none if it came when its attempt was not current any more.
    run_start BIGINT,
    PRIMARY KEY (run, epoch, stage, section, start)
);
CREATE INDEX segments_of_run ON segments (run, run_start) WHERE run_start IS NOT NULL;

CREATE TABLE closings (
    run TEXT COLLATE "C" NOT NULL,
    epoch BIGINT NOT NULL,
    stage TEXT COLLATE "C" NOT NULL,
    section BIGINT NOT NULL,
    length BIGINT NOT NULL,
    PRIMARY KEY (run, epoch, stage, section)
);

CREATE TABLE states (
    id TEXT COLLATE "C" PRIMARY KEY,
    stack TEXT COLLATE "C" NOT NULL REFERENCES stacks (id),
    run TEXT COLLATE "C" NOT NULL REFERENCES runs (id),
    epoch BIGINT NOT NULL,
    stage TEXT COLLATE "C" NOT NULL,
    serial BIGINT NOT NULL,
    lineage TEXT COLLATE "C" NOT NULL,
    header TEXT COLLATE "C" NOT NULL,
    payload_sha256 TEXT COLLATE "C" NOT NULL,
    payload_size BIGINT NOT NULL,
    predecessor TEXT COLLATE "C",
    signature TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    orphaned TEXT COLLATE "C",
    UNIQUE (stack, payload_sha256)
);
CREATE INDEX states_of_stack ON states (stack, id);

CREATE TABLE workspaces (
    run TEXT COLLATE "C" NOT NULL REFERENCES runs (id),
    epoch BIGINT NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    size BIGINT NOT NULL,
    payload_sha256 TEXT COLLATE "C" NOT NULL,
    payload_size BIGINT NOT NULL,
    signature TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (run, epoch)
);

-- Outputs that a result has no room for, by their place among all of the run's.
CREATE TABLE outputs (
    run TEXT COLLATE "C" NOT NULL REFERENCES runs (id),
    n BIGINT NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    is_sensitive BIGINT NOT NULL,
    value TEXT COLLATE "C",
    PRIMARY KEY (run, n)
);

CREATE TABLE decisions (
    run TEXT COLLATE "C" NOT NULL REFERENCES runs (id),
    epoch BIGINT NOT NULL,
    stage TEXT COLLATE "C" NOT NULL,
    is_allowed BIGINT NOT NULL,
    denials TEXT COLLATE "C" NOT NULL,
    policy_sha256 TEXT COLLATE "C" NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (run, epoch, stage)
);

-- What a worker's present session has not acknowledged yet.
CREATE TABLE outbox (
    pool TEXT COLLATE "C" NOT NULL,
    worker TEXT COLLATE "C" NOT NULL,
    seq BIGINT NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    body TEXT COLLATE "C" NOT NULL,
    next_at BIGINT NOT NULL,
    PRIMARY KEY (pool, worker, seq)
);
CREATE INDEX outbox_due ON outbox (next_at, seq);

CREATE INDEX runs_to_clear ON runs (clear_at) WHERE clear_at IS NOT NULL;
CREATE INDEX journals_by_age ON journals (heard_at);
CREATE INDEX journals_of_worker ON journals (pool, worker, heard_at, journal);
CREATE INDEX nonces_by_age ON nonces (at);
CREATE INDEX nonces_of_worker ON nonces (pool, worker, at, nonce);
CREATE INDEX workers_connected ON workers (pool, id) WHERE is_connected = 1;
CREATE INDEX sources_of_stack ON sources (stack, key);
CREATE INDEX states_by_serial ON states (stack, serial, id) WHERE orphaned IS NULL;
-- Without those that only show what would change.
CREATE INDEX runs_that_change ON runs (stack, id) WHERE type <> 'PROPOSED';
