//! What is printed, by a configuration.

use std::path::Path;

use clap::Parser as _;
use insta::assert_snapshot;

use super::*;

#[derive(Debug, clap::Parser)]
struct CommandLine {
    #[command(flatten)]
    args: GrantsArgs,
}

/// For a pipeline that reads these subjects.
fn granted(role: Role, subjects: &str, more: &[&str]) -> Granted {
    let text = format!(
        "[sql]\nserver = \"localhost\"\ndatabase = \"d\"\n\
         auth = {{ method = \"sql_login\", user = \"u\", password_file = \"p\" }}\n[[pipeline]]\nname = \"p\"\nstream = \"S\"\n\
         schema = \"s.toml\"\ntable = \"dbo.t\"\ndead_letter = {{ stream = \"D\", subject = \"dead.p\" }}\n\
         durable = \"c\"\nsubjects = {subjects}\n"
    );
    let config = Config::from_toml(&text, Path::new("sink.toml"), &|_| None).expect("a configuration");
    let arguments = [&["grants", "--config", "sink.toml"], more].concat();
    let line = CommandLine::try_parse_from(arguments).expect("arguments");
    line.args.granted(role, &config, &[])
}

/// GIVEN a pipeline that reads all subjects THEN who publishes may not publish on all of them, and is told what to do.
#[test]
fn the_servers_own_subjects_are_not_granted() {
    let publisher = granted(Role::Publisher, "[\">\"]", &[]);
    assert_eq!(json(&publisher)["nats"]["not_granted"], json!([">"]));
    assert_snapshot!(server_config::text(&[publisher]), @r#"
    # Passwords are variables of the environment, or of this file; better than a password is its bcrypt hash, as `nats server passwd`
    # makes it. In an account of its own, `users` stands in `accounts { NAME { … } }`.
    authorization {
      users: [
        # publisher: publishes events, and hears that the stream has them
        # inbox prefix: _INBOX.nats_sql_sink_publisher
        # not granted: publish on ">", which has subjects of the server's own in it. Name those of events by --publish
        {
          user: "nats_sql_sink_publisher"
          password: $NATS_SQL_SINK_PUBLISHER_PASSWORD
          permissions: {
            publish: { deny: [">"] }
            subscribe: { allow: [
              "_INBOX.nats_sql_sink_publisher.>" # replies
            ] }
          }
        }
      ]
    }
    "#);
    let operator = granted(Role::DeadLetterOperator, "[\">\"]", &[]);
    assert_eq!(operator.nats.not_granted, [">"]);
    let named = granted(Role::DeadLetterOperator, "[\">\"]", &["--publish", "a.>"]);
    assert!(named.nats.not_granted.is_empty(), "{named:?}");
    assert_eq!(named.lists(Verb::Publish).0.last(), Some(&"a.>"));
}

/// No user is there for a moment without its permissions, which would be one with all of them.
#[test]
fn a_user_by_jwt_is_made_with_its_permissions() {
    let publisher = granted(Role::Publisher, "[\">\"]", &["--publish", "a.>", "--publish", "*.b"]);
    let analyst = granted(Role::Analyst, "[\"a.>\"]", &["--user", "analyst=it's"]);
    let commands = jwt::commands(&[publisher, analyst], "APP");
    assert_snapshot!(commands.trim_end(), @r#"
    # A user that is there already is deleted before, by `nsc delete user --account APP --name …`, or edited,
    # with --rm for every subject that it is to lose: `nsc edit user` only adds.

    # publisher: publishes events, and hears that the stream has them
    # inbox prefix: _INBOX.nats_sql_sink_publisher
    # not granted: publish on "*.b", which has subjects of the server's own in it. Name those of events by --publish
    nsc add user --account APP --name 'nats_sql_sink_publisher' --tag role:publisher \
      --allow-pub 'a.>' \
      --allow-sub '_INBOX.nats_sql_sink_publisher.>'

    # analyst: reads the tables, and reaches no endpoint that writes
    nsc add user --account APP --name 'it'\''s' --tag role:analyst \
      --deny-pub '>' \
      --deny-sub '>'
    "#);
}
