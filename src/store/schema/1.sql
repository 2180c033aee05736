CREATE TABLE tasks (
  uid TEXT NOT NULL PRIMARY KEY,
  namespace TEXT NOT NULL,
  name TEXT NOT NULL,
  agent TEXT NOT NULL,
  crontask TEXT NOT NULL,
  phase TEXT NOT NULL,
  reason TEXT NOT NULL,
  started BIGINT,
  ended BIGINT NOT NULL,
  cost BIGINT NOT NULL,
  tokens BIGINT NOT NULL,
  detail TEXT NOT NULL
);
CREATE INDEX tasks_by_name ON tasks (namespace, name, ended);
CREATE INDEX tasks_by_end ON tasks (ended);
CREATE TABLE syncs (
  uid TEXT NOT NULL,
  applied BIGINT NOT NULL,
  revision TEXT NOT NULL,
  result TEXT NOT NULL,
  namespace TEXT NOT NULL,
  name TEXT NOT NULL,
  digest TEXT,
  message TEXT,
  PRIMARY KEY (uid, applied, revision, result)
);
CREATE INDEX syncs_by_name ON syncs (namespace, name, applied);
CREATE INDEX syncs_by_time ON syncs (applied);
