//! The scenarios that come with the program.

macro_rules! scenarios {
    ($($name:literal),* $(,)?) => {
        const SCENARIOS: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../scenarios/", $name, ".toml")))),*];
    };
}

scenarios![
    "steady",
    "burst",
    "backlog",
    "slow-sql",
    "throttled",
    "outage",
    "wide",
    "large",
    "tiny",
    "poison",
    "columnstore",
    "scale-out",
    "soak",
];

/// Their names, in the order of the documentation.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    SCENARIOS.iter().map(|(name, _)| *name)
}

/// The text of one.
pub(super) fn text(name: &str) -> Option<&'static str> {
    SCENARIOS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}
