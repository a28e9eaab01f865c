//! Colours: each has a role, and looks one way on light paper and another way on dark.
//!
//! A plot is drawn in the colours for light paper. The style sheet then gives whatever has one of them the colour of
//! the scheme, so each of them must be in the palette once.

use std::fmt::Write as _;

use plotters::style::RGBColor;

/// A colour by its role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ink {
    pub(super) name: &'static str,
    pub(super) light: RGBColor,
    dark: RGBColor,
    pub(super) dashed: bool,
}

const fn ink(name: &'static str, light: RGBColor, dark: RGBColor) -> Ink {
    Ink { name, light, dark, dashed: false }
}

// Lines: the palette of Okabe and Ito, which colour-blind readers tell apart; on light paper its darker half.
pub(super) const FIRST: Ink = ink("first", RGBColor(0x00, 0x72, 0xB2), RGBColor(0x56, 0xB4, 0xE9));
pub(super) const SECOND: Ink = ink("second", RGBColor(0xD5, 0x5E, 0x00), RGBColor(0xE6, 0x9F, 0x00));
pub(super) const THIRD: Ink = ink("third", RGBColor(0x00, 0x8A, 0x64), RGBColor(0x2F, 0xD0, 0xA5));
/// What a line must not, or cannot, go beyond.
pub(super) const LIMIT: Ink =
    Ink { dashed: true, ..ink("limit", RGBColor(0x9C, 0x3D, 0x78), RGBColor(0xE3, 0x9B, 0xC8)) };

const PAPER: Ink = ink("paper", RGBColor(0xFF, 0xFF, 0xFF), RGBColor(0x15, 0x18, 0x1C));
const TEXT: Ink = ink("text", RGBColor(0x1C, 0x1F, 0x23), RGBColor(0xE8, 0xEA, 0xED));
pub(super) const MUTED: Ink = ink("muted", RGBColor(0x5A, 0x61, 0x69), RGBColor(0xA6, 0xAD, 0xB5));
pub(super) const GRID: Ink = ink("grid", RGBColor(0xDE, 0xE1, 0xE5), RGBColor(0x33, 0x39, 0x40));
/// The moment of something that happened, and its label.
pub(super) const MARK: Ink = ink("mark", RGBColor(0x3A, 0x40, 0x47), RGBColor(0xC9, 0xCF, 0xD6));
const RIGHT: Ink = ink("right", RGBColor(0x14, 0x71, 0x3C), RGBColor(0x6F, 0xD4, 0x98));
const WRONG: Ink = ink("wrong", RGBColor(0xB3, 0x26, 0x1E), RGBColor(0xFF, 0x9B, 0x91));

const ALL: &[Ink] = &[FIRST, SECOND, THIRD, LIMIT, PAPER, TEXT, MUTED, GRID, MARK, RIGHT, WRONG];

fn hexadecimal(colour: RGBColor) -> String {
    format!("#{:02X}{:02X}{:02X}", colour.0, colour.1, colour.2)
}

/// The rules that make everything follow the scheme. Paper is light, whatever the screen is.
pub(super) fn style() -> String {
    let variables = |colour: fn(&Ink) -> RGBColor| {
        ALL.iter().fold(String::new(), |mut text, ink| {
            let _infallible = write!(text, "--{}:{};", ink.name, hexadecimal(colour(ink)));
            text
        })
    };
    let mut style = format!(
        ":root{{{}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{}}}}}\n",
        variables(|ink| ink.light),
        variables(|ink| ink.dark)
    );
    for Ink { name, light, dashed, .. } in ALL {
        let light = hexadecimal(*light);
        let (border, dashes) = if *dashed { ("dashed", "stroke-dasharray:28 18") } else { ("solid", "") };
        let _infallible = writeln!(
            style,
            "svg [stroke=\"{light}\"]{{stroke:var(--{name});{dashes}}}\
             svg [fill=\"{light}\"]{{fill:var(--{name})}}\
             .ink-{name}{{border-top:3px {border} var(--{name})}}"
        );
    }
    style
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_colour_has_two_roles() {
        for (index, ink) in ALL.iter().enumerate() {
            for other in &ALL[..index] {
                assert_ne!(ink.name, other.name);
                assert_ne!(ink.light, other.light, "{} and {}", ink.name, other.name);
            }
        }
    }

    /// The contrast of two colours, after WCAG 2.
    fn contrast(one: RGBColor, other: RGBColor) -> f64 {
        let luminance = |colour: RGBColor| {
            let channel = |value: u8| {
                let value = f64::from(value) / 255.0;
                if value <= 0.040_45 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
            };
            0.2126 * channel(colour.0) + 0.7152 * channel(colour.1) + 0.0722 * channel(colour.2)
        };
        let (one, other) = (luminance(one), luminance(other));
        (one.max(other) + 0.05) / (one.min(other) + 0.05)
    }

    #[test]
    fn lines_and_text_stand_out_in_both_schemes() {
        for (least, inks) in
            [(3.0, &[FIRST, SECOND, THIRD, LIMIT][..]), (4.5, &[TEXT, MUTED, MARK, RIGHT, WRONG])]
        {
            for ink in inks {
                assert!(contrast(ink.light, PAPER.light) >= least, "{} on light paper", ink.name);
                assert!(contrast(ink.dark, PAPER.dark) >= least, "{} on dark paper", ink.name);
            }
        }
    }

    #[test]
    fn the_style_follows_the_scheme() {
        let style = style();
        assert!(style.starts_with(":root{--first:#0072B2;"), "{style}");
        assert!(style.contains("(prefers-color-scheme:dark){:root{--first:#56B4E9;"), "{style}");
        assert!(style.contains("svg [stroke=\"#0072B2\"]{stroke:var(--first);}"), "{style}");
    }
}
