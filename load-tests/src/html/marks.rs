//! Where the labels of marks go, above a plot, so that none lies on another or on another's line.
//!
//! Lengths are in the plot's units. The labels are set in a font with a fixed width, so that their length is known.

use crate::report::Mark;

/// Rows of labels, one above the other.
const MOST_LANES: usize = 3;
/// With more marks than this nobody would read the labels, and trying all places would take long.
const MOST_TEXTS: usize = 8;
/// Between a label and its line, or another label.
const GAP: i32 = 16;

/// The label of one mark, or of several that are too close together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) text: String,
    /// Where the text begins.
    pub(super) left: i32,
    pub(super) right: i32,
    /// 0 is next to the plot.
    pub(super) lane: usize,
    /// Of the marks that it stands for.
    pub(super) lines: Vec<i32>,
}

/// The labels of all marks of a plot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) labels: Vec<Label>,
    pub(super) lanes: usize,
    /// The labels are the numbers of the marks in the list beside the plots: their texts would not fit.
    pub(super) numbered: bool,
}

/// The marks of a run, in the order of time. What has no moment is left out.
pub(super) fn sorted(marks: &[Mark]) -> Vec<&Mark> {
    let mut sorted: Vec<&Mark> = marks.iter().filter(|mark| mark.at.is_finite()).collect();
    sorted.sort_by(|one, other| one.at.total_cmp(&other.at));
    sorted
}

/// The layout of `marks`, each a place and a text, from left to right, in a drawing of a width.
pub(super) fn layout(marks: &[(i32, &str)], width: i32, letter: i32) -> Layout {
    with_texts(marks, width, letter).unwrap_or_else(|| with_numbers(marks, width, letter))
}

/// Every label beside the top of its line, in as few lanes as can be. `None` where there is no room.
fn with_texts(marks: &[(i32, &str)], width: i32, letter: i32) -> Option<Layout> {
    if marks.len() > MOST_TEXTS {
        return None;
    }
    (0..=MOST_LANES).find_map(|lanes| {
        let mut labels = Vec::new();
        let room = Room { width, letter, lanes };
        room.place(marks, &mut labels).then_some(Layout { labels, lanes, numbered: false })
    })
}

struct Room {
    width: i32,
    letter: i32,
    lanes: usize,
}

impl Room {
    /// Finds places for `marks` beside those that are `placed`, by trying all.
    fn place(&self, marks: &[(i32, &str)], placed: &mut Vec<Label>) -> bool {
        let Some(((line, text), others)) = marks.split_first() else {
            return true;
        };
        let length = length(text, self.letter);
        for left in [line + GAP, line - GAP - length] {
            for lane in 0..self.lanes {
                let text = (*text).to_owned();
                let label = Label { text, left, right: left + length, lane, lines: vec![*line] };
                let inside = label.left >= 0 && label.right <= self.width;
                if inside && !placed.iter().any(|earlier| collide(earlier, &label)) {
                    placed.push(label);
                    if self.place(others, placed) {
                        return true;
                    }
                    placed.pop();
                }
            }
        }
        false
    }
}

/// Whether two labels touch each other, or each other's line, or stand in a lane against the order of their marks.
fn collide(earlier: &Label, later: &Label) -> bool {
    // a line reaches from its label down to the plot, through all lanes below
    let crosses = |upper: &Label, lower: &Label| {
        let through = |line: &i32| lower.left - GAP < *line && *line < lower.right + GAP;
        upper.lane >= lower.lane && upper.lines.iter().any(through)
    };
    let in_order = earlier.right + GAP <= later.left;
    (earlier.lane == later.lane && !in_order) || crosses(earlier, later) || crosses(later, earlier)
}

/// One lane of numbers, each above its line; where they would touch, from the first to the last of several marks.
fn with_numbers(marks: &[(i32, &str)], width: i32, letter: i32) -> Layout {
    let mut groups: Vec<Group> = Vec::new();
    for (index, (line, _)) in marks.iter().enumerate() {
        let mut group = Group { first: index + 1, last: index + 1, lines: vec![*line] };
        // a group that has grown may touch the one before it
        while let Some(before) = groups.pop_if(|before| before.touches(&group, width, letter)) {
            group =
                Group { first: before.first, last: group.last, lines: [before.lines, group.lines].concat() };
        }
        groups.push(group);
    }
    let labels = groups.iter().map(|group| group.label(width, letter)).collect();
    Layout { labels, lanes: usize::from(!marks.is_empty()), numbered: true }
}

struct Group {
    first: usize,
    last: usize,
    lines: Vec<i32>,
}

impl Group {
    fn label(&self, width: i32, letter: i32) -> Label {
        let text = if self.first == self.last {
            self.first.to_string()
        } else {
            format!("{}–{}", self.first, self.last)
        };
        let length = length(&text, letter);
        let first = self.lines.first().copied().unwrap_or_default();
        let last = self.lines.last().copied().unwrap_or_default();
        let left = (i32::midpoint(first, last) - length / 2).min(width - length).max(0);
        Label { text, left, right: left + length, lane: 0, lines: self.lines.clone() }
    }

