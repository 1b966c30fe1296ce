-- Times are RFC 3339 in UTC with microseconds, so that they sort as text. Digests are `sha256:` and 64 digits.

CREATE TABLE datasets (
    name       TEXT PRIMARY KEY,
    digest     TEXT NOT NULL,
    rows       INTEGER NOT NULL,
    bytes      INTEGER NOT NULL,
    source     TEXT NOT NULL,
    reading    TEXT NOT NULL, -- JSON
    schema     TEXT NOT NULL, -- JSON
    created_at TEXT NOT NULL
) STRICT;

CREATE TABLE models (
    name       TEXT PRIMARY KEY,
    created_at TEXT NOT NULL
) STRICT;

-- The counters outlive their models, so that `line:3` never means two things.
CREATE TABLE version_counters (
    model TEXT PRIMARY KEY,
    last  INTEGER NOT NULL
) STRICT;

CREATE TABLE versions (
    model    TEXT NOT NULL REFERENCES models (name),
    version  INTEGER NOT NULL CHECK (version > 0),
    digest   TEXT NOT NULL,
    bytes    INTEGER NOT NULL,
    manifest TEXT NOT NULL, -- JSON
    PRIMARY KEY (model, version)
) STRICT;

CREATE TABLE aliases (
    model   TEXT NOT NULL,
    alias   TEXT NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (model, alias),
    FOREIGN KEY (model, version) REFERENCES versions (model, version)
) STRICT;

CREATE INDEX aliases_by_version ON aliases (model, version);

-- The history outlives models and versions: it says what was, not what is.
CREATE TABLE alias_changes (
    id          INTEGER PRIMARY KEY,
    model       TEXT NOT NULL,
    alias       TEXT NOT NULL,
    old_version INTEGER,
    new_version INTEGER,
    changed_at  TEXT NOT NULL
) STRICT;

CREATE INDEX alias_changes_by_model ON alias_changes (model);

CREATE TABLE deployments (
    name       TEXT PRIMARY KEY,
    model      TEXT NOT NULL,
    version    INTEGER NOT NULL,
    reference  TEXT NOT NULL, -- as it was asked for: `line`, `line:3` or `line@champion`
    is_default INTEGER NOT NULL CHECK (is_default IN (0, 1)),
    created_at TEXT NOT NULL,
    FOREIGN KEY (model, version) REFERENCES versions (model, version)
) STRICT;

CREATE INDEX deployments_by_version ON deployments (model, version);
CREATE UNIQUE INDEX one_default_deployment ON deployments (is_default) WHERE is_default = 1;

CREATE TABLE jobs (
    id             TEXT PRIMARY KEY,
    spec           TEXT NOT NULL, -- JSON
    model          TEXT NOT NULL,
    state          TEXT NOT NULL
                   CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'interrupted')),
    progress       TEXT,          -- JSON
    error          TEXT,
    result_model   TEXT,
    result_version INTEGER,
    cpu_seconds    REAL NOT NULL,
    energy         TEXT,          -- JSON
    created_at     TEXT NOT NULL,
    started_at     TEXT,
    finished_at    TEXT,
    CHECK ((state = 'succeeded') = (result_version IS NOT NULL)),
    CHECK ((result_model IS NULL) = (result_version IS NULL))
) STRICT;

CREATE INDEX jobs_by_state ON jobs (state);
