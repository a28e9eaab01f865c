//! As a part of a nats-server's configuration file. Passwords are variables, which the file or its environment has to set:
//! none is made up, and none is printed.

use super::{Granted, quoted};
use crate::rights::nats::Verb;

/// The users, with their permissions.
pub(super) fn text(granted: &[Granted]) -> String {
    let mut lines = vec![
        "# Passwords are variables of the environment, or of this file; better than a password is its bcrypt hash, as \
         `nats server passwd`"
            .to_owned(),
        "# makes it. In an account of its own, `users` stands in `accounts { NAME { … } }`.".to_owned(),
        "authorization {".to_owned(),
        "  users: [".to_owned(),
    ];
    for granted in granted {
        lines.extend(granted.comments().into_iter().map(|comment| format!("    {comment}")));
        lines.push("    {".to_owned());
        lines.push(format!("      user: {}", quoted(&granted.nats_user)));
        lines.push(format!("      password: ${}", variable(granted)));
        lines.push("      permissions: {".to_owned());
        for verb in [Verb::Publish, Verb::Subscribe] {
            let rights = granted.nats.of(verb);
            if rights.is_empty() {
                lines.push(format!("        {}: {{ deny: [\">\"] }}", verb.as_str()));
                continue;
            }
            lines.push(format!("        {}: {{ allow: [", verb.as_str()));
            for right in rights {
                lines.push(format!("          {} # {}", quoted(&right.subject), right.purpose));
            }
            lines.push("        ] }".to_owned());
        }
        lines.push("      }".to_owned());
        lines.push("    }".to_owned());
    }
    lines.push("  ]".to_owned());
    lines.push("}".to_owned());
    lines.join("\n")
}

fn variable(granted: &Granted) -> String {
    format!("{}_PASSWORD", granted.name.to_ascii_uppercase())
}
