//! Putting records in, and taking old ones out.

use std::time::Duration;

use jiff::Timestamp;

use super::{Store, StoreError, SyncRecord, TaskRecord, in_time, on};

const TASK: &str = "\
INSERT INTO tasks (uid, namespace, name, agent, crontask, phase, reason, started, ended, cost, tokens, detail) \
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (uid) DO NOTHING";

// The digest and the words of an entry may come after it.
const SYNC: &str = "\
INSERT INTO syncs (uid, applied, revision, result, namespace, name, digest, message) \
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (uid, applied, revision, result) \
DO UPDATE SET digest = excluded.digest, message = excluded.message";

/// Records that are taken out at once: others write in between.
const AT_ONCE: i64 = 5000;

const OLD_TASKS: &str = "DELETE FROM tasks WHERE uid IN (SELECT uid FROM tasks WHERE ended < $1 LIMIT $2)";
const MANY_TASKS: &str =
    "DELETE FROM tasks WHERE uid IN (SELECT uid FROM tasks ORDER BY ended DESC, uid DESC LIMIT $2 OFFSET $1)";
const OLD_SYNCS: &str = "\
DELETE FROM syncs WHERE (uid, applied, revision, result) IN \
(SELECT uid, applied, revision, result FROM syncs WHERE applied < $1 LIMIT $2)";
const MANY_SYNCS: &str = "\
DELETE FROM syncs WHERE (uid, applied, revision, result) IN \
(SELECT uid, applied, revision, result FROM syncs ORDER BY applied DESC, uid DESC, revision, result LIMIT $2 OFFSET $1)";

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Records that are younger.
    pub age: Duration,
    /// The newest so many Tasks, and as many revisions of Syncs.
    pub records: u32,
}

impl Keep {
    /// Records of before this time go.
    pub fn since(&self, now: Timestamp) -> Timestamp {
        let age = jiff::SignedDuration::try_from(self.age).unwrap_or(jiff::SignedDuration::MAX);
        now.checked_sub(age).unwrap_or(Timestamp::MIN)
    }
}

impl Store {
    /// Puts records in, all or none. A Task that is there already stays as it is. Returns how many are new, or were
    /// written anew.
    ///
    /// # Errors
    /// [`StoreError`] where the database did not take them.
    pub async fn put(&self, tasks: &[TaskRecord], syncs: &[SyncRecord]) -> Result<u64, StoreError> {
        in_time(async {
            on!(&self.0, pool => {
                let mut transaction = pool.begin().await?;
                let mut count = 0;
                for record in tasks {
                    let detail = serde_json::to_string(&record.detail).map_err(StoreError::Damaged)?;
                    let insert = sqlx::query(TASK)
                        .bind(clean(&record.uid))
                        .bind(clean(&record.namespace))
                        .bind(clean(&record.name))
                        .bind(clean(&record.agent))
                        .bind(clean(&record.crontask))
                        .bind(clean(&record.phase))
                        .bind(clean(&record.reason))
                        .bind(record.started.map(Timestamp::as_microsecond))
                        .bind(record.ended.as_microsecond())
                        .bind(record.micros())
                        .bind(record.tokens)
                        .bind(detail);
                    count += insert.execute(&mut *transaction).await?.rows_affected();
                }
                for record in syncs {
                    let insert = sqlx::query(SYNC)
                        .bind(clean(&record.uid))
                        .bind(record.applied.as_microsecond())
                        .bind(clean(&record.revision))
                        .bind(clean(&record.result))
                        .bind(clean(&record.namespace))
                        .bind(clean(&record.name))
                        .bind(record.digest.as_deref().map(clean))
                        .bind(record.message.as_deref().map(clean));
                    count += insert.execute(&mut *transaction).await?.rows_affected();
                }
                transaction.commit().await?;
                Ok(count)
            })
        })
        .await
    }

    /// Takes out what is not kept. Returns how many records went.
    ///
    /// # Errors
    /// [`StoreError`] where the database did not do it.
    pub async fn trim(&self, keep: Keep, now: Timestamp) -> Result<u64, StoreError> {
        let since = keep.since(now).as_microsecond();
        let mut gone = 0;
        for (statement, bound) in [
            (OLD_TASKS, since),
            (MANY_TASKS, i64::from(keep.records)),
            (OLD_SYNCS, since),
            (MANY_SYNCS, i64::from(keep.records)),
        ] {
            loop {
                let some = in_time(async {
                    on!(&self.0, pool => {
                        let delete = sqlx::query(statement).bind(bound).bind(AT_ONCE);
                        Ok(delete.execute(pool).await?.rows_affected())
                    })
                })
                .await?;
                gone += some;
                if some == 0 {
                    break;
                }
            }
        }
        Ok(gone)
    }
}

/// PostgreSQL takes no NUL in a text, and what pods say may have one.
fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
