//! Rights on subjects. Found by reading what this program publishes and subscribes to, and held against a real server by
//! `tests/sink/grants.rs`, which takes each of them away in turn.

use crate::config::{Config, DeliveryGuarantee, PipelineConfig, covers, subjects_overlap};

/// A right on a subject, which may have wildcards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectRight {
    /// The subject.
    pub subject: String,
    /// What it is for.
    pub purpose: &'static str,
}

/// What somebody may do on NATS. Where both lists are empty: nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NatsRights {
    /// What the subjects of its replies begin with: that of its own role, so that no role hears the replies of another.
    pub inbox_prefix: String,
    /// What it may publish on.
    pub publish: Vec<SubjectRight>,
    /// What it may subscribe to.
    pub subscribe: Vec<SubjectRight>,
    /// Subjects on which it would publish events, were the server's own not among them.
    pub not_granted: Vec<String>,
}

/// What publishing or subscribing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Sending a message.
    Publish,
    /// Asking for messages.
    Subscribe,
}

impl Verb {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Publish => "publish",
            Verb::Subscribe => "subscribe",
        }
    }
}

/// What the server answers about the one who asks. Source: nats-server, `UserInfo`.
pub const USER_INFO: &str = "$SYS.REQ.USER.INFO";

/// No subjects of events: who publishes here gives orders to the server, changes what others keep, or answers in the place of others.
const OF_THE_SERVER: [&str; 5] = ["$JS.>", "$SYS.>", "$KV.>", "$O.>", "_INBOX.>"];

fn is_of_the_server(subject: &str) -> bool {
    OF_THE_SERVER.iter().any(|own| subjects_overlap(own, subject))
}

impl NatsRights {
    fn new(inbox_prefix: &str) -> Self {
        let mut rights = Self { inbox_prefix: inbox_prefix.to_owned(), ..Self::default() };
        rights.subscribe(format!("{inbox_prefix}.>"), "replies");
        rights
    }

    fn publish(&mut self, subject: String, purpose: &'static str) {
        add(&mut self.publish, subject, purpose);
    }

    fn publish_events(&mut self, subject: &str, purpose: &'static str) {
        if !is_of_the_server(subject) {
            self.publish(subject.to_owned(), purpose);
        } else if self.not_granted.iter().all(|known| known != subject) {
            self.not_granted.push(subject.to_owned());
        }
    }

    fn subscribe(&mut self, subject: String, purpose: &'static str) {
        add(&mut self.subscribe, subject, purpose);
    }

    /// The rights of a kind.
    pub fn of(&self, verb: Verb) -> &[SubjectRight] {
        match verb {
            Verb::Publish => &self.publish,
            Verb::Subscribe => &self.subscribe,
        }
    }

    /// The right that a subject falls under.
    pub fn right_for(&self, verb: Verb, subject: &str) -> Option<&SubjectRight> {
        self.of(verb).iter().find(|right| covers(&[&right.subject], subject))
    }
}

fn add(rights: &mut Vec<SubjectRight>, subject: String, purpose: &'static str) {
    if rights.iter().all(|right| right.subject != subject) {
        rights.push(SubjectRight { subject, purpose });
    }
}

/// What the worker needs, for all pipelines.
pub fn loader(config: &Config) -> NatsRights {
    let mut rights = NatsRights::new(&config.nats.inbox_prefix);
    for pipeline in &config.pipelines {
        of_pipeline(&mut rights, pipeline);
    }
    of_process(&mut rights, config);
    rights
}

/// What the worker needs for one pipeline, without what concerns them all.
pub fn loader_of(pipeline: &PipelineConfig) -> NatsRights {
    let mut rights = NatsRights::default();
    of_pipeline(&mut rights, pipeline);
    rights
}

/// What concerns them all.
pub fn loader_common(config: &Config) -> NatsRights {
    let mut rights = NatsRights::new(&config.nats.inbox_prefix);
    of_process(&mut rights, config);
    rights
}

fn of_process(rights: &mut NatsRights, config: &Config) {
    let own = format!("{}.>", config.nats.inbox_prefix);
    rights.publish(own, "a stop, which waits until the server has read the last words");
    rights.publish(USER_INFO.to_owned(), "`check`, which asks what this user may");
}

fn of_pipeline(rights: &mut NatsRights, pipeline: &PipelineConfig) {
    let (stream, letters) = (&pipeline.stream, &pipeline.dead_letter);
    rights.publish(format!("$JS.API.STREAM.INFO.{stream}"), "looking at the stream");
    rights.publish(format!("$JS.API.STREAM.INFO.{}", letters.stream), "looking at the dead-letter stream");
    match pipeline.delivery {
        DeliveryGuarantee::AtLeastOnce => shared_consumer(rights, pipeline),
        DeliveryGuarantee::ExactlyOnce => own_consumers(rights, pipeline),
    }
    rights.publish(
        format!("$JS.API.STREAM.MSG.GET.{stream}"),
        "reading events whose headers break the connection",
    );
    let subject = format!("{}.{}.{stream}.*.*", letters.subject, pipeline.name);
    rights.publish(subject, "dead letters");
    if let Some(receipts) = &pipeline.receipts {
        rights.publish(receipts.subject.clone(), "receipts");
    }
}

