//! How far a run is: two bars on a terminal, and a line now and then where there is none.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressStyle};
use test_bench::say;

/// Between two lines where no bar can be drawn.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// What is published, and what is settled.
#[derive(Debug)]
pub(crate) struct Bars {
    published: ProgressBar,
    settled: ProgressBar,
    events: u64,
    /// When the last line was written; `None` where bars are drawn.
    last_line: Option<Instant>,
}

impl Bars {
    pub(crate) fn new(title: &str, events: u64) -> Self {
        let bars = MultiProgress::new();
        let style = ProgressStyle::with_template(
            "  {prefix:>12} {bar:40} {human_pos:>11} / {human_len}  {per_sec}  {msg}",
        );
        let bar = |name: &'static str| {
            let bar = bars.add(ProgressBar::new(events));
            if let Ok(style) = &style {
                bar.set_style(style.clone());
            }
            bar.with_prefix(name)
        };
        say::note(title);
        let is_terminal = std::io::stderr().is_terminal();
        Self {
            published: bar("published"),
            settled: bar("settled"),
            events,
            last_line: (!is_terminal).then(Instant::now),
        }
    }

    /// `about` says what goes wrong at the moment.
    pub(crate) fn show(&mut self, published: u64, settled: u64, about: &str) {
        self.published.set_position(published);
        self.settled.set_position(settled);
        self.settled.set_message(about.to_owned());
        if self.last_line.is_some_and(|last| last.elapsed() >= BETWEEN_LINES) {
            self.last_line = Some(Instant::now());
            say::note(&format!(
                "  published {} of {}, settled {} {about}",
                HumanCount(published),
                HumanCount(self.events),
                HumanCount(settled),
            ));
        }
    }

    pub(crate) fn finish(&self) {
        self.published.abandon();
        self.settled.abandon();
    }
}
