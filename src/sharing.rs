//! Who reads which partition: every worker keeps leases in the database, takes its fair share of what is free, and gives
//! back what is above it.
//!
//! A lease saves wasted work, and no more: two workers that read one partition, because one was paused or cut off, do no
//! harm to each other's rows (see `partition.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Phase, Result};
use crate::metrics;
use crate::mssql::connect::{Connector, Opened, Session};
use crate::mssql::leases::{self, View};
use crate::mssql::progress;
use crate::nats::is_connected;
use crate::partition::{Partition, Partitions};
use crate::status::Complaint;
use crate::telemetry;

/// Looks in a lease: one that is not renewed once is still valid at the next.
const LOOKS_PER_LEASE: u32 = 4;

/// Reads its share of the partitions of one pipeline.
#[derive(Debug)]
pub struct Sharing {
    /// What the partitions have in common.
    pub shared: Arc<Partitions>,
    /// Opens the session that leases are kept by, which is not one of those that rows are written by: what these wait for
    /// does not end a lease.
    pub connector: Connector,
    /// Tells this worker from every other.
    pub worker: String,
    /// How long a lease lasts without renewing.
    pub lease: Duration,
}

/// A name for this process that no other has.
pub fn worker_name() -> String {
    let id = Uuid::new_v4().simple().to_string();
    let host: String = std::env::var("HOSTNAME")
        .unwrap_or_default()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        .take(80)
        .collect();
    let number = std::process::id();
    if host.is_empty() { format!("{number}-{}", &id[..8]) } else { format!("{host}-{number}-{}", &id[..8]) }
}

/// A partition that is read.
#[derive(Debug)]
struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// What is to be done about the leases.
#[derive(Debug, Default, PartialEq, Eq)]
struct Moves {
    /// To be claimed, in this order, and no more than so many of them.
    claim: Vec<usize>,
    most: usize,
    /// To be given back.
    release: Vec<usize>,
}

/// A fair share: as many partitions as anybody else, or one more where they cannot be divided evenly.
fn moves(me: &str, view: &View, owned: &BTreeSet<usize>) -> Moves {
    let mut workers: BTreeSet<&str> = view.workers.iter().map(String::as_str).collect();
    workers.insert(me);
    let rank = workers.iter().position(|worker| *worker == me).unwrap_or_default();
    let (each, left) = (view.leases.len() / workers.len(), view.leases.len() % workers.len());
    let share = each + usize::from(rank < left);
    let release = owned.iter().rev().take(owned.len().saturating_sub(share)).copied().collect();
    let mut free: Vec<usize> =
        view.leases.iter().filter(|lease| lease.is_free).map(|lease| lease.partition).collect();
    // Workers that look at the same moment begin at different places.
    if !free.is_empty() {
        let begin = rank * each % free.len();
        free.rotate_left(begin);
    }
    let most = share.saturating_sub(owned.len());
    Moves { claim: if most == 0 { Vec::new() } else { free }, most, release }
}

