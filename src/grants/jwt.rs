//! As commands of nsc, for users that prove by a JWT who they are. Each has its role as a tag, for an auth callout or a
//! scoped signing key to go by.

use super::Granted;
use crate::rights::nats::Verb;

/// Makes the users, each with its permissions from the first: one without any may do everything.
pub(super) fn commands(granted: &[Granted], account: &str) -> String {
    let mut lines = vec![
        format!(
            "# A user that is there already is deleted before, by `nsc delete user --account {account} --name …`, or edited,"
        ),
        "# with --rm for every subject that it is to lose: `nsc edit user` only adds.".to_owned(),
        String::new(),
    ];
    for granted in granted {
        lines.extend(granted.comments());
        let user = shell(&granted.nats_user);
        let mut add = format!("nsc add user --account {account} --name {user} --tag {}", granted.tag());
        for (verb, flag) in [(Verb::Publish, "pub"), (Verb::Subscribe, "sub")] {
            let (allowed, denied) = granted.lists(verb);
            for (what, subjects) in [("allow", allowed), ("deny", denied)] {
                for subject in subjects {
                    add.push_str(&format!(" \\\n  --{what}-{flag} {}", shell(subject)));
                }
            }
        }
        lines.push(add);
        lines.push(String::new());
    }
    lines.join("\n")
}

/// A word of a shell: subjects have `$`, `*` and `>` in them.
fn shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_not_read_by_the_shell() {
        assert_eq!(shell("$JS.API.>"), "'$JS.API.>'");
        assert_eq!(shell("a'b"), r"'a'\''b'");
    }
}
