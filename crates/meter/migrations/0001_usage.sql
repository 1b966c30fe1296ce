-- One row for a minute and whoever had the work done. Absent names are '' and an absent version is -1, since SQLite
-- takes two nulls in a key for different.
CREATE TABLE usage (
    minute INTEGER NOT NULL,
    activity TEXT NOT NULL,
    deployment TEXT NOT NULL,
    model TEXT NOT NULL,
    version INTEGER NOT NULL,
    label TEXT NOT NULL,
    source TEXT NOT NULL,
    requests INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    cpu_seconds REAL NOT NULL,
    joules_low REAL NOT NULL,
    joules REAL NOT NULL,
    joules_high REAL NOT NULL,
    PRIMARY KEY (minute, activity, deployment, model, version, label, source)
) STRICT, WITHOUT ROWID;
