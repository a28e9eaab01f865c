//! `dlq`: dead letters, and back. Reads the dead-letter stream by asking for one message after the other, and leaves no consumer there.

mod letter;
mod replay;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::bail;
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self, Context};
use clap::{Args, Subcommand};

use self::letter::Letter;
use self::replay::{Tally, What, replay};
use crate::config::{Config, PipelineConfig};
use crate::error::Phase;
use crate::nats::denied::Denials;
use crate::nats::{self, consumer, stored};
use crate::output;
use crate::rights;

const PING_INTERVAL: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(crate) struct DeadLettersArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a line for each letter, oldest first, and how many there are of each reason
    List {
        #[command(flatten)]
        which: Which,
        /// A JSON object for each letter, and no counts
        #[arg(long)]
        json: bool,
        /// Only how many there are of each reason
        #[arg(long, conflicts_with = "json")]
        count: bool,
    },
    /// Print one letter: where its event stands, why it was refused, and the names of its headers
    Show {
        #[command(flatten)]
        file: ConfigFile,
        /// Its sequence in the dead-letter stream
        #[arg(value_name = "SEQUENCE")]
        sequence: u64,
        /// The dead-letter stream, where the configuration has several
        #[arg(long, value_name = "NAME")]
        stream: Option<String>,
        /// The values of the event's headers, and its payload, too
        #[arg(long)]
        payload: bool,
    },
    /// Publish the events of letters again, on their own subjects with their own headers
    ///
    /// Each is an event like any other: it has a new place in the stream. What its stream still remembers by the event's
    /// message id is not published twice: run a replay that was interrupted again within the duplicate window. A letter
    /// whose event cannot go back is left as it is, and said.
    Replay {
        #[command(flatten)]
        which: Which,
        /// All letters that the other arguments leave, where no sequence is given
        #[arg(long)]
        all: bool,
        /// Remove a letter when the stream has confirmed its event, now or before
        #[arg(long)]
        delete: bool,
        /// Say what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", env = "NATS_SQL_SINK_CONFIG")]
    config: PathBuf,
}

/// Which letters are meant: all that fit every argument.
#[derive(Debug, Args)]
struct Which {
    #[command(flatten)]
    file: ConfigFile,
    /// Sequences in the dead-letter stream. Where the pipelines have several of these, --pipeline says which
    #[arg(long = "sequence", value_name = "SEQUENCE")]
    sequences: Vec<u64>,
    /// Of this pipeline
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// With this reason: the word
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Stored within this time
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// At most so many
    #[arg(long, value_name = "NUMBER")]
    limit: Option<usize>,
}

impl DeadLettersArgs {
    pub(crate) fn config_file(&self) -> &Path {
        match &self.command {
            Command::List { which, .. } | Command::Replay { which, .. } => &which.file.config,
            Command::Show { file, .. } => &file.config,
        }
    }

    /// Does it. What NATS does not allow is among what went wrong. What was replayed is told however it ended.
    pub(crate) async fn run(&self, config: &Config) -> anyhow::Result<()> {
        let rights = rights::nats::dead_letter_operator(&config.nats.inbox_prefix, config);
        let denials = Denials::of(Vec::new(), rights);
        let mut tally = None;
        let done = tokio::select! {
            done = self.run_with(config, &denials, &mut tally) => done,
            () = denials.another() => Err(anyhow::anyhow!("nats did not answer")),
        };
        if let Some(tally) = &tally {
            output::line(&tally.summary());
        }
        match (done, denials.texts().as_slice()) {
            (Err(error), denied @ [_, ..]) => Err(error.context(denied.join("; "))),
            (done, _) => done,
        }
    }

    async fn run_with(
        &self,
        config: &Config,
        denials: &Denials,
        tally: &mut Option<Tally>,
    ) -> anyhow::Result<()> {
        let client = nats::connect_as(&config.nats, PING_INTERVAL, denials).await?;
        let jetstream = jetstream::new(client);
        match &self.command {
            Command::List { which, json, count } => list(&jetstream, config, which, *json, *count).await,
            Command::Show { sequence, stream, payload, .. } => {
                show(&jetstream, config, *sequence, stream.as_deref(), *payload).await
            }
            Command::Replay { which, all, delete, dry_run } => {
                if which.sequences.is_empty() && !all {
                    bail!(
                        "which letters? Name them by --sequence, or write --all for all that the other arguments leave"
                    );
                }
                let what = What { delete: *delete, dry_run: *dry_run };
                replay(&jetstream, config, which, what, tally).await
            }
        }
    }
}

/// Letters of one pipeline, one after the other, up to the last one that was there at the beginning.
struct Letters<'a> {
    jetstream: &'a Context,
    stream: &'a Stream,
    subject: String,
    next: u64,
    last: u64,
}

impl<'a> Letters<'a> {
    fn of(jetstream: &'a Context, stream: &'a Stream, pipeline: &PipelineConfig) -> Self {
        let (letters, source) = (&pipeline.dead_letter, &pipeline.stream);
        let subject = format!("{}.{}.{source}.*.*", letters.subject, pipeline.name);
        let state = &stream.cached_info().state;
        Self { jetstream, stream, subject, next: state.first_sequence, last: state.last_sequence }
    }

