-- A deployment serves revisions: a version and the settings it is served with. They never change, and like the history
-- they outlive their deployment, so that the third revision of `line` never means two things.
CREATE TABLE revisions (
    deployment TEXT NOT NULL,
    revision   INTEGER NOT NULL CHECK (revision > 0),
    model      TEXT NOT NULL,
    version    INTEGER NOT NULL,
    reference  TEXT NOT NULL, -- as it was asked for: `line`, `line:3` or `line@champion`
    settings   TEXT NOT NULL, -- JSON; what was left open is not in it
    created_at TEXT NOT NULL,
    PRIMARY KEY (deployment, revision)
) STRICT;

CREATE INDEX revisions_by_version ON revisions (model, version);

CREATE TABLE traffic_changes (
    id          INTEGER PRIMARY KEY,
    deployment  TEXT NOT NULL,
    what        TEXT NOT NULL,
    revision    INTEGER,       -- the one that it is about
    old_traffic TEXT NOT NULL, -- JSON
    new_traffic TEXT NOT NULL, -- JSON
    reason      TEXT,
    changed_at  TEXT NOT NULL
) STRICT;

CREATE INDEX traffic_changes_by_deployment ON traffic_changes (deployment);

INSERT INTO revisions (deployment, revision, model, version, reference, settings, created_at)
    SELECT name, 1, model, version, reference, '{}', created_at FROM deployments;

INSERT INTO traffic_changes (deployment, what, revision, old_traffic, new_traffic, changed_at)
    SELECT name, 'deployed', 1, '{"shares":[]}', '{"shares":[{"revision":1,"percent":100}]}', created_at
    FROM deployments ORDER BY created_at, name;

CREATE TABLE deployments_of_revisions (
    name       TEXT PRIMARY KEY,
    traffic    TEXT NOT NULL, -- JSON
    is_default INTEGER NOT NULL CHECK (is_default IN (0, 1))
) STRICT;

INSERT INTO deployments_of_revisions (name, traffic, is_default)
    SELECT name, '{"shares":[{"revision":1,"percent":100}]}', is_default FROM deployments;

DROP TABLE deployments;
ALTER TABLE deployments_of_revisions RENAME TO deployments;
CREATE UNIQUE INDEX one_default_deployment ON deployments (is_default) WHERE is_default = 1;
