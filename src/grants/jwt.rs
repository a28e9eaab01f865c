//! As commands of nsc, for users that prove by a JWT who they are. Each has its role as a tag, for an auth callout or a
//! scoped signing key to go by.

use super::Granted;
use crate::rights::nats::Verb;

/// Makes the users, and gives them their permissions.
pub(super) fn commands(granted: &[Granted], account: &str) -> String {
    let mut lines = Vec::new();
    for granted in granted {
        lines.push(format!("# {}: {}", granted.role, granted.role.purpose()));
        if !granted.nats.subscribe.is_empty() {
            lines.push(format!("# inbox prefix: {}", granted.nats.inbox_prefix));
        }
        let user = shell(&granted.nats_user);
        lines.push(format!("nsc add user --account {account} --name {user}"));
        let mut edit = format!("nsc edit user --account {account} --name {user} --tag {}", granted.tag());
        for (verb, flag) in [(Verb::Publish, "pub"), (Verb::Subscribe, "sub")] {
            let (allowed, denied) = granted.lists(verb);
            for (what, subjects) in [("allow", allowed), ("deny", denied)] {
                for subject in subjects {
                    edit.push_str(&format!(" \\\n  --{what}-{flag} {}", shell(subject)));
                }
            }
        }
        lines.push(edit);
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
