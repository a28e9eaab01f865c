//! A cell of the table: what became of one mode under one fault, and whether that is right.

use crate::truth::Account;

/// Rows beyond the first that an event may have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// At most so many; `None` has no limit.
    pub(crate) most: Option<u64>,
    /// Why there may be any.
    pub(crate) why: String,
}

impl Allowance {
    /// No event may have two rows.
    pub(crate) fn none() -> Self {
        Self { most: Some(0), why: String::new() }
    }
}

/// What became of one mode under one fault.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cell {
    pub(crate) mode: &'static str,
    pub(crate) account: Account,
    pub(crate) allowance: Allowance,
    /// From the fault's end until all that was published before it was settled.
    pub(crate) recovered_seconds: Option<f64>,
    pub(crate) evidence: Vec<String>,
    /// Evidence that was looked for in vain.
    pub(crate) without: Vec<String>,
    /// What else went wrong.
    pub(crate) trouble: Vec<String>,
}

impl Cell {
    /// A cell of which nothing is known but that its fault's run broke off.
    pub(crate) fn broken(mode: &'static str, why: &str) -> Self {
        Self { mode, trouble: vec![why.to_owned()], ..Self::default() }
    }

    /// Why it is wrong; nothing where it is right.
    pub(crate) fn wrong(&self) -> Vec<String> {
        let account = &self.account;
        let mut wrong = self.trouble.clone();
        let mut never = |count: u64, what: &str| {
            if count > 0 {
                wrong.push(format!("{count} {what}"));
            }
        };
        never(account.missing, "missing");
        never(account.wrong_version, "keys with another version than the one that must win");
        never(account.strange, "rows that nobody published so");
        never(account.out_of_order, "rows out of order");
        never(account.letters_missing, "bad events not dead-lettered");
        never(account.letters_repeated, "dead letters twice");
        never(account.letters_unexpected, "dead letters of good events");
        if self.allowance.most.is_some_and(|most| account.duplicated > most) {
            let allowed = self.allowance.most.unwrap_or_default();
            wrong.push(format!("{} duplicated, and at most {allowed} may be", account.duplicated));
        }
        if self.recovered_seconds.is_none() && self.trouble.is_empty() {
            wrong.push("not recovered".to_owned());
        }
        wrong.extend(self.without.iter().map(|proof| format!("no evidence: {proof}")));
        if self.evidence.is_empty() && self.trouble.is_empty() {
            wrong.push("no evidence that the fault struck".to_owned());
        }
        wrong
    }

    /// Its lines, as the report shows them.
    pub(crate) fn lines(&self) -> Vec<String> {
        let account = &self.account;
        let mut lines = vec![
            format!("published {}", number(account.published)),
            format!("in table {}", number(account.in_table)),
            format!("missing {}", number(account.missing)),
            format!("duplicated {}", number(account.duplicated)),
            format!("dead-lettered {} of {}", number(account.dead_lettered), number(account.bad)),
        ];
        if account.duplicated > 0 && !self.allowance.why.is_empty() {
            lines[3].push_str(&format!(" ({})", self.allowance.why));
        }
        if account.lost > 0 {
            lines.push(format!("lost by the stream {}", number(account.lost)));
        }
        if let Some(seconds) = self.recovered_seconds {
            lines.push(format!("recovered in {seconds:.1} s"));
        }
        if !self.evidence.is_empty() {
            lines.push(format!("seen: {}", self.evidence.join("; ")));
        }
        let wrong = self.wrong();
        if !wrong.is_empty() {
            lines.push(format!("**WRONG**: {}", wrong.join("; ")));
        }
        lines
    }
}

/// A number with its thousands apart.
pub(crate) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right() -> Cell {
        Cell {
            mode: "append",
            account: Account {
                published: 1200,
                in_table: 1198,
                bad: 2,
                dead_lettered: 2,
                ..Account::default()
            },
            allowance: Allowance::none(),
            recovered_seconds: Some(1.25),
            evidence: vec!["error 1205 × 3".to_owned()],
            ..Cell::default()
        }
    }

    #[test]
    fn a_right_cell_is_right() {
        assert_eq!(right().wrong(), Vec::<String>::new());
        assert!(right().lines().contains(&"published 1,200".to_owned()));
    }

    #[test]
    fn each_fault_of_a_cell_is_told() {
        let with = |change: fn(&mut Cell)| {
            let mut cell = right();
            change(&mut cell);
            cell.wrong().len()
        };
        assert_eq!(with(|cell| cell.account.missing = 1), 1);
        assert_eq!(with(|cell| cell.account.duplicated = 1), 1);
        assert_eq!(with(|cell| cell.account.wrong_version = 1), 1);
        assert_eq!(with(|cell| cell.account.strange = 1), 1);
        assert_eq!(with(|cell| cell.account.out_of_order = 1), 1);
        assert_eq!(with(|cell| cell.account.letters_missing = 1), 1);
        assert_eq!(with(|cell| cell.account.letters_repeated = 1), 1);
        assert_eq!(with(|cell| cell.account.letters_unexpected = 1), 1);
        assert_eq!(with(|cell| cell.recovered_seconds = None), 1);
        assert_eq!(with(|cell| cell.evidence.clear()), 1);
        assert_eq!(with(|cell| cell.without.push("redelivery".to_owned())), 1);
        assert_eq!(with(|cell| cell.account.lost = 1), 0);
    }

    #[test]
    fn duplicates_are_right_where_they_may_be_and_no_more() {
        let mut cell = right();
        cell.account.duplicated = 5;
        cell.allowance = Allowance { most: Some(5), why: "an outcome was unknown".to_owned() };
        assert!(cell.wrong().is_empty());
        assert!(cell.lines().contains(&"duplicated 5 (an outcome was unknown)".to_owned()));
        cell.allowance.most = Some(4);
        assert_eq!(cell.wrong().len(), 1);
        cell.allowance.most = None;
        assert!(cell.wrong().is_empty());
    }

    #[test]
    fn a_run_that_broke_off_is_wrong() {
        assert_eq!(Cell::broken("append", "no server").wrong(), ["no server"]);
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!([0, 999, 1000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
    }
}
