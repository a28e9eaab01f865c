//! What follows from which configuration. That it is enough, and not too much, `tests/sink/grants.rs` shows on real servers.

use std::path::Path;

use super::nats::{self, NatsRights, Verb};
use super::sql::{self, Securable};
use crate::config::Config;
use crate::schema::Schema;
use crate::sql_name::{Identifier, TableName};

const SCHEMA: &str = "format = \"json\"\n[[column]]\nname = \"id\"\ntype = \"bigint\"\nnullable = false\n\
                      [[column]]\nname = \"at\"\ntype = \"bigint\"\nfrom = \"stream_sequence\"\nnullable = false\n";

fn config(pipeline: &str) -> Config {
    let text = format!(
        "[sql]\nserver = \"localhost\"\ndatabase = \"d\"\n\
         auth = {{ method = \"sql_login\", user = \"u\", password_file = \"p\" }}\n[[pipeline]]\nname = \"p\"\nstream = \"S\"\n\
         schema = \"s.toml\"\ntable = \"dbo.t\"\ndead_letter = {{ stream = \"D\", subject = \"dead.p\" }}\n{pipeline}"
    );
    Config::from_toml(&text, Path::new("sink.toml"), &|_| None).expect("a configuration")
}

/// What is published on, without what concerns all pipelines and what each has.
fn published(pipeline: &str) -> Vec<String> {
    let config = config(pipeline);
    let of_all =
        ["$JS.API.STREAM.INFO.S", "$JS.API.STREAM.INFO.D", "$JS.API.STREAM.MSG.GET.S", "dead.p.p.S.*.*"];
    let common = nats::loader_common(&config);
    let rights = nats::loader(&config);
    let subjects: Vec<String> = rights.publish.iter().map(|right| right.subject.clone()).collect();
    assert!(of_all.iter().all(|own| subjects.iter().any(|subject| subject == own)), "{subjects:?}");
    let is_own = |subject: &String| {
        !of_all.contains(&subject.as_str()) && !common.publish.iter().any(|right| right.subject == *subject)
    };
    subjects.into_iter().filter(is_own).collect()
}

#[test]
fn a_shared_consumer_is_known_by_its_name() {
    let managed = "durable = \"c\"\nsubjects = [\"a.>\"]\n";
    let using = ["$JS.API.CONSUMER.INFO.S.c", "$JS.API.CONSUMER.MSG.NEXT.S.c", "$JS.ACK.S.c.>"];
    let with = |more: &str| {
        let mut all = using.map(str::to_owned).to_vec();
        all.insert(1, more.to_owned());
        all
    };
    assert_eq!(published(managed), with("$JS.API.CONSUMER.CREATE.S.c.a.>"));
    let several = "durable = \"c\"\nsubjects = [\"a.>\", \"b\"]\n";
    assert_eq!(published(several), with("$JS.API.CONSUMER.CREATE.S.c"));
    assert_eq!(published(&format!("{managed}manage_consumer = false\n")), using);
    let receipts = published(&format!("{managed}receipts = {{ subject = \"r.p\" }}\n"));
    assert_eq!(receipts.last().map(String::as_str), Some("r.p"));
}

