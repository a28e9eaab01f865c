//! How far the demo is: two bars on a terminal, and a line now and then where there is none.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressStyle};

use crate::output;

/// Between two lines where no bar can be drawn.
const BETWEEN_LINES: Duration = Duration::from_secs(2);

/// What is published, and what is committed.
pub(super) struct Bars {
    events: u64,
    published: ProgressBar,
    committed: ProgressBar,
    /// When the last line was written; `None` where no lines are.
    last_line: Option<Instant>,
}

impl Bars {
    pub(super) fn new(events: u64, hidden: bool) -> Self {
        let bars = MultiProgress::new();
        let bar = |name: &'static str| {
            let bar = if hidden { ProgressBar::hidden() } else { bars.add(ProgressBar::new(events)) };
            if let Ok(style) = ProgressStyle::with_template(
                "  {prefix:>12} {bar:40} {human_pos:>10} / {human_len}  {per_sec}",
            ) {
                bar.set_style(style);
            }
            bar.with_prefix(name)
        };
        let writes_lines = !hidden && !std::io::stderr().is_terminal();
        Self {
            events,
            published: bar("published"),
            committed: bar("in the table"),
            last_line: writes_lines.then(Instant::now),
        }
    }

    pub(super) fn show(&mut self, published: u64, committed: u64) {
        self.published.set_position(published);
        self.committed.set_position(committed);
        let Some(last) = self.last_line.filter(|last| last.elapsed() >= BETWEEN_LINES) else { return };
        let rate = |bar: &ProgressBar| {
            #[allow(clippy::cast_precision_loss)] // a rate is read with three digits
            let rate = bar.position() as f64 / bar.elapsed().as_secs_f64().max(0.001);
            format!("{rate:.0}/s")
        };
        output::note(&format!(
            "  published {} of {} ({}), in the table {} ({})",
            HumanCount(published),
            HumanCount(self.events),
            rate(&self.published),
            HumanCount(committed),
            rate(&self.committed),
        ));
        self.last_line = Some(last + BETWEEN_LINES);
    }

    pub(super) fn finish(&self) {
        self.published.abandon();
        self.committed.abandon();
    }
}
