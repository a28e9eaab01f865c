//! The headers of an event in as many bytes as they had on the wire. The client's own map takes hundreds for each name,
//! which would make an event with many short headers cost twenty times what it is charged for.

use async_nats::HeaderMap;

/// Names and values. A name that occurs twice has its values in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headers {
    /// `name:value\r\n` for each: a name holds no colon, and a value no line break. Source: NATS ADR-4.
    lines: Box<str>,
}

impl Headers {
    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        self.lines.len()
    }

    /// All of them as they are kept: `name:value\r\n` for each.
    pub fn as_lines(&self) -> &str {
        &self.lines
    }

    /// As [`Headers::as_lines`] gave them.
    pub fn from_lines(lines: String) -> Self {
        Self { lines: lines.into_boxed_str() }
    }

    /// Every name with every value of it.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.lines.split_terminator("\r\n").filter_map(|line| line.split_once(':'))
    }

    /// The first value of a header. Case matters.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(own, _)| *own == name).map(|(_, value)| value)
    }
}

impl From<&HeaderMap> for Headers {
    fn from(map: &HeaderMap) -> Self {
        let mut lines = String::new();
        for (name, values) in map.iter() {
            for value in values {
                let name: &str = name.as_ref();
                lines.extend([name, ":", value.as_str(), "\r\n"]);
            }
        }
        Self { lines: lines.into_boxed_str() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_kept_in_as_many_bytes_as_it_had() {
        let mut map = HeaderMap::new();
        map.insert("A", "one: two");
        map.append("A", "");
        map.insert("B", "ä\tb");
        let headers = Headers::from(&map);
        let mut all: Vec<_> = headers.iter().collect();
        all.sort_unstable();
        assert_eq!(all, [("A", ""), ("A", "one: two"), ("B", "ä\tb")]);
        assert_eq!((headers.get("A"), headers.get("a")), (Some("one: two"), None));
        assert_eq!(headers.bytes(), "A:one: two\r\nA:\r\nB:ä\tb\r\n".len());
    }
}
