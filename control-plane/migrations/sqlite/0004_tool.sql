-- What a stack's phases run: JSON.

ALTER TABLE stacks ADD COLUMN tool TEXT NOT NULL DEFAULT '{"kind":"TERRAFORM"}';