#[test]
fn the_consumers_of_partitions_have_the_filters_of_partitions() {
    let once = "delivery = \"exactly_once\"\nsubjects = [\"a.*.>\"]\n";
    fn with(making: &[&'static str]) -> Vec<&'static str> {
        [making, &["$JS.API.CONSUMER.MSG.NEXT.S.*", "$JS.API.CONSUMER.DELETE.S.*"]].concat()
    }
    assert_eq!(published(once), with(&["$JS.API.CONSUMER.CREATE.S.*.a.*.>"]));
    let counted = format!("{once}partitions = {{ count = 3, subject = \"a.{{partition}}.>\" }}\n");
    assert_eq!(
        published(&counted),
        with(&["$JS.API.CONSUMER.CREATE.S.*.a.*.>", "$JS.API.CONSUMER.CREATE.S.*"])
    );
    let listed = "delivery = \"exactly_once\"\nsubjects = [\"a\", \"b\", \"c\"]\n\
                  partitions = { subjects = [[\"a\"], [\"b\", \"c\"]] }\n";
    assert_eq!(published(listed), with(&["$JS.API.CONSUMER.CREATE.S.*.a", "$JS.API.CONSUMER.CREATE.S.*"]));
}

#[test]
fn replies_are_heard_by_their_role_alone() {
    let config = config("durable = \"c\"\nsubjects = [\"a.>\"]\nreceipts = { subject = \"r.p\" }\n");
    let subscribed = |rights: &NatsRights| -> Vec<String> {
        rights.of(Verb::Subscribe).iter().map(|right| right.subject.clone()).collect()
    };
    assert_eq!(subscribed(&nats::loader(&config)), ["_INBOX.nats_sql_sink_loader.>"]);
    assert_eq!(subscribed(&nats::publisher("_INBOX.x", &["a".to_owned()])), ["_INBOX.x.>"]);
    assert_eq!(subscribed(&nats::dead_letter_operator("_INBOX.y", &config)), ["_INBOX.y.>"]);
    // without a consumer there are no replies
    let reader = nats::receipts_reader("_INBOX.z", &config, None);
    assert_eq!((subscribed(&reader), reader.publish), (vec!["r.p".to_owned()], Vec::new()));
    let reader = nats::receipts_reader("_INBOX.z", &config, Some("R"));
    assert_eq!(subscribed(&reader), ["_INBOX.z.>"]);
    assert!(reader.publish.iter().all(|right| right.subject.contains(".R.p-receipts")), "{reader:?}");
}

#[test]
fn nobody_is_granted_to_publish_on_the_servers_own_subjects() {
    let subjects = |rights: &NatsRights| -> Vec<String> {
        rights.publish.iter().map(|right| right.subject.clone()).collect()
    };
    let all = [">", "*.>", "*.a", "$JS.API.>", "$SYS.REQ.>", "$KV.b.>", "$O.b.>", "_INBOX.x.y"];
    for subject in all {
        let rights = nats::publisher("_INBOX.x", &[subject.to_owned(), "a.>".to_owned(), subject.to_owned()]);
        assert_eq!(
            (subjects(&rights), rights.not_granted),
            (vec!["a.>".to_owned()], vec![subject.to_owned()])
        );
    }
    for subject in ["*", "a.>", "a.*.>", "$JS", "js.>", "$JSON.>"] {
        let rights = nats::publisher("_INBOX.x", &[subject.to_owned()]);
        assert_eq!((subjects(&rights), rights.not_granted), (vec![subject.to_owned()], Vec::new()));
    }
    let everything = config("durable = \"c\"\nsubjects = [\">\"]\n");
    let some = config("durable = \"c\"\nsubjects = [\"a.>\"]\n");
    let letters = ["$JS.API.STREAM.INFO.D", "$JS.API.STREAM.MSG.GET.D", "$JS.API.STREAM.MSG.DELETE.D"];
    for (config, published, granted, not_granted) in [
        (&everything, &["b.>"][..], Some("b.>"), None),
        (&everything, &[], None, Some(">")),
        (&everything, &["*.b"], None, Some("*.b")),
        // a subject of the pipeline's own stays what it is
        (&some, &["b.>"], Some("a.>"), None),
    ] {
        let published: Vec<String> = published.iter().map(|subject| (*subject).to_owned()).collect();
        let rights = nats::dead_letter_operator_on("_INBOX.y", config, &published);
        let expected: Vec<&str> = letters.into_iter().chain(granted).collect();
        assert_eq!(subjects(&rights), expected);
        assert_eq!(rights.not_granted, Vec::from_iter(not_granted));
    }
}

fn in_database(pipeline: &str, changes_partitions: bool) -> Vec<String> {
    let config = config(pipeline);
    let own = &config.pipelines[0];
    let schema = crate::keyed::plan(own, Schema::parse(SCHEMA).expect("a schema")).expect("it goes together");
    sql::loader([(own, &schema)], changes_partitions).iter().map(ToString::to_string).collect()
}

#[test]
fn rights_in_the_database_follow_from_the_way_of_writing() {
    let append = "durable = \"c\"\nsubjects = [\"a.>\"]\n";
    let (select, insert) = ("SELECT ON OBJECT::[dbo].[t]", "INSERT ON OBJECT::[dbo].[t]");
    assert_eq!(in_database(append, true), [select, insert]);
    let keyed = format!("{append}write = \"insert_if_absent\"\nkey = [\"id\"]\n");
    assert_eq!(in_database(&keyed, false), [select, insert]);
    let upsert = format!("{append}write = \"upsert\"\nkey = [\"id\"]\nsequence_column = \"at\"\n");
    assert_eq!(in_database(&upsert, false), [select, insert, "UPDATE ON OBJECT::[dbo].[t]"]);
    assert_eq!(
        in_database(&format!("{append}create_table = true\n"), false),
        ["CREATE TABLE", "ALTER ON SCHEMA::[dbo]", "SELECT ON SCHEMA::[dbo]", "INSERT ON SCHEMA::[dbo]"]
    );
    let once = "delivery = \"exactly_once\"\nsubjects = [\"a.>\"]\n";
    let rights = in_database(once, false);
    assert!(!rights.iter().any(|right| right.contains("receipts")), "{rights:?}");
    let deletes = |rights: &[String]| rights.iter().filter(|right| right.starts_with("DELETE")).count();
    assert_eq!((deletes(&rights), deletes(&in_database(once, true))), (1, 3));
}

#[test]
fn what_is_in_a_schema_is_had_with_it() {
    let table = |text: &str| Securable::Table(text.parse::<TableName>().expect("a name"));
    let identifier = |text: &str| Identifier::new(text).expect("a name");
    let schema = |text: &str| Securable::Schema(identifier(text));
    let (user, role) = (Securable::User(identifier("u")), Securable::Role(identifier("r")));
    for (one, other, expected) in [
        (Securable::Database, table("dbo.t"), true),
        (schema("DBO"), table("dbo.t"), true),
        (schema("dbo"), table("other.t"), false),
        (schema("nats_sql_sink"), Securable::Own("leases"), true),
        (table("nats_sql_sink.leases"), Securable::Own("leases"), true),
        (table("dbo.t"), table("dbo.T"), true),
        (table("dbo.t"), schema("dbo"), false),
        (table("dbo.t"), Securable::Database, false),
        (Securable::Database, user.clone(), true),
        (user.clone(), Securable::User(identifier("U")), true),
        (schema("u"), user.clone(), false),
        (user, schema("u"), false),
        (schema("r"), role.clone(), false),
        (role, Securable::User(identifier("r")), false),
    ] {
        assert_eq!(one.has(&other), expected, "{one} {other}");
    }
}
