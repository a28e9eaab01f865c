//! Faults of the database, and of the way to it.

use std::time::Duration;

use local_stack::sql_server::faults::{Effect, Fault as Scripted, Moment, Occasion};
use test_bench::wait::PATIENCE;

use super::{Duplicates, Fault};
use crate::evidence::Proof;
use crate::mode::Mode;
use crate::stand::{LIMITED_USER, Stand, StandOptions};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "sql-sigkill",
        title: "SQL server SIGKILL and restart",
        does: "The SQL server's process and the PostgreSQL behind it are killed by SIGKILL under load, and started again after 3 s, three times; two workers.",
        takes: 35,
        options: || StandOptions { workers: 2, sql_process: true, ..StandOptions::default() },
        starts_workers: true,
        strike: |stand| Box::pin(kill_sql(stand)),
        proofs: |_| vec![Proof::SqlError(&["client"])],
        duplicates: Duplicates::OnlyUnknown,
    },
    Fault {
        name: "cut-before-commit",
        title: "connection cut before commit",
        does: "A fifth of all bulk loads end with the connection cut, after the rows were taken and before COMMIT is sent.",
        takes: 20,
        options: StandOptions::default,
        starts_workers: true,
        strike: |stand| {
            Box::pin(script(stand, Occasion::BulkLoad, Effect::Disconnect(Moment::After), "client"))
        },
        proofs: |_| vec![Proof::SqlError(&["client"])],
        duplicates: Duplicates::OnlyUnknown,
    },
    Fault {
        name: "cut-during-commit",
        title: "connection cut during commit",
        does: "A fifth of all connections are cut when COMMIT has been sent, and the transaction is rolled back.",
        takes: 20,
        options: StandOptions::default,
        starts_workers: true,
        strike: |stand| {
            Box::pin(script(stand, Occasion::Commit, Effect::Disconnect(Moment::Before), "client"))
        },
        proofs: |_| vec![Proof::unknown()],
        duplicates: Duplicates::OnlyUnknown,
    },
    Fault {
        name: "cut-after-commit",
        title: "connection cut after commit, before the answer",
        does: "A fifth of all connections are cut when the transaction is committed, and before its answer.",
        takes: 20,
        options: StandOptions::default,
        starts_workers: true,
        strike: |stand| {
            Box::pin(script(stand, Occasion::Commit, Effect::Disconnect(Moment::After), "client"))
        },
        proofs: |_| vec![Proof::unknown()],
        duplicates: Duplicates::OnlyUnknown,
    },
    Fault {
        name: "deadlock",
        title: "deadlock victim",
        does: "A fifth of all bulk loads are refused as a deadlock's victim (1205).",
        takes: 20,
        options: || StandOptions { workers: 2, ..StandOptions::default() },
        starts_workers: true,
        strike: |stand| Box::pin(script(stand, Occasion::BulkLoad, Effect::Reject(1205.into()), "1205")),
        proofs: |_| vec![Proof::SqlError(&["1205"])],
        duplicates: Duplicates::OnlyUnknown,
    },
    Fault {
        name: "throttling",
        title: "30 s of throttling",
        does: "For 30 s seven of ten bulk loads are refused because the service is busy (40501), and the others are slowed down to 2,000 rows a second altogether.",
        takes: 65,
        options: StandOptions::default,
        starts_workers: true,
        strike: |stand| Box::pin(throttle(stand)),
        proofs: |_| vec![Proof::SqlError(&["40501"])],
        duplicates: Duplicates::OnlyUnknown,
    },
    Fault {
        name: "failover",
        title: "failover of 60 s",
        does: "For 60 s the database can only be read (3906) and takes no logins (40613); every open connection is ended when it begins, and again after 5 s.",
        takes: 95,
        options: || StandOptions { events_per_second: 250, ..StandOptions::default() },
        starts_workers: true,
        strike: |stand| Box::pin(fail_over(stand)),
        proofs: |_| vec![Proof::SqlError(&["40613", "3906", "client"])],
        duplicates: Duplicates::OnlyUnknown,
    },
    Fault {
        name: "database-full",
        title: "database full, then room",
        does: "For 10 s the database has no room (1105).",
        takes: 45,
        options: StandOptions::default,
        starts_workers: true,
        strike: |stand| Box::pin(fill(stand)),
        proofs: |_| vec![Proof::SqlError(&["1105"])],
        duplicates: Duplicates::OnlyUnknown,
    },
    Fault {
        name: "table-dropped",
        title: "table dropped, then restored",
        does: "Each table is copied and dropped in one transaction, and restored from the copy when its pipeline has met the error.",
        takes: 50,
        options: StandOptions::default,
        starts_workers: true,
        strike: |stand| Box::pin(drop_tables(stand)),
        proofs: |_| vec![Proof::SqlError(&["208", "4891", "client"])],
        duplicates: Duplicates::OnlyUnknown,
    },
    Fault {
        name: "permission-revoked",
        title: "permission revoked, then granted",
        does: "INSERT on each table is denied to the workers' user, and granted when its pipeline has met the error.",
        takes: 50,
        options: || StandOptions { limited_user: true, ..StandOptions::default() },
        starts_workers: true,
        strike: |stand| Box::pin(revoke(stand)),
        proofs: |_| vec![Proof::SqlError(&["229"])],
        duplicates: Duplicates::OnlyUnknown,
    },
    Fault {
        name: "password-changed",
        title: "login password changed",
        does: "The login has another password and its connections are ended; the workers' password file is written anew when each pipeline has met the error.",
        takes: 50,
        options: StandOptions::default,
        starts_workers: true,
        strike: |stand| Box::pin(change_password(stand)),
        proofs: |_| vec![Proof::SqlError(&["18456"])],
        duplicates: Duplicates::OnlyUnknown,
    },
    Fault {
        name: "slow-commit",
        title: "a commit slower than ack_wait",
        does: "For 20 s every commit is answered 12 s late (ack_wait 5 s); two workers.",
        takes: 55,
        options: || StandOptions { workers: 2, ..StandOptions::default() },
        starts_workers: true,
        strike: |stand| Box::pin(slow_commits(stand)),
        proofs: |_| Vec::new(),
        duplicates: Duplicates::OnlyUnknown,
    },
];

