use std::{collections::HashMap, path::Path, time::Duration};

use sqlx::{
    Connection, Row,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous},
};
use wattle_core::{Activity, Energy, Label};

use crate::{
    By, Error, Result, UsageLine, UsageQuery,
    pending::{Key, Sums},
};

/// The sums of all usage, for ever, in one SQLite file with one writer.
///
/// A row is a minute and whoever had the work done, at about 150 bytes. A server writes two rows a minute and one more
/// for each deployment that is called: some 150 MB a year, and up to 75 MB more for each deployment that never rests.
/// Summing a year takes a few seconds. After a crash of the process all that was written is there; after a power cut the
/// last transactions may be missing, and never a part of one.
#[derive(Debug, Clone)]
pub struct Ledger {
    pool: SqlitePool,
}

impl Ledger {
    /// Opens the ledger, and makes it where there is none.
    ///
    /// # Errors
    /// When the file cannot be opened, is no ledger (`Damaged`), or the disk is full.
    pub async fn open(path: &Path) -> Result<Ledger> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(5));
        // One connection writes, so that a long sum does not hold up the batches.
        let pool = SqlitePoolOptions::new().max_connections(2).before_acquire(|connection, _| {
            // A full disk ends a transaction behind the library's back, which then holds the connection to be in one.
            let usable = !connection.is_in_transaction();
            Box::pin(std::future::ready(Ok(usable)))
        });
        let pool = pool.connect_with(options).await?;
        sqlx::migrate!("./migrations").run(&pool).await?;
        Ok(Ledger { pool })
    }

    /// The sums that a query asks for, in the order of their keys; what belongs to no key comes last.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageLine>> {
        let since = query.since.map_or(i64::MIN, |since| since.timestamp().div_euclid(60));
        let mut lines: Vec<UsageLine> = Vec::new();
        for row in sqlx::query(statement(query.by)).bind(since).fetch_all(&self.pool).await? {
            let line = read_line(&row)?;
            match lines.last_mut() {
                Some(last) if last.key == line.key && last.activity == line.activity => {
                    last.requests += line.requests;
                    last.rows += line.rows;
                    last.cpu_seconds += line.cpu_seconds;
                    last.energy += &line.energy;
                }
                _ => lines.push(line),
            }
        }
        Ok(lines)
    }

    /// Adds sums to their rows, all or none.
    pub(crate) async fn add(&self, sums: &HashMap<Key, Sums>) -> Result<()> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        for (key, sums) in sums {
            sqlx::query(ADD)
                .bind(key.minute)
                .bind(key.activity.as_str())
                .bind(key.deployment.as_ref().map_or("", |name| name.as_str()))
                .bind(key.model.as_ref().map_or("", |name| name.as_str()))
                .bind(key.version.map_or(-1, i64::from))
                .bind(key.label.as_str())
                .bind(&*key.source)
                .bind(i64::try_from(sums.requests).unwrap_or(i64::MAX))
                .bind(i64::try_from(sums.rows).unwrap_or(i64::MAX))
                .bind(sums.cpu_seconds)
                .bind(sums.joules_low)
                .bind(sums.joules)
                .bind(sums.joules_high)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Closes the file, once everything under way has ended.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

const ADD: &str = "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET
        requests = requests + excluded.requests,
        rows = rows + excluded.rows,
        cpu_seconds = cpu_seconds + excluded.cpu_seconds,
        joules_low = joules_low + excluded.joules_low,
        joules = joules + excluded.joules,
        joules_high = joules_high + excluded.joules_high";

/// Sums by a key, in an order that keeps the lines of a key and of an activity together.
macro_rules! sums_by {
    ($key:literal, $order:literal) => {
        concat!(
            "SELECT ",
            $key,
            " AS key, activity, label, source, SUM(requests) AS requests, SUM(rows) AS rows,
                SUM(cpu_seconds) AS cpu_seconds, SUM(joules_low) AS joules_low, SUM(joules) AS joules,
                SUM(joules_high) AS joules_high
            FROM usage WHERE minute >= ?
            GROUP BY key, activity, label, source
            ORDER BY key IS NULL, ",
            $order,
            ", CASE activity WHEN 'predict' THEN 1 WHEN 'load' THEN 2 WHEN 'train' THEN 3 WHEN 'idle' THEN 4 ELSE 5 END, label, source"
        )
    };
}

fn statement(by: By) -> &'static str {
    match by {
        By::Total => sums_by!("NULL", "key"),
        By::Deployment => sums_by!("NULLIF(deployment, '')", "key"),
        By::Model => sums_by!(
            "CASE WHEN model = '' THEN NULL WHEN version < 0 THEN model ELSE model || ':' || version END",
            "MIN(model), MIN(version)"
        ),
        By::Day => sums_by!("date(minute * 60, 'unixepoch')", "key"),
    }
}