    async fn next(&mut self) -> anyhow::Result<Option<Letter>> {
        if self.next > self.last {
            return Ok(None);
        }
        let name = &self.stream.cached_info().config.name;
        match stored::next(self.jetstream, name, self.next, &self.subject).await? {
            Some(message) if message.sequence <= self.last => {
                self.next = message.sequence + 1;
                Ok(Some(Letter::new(&message)?))
            }
            Some(_) | None => Ok(None),
        }
    }
}

impl Which {
    fn pipelines<'a>(&self, config: &'a Config) -> anyhow::Result<Vec<&'a PipelineConfig>> {
        let is_meant = |own: &&PipelineConfig| self.pipeline.as_ref().is_none_or(|name| *name == own.name);
        let pipelines: Vec<_> = config.pipelines.iter().filter(is_meant).collect();
        if pipelines.is_empty() {
            bail!("the configuration has no such pipeline");
        }
        if !self.sequences.is_empty() && dead_letter_streams(pipelines.iter().copied()).len() > 1 {
            bail!("a sequence stands in each of several dead-letter streams: say which by --pipeline");
        }
        Ok(pipelines)
    }

    fn has(&self, letter: &Letter) -> bool {
        let is_recent = |since: &Duration| {
            // one from the future, by a clock that differs, is as recent as can be
            let age = SystemTime::now().duration_since(SystemTime::from(letter.stored_at()));
            age.map_or(true, |age| age <= *since)
        };
        (self.sequences.is_empty() || self.sequences.contains(&letter.sequence()))
            && self.reason.as_deref().is_none_or(|reason| reason == letter.reason())
            && self.since.as_ref().is_none_or(is_recent)
    }
}

/// Finds the letters that are meant, over several pipelines.
struct Search<'a> {
    which: &'a Which,
    /// How many may come yet.
    left: usize,
    /// Sequences that were asked for, and not found so far.
    missing: BTreeSet<u64>,
}

impl<'a> Search<'a> {
    fn of(which: &'a Which) -> Self {
        let missing = which.sequences.iter().copied().collect();
        Self { which, left: which.limit.unwrap_or(usize::MAX), missing }
    }

    async fn next(&mut self, letters: &mut Letters<'_>) -> anyhow::Result<Option<Letter>> {
        while self.left > 0
            && let Some(letter) = letters.next().await?
        {
            if self.takes(&letter) {
                return Ok(Some(letter));
            }
        }
        Ok(None)
    }

    fn takes(&mut self, letter: &Letter) -> bool {
        let is_meant = self.which.has(letter);
        if is_meant {
            self.left -= 1;
            self.missing.remove(&letter.sequence());
        }
        is_meant
    }

    /// What was asked for by its sequence, and is not there. Where a limit ended the search, nobody looked.
    fn not_found(&self) -> Option<String> {
        if self.left == 0 || self.missing.is_empty() {
            return None;
        }
        let sequences: Vec<String> = self.missing.iter().map(ToString::to_string).collect();
        Some(format!("no letter that is meant has the sequence {}", sequences.join(", ")))
    }
}

fn dead_letter_streams<'a>(pipelines: impl Iterator<Item = &'a PipelineConfig>) -> BTreeSet<&'a str> {
    pipelines.map(|own| own.dead_letter.stream.as_str()).collect()
}

async fn list(
    jetstream: &Context,
    config: &Config,
    which: &Which,
    as_json: bool,
    only_count: bool,
) -> anyhow::Result<()> {
    let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut search = Search::of(which);
    for pipeline in which.pipelines(config)? {
        let stream = consumer::stream(jetstream, &pipeline.dead_letter.stream, Phase::DeadLetter).await?;
        let mut letters = Letters::of(jetstream, &stream, pipeline);
        while let Some(letter) = search.next(&mut letters).await? {
            let count = counts.entry((pipeline.name.clone(), letter.reason().to_owned())).or_default();
            *count += 1;
            match (as_json, only_count) {
                (true, _) => output::line(&letter.json(pipeline).to_string()),
                (false, false) => output::line(&letter.line()),
                (false, true) => {}
            }
        }
    }
    if !as_json {
        for ((pipeline, reason), count) in counts {
            output::line(&format!("{pipeline}: {count} {reason}"));
        }
    }
    match search.not_found() {
        None => Ok(()),
        Some(not_found) => bail!(not_found),
    }
}

async fn show(
    jetstream: &Context,
    config: &Config,
    sequence: u64,
    stream: Option<&str>,
    with_payload: bool,
) -> anyhow::Result<()> {
    let streams: Vec<&str> = dead_letter_streams(config.pipelines.iter()).into_iter().collect();
    let name = match (stream, streams.as_slice()) {
        (Some(name), streams) if streams.contains(&name) => name,
        (Some(name), _) => bail!("no pipeline has its dead letters in {name:?}"),
        (None, [name]) => name,
        (None, _) => bail!("the configuration has several dead-letter streams: name one by --stream"),
    };
    let Some(message) = stored::at(jetstream, name, sequence).await? else {
        bail!("nothing is at {sequence} of the stream {name:?}");
    };
    let letter = Letter::new(&message)?;
    if !letter.is_one() {
        bail!("what is at {sequence} of the stream {name:?} is no dead letter");
    }
    output::line(&letter.line());
    for line in letter.details(with_payload) {
        output::line(&line);
    }
    Ok(())
}