    fn touches(&self, next: &Self, width: i32, letter: i32) -> bool {
        self.label(width, letter).right + GAP > next.label(width, letter).left
    }
}

/// How long a text is at most. Beyond ASCII there are letters of twice the width, except for the dash that numbers have.
fn length(text: &str, letter: i32) -> i32 {
    text.chars()
        .map(|c| if c.is_ascii() || c == '–' { letter } else { 2 * letter })
        .fold(0, i32::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: i32 = 1000;
    const LETTER: i32 = 10;

    /// Asserts, in its own words, that nothing lies on anything else.
    fn assert_apart(layout: &Layout, marks: &[(i32, &str)]) {
        let mut lines: Vec<i32> = layout.labels.iter().flat_map(|label| label.lines.clone()).collect();
        lines.sort_unstable();
        assert_eq!(lines, marks.iter().map(|(line, _)| *line).collect::<Vec<_>>(), "every mark has a line");
        for (index, label) in layout.labels.iter().enumerate() {
            assert!(0 <= label.left && label.right <= WIDTH && label.lane < layout.lanes, "{label:?}");
            for (other_index, other) in layout.labels.iter().enumerate() {
                if index == other_index {
                    continue;
                }
                // the labels are in the order of their marks
                let (first, second) = if index < other_index { (label, other) } else { (other, label) };
                assert!(first.lane != second.lane || first.right < second.left, "{first:?} {second:?}");
                // numbers stand above their lines, which begin below them
                let reaches = !layout.numbered && other.lane >= label.lane;
                for line in &other.lines {
                    assert!(!reaches || !(label.left..=label.right).contains(line), "{label:?} {other:?}");
                }
            }
        }
    }

    fn laid_out(marks: &[(i32, &str)]) -> Layout {
        let layout = layout(marks, WIDTH, LETTER);
        assert_apart(&layout, marks);
        layout
    }

    #[test]
    fn marks_far_apart_have_their_texts_in_one_lane() {
        let layout = laid_out(&[(200, "SQL away"), (600, "SQL back")]);
        assert_eq!((layout.lanes, layout.numbered), (1, false));
        assert_eq!(layout.labels[0].text, "SQL away");
        assert_eq!(layout.labels[0].left, 200 + GAP);
    }

    #[test]
    fn marks_close_together_have_lanes() {
        let layout = laid_out(&[(200, "SQL away"), (230, "SQL back"), (240, "caught up")]);
        assert!(layout.lanes > 1 && !layout.numbered, "{layout:?}");
    }

    #[test]
    fn marks_at_one_moment_are_read_in_their_order() {
        let layout = laid_out(&[(400, "worker killed"), (401, "worker back")]);
        assert_eq!((layout.lanes, layout.labels[0].right, layout.labels[1].left), (1, 400 - GAP, 401 + GAP));
    }

    #[test]
    fn a_text_that_does_not_fit_on_the_right_is_on_the_left() {
        let layout = laid_out(&[(0, "published"), (1000, "stopped")]);
        assert_eq!((layout.lanes, layout.numbered), (1, false));
        assert_eq!(layout.labels[1].right, 1000 - GAP);
    }

    #[test]
    fn too_many_texts_become_numbers() {
        let marks: Vec<(i32, &str)> = (0..12).map(|index| (300 + index * 12, "SQL away")).collect();
        let layout = laid_out(&marks);
        assert!(layout.numbered);
        let texts: Vec<&str> = layout.labels.iter().map(|label| label.text.as_str()).collect();
        assert_eq!(texts, ["1–7", "8–12"]);
    }

    #[test]
    fn a_text_longer_than_the_plot_becomes_a_number() {
        let long = "x".repeat(200);
        let layout = laid_out(&[(500, long.as_str())]);
        assert!(layout.numbered);
        assert_eq!(layout.labels[0].text, "1");
    }

    #[test]
    fn any_marks_are_apart() {
        let texts = ["a", "SQL away", "a worker is killed, and another one begun"];
        // places as a small generator has them, always the same
        let mut state = 7_u32;
        let mut next = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % below
        };
        let mut numbered = 0;
        for _ in 0..2000 {
            let mut marks: Vec<(i32, &str)> = (0..next(9))
                .map(|_| (i32::try_from(next(1001)).unwrap(), texts[usize::try_from(next(3)).unwrap()]))
                .collect();
            marks.sort_unstable();
            numbered += usize::from(laid_out(&marks).numbered);
        }
        assert!((100..1900).contains(&numbered), "both ways are tried: {numbered}");
    }

    #[test]
    fn a_thousand_marks_at_one_moment_are_one_label() {
        let layout = laid_out(&vec![(1000, "SQL away"); 1000]);
        assert_eq!(layout.labels.len(), 1);
        assert_eq!((layout.labels[0].text.as_str(), layout.labels[0].right), ("1–1000", 1000));
    }

    #[test]
    fn marks_without_a_moment_are_left_out() {
        let mark = |at| Mark { at, label: String::new() };
        let marks = [mark(5.0), mark(f64::NAN), mark(1.0)];
        assert_eq!(sorted(&marks).iter().map(|mark| mark.at).collect::<Vec<_>>(), [1.0, 5.0]);
    }
}
