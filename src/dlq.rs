//! `dlq`: dead letters, and back. Reads the dead-letter stream by asking for one message after the other, and leaves no consumer there.

mod letter;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self, Context};
use clap::{Args, Subcommand};
use serde_json::json;

use self::letter::Letter;
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
    /// message id is not published twice. A letter that does not hold the whole event is left as it is, and said.
    Replay {
        #[command(flatten)]
        which: Which,
        /// All letters that the other arguments leave, where no sequence is given
        #[arg(long)]
        all: bool,
        /// Remove a letter when the stream has confirmed its event
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
    /// Sequences in the dead-letter stream
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

    /// Does it. What NATS does not allow is among what went wrong.
    pub(crate) async fn run(&self, config: &Config) -> anyhow::Result<()> {
        let rights = rights::nats::dead_letter_operator(&config.nats.inbox_prefix, config);
        let denials = Denials::of(Vec::new(), rights);
        let done = tokio::select! {
            done = self.run_with(config, &denials) => done,
            () = denials.another() => Err(anyhow::anyhow!("nats did not answer")),
        };
        match (done, denials.texts().as_slice()) {
            (Err(error), denied @ [_, ..]) => Err(error.context(denied.join("; "))),
            (done, _) => done,
        }
    }

    async fn run_with(&self, config: &Config, denials: &Denials) -> anyhow::Result<()> {
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
                replay(&jetstream, config, which, *delete, *dry_run).await
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

async fn list(
    jetstream: &Context,
    config: &Config,
    which: &Which,
    as_json: bool,
    only_count: bool,
) -> anyhow::Result<()> {
    let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut left = which.limit.unwrap_or(usize::MAX);
    for pipeline in which.pipelines(config)? {
        let stream = consumer::stream(jetstream, &pipeline.dead_letter.stream, Phase::DeadLetter).await?;
        let mut letters = Letters::of(jetstream, &stream, pipeline);
        while left > 0
            && let Some(letter) = letters.next().await?
        {
            if !which.has(&letter) {
                continue;
            }
            left -= 1;
            let count = counts.entry((pipeline.name.clone(), letter.reason().to_owned())).or_default();
            *count += 1;
            match (as_json, only_count) {
                (true, _) => output::line(&letter.json().to_string()),
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
    Ok(())
}

async fn show(
    jetstream: &Context,
    config: &Config,
    sequence: u64,
    stream: Option<&str>,
    with_payload: bool,
) -> anyhow::Result<()> {
    let mut streams: Vec<&str> = config.pipelines.iter().map(|own| own.dead_letter.stream.as_str()).collect();
    streams.dedup();
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

async fn replay(
    jetstream: &Context,
    config: &Config,
    which: &Which,
    delete: bool,
    dry_run: bool,
) -> anyhow::Result<()> {
    let (mut replayed, mut left_alone) = (0_u64, 0_u64);
    let mut left = which.limit.unwrap_or(usize::MAX);
    for pipeline in which.pipelines(config)? {
        let stream = consumer::stream(jetstream, &pipeline.dead_letter.stream, Phase::DeadLetter).await?;
        let mut letters = Letters::of(jetstream, &stream, pipeline);
        while left > 0
            && let Some(letter) = letters.next().await?
        {
            if !which.has(&letter) {
                continue;
            }
            left -= 1;
            let said = match letter.message() {
                Err(why) => Err(why.to_owned()),
                Ok(_) if dry_run => Ok("would be published again".to_owned()),
                Ok(message) => publish(jetstream, &letter, message).await?,
            };
            match said {
                Ok(said) => {
                    replayed += 1;
                    if delete && !dry_run {
                        let removed = stream.delete_message(letter.sequence()).await;
                        removed.with_context(|| format!("removing the letter {}", letter.sequence()))?;
                    }
                    output::line(&format!("{} {said}", letter.line()));
                }
                Err(why) => {
                    left_alone += 1;
                    output::line(&format!("{} left as it is: {why}", letter.line()));
                }
            }
        }
    }
    output::line(&json!({ "replayed": replayed, "left": left_alone }).to_string());
    match left_alone {
        0 => Ok(()),
        left => bail!("{left} letters were left as they are"),
    }
}

/// Publishes an event again: what was done, or why it was not.
async fn publish(
    jetstream: &Context,
    letter: &Letter,
    message: PublishMessage,
) -> anyhow::Result<Result<String, String>> {
    let subject = letter.subject().to_owned();
    let failed = || format!("publishing the event of the letter {} on {subject:?}", letter.sequence());
    let confirmation = jetstream.send_publish(subject.clone(), message).await.with_context(failed)?;
    let confirmed = confirmation.await.with_context(failed)?;
    Ok(match confirmed.duplicate {
        false => Ok(format!("published again, at {} of {}", confirmed.sequence, confirmed.stream)),
        true => Err(format!(
            "its stream still has it in the duplicate window, at {}: try again when that is over",
            confirmed.sequence
        )),
    })
}
