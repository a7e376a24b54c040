"""The tables of a run's ledger.

Counts are kept by triggers inside the same transactions that write the items, so they can neither be doubled by a
redelivery nor drift from the rows.
"""

from __future__ import annotations

from typing import Final

#: Changes with the schema: a ledger of another version is refused, not guessed at.
VERSION: Final = 3

#: Chunks of one item that a server failed on, which is sent again alone. Added to ledgers of version 3 when they are
#: opened to be written: those that an earlier version began have none such.
DEFERRAL: Final = """
CREATE TABLE IF NOT EXISTS deferral (
    chunk INTEGER PRIMARY KEY,
    due REAL NOT NULL,                      -- not before, in seconds since 1970
    rounds INTEGER NOT NULL,                -- how often it was deferred
    events TEXT NOT NULL                    -- JSON list, of backlog.fault_attribution.FaultHistory
);
"""

#: Labels on the PACS's studies. Added in the same way.
LABELS: Final = """
CREATE TABLE IF NOT EXISTS study_label (
    study TEXT, label TEXT,                 -- the PACS's own id
    item INTEGER NOT NULL,                  -- the first whose report asked for it
    state INTEGER NOT NULL,                 -- 0 was there before, 1 put by this run or about to be, 2 taken off again
    PRIMARY KEY (study, label)
) WITHOUT ROWID;
"""

#: What of a list of wanted images was found: rows of the list, whose values are kept elsewhere. Added in the same way.
MATCHES: Final = """
CREATE TABLE IF NOT EXISTS only_match (
    row INTEGER, study TEXT,                -- the study's UID where a value may name several, else empty
    items INTEGER NOT NULL,
    PRIMARY KEY (row, study)
) WITHOUT ROWID;
"""

#: Images that a modality sent and whose items have ended: they are deleted in Orthanc. Added in the same way.
EVICTION: Final = """
CREATE TABLE IF NOT EXISTS eviction (
    item INTEGER PRIMARY KEY,
    instance TEXT NOT NULL,                 -- the PACS's own id; empty where no worker said it
    ref TEXT NOT NULL                       -- study, series and SOP Instance UID
);
"""

#: Chunks of a followed source's new images that wait: they are sent before others. Added in the same way.
ARRIVAL: Final = """
CREATE TABLE IF NOT EXISTS arrival (chunk INTEGER PRIMARY KEY);
"""

#: A followed folder's files that were listed, of this day and of those before. Added in the same way.
TAKEN: Final = """
CREATE TABLE IF NOT EXISTS taken (
    digest BLOB PRIMARY KEY                 -- of name, size and time of change
) WITHOUT ROWID;
"""

SCHEMA: Final = f"""
PRAGMA user_version = {VERSION};
CREATE TABLE run (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE chunk (
    no INTEGER PRIMARY KEY,
    items TEXT NOT NULL,                    -- JSON [[item, ref], ...]
    state INTEGER NOT NULL DEFAULT 0        -- 0 waiting, 1 dispatched, 2 harvested
);
CREATE INDEX chunk_open ON chunk (state, no) WHERE state < 2;
CREATE TABLE item (
    no INTEGER PRIMARY KEY,                 -- its place in the source, from 0
    outcome TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    detail TEXT NOT NULL DEFAULT '',
    stage INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    ref TEXT NOT NULL DEFAULT '',
    instance TEXT,
    sop_instance_uid TEXT NOT NULL DEFAULT '',
    study_instance_uid TEXT NOT NULL DEFAULT '',
    sr_sop_instance_uid TEXT NOT NULL DEFAULT '',
    sr_instance TEXT NOT NULL DEFAULT '',
    sr_sha256 TEXT NOT NULL DEFAULT '',
    sr_ours INTEGER NOT NULL DEFAULT 0,     -- 1 when this run wrote it, 0 when an earlier one had
    flags TEXT NOT NULL DEFAULT '',
    scores TEXT NOT NULL DEFAULT '',        -- JSON list, in the model's order
    chunk INTEGER,                          -- NULL when the listing alone decided it
    engine TEXT NOT NULL DEFAULT '',
    derived_objects TEXT NOT NULL DEFAULT '',    -- JSON list of messages.DerivedRecord
    ended REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400.0)
);
CREATE UNIQUE INDEX item_instance ON item (instance) WHERE outcome = 'reported';
CREATE INDEX item_quarantined ON item (reason, no) WHERE outcome = 'quarantined';
CREATE TABLE tally (
    outcome TEXT, reason TEXT, stage INTEGER, count INTEGER NOT NULL, PRIMARY KEY (outcome, reason, stage)
) WITHOUT ROWID;
CREATE TRIGGER item_in AFTER INSERT ON item BEGIN
    INSERT INTO tally VALUES (new.outcome, new.reason, new.stage, 1)
    ON CONFLICT (outcome, reason, stage) DO UPDATE SET count = count + 1;
END;
CREATE TRIGGER item_out AFTER DELETE ON item BEGIN
    UPDATE tally SET count = count - 1 WHERE outcome = old.outcome AND reason = old.reason AND stage = old.stage;
END;
CREATE TABLE timing (                       -- how long each stage of each chunk took
    chunk INTEGER, stage INTEGER, ms INTEGER NOT NULL, items INTEGER NOT NULL, attempt INTEGER NOT NULL,
    PRIMARY KEY (chunk, stage)
) WITHOUT ROWID;
CREATE TABLE effect (                       -- what this run changed or found in the PACS, in order; never deleted
    seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, item INTEGER NOT NULL, at REAL NOT NULL, UNIQUE (kind, item)
);
CREATE TABLE retracted (
    item INTEGER PRIMARY KEY, sr_sop_instance_uid TEXT NOT NULL, found INTEGER NOT NULL, at REAL NOT NULL
);
{DEFERRAL}{LABELS}{MATCHES}{EVICTION}{ARRIVAL}{TAKEN}"""

#: Kinds of effects: a report stored by this run, one of an earlier run found instead, one deleted again.
STORED: Final = "report.stored"
FOUND: Final = "report.found"
RETRACTED: Final = "report.retracted"
#: A report that a modality confirmed to have.
DELIVERED: Final = "report.delivered"
#: The same of what this run stored beside a report, and deleted again.
DERIVED_STORED: Final = "derived_objects.stored"
DERIVED_RETRACTED: Final = "derived_objects.retracted"
#: Labels that this run put on a study for an item's findings, and took off again.
LABELLED: Final = "labels.put"
UNLABELLED: Final = "labels.removed"
