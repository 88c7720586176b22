-- Who did it: a state that a run came to, and a state version that a person pushed.

ALTER TABLE history ADD COLUMN by_actor TEXT COLLATE "C";
ALTER TABLE runs ADD COLUMN stopped_by TEXT COLLATE "C";

-- A person's push has no run: its `run` is the push's own id, which the pool's signature names.
ALTER TABLE states DROP CONSTRAINT states_run_fkey;
ALTER TABLE states ADD COLUMN pushed_by TEXT COLLATE "C";