impl Sharing {
    /// Reads until a stop, and returns when nothing is read any more.
    ///
    /// # Errors
    ///
    /// The partitions were changed, or the stream was: what was prepared is not valid any more.
    pub async fn run(self) -> Result<()> {
        let shutdown = self.shared.writer.shutdown.clone();
        let mut session = None;
        let mut running: BTreeMap<usize, Running> = BTreeMap::new();
        let mut complaint = None;
        let mut away_since = None;
        let mut looks = tokio::time::interval(self.lease / LOOKS_PER_LEASE);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = shutdown.stopping() => break Ok(()),
            }
            // Without events there is nothing to keep a partition for.
            if is_connected(&self.shared.client) {
                away_since = None;
            } else if away_since.get_or_insert_with(Instant::now).elapsed() > self.lease {
                self.give_up(&mut running, &mut session, "nats is away").await;
                complaint.get_or_insert_with(|| {
                    let writer = &self.shared.writer;
                    writer.status.complain_after(writer.retry_window, "nats is away: no partition is read")
                });
                continue;
            }
            let looked = tokio::select! {
                looked = self.within(self.look(&mut session, &mut running)) => looked,
                () = shutdown.stopping() => {
                    // in the middle of an answer, perhaps
                    session = None;
                    break Ok(());
                }
            };
            match looked {
                Ok(()) => complaint = None,
                Err(error) if error.kind == ErrorKind::StreamSetup => break Err(error),
                Err(error) => {
                    session = None;
                    self.cannot_keep(&error, &mut complaint);
                }
            }
            metrics::partitions_owned(&self.shared.writer.pipeline, running.len());
        };
        self.finish(running, session).await;
        metrics::partitions_owned(&self.shared.writer.pipeline, 0);
        ended
    }

    fn cannot_keep(&self, error: &Error, complaint: &mut Option<Complaint>) {
        let writer = &self.shared.writer;
        let text = format!("leases cannot be kept: {}", telemetry::describe(error));
        tracing::warn!(pipeline = %writer.pipeline, error = %text, "trying again");
        complaint.get_or_insert_with(|| writer.status.complain_after(writer.retry_window, text));
    }

    /// A lease is not waited for longer than it lasts.
    async fn within<T>(&self, step: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(self.lease.max(Duration::from_secs(2)), step)
            .await
            .map_err(|_elapsed| Error::sql_timeout(Phase::Progress, "keeping the leases"))?
    }

    async fn session<'a>(&self, session: &'a mut Option<Opened>) -> Result<&'a mut Session> {
        if session.as_ref().is_none_or(|opened| !opened.is_current()) {
            let mut opened = Box::pin(self.connector.open_lasting()).await?;
            progress::wait_for_locks(&mut opened.session, self.lease / 2).await?;
            *session = Some(opened);
        }
        session
            .as_mut()
            .map(|opened| &mut opened.session)
            .ok_or_else(|| Error::new(Phase::Progress, ErrorKind::Internal, "no session was opened"))
    }

    /// Renews, and does what the leases and the other workers ask for.
    async fn look(&self, session: &mut Option<Opened>, running: &mut BTreeMap<usize, Running>) -> Result<()> {
        let writer = &self.shared.writer;
        let pipeline = writer.pipeline.as_ref();
        let session = self.session(session).await?;
        // Before anything that may have to wait for a commit.
        let mut view = leases::renew(session, pipeline, &self.worker, self.lease).await?;
        let kept = progress::kept(session, pipeline).await?;
        check(&kept, &self.shared)?;
        if view.leases.len() < kept.partitions {
            leases::enter(session, pipeline, kept.partitions).await?;
            view = leases::renew(session, pipeline, &self.worker, self.lease).await?;
        }

        let mine: BTreeSet<usize> = view
            .leases
            .iter()
            .filter(|lease| lease.owner.as_deref() == Some(&self.worker) && lease.partition < kept.partitions)
            .map(|lease| lease.partition)
            .collect();
        let lost: Vec<usize> = running.keys().filter(|number| !mine.contains(number)).copied().collect();
        for number in lost {
            if let Some(lost) = running.remove(&number) {
                lost.task.abort();
                tracing::warn!(%pipeline, partition = number, "another worker has taken the partition over");
            }
        }
        // What has ended by itself, or as it was asked to, is given back; so is what is left of an earlier life.
        let ended: Vec<usize> = mine
            .iter()
            .filter(|number| running.get(number).is_none_or(|own| own.task.is_finished()))
            .copied()
            .collect();
        for number in ended {
            running.remove(&number);
            leases::release(session, pipeline, number, &self.worker).await?;
            tracing::info!(%pipeline, partition = number, "gave the partition back");
        }

        let view = View {
            leases: view.leases.into_iter().filter(|l| l.partition < kept.partitions).collect(),
            ..view
        };
        let kept_on: BTreeSet<usize> =
            running.iter().filter(|(_, own)| !own.stop.is_cancelled()).map(|(number, _)| *number).collect();
        let moves = moves(&self.worker, &view, &kept_on);
        for number in moves.release {
            if let Some(own) = running.get(&number) {
                own.stop.cancel();
            }
        }
        let (mut claimed, started) = (0, Instant::now());
        for number in moves.claim {
            // What is owned has to be renewed in time; the rest is claimed at the next looks.
            if claimed == moves.most || started.elapsed() > self.lease / LOOKS_PER_LEASE {
                break;
            }
            if running.contains_key(&number)
                || !leases::claim(session, pipeline, number, &self.worker, self.lease).await?
            {
                continue;
            }
            claimed += 1;
            let former =
                view.leases.iter().find(|lease| lease.partition == number).and_then(|l| l.owner.as_deref());
            metrics::partition_claimed(pipeline, if former.is_some() { "expired" } else { "free" });
            tracing::info!(%pipeline, partition = number, former, "claimed the partition");
            running.insert(number, self.start(number));
        }
        Ok(())
    }

    fn start(&self, number: usize) -> Running {
        let stop = CancellationToken::new();
        let partition = Partition::new(Arc::clone(&self.shared), number, stop.clone());
        Running { stop, task: tokio::spawn(partition.run()) }
    }

    /// Reads nothing any more, and lets others do it.
    async fn give_up(
        &self,
        running: &mut BTreeMap<usize, Running>,
        session: &mut Option<Opened>,
        why: &'static str,
    ) {
        if running.is_empty() {
            return;
        }
        let pipeline = &self.shared.writer.pipeline;
        tracing::warn!(%pipeline, why, partitions = running.len(), "giving the partitions to others");
        for (_, own) in std::mem::take(running) {
            own.task.abort();
        }
        if let Some(mut own) = session.take() {
            match self.within(leases::leave(&mut own.session, pipeline, &self.worker)).await {
                Ok(()) => *session = Some(own),
                Err(error) => say_not_given_back(pipeline, &error),
            }
        }
        metrics::partitions_owned(pipeline, 0);
    }

    /// Lets every partition finish what it holds, keeps the leases meanwhile, and gives them back.
    async fn finish(&self, running: BTreeMap<usize, Running>, mut session: Option<Opened>) {
        let writer = &self.shared.writer;
        let pipeline = writer.pipeline.as_ref();
        running.values().for_each(|own| own.stop.cancel());
        let mut looks = tokio::time::interval(self.lease / LOOKS_PER_LEASE);
        for (number, own) in running {
            let mut task = own.task;
            loop {
                tokio::select! {
                    ended = &mut task => {
                        if let Err(error) = ended {
                            tracing::error!(%pipeline, partition = number, %error, "a partition ended by a defect of this program");
                        }
                        break;
                    }
                    _ = looks.tick() => {
                        let renewing = async {
                            let session = self.session(&mut session).await?;
                            leases::renew(session, pipeline, &self.worker, self.lease).await
                        };
                        let renewed = tokio::select! {
                            renewed = self.within(renewing) => renewed.is_ok(),
                            () = writer.shutdown.forced() => false,
                        };
                        if !renewed {
                            session = None;
                        }
                    },
                }
            }
        }
        let leaving = async {
            let session = self.session(&mut session).await?;
            leases::leave(session, pipeline, &self.worker).await
        };
        let left = tokio::select! {
            left = self.within(leaving) => left,
            () = writer.shutdown.forced() => return,
        };
        if let Err(error) = left {
            say_not_given_back(pipeline, &error);
        }
    }
}