/// A fifth of the occasions, until every lane has met the error.
async fn script(
    stand: &mut Stand,
    occasion: Occasion,
    effect: Effect,
    number: &'static str,
) -> anyhow::Result<()> {
    /// Errors that each lane has to meet.
    const ERRORS: f64 = 3.0;
    let scripted = stand.sql.faults.script(Scripted::new(occasion, effect).fraction(0.2, 11))?;
    stand
        .every_lane("it has met the error", PATIENCE, |stand, mode| {
            stand.count_of(mode, "sql_errors_total", &[("number", number)]) >= ERRORS
        })
        .await?;
    scripted.remove();
    stand.lift();
    Ok(())
}

/// Waits until every lane has met one of these errors.
async fn errors_met(stand: &Stand, numbers: &[&str]) -> anyhow::Result<()> {
    stand
        .every_lane(&format!("it has met error {}", numbers.join(" or ")), PATIENCE, |stand, mode| {
            numbers.iter().any(|number| stand.count_of(mode, "sql_errors_total", &[("number", number)]) > 0.0)
        })
        .await
}

async fn kill_sql(stand: &mut Stand) -> anyhow::Result<()> {
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(1_700)).await;
        stand.sql.kill().await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        stand.sql.restart().await?;
    }
    stand.lift();
    Ok(())
}

async fn throttle(stand: &mut Stand) -> anyhow::Result<()> {
    let busy = Scripted::new(Occasion::BulkLoad, Effect::Reject(40501.into())).fraction(0.7, 5);
    let busy = stand.sql.faults.script(busy)?;
    stand.sql.faults.limit_rows_per_second(Some(2_000));
    tokio::time::sleep(Duration::from_secs(30)).await;
    busy.remove();
    stand.sql.faults.limit_rows_per_second(None);
    stand.lift();
    Ok(())
}

