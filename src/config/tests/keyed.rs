//! `write`, `key` and `sequence_column`.

use super::*;

#[test]
fn writing_by_key_wants_a_key() {
    let sequence = "sequence_column = \"at\"";
    for lines in [
        "write = \"insert_if_absent\"\nkey = [\"a\"]".to_owned(),
        format!("write = \"insert_if_absent\"\nkey = [\"a\", \"b\"]\n{sequence}"),
        format!("write = \"upsert\"\nkey = [\"a\"]\n{sequence}"),
    ] {
        assert!(load(&added("name =", &lines)).is_ok(), "{lines}");
    }
    let many: Vec<String> = (0..17).map(|index| format!("\"c{index}\"")).collect();
    for (lines, field, part) in [
        ("write = \"insert_if_absent\"".to_owned(), "key", "= []: must name 1 to 16 columns"),
        (
            format!("write = \"insert_if_absent\"\nkey = [{}]", many.join(", ")),
            "key",
            "= 17 columns: must name",
        ),
        (
            "write = \"insert_if_absent\"\nkey = [\"a\", \"b\", \"A\"]".to_owned(),
            "key[2]",
            "= \"A\": is in the key already",
        ),
        (
            format!("write = \"upsert\"\nkey = [\"a\", \"AT\"]\n{sequence}"),
            "key[1]",
            "is the sequence column",
        ),
        (
            "write = \"upsert\"\nkey = [\"a\"]".to_owned(),
            "sequence_column",
            "is required with `write = \"upsert\"`",
        ),
        ("key = [\"a\"]".to_owned(), "key", "has a meaning only with `write ="),
        (sequence.to_owned(), "sequence_column", "has a meaning only with `write ="),
        ("write = \"merge\"".to_owned(), "write", "insert_if_absent"),
    ] {
        let problems = problems(&added("name =", &lines));
        let shown: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(problems.len(), 1, "{shown:#?}");
        assert_eq!(problems[0].field, format!("pipeline[0].{field}"), "{shown:#?}");
        assert!(shown[0].contains(part), "{part:?} is not in {shown:#?}");
    }
}