fn say_not_given_back(pipeline: &str, error: &Error) {
    let text = telemetry::describe(error);
    tracing::warn!(pipeline, error = %text, "the leases are not given back, they expire");
}

/// Whether what is kept is still what this worker was started for.
///
/// # Errors
///
/// [`ErrorKind::StreamSetup`], with what is to be done about it.
pub fn check(kept: &progress::Kept, shared: &Partitions) -> Result<()> {
    check_kept(kept, &shared.layout.hash, shared.layout.partitions.len(), shared.stream_created)
}

/// As [`check`], of what is about to be started.
///
/// # Errors
///
/// As of [`check`].
pub fn check_kept(kept: &progress::Kept, hash: &str, partitions: usize, stream_created: i64) -> Result<()> {
    let setup = |message: &str| Err(Error::new(Phase::Progress, ErrorKind::StreamSetup, message));
    if kept.layout_hash.as_deref() != Some(hash) || kept.partitions != partitions {
        return setup(
            "the progress in nats_sql_sink.progress is of another division of the stream than this configuration's: \
             `nats-sql-sink partitions change` leads from one to the other",
        );
    }
    if kept.stream_created != Some(stream_created) {
        return setup(
            "the progress in nats_sql_sink.progress is of another stream: this one was made anew under its name, or \
             the table is another stream's (`nats-sql-sink partitions new-stream` begins with it)",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mssql::leases::Lease;

    /// Workers that claim and release by turns until nobody moves.
    fn settle(partitions: usize, workers: &[&str], mut owners: Vec<Option<String>>) -> Vec<Option<String>> {
        owners.resize(partitions, None);
        for _ in 0..10 {
            for me in workers {
                let leases = owners.iter().enumerate().map(|(partition, owner)| Lease {
                    partition,
                    owner: owner.clone(),
                    is_free: owner.as_deref().is_none_or(|owner| !workers.contains(&owner)),
                });
                let view = View {
                    leases: leases.collect(),
                    workers: workers.iter().map(|w| (*w).to_owned()).collect(),
                };
                let owned: BTreeSet<usize> = owners
                    .iter()
                    .enumerate()
                    .filter(|(_, owner)| owner.as_deref() == Some(me))
                    .map(|(number, _)| number)
                    .collect();
                let moves = moves(me, &view, &owned);
                for number in moves.release {
                    owners[number] = None;
                }
                for number in moves.claim.into_iter().take(moves.most) {
                    owners[number] = Some((*me).to_owned());
                }
            }
        }
        owners
    }

    fn count(owners: &[Option<String>], worker: &str) -> usize {
        owners.iter().filter(|owner| owner.as_deref() == Some(worker)).count()
    }

    #[test]
    fn shares_are_fair_and_nothing_stays_free() {
        for partitions in [1, 2, 7, 12] {
            for workers in [&["a"][..], &["a", "b"], &["a", "b", "c"], &["a", "b", "c", "d", "e"]] {
                let owners = settle(partitions, workers, Vec::new());
                let counts: Vec<usize> = workers.iter().map(|worker| count(&owners, worker)).collect();
                assert_eq!(counts.iter().sum::<usize>(), partitions, "{workers:?}");
                let (least, most) = (counts.iter().min(), counts.iter().max());
                assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{counts:?}");
            }
        }
    }

    #[test]
    fn a_worker_that_is_added_gets_its_share_and_the_others_keep_theirs() {
        let before = settle(12, &["a", "b"], Vec::new());
        let after = settle(12, &["a", "b", "c"], before.clone());
        assert_eq!([count(&after, "a"), count(&after, "b"), count(&after, "c")], [4, 4, 4]);
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        assert_eq!(moved, 4, "only what the new one gets moves");
    }

    #[test]
    fn what_a_dead_worker_had_is_shared_by_the_others() {
        let before = settle(12, &["a", "b", "c"], Vec::new());
        let after = settle(12, &["a", "c"], before);
        assert_eq!([count(&after, "a"), count(&after, "c")], [6, 6]);
    }

    #[test]
    fn a_name_is_made_of_harmless_characters_and_fits_its_column() {
        let name = worker_name();
        assert!(
            name.len() <= 128 && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)),
            "{name}"
        );
        assert_ne!(name, worker_name());
    }
}
