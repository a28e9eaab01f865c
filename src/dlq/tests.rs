//! Which letters are meant, and what the tests of this module share.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::nats::dead_letter::{DETAIL, PIPELINE, REASON, SEQUENCE, STREAM, SUBJECT};

/// The third letter of a dead-letter stream: of the event 7 of the stream `S`, which the pipeline `p` rejected. `headers` are further
/// ones, or in the place of those of their names.
pub(super) fn letter(headers: &[(&str, &str)]) -> Letter {
    let own = [
        (PIPELINE, "p"),
        (REASON, "not_json"),
        (DETAIL, "the payload is no JSON"),
        (STREAM, "S"),
        (SEQUENCE, "7"),
        (SUBJECT, "a.b"),
        ("Nats-Msg-Id", "p:S:1:7"),
    ];
    let is_kept = |(name, _): &&(&str, &str)| headers.iter().all(|(other, _)| other != name);
    let lines: Vec<String> = own
        .iter()
        .filter(is_kept)
        .chain(headers)
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let stored = serde_json::json!({
        "seq": 3,
        "subject": "dead.p.S.1.7",
        "hdrs": STANDARD.encode(format!("NATS/1.0\r\n{}\r\n", lines.concat())),
        "data": STANDARD.encode("canary"),
        "time": "1970-01-01T00:00:00Z",
    });
    Letter::new(&serde_json::from_value(stored).expect("a message")).expect("a letter")
}

fn config(pipelines: &[&str]) -> Config {
    let mut text = "[sql]\nserver = \"localhost\"\ndatabase = \"d\"\n\
                    auth = { method = \"sql_login\", user = \"u\", password_file = \"p\" }\n"
        .to_owned();
    for pipeline in pipelines {
        text += &format!("[[pipeline]]\nstream = \"S\"\nschema = \"s.toml\"\n{pipeline}\n");
    }
    Config::from_toml(&text, Path::new("sink.toml"), &|_| None).expect("a configuration")
}

/// The pipeline `p`; `fields` say what it reads.
pub(super) fn pipeline(fields: &str) -> PipelineConfig {
    let own = "name = \"p\"\ntable = \"dbo.p\"\ndead_letter = { stream = \"D\", subject = \"dead\" }\n";
    config(&[&format!("{own}{fields}")]).pipelines.remove(0)
}

fn which(sequences: &[u64]) -> Which {
    let file = ConfigFile { config: PathBuf::from("sink.toml") };
    Which { file, sequences: sequences.to_vec(), pipeline: None, reason: None, since: None, limit: None }
}

#[test]
fn a_sequence_is_of_one_stream() {
    let one = |name: &str, letters: &str| {
        format!(
            "name = \"{name}\"\ndurable = \"{name}\"\nsubjects = [\"{name}.>\"]\ntable = \"dbo.{name}\"\n\
             dead_letter = {{ stream = \"{letters}\", subject = \"dead\" }}\n"
        )
    };
    let shared = config(&[&one("p", "D"), &one("q", "D")]);
    assert_eq!(which(&[5]).pipelines(&shared).expect("both").len(), 2);
    let apart = config(&[&one("p", "D"), &one("q", "E"), &one("r", "D")]);
    assert_eq!(which(&[]).pipelines(&apart).expect("all").len(), 3);
    let error = which(&[5]).pipelines(&apart).expect_err("of which stream?").to_string();
    assert!(error.contains("--pipeline"), "{error}");
    let named = Which { pipeline: Some("q".to_owned()), ..which(&[5]) };
    assert_eq!(named.pipelines(&apart).expect("one").len(), 1);
}

#[test]
fn a_sequence_that_is_not_there_is_named() {
    let letter = letter(&[]);
    let asked = which(&[3, 4, 99]);
    let mut search = Search::of(&asked);
    assert!(search.takes(&letter));
    assert_eq!(
        search.not_found().expect("two are not there"),
        "no letter that is meant has the sequence 4, 99"
    );
    // it is there, and not meant
    let asked = Which { reason: Some("too_long".to_owned()), ..which(&[3]) };
    let mut search = Search::of(&asked);
    assert!(!search.takes(&letter));
    assert!(search.not_found().is_some_and(|text| text.ends_with(" 3")));
    // nobody looked for the others
    let asked = Which { limit: Some(1), ..which(&[3, 4]) };
    let mut search = Search::of(&asked);
    assert!(search.takes(&letter));
    assert_eq!(search.not_found(), None);
    let asked = which(&[]);
    assert_eq!(Search::of(&asked).not_found(), None);
}