async fn fail_over(stand: &mut Stand) -> anyhow::Result<()> {
    stand.sql.faults.fail_over(Duration::from_secs(60));
    stand.sql.faults.disconnect_all();
    tokio::time::sleep(Duration::from_secs(5)).await;
    stand.sql.faults.disconnect_all();
    tokio::time::sleep(Duration::from_secs(55)).await;
    stand.sql.faults.clear();
    stand.lift();
    Ok(())
}

async fn fill(stand: &mut Stand) -> anyhow::Result<()> {
    stand.sql.faults.fill_database(1105, Duration::from_secs(600));
    tokio::time::sleep(Duration::from_secs(10)).await;
    let met = errors_met(stand, &["1105"]).await;
    stand.sql.faults.clear();
    stand.lift();
    met
}

async fn drop_tables(stand: &mut Stand) -> anyhow::Result<()> {
    const COLUMNS: &str = "event_id, serial, stream_sequence, temperature, device";
    let mut client = stand.sql_client().await?;
    for lane in &stand.lanes {
        let (name, table) = (lane.mode.name, lane.mode.table());
        client.execute("BEGIN TRANSACTION").await?;
        // whoever writes to it is waited for, and nobody begins to
        client.execute(&format!("ALTER TABLE {table} ADD locked int NULL")).await?;
        client
            .execute(&format!("SELECT row_id + 0 AS place, {COLUMNS} INTO dbo.{name}_copy FROM {table}"))
            .await?;
        client.execute(&format!("DROP TABLE {table}")).await?;
        client.execute("COMMIT TRANSACTION").await?;
    }
    errors_met(stand, &["208", "4891", "client"]).await?;
    for lane in &stand.lanes {
        let (name, table) = (lane.mode.name, lane.mode.table());
        client.execute("BEGIN TRANSACTION").await?;
        for statement in lane.mode.ddl() {
            client.execute(&statement).await?;
        }
        client
            .execute(&format!(
                "INSERT INTO {table} ({COLUMNS}) SELECT {COLUMNS} FROM dbo.{name}_copy ORDER BY place"
            ))
            .await?;
        client.execute("COMMIT TRANSACTION").await?;
    }
    stand.lift();
    Ok(())
}

async fn revoke(stand: &mut Stand) -> anyhow::Result<()> {
    let mut client = stand.sql_client().await?;
    for lane in &stand.lanes {
        client.execute(&format!("DENY INSERT ON {} TO {LIMITED_USER}", lane.mode.table())).await?;
    }
    errors_met(stand, &["229"]).await?;
    for lane in &stand.lanes {
        client.execute(&format!("GRANT INSERT ON {} TO {LIMITED_USER}", lane.mode.table())).await?;
    }
    stand.lift();
    Ok(())
}

async fn change_password(stand: &mut Stand) -> anyhow::Result<()> {
    const PASSWORD: &str = "Another-Password-2";
    stand.sql.change_password(PASSWORD).await?;
    errors_met(stand, &["18456"]).await?;
    stand.write("sql.password", PASSWORD)?;
    stand.lift();
    Ok(())
}

async fn slow_commits(stand: &mut Stand) -> anyhow::Result<()> {
    const LATE: Duration = Duration::from_secs(12);
    let late = stand.sql.faults.script(Scripted::new(Occasion::Commit, Effect::DelayAnswer(LATE)))?;
    let slow = |stand: &Stand, mode: &Mode| {
        let all = stand.count_of(mode, "commit_latency_seconds_count", &[]);
        let fast = stand.count_of(mode, "commit_latency_seconds_bucket", &[("le", "10")]);
        all - fast
    };
    tokio::time::sleep(Duration::from_secs(20)).await;
    late.remove();
    stand.every_lane("a commit took long", PATIENCE, |stand, mode| slow(stand, mode) > 0.0).await?;
    stand.lift();
    let counts: Vec<f64> = stand.lanes.iter().map(|lane| slow(stand, lane.mode)).collect();
    for (lane, count) in stand.lanes.iter_mut().zip(counts) {
        lane.seen.push(format!("{count:.0} commits took longer than 10 s"));
    }
    Ok(())
}
