//! The status page: one file of HTML that fetches nothing.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use crate::status::{CredentialStatus, PipelineSnapshot};

const HEAD: &str = r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="5">
<title>nats-sql-sink</title>
<style>
:root { color-scheme: light dark; --ok: #14713c; --bad: #b3261e; --line: #8886; }
@media (prefers-color-scheme: dark) { :root { --ok: #6fd498; --bad: #ff9b91; } }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .4rem .8rem; text-align: left; vertical-align: top; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.ready { color: var(--ok); font-weight: 600; white-space: nowrap; }
.not-ready { color: var(--bad); font-weight: 600; white-space: nowrap; }
.reason { overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>nats-sql-sink</h1>
"#;

/// The page as of `now`.
pub(super) fn render(
    pipelines: &[PipelineSnapshot],
    credentials: &[(&'static str, CredentialStatus)],
    now: SystemTime,
) -> String {
    let mut page = HEAD.to_owned();
    if pipelines.is_empty() {
        page.push_str("<p>Starting.</p>\n");
    } else {
        page.push_str(
            "<div class=\"wide\"><table>\n<tr><th>Pipeline</th><th>State</th><th>For</th>\
             <th class=\"number\">Committed</th><th class=\"number\">Dead-lettered</th><th>Reason</th></tr>\n",
        );
        for pipeline in pipelines {
            page.push_str(&row(pipeline, now));
        }
        page.push_str("</table></div>\n");
    }
    if !credentials.is_empty() {
        page.push_str(
            "<div class=\"wide\"><table>\n<tr><th>Secrets of</th><th>Age</th><th>End in</th><th>Warning</th></tr>\n",
        );
        for (plane, status) in credentials {
            page.push_str(&credential_row(plane, status, now));
        }
        page.push_str("</table></div>\n");
    }
    let _infallible = write!(
        page,
        "<p>Version {}. Events are counted since this process started. See also \
         <a href=\"/readyz\">readiness</a> and <a href=\"/metrics\">metrics</a>.</p>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    );
    page
}

fn row(pipeline: &PipelineSnapshot, now: SystemTime) -> String {
    let (class, state) = if pipeline.is_ready() { ("ready", "ready") } else { ("not-ready", "not ready") };
    let elapsed = now.duration_since(pipeline.since).unwrap_or_default();
    format!(
        "<tr><td>{}</td><td class=\"{class}\">{state}</td><td>{}</td><td class=\"number\">{}</td>\
         <td class=\"number\">{}</td><td class=\"reason\">{}</td></tr>\n",
        escape(&pipeline.name),
        humantime::format_duration(Duration::from_secs(elapsed.as_secs())),
        grouped(pipeline.committed),
        grouped(pipeline.dead_lettered),
        escape(pipeline.reason.as_deref().unwrap_or_default()),
    )
}

fn credential_row(plane: &str, status: &CredentialStatus, now: SystemTime) -> String {
    let shown =
        |elapsed: Duration| humantime::format_duration(Duration::from_secs(elapsed.as_secs())).to_string();
    let age = shown(now.duration_since(status.since).unwrap_or_default());
    let ends = match status.expires_at.map(|end| end.duration_since(now)) {
        None => "–".to_owned(),
        Some(Ok(left)) => shown(left),
        Some(Err(_over)) => "ended".to_owned(),
    };
    let warnings: Vec<&str> = status.warning.iter().chain(&status.problem).map(String::as_str).collect();
    format!(
        "<tr><td>{plane}</td><td>{age}</td><td>{ends}</td><td class=\"reason\">{}</td></tr>\n",
        escape(&warnings.join("; "))
    )
}

/// With a thin space between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push('\u{2009}');
        }
        grouped.push(digit);
    }
    grouped
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn shows_every_pipeline_and_fetches_nothing() {
        let since = SystemTime::UNIX_EPOCH;
        let snapshot = |name: &str, reason: Option<&str>| PipelineSnapshot {
            name: Arc::from(name),
            reason: reason.map(str::to_owned),
            since,
            committed: 1_234_567,
            dead_lettered: 12,
        };
        let pipelines = [snapshot("one", None), snapshot("two", Some("<script>alert(1)</script>"))];
        let credentials = CredentialStatus {
            since,
            expires_at: Some(since + Duration::from_secs(121)),
            warning: Some("it ends soon".to_owned()),
            problem: Some("<new one>".to_owned()),
        };
        let page = render(&pipelines, &[("nats", credentials)], since + Duration::from_millis(61_500));
        for part in [
            "one",
            "two",
            ">ready<",
            ">not ready<",
            "1m 1s",
            "1\u{2009}234\u{2009}567",
            ">12<",
            "&lt;script&gt;",
            "<td>nats</td><td>1m 1s</td><td>59s</td>",
            "it ends soon; &lt;new one&gt;",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
        for part in ["<script", "<img", "<link", "http://", "https://", "url("] {
            assert!(!page.contains(part), "{part}\n{page}");
        }
    }

    #[test]
    fn says_that_it_is_starting() {
        assert!(render(&[], &[], SystemTime::now()).contains("Starting"));
    }

    #[test]
    fn groups_digits() {
        for (number, expected) in [(0, "0"), (999, "999"), (1000, "1 000"), (123_456, "123 456")] {
            assert_eq!(grouped(number).replace('\u{2009}', " "), expected);
        }
    }
}
