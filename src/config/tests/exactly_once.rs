//! What only `exactly_once` and receipts have.

use super::{added, assert_refused, load};

#[test]
fn what_only_exactly_once_has_is_refused_without_it() {
    for (line, field) in [
        ("partitions = { count = 8, subject = \"events.{partition}.>\" }", "partitions"),
        ("lease = \"10s\"", "lease"),
        ("on_gap = \"continue\"", "on_gap"),
    ] {
        assert_refused(&added("name =", line), &format!("pipeline[0].{field}"), "only with `delivery");
        let with = added("name =", &format!("delivery = \"exactly_once\"\n{line}"));
        assert!(load(&with).is_ok(), "{line}");
    }
}

#[test]
fn partitions_are_disjoint_and_cover_the_subjects() {
    let with = |partitions: &str| {
        added("name =", &format!("delivery = \"exactly_once\"\npartitions = {{ {partitions} }}"))
    };
    for good in [
        "subjects = [[\"events.>\"]]",
        "subjects = [[\"events.*\"], [\"events.*.>\"]]",
        "count = 1024, subject = \"events.{partition}.>\"",
    ] {
        assert!(load(&with(good)).is_ok(), "{good}");
    }
    for (bad, field, part) in [
        ("count = 8", "partitions", "either `subjects`"),
        ("subjects = [[\"events.>\"]], count = 8", "partitions", "either `subjects`"),
        ("count = 0, subject = \"events.{partition}.>\"", "partitions.count", "1"),
        ("count = 8, subject = \"events.x.>\"", "partitions.subject", "{partition}"),
        ("count = 8, subject = \"other.{partition}.>\"", "partitions.subject", "among"),
        ("subjects = [[\"events.*\"]]", "partitions.subjects", "together"),
        ("subjects = [[\"events.>\"], []]", "partitions.subjects[1]", "at least one"),
        ("subjects = [[\"events.>\"], [\"events.a\"]]", "partitions.subjects[1][0]", "overlap"),
        ("subjects = [[\"events.>\", \"other.a\"]]", "partitions.subjects[0][1]", "among"),
        ("subjects = [[\"events..a\", \"events.>\"]]", "partitions.subjects[0][0]", "empty token"),
    ] {
        assert_refused(&with(bad), &format!("pipeline[0].{field}"), part);
    }
}

#[test]
fn receipts_are_not_events() {
    assert!(load(&added("name =", "receipts = { subject = \"receipts.telemetry\" }")).is_ok());
    for (subject, part) in [("events.receipts", "own `subjects`"), ("receipts.*", "wildcards")] {
        let text = added("name =", &format!("receipts = {{ subject = \"{subject}\" }}"));
        assert_refused(&text, "pipeline[0].receipts.subject", part);
    }
}
