//! `demo --secure`: the same job without a password anywhere. Access tokens that end every few seconds for the database, a user
//! by JWT for NATS, TLS on both sides, the rights that `grants` prints and no others, and new credentials for both while
//! events come.

mod stage;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use self::stage::Stage;
use super::events::Events;
use super::figures::Figures;
use super::progress::Bars;
use super::sink::Sink;
use super::table::Account;
use super::{DemoArgs, Report, data_folder, follow, publisher};
use crate::output;

/// How long a token for the database is good for.
const TOKEN_LIFE: Duration = Duration::from_secs(8);
/// Over how long the events are published: several lives of a token.
const PUBLISHING: Duration = Duration::from_secs(32);
/// When both sides get new credentials.
const ROTATION: Duration = Duration::from_secs(14);
/// How long the sink may take to go over to them.
const ADOPTION: Duration = Duration::from_secs(20);
/// What the sink logs for each plane when it has.
const EXCHANGED: &str = "the secrets were exchanged";
/// What it logs for each token that differs from the one before.
const NEW_TOKEN: &str = "new access token";

/// The figures of a run. The names are part of the command line's contract.
#[derive(Debug, Serialize)]
struct SecureFigures {
    #[serde(flatten)]
    figures: Figures,
    /// Rows beyond one an event.
    duplicates: u64,
    /// Access tokens that the sink logged in with, and that had ended when the last row was committed.
    sql_tokens_expired: usize,
    /// How often the sink went over to new credentials.
    nats_rotations: usize,
    sql_rotations: usize,
}

/// `true` where the table holds exactly what was published, and both sides were given new credentials meanwhile.
pub(super) async fn run(args: &DemoArgs) -> anyhow::Result<bool> {
    let quiet = args.report == Some(Report::Json);
    let say = |text: &str| {
        if !quiet {
            output::line(text);
        }
    };
    let folder = data_folder(args.data_dir.as_deref())?;
    say(
        "starting nats-server, an identity provider, PostgreSQL, and the stand-in for SQL Server in front of it …",
    );
    let mut stage = Stage::start(&folder, TOKEN_LIFE).await?;
    say("granting what `nats-sql-sink grants` prints, and no more …");
    let jetstream = stage.prepare().await?;
    let log = folder.join("sink.log");
    let mut sink = Sink::start(&stage.config_path, &log, stage.http)?;
    say(&format!("publishing {} events over {} s while the sink works …", args.events, PUBLISHING.as_secs()));
    let started = Instant::now();
    let confirmed = Arc::new(AtomicU64::new(0));
    let events = Events::new(OffsetDateTime::now_utc());
    let publishing = publisher::publish(jetstream, events, args.events, Arc::clone(&confirmed), PUBLISHING);
    let publishing = tokio::spawn(publishing);
    let mut bars = Bars::new(args.events, quiet);
    let rotating = async {
        tokio::time::sleep(ROTATION).await;
        stage.rotate()?;
        adopted(&log).await?;
        stage.revoke_the_former_user().await
    };
    let following = follow(&mut sink, publishing, &confirmed, args.events, &mut bars);
    let (progress, ()) = tokio::try_join!(following, rotating)?;
    let ended = OffsetDateTime::now_utc();
    let seconds = started.elapsed().as_secs_f64();
    bars.finish();
    let status = sink.stop().await?;
    ensure!(status.success(), "the sink did not stop cleanly: {status}");

    let account = stage.account().await?;
    let published = confirmed.load(Ordering::Relaxed);
    let text = std::fs::read_to_string(&log).context("reading the sink's log")?;
    let figures = SecureFigures {
        duplicates: account.rows - account.distinct_event_ids,
        sql_tokens_expired: tokens_expired(&text, ended)?,
        nats_rotations: rotations(&text, "nats"),
        sql_rotations: rotations(&text, "sql"),
        figures: Figures::of(published, &account, &progress, seconds, &sink),
    };
    let exact = account == Account::expected(published)?
        && published == args.events
        && progress.dead_lettered == 0
        && figures.nats_rotations == 1
        && figures.sql_rotations == 1;
    if quiet {
        output::line(&serde_json::to_string(&figures)?);
        return Ok(exact);
    }
    figures.figures.print(exact);
    for (name, value) in [
        ("tokens that ended", figures.sql_tokens_expired),
        ("rotations, NATS", figures.nats_rotations),
        ("rotations, SQL", figures.sql_rotations),
    ] {
        output::line(&format!("  {name:<20} {value}"));
    }
    output::line(&format!(
        "\nThe configuration, the grants and the sink's log are in {}. The credentials in it are of no use any more.",
        folder.display()
    ));
    Ok(exact)
}

/// Waits until the sink has gone over to new credentials on both sides.
async fn adopted(log: &std::path::Path) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let text = std::fs::read_to_string(log).context("reading the sink's log")?;
        if ["nats", "sql"].iter().all(|plane| rotations(&text, plane) > 0) {
            return Ok(());
        }
        if started.elapsed() > ADOPTION {
            bail!("the sink has not gone over to new credentials within {} s", ADOPTION.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// How often the sink says that it went over to new credentials of this plane.
fn rotations(log: &str, plane: &str) -> usize {
    let field = format!("plane=\"{plane}\"");
    log.lines().filter(|line| line.contains(EXCHANGED) && line.contains(&field)).count()
}

/// How many of the tokens that the sink tells of had ended by then.
fn tokens_expired(log: &str, by: OffsetDateTime) -> anyhow::Result<usize> {
    let mut count = 0;
    for line in log.lines().filter(|line| line.contains(NEW_TOKEN)) {
        let had_at = line.split_whitespace().next().context("a line of the log has a time")?;
        let had_at = OffsetDateTime::parse(had_at, &Rfc3339).context("the time of a line of the log")?;
        let seconds = line.rsplit_once("seconds=").context("a token is told of with its life")?.1;
        let life = time::Duration::seconds(seconds.trim().parse().context("the life of a token")?);
        count += usize::from(had_at + life <= by);
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-11-26T04:00:00.500000Z DEBUG nats_sql_sink::identity::token: new access token generation=1 seconds=7\n\
        2026-11-26T04:00:04.500000Z DEBUG nats_sql_sink::identity::token: new access token generation=2 seconds=7\n\
        2026-11-26T04:00:05.000000Z  INFO nats_sql_sink::run::rotation: the secrets were exchanged plane=\"nats\"\n\
        2026-11-26T04:00:08.500000Z DEBUG nats_sql_sink::identity::token: new access token generation=3 seconds=7\n";

    #[test]
    fn tokens_are_counted_that_have_ended() {
        for (by, expected) in
            [("2026-11-26T04:00:07Z", 0), ("2026-11-26T04:00:12Z", 2), ("2026-11-26T04:01:00Z", 3)]
        {
            let by = OffsetDateTime::parse(by, &Rfc3339).expect("a time");
            assert_eq!(tokens_expired(LOG, by).expect("a log"), expected);
        }
        assert!(tokens_expired("new access token", OffsetDateTime::UNIX_EPOCH).is_err());
    }

    #[test]
    fn rotations_are_counted_by_their_plane() {
        assert_eq!((rotations(LOG, "nats"), rotations(LOG, "sql")), (1, 0));
    }
}
