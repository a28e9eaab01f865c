//! Text as the `xml` type keeps it: SQL Server does not store what it was sent but what that means, so the
//! declaration goes, and so do blanks between elements, the kind of quotes, and how an empty element is written.

use super::error::SqlError;

/// A document is not this deep unless somebody means harm: SQL Server's own limit.
const MAX_DEPTH: usize = 128;

/// The text that a client reads after it wrote `text`.
///
/// # Errors
/// 9400 to 9459 as SQL Server for what is not well-formed; what this reader does not know is refused by name.
pub(super) fn normalize(text: &str) -> Result<String, SqlError> {
    let mut reader = Reader { rest: text.strip_prefix('\u{FEFF}').unwrap_or(text), out: String::new() };
    reader.document()?;
    Ok(reader.out)
}

fn parsing(number: i32, what: &str) -> SqlError {
    SqlError::new(number, 16, 1, format!("XML parsing: {what}"))
}

struct Reader<'a> {
    rest: &'a str,
    out: String,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Result<(), SqlError> {
        if self.rest.starts_with("<?xml ") {
            self.until("?>")?;
        }
        let mut open: Vec<&'a str> = Vec::new();
        while !self.rest.is_empty() {
            match self.rest.find('<') {
                Some(0) => self.markup(&mut open)?,
                Some(end) => self.text(end)?,
                None => self.text(self.rest.len())?,
            }
        }
        match open.pop() {
            None => Ok(()),
            Some(_) => Err(parsing(9400, "unexpected end of input")),
        }
    }

    fn markup(&mut self, open: &mut Vec<&'a str>) -> Result<(), SqlError> {
        for refused in ["<!DOCTYPE", "<![CDATA[", "<!--", "<?"] {
            if self.rest.starts_with(refused) {
                return Err(SqlError::unsupported(&format!("{refused} in xml")));
            }
        }
        if let Some(rest) = self.rest.strip_prefix("</") {
            self.rest = rest;
            let name = self.name()?;
            self.blanks();
            self.expect('>')?;
            if open.pop() != Some(name) {
                return Err(parsing(9436, "end tag does not match start tag"));
            }
            self.out.push_str(&format!("</{name}>"));
            return Ok(());
        }
        self.expect('<')?;
        let name = self.name()?;
        self.out.push('<');
        self.out.push_str(name);
        self.attributes()?;
        if let Some(rest) = self.rest.strip_prefix("/>") {
            self.rest = rest;
            self.out.push_str("/>");
            return Ok(());
        }
        self.expect('>')?;
        // an element of nothing is written as one
        let blank = self.rest.trim_start_matches(is_blank);
        if let Some(after) = blank.strip_prefix("</").and_then(|rest| rest.strip_prefix(name))
            && let Some(after) = after.trim_start_matches(is_blank).strip_prefix('>')
        {
            self.rest = after;
            self.out.push_str("/>");
            return Ok(());
        }
        if open.len() >= MAX_DEPTH {
            return Err(SqlError::new(
                6335,
                16,
                102,
                "XML datatype instance has too many levels of nested nodes. Maximum allowed depth is 128 levels.",
            ));
        }
        self.out.push('>');
        open.push(name);
        Ok(())
    }

    fn attributes(&mut self) -> Result<(), SqlError> {
        let mut names: Vec<&str> = Vec::new();
        loop {
            let had_blank = self.blanks();
            if self.rest.starts_with('>') || self.rest.starts_with("/>") {
                return Ok(());
            }
            if !had_blank {
                return Err(parsing(9413, "A string literal was expected"));
            }
            let name = self.name()?;
            if names.contains(&name) {
                return Err(parsing(9437, "duplicate attribute"));
            }
            names.push(name);
            self.blanks();
            self.expect('=')?;
            self.blanks();
            let quote = self.rest.chars().next().filter(|quote| matches!(quote, '"' | '\''));
            let Some(quote) = quote else { return Err(parsing(9413, "A string literal was expected")) };
            self.expect(quote)?;
            let value = self.until(quote.encode_utf8(&mut [0; 4]))?;
            if value.contains('<') {
                return Err(parsing(9420, "illegal xml character"));
            }
            let value = resolve(value)?;
            self.out.push_str(&format!(" {name}=\""));
            for character in value.chars() {
                match character {
                    '"' => self.out.push_str("&quot;"),
                    '\n' => self.out.push_str("&#x0A;"),
                    '\r' => self.out.push_str("&#x0D;"),
                    '\t' => self.out.push_str("&#x09;"),
                    other => push_escaped(&mut self.out, other),
                }
            }
            self.out.push('"');
        }
    }

    fn text(&mut self, end: usize) -> Result<(), SqlError> {
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        if text.chars().all(is_blank) {
            return Ok(());
        }
        if text.contains("]]>") {
            return Err(parsing(9420, "illegal xml character"));
        }
        for character in resolve(&text.replace("\r\n", "\n"))?.chars() {
            match character {
                '\r' => self.out.push_str("&#x0D;"),
                other => push_escaped(&mut self.out, other),
            }
        }
        Ok(())
    }

    fn name(&mut self) -> Result<&'a str, SqlError> {
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        if !name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            return Err(parsing(9455, "illegal qualified name character"));
        }
        self.rest = rest;
        Ok(name)
    }

    fn blanks(&mut self) -> bool {
        let before = self.rest.len();
        self.rest = self.rest.trim_start_matches(is_blank);
        self.rest.len() < before
    }

    fn expect(&mut self, character: char) -> Result<(), SqlError> {
        match self.rest.strip_prefix(character) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None if self.rest.is_empty() => Err(parsing(9400, "unexpected end of input")),
            None => Err(parsing(9455, "illegal qualified name character")),
        }
    }

    fn until(&mut self, end: &str) -> Result<&'a str, SqlError> {
        let (before, after) =
            self.rest.split_once(end).ok_or_else(|| parsing(9400, "unexpected end of input"))?;
        self.rest = after;
        Ok(before)
    }
}

fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\r' | '\n')
}

fn push_escaped(out: &mut String, character: char) {
    match character {
        '&' => out.push_str("&amp;"),
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        other => out.push(other),
    }
}

/// With each entity replaced by what it stands for.
fn resolve(text: &str) -> Result<String, SqlError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let (entity, after) = after.split_once(';').ok_or_else(|| parsing(9411, "semicolon expected"))?;
        out.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => {
                let number = match (entity.strip_prefix("#x"), entity.strip_prefix('#')) {
                    (Some(digits), _) => u32::from_str_radix(digits, 16).ok(),
                    (None, Some(digits)) => digits.parse().ok(),
                    (None, None) => return Err(parsing(9448, "well formed check: undeclared entity")),
                };
                number.and_then(char::from_u32).ok_or_else(|| parsing(9420, "illegal xml character"))?
            }
        });
        rest = after;
    }
    out.push_str(rest);
    if out.chars().any(|c| (c < ' ' && !is_blank(c)) || matches!(c, '\u{FFFE}' | '\u{FFFF}')) {
        return Err(parsing(9420, "illegal xml character"));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::noise::Noise;
    use super::*;

    #[test]
    fn xml_is_kept_by_its_meaning() {
        for (sent, kept) in [
            ("", ""),
            ("text alone", "text alone"),
            ("<a></a>", "<a/>"),
            ("<a />", "<a/>"),
            (
                "<?xml version='1.0'?>\n<a  b = 'c\"d' >\n <e> x </e>\r\n</a>",
                "<a b=\"c&quot;d\"><e> x </e></a>",
            ),
            ("<a>&lt;&#x41;&quot;</a>", "<a>&lt;A\"</a>"),
            ("<a/><b/>", "<a/><b/>"),
            ("<é ü=\"😀\"/>", "<é ü=\"😀\"/>"),
        ] {
            assert_eq!(normalize(sent).unwrap(), kept);
            assert_eq!(normalize(kept).unwrap(), kept);
        }
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        for (sent, number) in [
            ("<a>", 9400),
            ("<a></b>", 9436),
            ("<a b=c/>", 9413),
            ("<a b='1' b='2'/>", 9437),
            ("<a>&no;</a>", 9448),
            ("<1/>", 9455),
            ("<!DOCTYPE a><a/>", 40517),
            ("<a><![CDATA[x]]></a>", 40517),
        ] {
            assert_eq!(normalize(sent).unwrap_err().number, number, "{sent}");
        }
    }

    #[test]
    fn any_text_is_read_or_refused() {
        let mut noise = Noise::new(8);
        for _ in 0..50_000 {
            let bytes = noise.mutate(b"<?xml version='1.0'?><a b='c'>&lt;<d/>x</a>");
            let _ = normalize(&String::from_utf8_lossy(&bytes));
        }
    }
}
