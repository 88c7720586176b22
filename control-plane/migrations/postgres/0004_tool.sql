-- What a stack's phases run: JSON.

ALTER TABLE stacks ADD COLUMN tool TEXT COLLATE "C" NOT NULL DEFAULT '{"kind":"TERRAFORM"}';