/// The durable consumer of all workers, by its name.
fn shared_consumer(rights: &mut NatsRights, pipeline: &PipelineConfig) {
    let consumer = format!("{}.{}", pipeline.stream, pipeline.durable);
    rights.publish(format!("$JS.API.CONSUMER.INFO.{consumer}"), "looking at the consumer");
    if pipeline.manage_consumer {
        // one filter is part of the subject, more of them are not
        let subject = match pipeline.subjects.as_slice() {
            [filter] => format!("$JS.API.CONSUMER.CREATE.{consumer}.{filter}"),
            _ => format!("$JS.API.CONSUMER.CREATE.{consumer}"),
        };
        rights.publish(subject, "making the consumer, and bringing it in line");
    }
    rights.publish(format!("$JS.API.CONSUMER.MSG.NEXT.{consumer}"), "pulling events");
    rights.publish(format!("$JS.ACK.{consumer}.>"), "acknowledging, and giving back");
}

/// Consumers that live for as long as a partition is read. Their names end at random, so that nobody pulls from one that a
/// worker before has left; and what is random stands for a whole token of the subject.
fn own_consumers(rights: &mut NatsRights, pipeline: &PipelineConfig) {
    let stream = &pipeline.stream;
    let making = |filters: &[String]| match filters {
        [filter] => format!("$JS.API.CONSUMER.CREATE.{stream}.*.{filter}"),
        _ => format!("$JS.API.CONSUMER.CREATE.{stream}.*"),
    };
    let read = "making a partition's consumer";
    let counted = pipeline.partitions.as_ref().and_then(|partitions| partitions.count);
    match (counted, pipeline.layout().partitions) {
        (Some(_), partitions) => {
            if let Some(pattern) = pipeline.partitions.as_ref().and_then(|own| own.any_partition()) {
                rights.publish(making(&[pattern]), read);
            }
            // all events are counted, and those that some partition reads
            let count = "counting the events that no partition reads";
            rights.publish(making(&pipeline.subjects), count);
            rights.publish(making(&partitions.concat()), count);
        }
        (None, partitions) => {
            for filters in partitions {
                rights.publish(making(&filters), read);
            }
        }
    }
    rights.publish(format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.*"), "pulling events");
    rights.publish(format!("$JS.API.CONSUMER.DELETE.{stream}.*"), "deleting a partition's consumer");
}

/// What somebody needs who publishes events on these subjects. One that has the server's own in it, as `>` does, is not granted.
pub fn publisher(inbox_prefix: &str, subjects: &[String]) -> NatsRights {
    let mut rights = NatsRights::new(inbox_prefix);
    for subject in subjects {
        rights.publish_events(subject, "events");
    }
    rights
}

/// What `dlq` needs.
pub fn dead_letter_operator(inbox_prefix: &str, config: &Config) -> NatsRights {
    dead_letter_operator_on(inbox_prefix, config, &[])
}

/// The same, with what is published on in the place of subjects that are not granted. Where that is not known they are left out.
///
/// An event is published again on the subject that it was received on, so that all other subjects stay the pipelines' own.
pub fn dead_letter_operator_on(inbox_prefix: &str, config: &Config, published: &[String]) -> NatsRights {
    let again = "publishing events again";
    let mut rights = NatsRights::new(inbox_prefix);
    for pipeline in &config.pipelines {
        let stream = &pipeline.dead_letter.stream;
        rights.publish(format!("$JS.API.STREAM.INFO.{stream}"), "finding the letters");
        rights.publish(format!("$JS.API.STREAM.MSG.GET.{stream}"), "reading letters");
        rights.publish(format!("$JS.API.STREAM.MSG.DELETE.{stream}"), "removing letters that were replayed");
        for subject in &pipeline.subjects {
            if published.is_empty() || !is_of_the_server(subject) {
                rights.publish_events(subject, again);
                continue;
            }
            for subject in published {
                rights.publish_events(subject, again);
            }
        }
    }
    rights
}

/// What somebody needs who reads receipts: from the stream that keeps them, by a durable consumer for each pipeline, or where
/// the stream is not named, those that come while it listens. Nothing, where no pipeline has any.
pub fn receipts_reader(inbox_prefix: &str, config: &Config, stream: Option<&str>) -> NatsRights {
    let announced = config.pipelines.iter().filter_map(|own| Some((own, own.receipts.as_ref()?)));
    let mut announced = announced.peekable();
    if announced.peek().is_none() {
        return NatsRights::default();
    }
    let Some(stream) = stream else {
        let mut rights = NatsRights { inbox_prefix: inbox_prefix.to_owned(), ..NatsRights::default() };
        for (_, receipts) in announced {
            rights.subscribe(receipts.subject.clone(), "receipts, as they come");
        }
        return rights;
    };
    let mut rights = NatsRights::new(inbox_prefix);
    for (pipeline, receipts) in announced {
        let consumer = format!("{stream}.{}-receipts", pipeline.name);
        let making = format!("$JS.API.CONSUMER.CREATE.{consumer}.{}", receipts.subject);
        rights.publish(making, "making its consumer, of receipts alone");
        rights.publish(format!("$JS.API.CONSUMER.INFO.{consumer}"), "looking at its consumer");
        rights.publish(format!("$JS.API.CONSUMER.MSG.NEXT.{consumer}"), "pulling receipts");
        rights.publish(format!("$JS.ACK.{consumer}.>"), "acknowledging receipts");
    }
    rights
}
