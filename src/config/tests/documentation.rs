//! The page of the documentation and the example have every field.

use serde::de::{self, Deserializer, Visitor};

use super::super::*;
use super::{environment, load};

/// Asks a type for its fields, by refusing to give it any.
struct FieldsOf<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldsOf<'_> {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(de::Error::custom("asked"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// Every field with its dotted path; tables are those whose fields follow.
fn all_fields() -> Vec<String> {
    fn of<'de, T: Deserialize<'de>>(prefix: &str) -> Vec<String> {
        let mut fields: &'static [&'static str] = &[];
        assert!(T::deserialize(FieldsOf(&mut fields)).is_err());
        assert!(!fields.is_empty(), "{prefix}");
        fields.iter().map(|field| format!("{prefix}{field}")).collect()
    }
    [
        of::<Config>(""),
        of::<NatsConfig>("nats."),
        of::<NatsTlsConfig>("nats.tls."),
        of::<SqlConfig>("sql."),
        of::<AuthConfig>("sql.auth."),
        // a password is no token
        of::<AuthConfig>("nats.token_from.").into_iter().filter(|field| !is_of_login(field)).collect(),
        of::<RotationConfig>("rotation."),
        of::<HttpConfig>("http."),
        of::<LogConfig>("log."),
        of::<PipelineConfig>("pipeline."),
        of::<PartitionsConfig>("pipeline.partitions."),
        of::<BatchConfig>("pipeline.batch."),
        of::<WritersConfig>("pipeline.writers."),
        of::<DeadLetterConfig>("pipeline.dead_letter."),
        of::<ReceiptsConfig>("pipeline.receipts."),
    ]
    .concat()
}

fn is_of_login(field: &str) -> bool {
    ["user", "password_file", "password"].iter().any(|own| field.rsplit('.').next() == Some(own))
}

const EXAMPLE: &str = include_str!("../../../sink.example.toml");

/// A line that is commented out is `#field = …`; prose has a blank after the `#`.
fn is_commented_out(line: &str) -> bool {
    line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
}

#[test]
fn every_field_is_documented_and_in_the_example() {
    let page = include_str!("../../../docs/configuration.md");
    for field in all_fields() {
        assert!(page.contains(&format!("| `{field}` |")), "docs/configuration.md wants a line for {field}");
        let name = field.rsplit('.').next().expect("a last part");
        let forms = [format!("{name} = "), format!("[{field}]"), format!("[[{field}]]")];
        assert!(forms.iter().any(|form| EXAMPLE.contains(form)), "sink.example.toml wants {field}");
    }
    let fields = all_fields();
    let rows = page.lines().take_while(|line| *line != "## Environment");
    for line in rows.filter_map(|line| line.strip_prefix("| `")) {
        let field = line.split('`').next().expect("a first part");
        assert!(
            fields.iter().any(|known| known == field),
            "docs/configuration.md tells of {field}, which is no more"
        );
    }
}

/// All text of the program's sources other than of the configuration and its tests.
fn sources(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).expect("a folder of sources");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .filter(|path| !path.ends_with("src/config") && !path.ends_with("src/config.rs"))
        .map(|path| match path.is_dir() {
            true => sources(&path),
            false => std::fs::read_to_string(&path).expect("a source"),
        })
        .collect()
}

#[test]
fn a_field_that_nothing_reads_is_said_to_have_no_effect() {
    let page = include_str!("../../../docs/configuration.md");
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    for (field, read) in
        [("pipeline.max_deliveries", ".max_deliveries"), ("pipeline.writers.min", "writers.min")]
    {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{field}` |"))).expect("its row");
        let is_without_effect = row.contains("without effect in this version");
        assert_eq!(is_without_effect, !sources.contains(read), "{field}: {row}");
    }
}

#[test]
fn the_example_is_valid_and_so_is_every_line_of_it() {
    load(EXAMPLE).expect("the example is valid");
    let lines: Vec<&str> = EXAMPLE.lines().collect();
    for (index, line) in lines.iter().enumerate().filter(|(_, line)| is_commented_out(line)) {
        // WHEN one line is no comment any more
        let mut lines = lines.clone();
        lines[index] = &line[1..];
        // THEN it is understood, though alone it may be refused: a password wants its user
        let parsed = parse::parse::<Config>(&lines.join("\n"), &environment);
        assert!(parsed.is_ok(), "{line}: {:?}", parsed.err());
    }
}

#[test]
fn the_defaults_in_the_example_are_the_defaults() {
    // GIVEN the example, and the same with every line that could be a default
    let (before, auth) = EXAMPLE.split_once("[sql.auth]").expect("it has the table");
    let (auth, after) = auth.split_once("[http]").expect("it has the next one");
    // of the ways to log in there is one
    let auth: Vec<&str> = auth.lines().filter(|line| !line.starts_with('#')).collect();
    let example = format!("{before}[sql.auth]{}\n[http]{after}", auth.join("\n"));
    let all: String = example
        .lines()
        .take_while(|line| !line.starts_with("# Understood"))
        .filter(|line| {
            !["file", "user", "password", "token", "max_age"]
                .iter()
                .any(|word| line.split(" = ").next().is_some_and(|name| name.contains(word)))
        })
        .filter(|line| !line.starts_with("#tls"))
        .map(|line| if is_commented_out(line) { &line[1..] } else { line })
        .flat_map(|line| [line, "\n"])
        .collect();
    let all = all.replace("[sql.auth]", "[sql.auth]\nuser = \"sink\"\npassword_file = \"sql.password\"");
    // THEN they say the same
    let shown = |text: &str| format!("{:#?}", load(text).expect("it is valid"));
    assert_eq!(shown(&all), shown(EXAMPLE));
}