fn read_line(row: &SqliteRow) -> Result<UsageLine> {
    let activity: &str = row.try_get("activity")?;
    let label: &str = row.try_get("label")?;
    let unsigned = |column| row.try_get::<i64, _>(column).map(|value| u64::try_from(value).unwrap_or(0));
    Ok(UsageLine {
        key: row.try_get("key")?,
        activity: ACTIVITIES
            .into_iter()
            .find(|known| known.as_str() == activity)
            .ok_or_else(|| Error::Damaged(format!("it counts {activity:?}, which is unknown")))?,
        requests: unsigned("requests")?,
        rows: unsigned("rows")?,
        cpu_seconds: row.try_get("cpu_seconds")?,
        energy: Energy {
            joules_low: row.try_get("joules_low")?,
            joules: row.try_get("joules")?,
            joules_high: row.try_get("joules_high")?,
            label: [Label::Measured, Label::Estimated]
                .into_iter()
                .find(|known| known.as_str() == label)
                .ok_or_else(|| Error::Damaged(format!("it says {label:?}, which is unknown")))?,
            source: row.try_get::<String, _>("source")?.into(),
        },
    })
}

const ACTIVITIES: [Activity; 5] =
    [Activity::Predict, Activity::Load, Activity::Train, Activity::Idle, Activity::Unattributed];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use chrono::DateTime;
    use wattle_core::Usage;

    use super::*;
    use crate::pending::{Pending, tests::request};

    const DAY: i64 = 24 * 60;

    fn batch(usages: impl IntoIterator<Item = (i64, Usage)>) -> HashMap<Key, Sums> {
        let mut pending = Pending::default();
        for (minute, usage) in usages {
            pending.add(minute, usage);
        }
        pending.drain()
    }

    fn keys(lines: &[UsageLine]) -> Vec<(Option<&str>, Activity, u64)> {
        lines.iter().map(|line| (line.key.as_deref(), line.activity, line.requests)).collect()
    }

    #[tokio::test]
    async fn a_ledger_reopened_keeps_its_sums() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.sqlite");
        for round in 1..=3 {
            let ledger = Ledger::open(&path).await.unwrap();
            ledger.add(&batch([(5, request("a")), (5, request("a")), (6, request("a"))])).await.unwrap();
            let lines = ledger.usage(&UsageQuery::default()).await.unwrap();
            assert_eq!(lines.len(), 1);
            assert_eq!((lines[0].requests, lines[0].rows), (3 * round, 9 * round));
            assert_eq!(lines[0].energy.joules, 1.5 * round as f64);
            ledger.close().await;
        }
    }

    #[tokio::test]
    async fn sums_are_told_apart_by_what_the_query_names() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&folder.path().join("ledger.sqlite")).await.unwrap();
        let none = Usage { deployment: None, model: None, version: None, requests: 0, rows: 0, ..request("a") };
        let train = Usage { activity: Activity::Train, deployment: None, version: None, ..request("a") };
        let idle = Usage { activity: Activity::Idle, ..none };
        let mut measured = request("b");
        measured.energy.label = Label::Measured;
        measured.energy.source = "rapl".into();
        let tenth = Usage { version: Some(10), ..request("b") };
        let second = Usage { version: Some(2), ..request("b") };
        let entries = [(0, request("a")), (1, measured), (DAY, tenth), (DAY, second), (DAY, train), (DAY - 1, idle)];
        ledger.add(&batch(entries)).await.unwrap();

        let usage = async |by, since: i64| {
            let since = DateTime::from_timestamp(since * 60, 0);
            ledger.usage(&UsageQuery { by, since }).await.unwrap()
        };
        let (predict, train, idle) = (Activity::Predict, Activity::Train, Activity::Idle);
        let total = usage(By::Total, 0).await;
        assert_eq!(keys(&total), [(None, predict, 4), (None, train, 1), (None, idle, 0)]);
        assert_eq!((total[0].energy.label, &*total[0].energy.source), (Label::Estimated, "test + rapl"));
        assert_eq!(total[0].energy.joules, 2.0);
        assert_eq!(
            keys(&usage(By::Deployment, 0).await),
            [(Some("a"), predict, 1), (Some("b"), predict, 3), (None, train, 1), (None, idle, 0)]
        );
        assert_eq!(
            keys(&usage(By::Model, 0).await),
            [
                (Some("line"), train, 1),
                (Some("line:1"), predict, 2),
                (Some("line:2"), predict, 1),
                (Some("line:10"), predict, 1),
                (None, idle, 0)
            ]
        );
        assert_eq!(
            keys(&usage(By::Day, 0).await),
            [
                (Some("1970-01-01"), predict, 2),
                (Some("1970-01-01"), idle, 0),
                (Some("1970-01-02"), predict, 2),
                (Some("1970-01-02"), train, 1)
            ]
        );
        assert_eq!(keys(&usage(By::Total, DAY).await), [(None, predict, 2), (None, train, 1)]);
    }

    #[tokio::test]
    async fn a_file_that_is_no_ledger_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.sqlite");
        fs::write(&path, "this is not a database, and long enough to be taken for one if nobody looked").unwrap();
        assert!(matches!(Ledger::open(&path).await, Err(Error::Damaged(_))));
    }
}
