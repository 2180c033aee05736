//! Asking for records.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Store, StoreError, SyncRecord, TaskRecord, in_time, on, record::Detail};
use crate::api::money::dollars;

/// An empty text asks for any.
const TASKS: &str = "\
SELECT uid, namespace, name, agent, crontask, phase, reason, started, ended, cost, tokens, detail FROM tasks \
WHERE ($1 = '' OR namespace = $1) AND ($2 = '' OR name = $2) AND ($3 = '' OR agent = $3) AND ($4 = '' OR crontask = $4) \
ORDER BY ended DESC, uid LIMIT $5";

const SYNCS: &str = "\
SELECT uid, applied, revision, result, namespace, name, digest, message FROM syncs \
WHERE ($1 = '' OR namespace = $1) AND ($2 = '' OR name = $2) ORDER BY applied DESC, uid, revision, result LIMIT $3";

/// A sum of numbers may be a longer number in PostgreSQL.
const BY_AGENT: &str = "\
SELECT namespace, agent, COUNT(*), CAST(SUM(cost) AS BIGINT), CAST(SUM(tokens) AS BIGINT) FROM tasks \
WHERE ($1 = '' OR namespace = $1) AND ended >= $2 GROUP BY namespace, agent ORDER BY 4 DESC, 1, 2 LIMIT 10000";

const BY_CRONTASK: &str = "\
SELECT namespace, crontask, COUNT(*), CAST(SUM(cost) AS BIGINT), CAST(SUM(tokens) AS BIGINT) FROM tasks \
WHERE ($1 = '' OR namespace = $1) AND ended >= $2 GROUP BY namespace, crontask ORDER BY 4 DESC, 1, 2 LIMIT 10000";

const BY_DAY: &str = "\
SELECT '', CAST(ended / 86400000000 AS BIGINT), COUNT(*), CAST(SUM(cost) AS BIGINT), CAST(SUM(tokens) AS BIGINT) \
FROM tasks WHERE ($1 = '' OR namespace = $1) AND ended >= $2 GROUP BY ended / 86400000000 ORDER BY 2 DESC LIMIT 10000";

const DAY: i64 = 86_400_000_000;

/// Most records in an answer.
pub const MOST: u32 = 1000;

/// Which records are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// Tasks of this name.
    Task,
    /// Tasks of the agent of this name.
    Agent,
    /// Tasks of the `CronTask` of this name.
    Crontask,
    /// What the Sync of this name tried.
    Sync,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Of which kind.
    pub which: Which,
    /// In this namespace; empty: in all of them.
    pub namespace: String,
    /// Of this name; empty: all.
    pub name: String,
    /// The newest so many, [`MOST`] at most.
    pub limit: u32,
}

/// What costs are summed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// The agent that did the work.
    Agent,
    /// The `CronTask` that made the Task.
    Crontask,
    /// The day, in UTC, on which it ended.
    Day,
}

/// What Tasks cost together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// Namespace; empty for a day.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub namespace: String,
    /// Name of the agent or `CronTask`, or the day. Empty: Tasks of none.
    pub name: String,
    /// How many Tasks.
    pub tasks: i64,
    /// What they cost, in US dollars with six decimals.
    pub cost: String,
    /// Tokens of all kinds that they took.
    pub tokens: i64,
}

type TaskRow = (String, String, String, String, String, String, String, Option<i64>, i64, i64, i64, String);
type SyncRow = (String, i64, String, String, String, String, Option<String>, Option<String>);

impl Store {
    /// Tasks, the last to end first.
    ///
    /// # Errors
    /// [`StoreError`] where the database does not answer.
    pub async fn tasks(&self, asked: &Asked) -> Result<Vec<TaskRecord>, StoreError> {
        let name_if = |which| if asked.which == which { asked.name.clone() } else { String::new() };
        let (name, agent, crontask) = (name_if(Which::Task), name_if(Which::Agent), name_if(Which::Crontask));
        let rows: Vec<TaskRow> = in_time(async {
            on!(&self.0, pool => {
                let query = sqlx::query_as(TASKS).bind(asked.namespace.clone()).bind(name).bind(agent).bind(crontask);
                Ok(query.bind(i64::from(asked.limit.min(MOST))).fetch_all(pool).await?)
            })
        })
        .await?;
        rows.into_iter().map(task).collect()
    }

    /// What Syncs tried, the newest first.
    ///
    /// # Errors
    /// [`StoreError`] where the database does not answer.
    pub async fn syncs(&self, asked: &Asked) -> Result<Vec<SyncRecord>, StoreError> {
        let rows: Vec<SyncRow> = in_time(async {
            on!(&self.0, pool => {
                let query = sqlx::query_as(SYNCS).bind(asked.namespace.clone()).bind(asked.name.clone());
                Ok(query.bind(i64::from(asked.limit.min(MOST))).fetch_all(pool).await?)
            })
        })
        .await?;
        Ok(rows.into_iter().map(sync).collect())
    }

    /// What the Tasks cost that ended since then, the dearest first; of days the last first. An empty namespace asks for
    /// all.
    ///
    /// # Errors
    /// [`StoreError`] where the database does not answer.
    pub async fn cost(&self, by: By, namespace: &str, since: Timestamp) -> Result<Vec<Cost>, StoreError> {
        let since = since.as_microsecond();
        let namespace = namespace.to_owned();
        if by == By::Day {
            let rows: Vec<(String, i64, i64, i64, i64)> = in_time(async {
                on!(&self.0, pool => Ok(sqlx::query_as(BY_DAY).bind(namespace).bind(since).fetch_all(pool).await?))
            })
            .await?;
            return Ok(rows
                .into_iter()
                .map(|(all, day, tasks, cost, tokens)| sum((all, on_day(day), tasks, cost, tokens)))
                .collect());
        }
        let statement = if by == By::Agent { BY_AGENT } else { BY_CRONTASK };
        let rows: Vec<(String, String, i64, i64, i64)> = in_time(async {
            on!(&self.0, pool => Ok(sqlx::query_as(statement).bind(namespace).bind(since).fetch_all(pool).await?))
        })
        .await?;
        Ok(rows.into_iter().map(sum).collect())
    }
}

fn time(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or_default()
}

fn on_day(day: i64) -> String {
    time(day.saturating_mul(DAY)).strftime("%Y-%m-%d").to_string()
}

fn sum((namespace, name, tasks, cost, tokens): (String, String, i64, i64, i64)) -> Cost {
    Cost { namespace, name, tasks, cost: dollars(cost), tokens }
}

fn task(row: TaskRow) -> Result<TaskRecord, StoreError> {
    let (uid, namespace, name, agent, crontask, phase, reason, started, ended, cost, tokens, detail) = row;
    let detail: Detail = serde_json::from_str(&detail).map_err(StoreError::Damaged)?;
    let (started, ended, cost) = (started.map(time), time(ended), dollars(cost));
    Ok(TaskRecord { uid, namespace, name, agent, crontask, phase, reason, started, ended, cost, tokens, detail })
}

fn sync((uid, applied, revision, result, namespace, name, digest, message): SyncRow) -> SyncRecord {
    SyncRecord { uid, namespace, name, revision, result, applied: time(applied), digest, message }
}
